#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vemsctl scrub: damage done to both devices under the mount is found, told, healed where it can be; hits beside it
# keep their latency.
. "$(dirname "$0")/lib.sh"

lines() { # NAME PAGES: of 4096 bytes, each with a line of its own at its start
	local i
	for ((i = 0; i < $2; i++)); do printf '%-4095s\n' "$1 page $i,"; done
}
# Byte offset in a device of the newest page with that line at its start.
offset_of() { LC_ALL=C grep -abo -- "$2" "$1" | tail -n 1 | cut -d: -f1; }
flip() { # FILE OFFSET
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1")
	# shellcheck disable=SC2059 # the format is the byte
	printf "\\x$(printf %02x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
scrub() { # STATUS EXPECTED-OUTPUT
	local status=0 said
	said=$("$VEMSCTL" scrub "$MNT") || status=$?
	equal "$status" "$1" "exit status of scrub ('$said')"
	[[ $said == *"$2" ]] || fail "scrub said '$said', not '$2'"
}
logged() { # COUNT PATTERN: lines of the daemon
	equal "$(grep -Ec -- "$2" "$DIR/log" || :)" "$1" "lines like $2 in $(cat "$DIR/log")"
}
mount_logged() { # in the foreground: its log is $DIR/log
	"$VEMSFUSE" -f --assume-persistent --interval=3600 --pmem="$TIER" --backing="$BACKING" "$MNT" >"$DIR/log" 2>&1 </dev/null &
	local i
	for i in {1..100}; do
		! is_mounted || break
		sleep 0.1
	done
	PID=$(daemon_pid)
	[[ $PID =~ ^[0-9]+$ ]] || fail "not mounted: $(cat "$DIR/log")"
}

make_pair 32 256
mount_logged

step "nothing is wrong"
equal "$(counter scrub_state)" 0 "state before the first"
lines data 512 >"$DIR/data"
cp "$DIR/data" "$MNT/data"
lines more 256 >"$DIR/more"
cp "$DIR/more" "$MNT/more"
sync_fs
scrub 0 ' 0 errors, 0 healed'
equal "$(counter scrub_state)" 2 "state after it"
checked=$(counter scrub_checked)
[ "$checked" -ge 768 ] || fail "only $checked blocks were checked"
[ $(($(date +%s) - $(counter scrub_end))) -lt 60 ] || fail "it ended at $(counter scrub_end)"

step "a clean copy in the tier: dropped, and read from the backing"
flip "$TIER" "$(offset_of "$TIER" 'data page 33,')"
scrub 0 ' 1 errors, 1 healed'
logged 1 'copy of page 33 of object .*expected checksum [0-9a-f]{16}, found [0-9a-f]{16}'
same "$DIR/data" "$MNT/data"

step "a block of the backing that the tier has, too: written anew"
block=$(offset_of "$BACKING" 'data page 44,')
flip "$BACKING" "$block"
scrub 0 ' 1 errors, 1 healed'
logged 1 "block $((block / 4096)) \\(object [0-9]*, page 44\\) is damaged: expected checksum [0-9a-f]{16}, found [0-9a-f]{16}; the tier"
sync_fs
scrub 0 ' 0 errors, 0 healed'
cmp <(dd if="$BACKING" bs=4096 skip=$(($(offset_of "$BACKING" 'data page 44,') / 4096)) count=1 status=none) \
	<(dd if="$DIR/data" bs=4096 skip=44 count=1 status=none) || fail "not written anew"

step "a superblock: written again from the other"
flip "$BACKING" 100
scrub 0 ' 1 errors, 1 healed'
logged 1 'superblock A is damaged: expected checksum [0-9a-f]{16}, found [0-9a-f]{16}; written again'
scrub 0 ' 0 errors, 0 healed'

step "a dirty page: an error until it is overwritten"
lines new 64 >"$DIR/new"
cp "$DIR/new" "$MNT/new"
flip "$TIER" "$(offset_of "$TIER" 'new page 5,')"
scrub 3 ' 1 errors, 0 healed'
logged 1 'dirty page 5 of object .*expected checksum [0-9a-f]{16}, found [0-9a-f]{16}'
! cat "$MNT/new" >/dev/null 2>&1 || fail "a damaged page was read"
cp "$DIR/new" "$MNT/new"
same "$DIR/new" "$MNT/new"
sync_fs
scrub 0 ' 0 errors, 0 healed'

step "a block that nothing else has: told; and the same after another mount, by whoever reads it"
unmount_fs
block=$(offset_of "$BACKING" 'more page 77,')
flip "$BACKING" "$block"
blank_tier
mount_logged
scrub 3 ' 1 errors, 0 healed'
logged 1 "block $((block / 4096)) .*page 77\\) is damaged"
! dd if="$MNT/more" bs=4096 skip=77 count=1 of="$DIR/out" status=none 2>"$DIR/error" || fail "a damaged block was read"
grep -q 'Structure needs cleaning' "$DIR/error" || fail "not EUCLEAN: $(cat "$DIR/error")"
dd if="$DIR/more" of="$MNT/more" bs=4096 skip=77 seek=77 count=1 conv=notrunc status=none
same "$DIR/more" "$MNT/more"
sync_fs
scrub 0 ' 0 errors, 0 healed'

step "beside writers, epochs and evictions nothing is found that is not there; hits keep their pace"
reads() { # a figure: microseconds a random 4 KiB hit
	python3 - "$MNT/data" <<'EOF'
import os, random, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
took = []
end = time.monotonic() + 2
while time.monotonic() < end:
    at = random.randrange(512) * 4096
    began = time.perf_counter()
    os.pread(fd, 4096, at)
    took.append(time.perf_counter() - began)
took.sort()
print(int(took[len(took) // 2] * 1e6), int(took[len(took) * 99 // 100] * 1e6))
EOF
}
cat "$MNT/data" >/dev/null
read -r before p99_before < <(reads)
(while :; do "$VEMSCTL" scrub "$MNT" >>"$DIR/scrubs" || echo "status $?" >>"$DIR/scrubs"; done) &
JOBS+=($!)
read -r beside p99_beside < <(reads)
echo "a 4 KiB hit takes $before us, 99 % $p99_before us; beside a scrub $beside us and $p99_beside us"
[ "$beside" -le $((3 * before + 50)) ] || fail "hits are slowed down"
for round in 1 2 3 4 5 6; do
	lines "round $round" 2048 >"$DIR/load"
	cp "$DIR/load" "$MNT/load$((round % 3))" # with the others more than the tier holds
	sync_fs
done
stop_jobs
same "$DIR/load" "$MNT/load0"
same "$DIR/data" "$MNT/data"
[ -s "$DIR/scrubs" ] || fail "no scrub has ended"
! grep -v ' 0 errors, 0 healed' "$DIR/scrubs" || fail "errors that are none"

step "a signal ends it"
while [ "$(counter scrub_state)" = 1 ]; do sleep 0.1; done
timeout --preserve-status -s INT 0.1 "$VEMSCTL" scrub "$MNT" >"$DIR/out" 2>&1 && fail "it was not ended: $(cat "$DIR/out")"
grep -q 'stopped before its end' "$DIR/out" || fail "it said $(cat "$DIR/out")"
equal "$(counter scrub_state)" 3 "state"
unmount_fs
fsck_fs
