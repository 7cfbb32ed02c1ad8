#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Pages of the tier's memory fail under the mount, as a machine check on real persistent memory has it: SIGBUS
# to who touches them, EFAULT to the kernel.
. "$(dirname "$0")/lib.sh"
[ -f "${VEMS_POISONER-}" ] || fail "\$VEMS_POISONER is not built"

# shellcheck disable=SC2120
mount_poisoned() {
	POISON_TIER=$TIER POISON_LIST=$FAST/list LD_PRELOAD=$VEMS_POISONER mount_fs --interval=3600 "$@"
}
poison() { # OFFSET...: in the tier
	printf '%s\n' "$@" >"$FAST/list"
	kill -USR2 "$PID"
	local i
	for i in {1..100}; do
		[ ! -e "$FAST/list.failed" ] || skip "the kernel cannot poison pages (Linux 6.6 can)"
		[ -e "$FAST/list" ] || return 0
		sleep 0.05
	done
	fail "the daemon has poisoned nothing"
}
# Where the one frame with that line in it begins; files are of lines that are nowhere else.
frame_with() { echo $(($(LC_ALL=C grep -abo -m 1 -- "$1" "$TIER" | head -n 1 | cut -d: -f1) / 4096 * 4096)); }
lines() { # NAME PAGES: of 4096 bytes, each with a line of its own at its start
	local i
	for ((i = 0; i < $2; i++)); do printf '%-4095s\n' "$1 page $i,"; done
}
read_page() { dd if="$1" bs=4096 skip="$2" count=1 iflag=direct status=none; }
alive() { [ "$(daemon_pid)" = "$PID" ] || fail "the daemon is gone"; }

transports=(--transport=dev)
[ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" != Y ] || transports+=(--transport=auto)
for transport in "${transports[@]}"; do
	make_pair 32 128
	mount_poisoned "$transport"

	step "$transport: a clean page is read from the backing"
	lines clean 64 >"$DIR/clean"
	cp "$DIR/clean" "$MNT/clean"
	sync_fs
	poison "$(frame_with 'clean page 5,')" "$(frame_with 'clean page 40,')"
	same "$DIR/clean" "$MNT/clean"
	alive
	equal "$(counter read_misses)" 2 "pages read from the backing"

	step "$transport: a page that is not on the backing yet is an error, it alone, until overwritten"
	lines dirty 64 >"$DIR/dirty"
	cp "$DIR/dirty" "$MNT/dirty"
	poison "$(frame_with 'dirty page 7,')"
	for page in {0..63}; do
		if [ "$page" = 7 ]; then
			! read_page "$MNT/dirty" 7 2>"$DIR/error" || fail "a lost page was read"
			grep -q 'Input/output error' "$DIR/error" || fail "not EIO: $(cat "$DIR/error")"
		else
			cmp <(read_page "$MNT/dirty" "$page") <(read_page "$DIR/dirty" "$page") || fail "page $page"
		fi
	done
	alive
	dd if="$DIR/dirty" of="$MNT/dirty" bs=4096 skip=7 seek=7 count=1 conv=notrunc status=none
	same "$DIR/dirty" "$MNT/dirty"
	sync_fs

	step "$transport: memory of the log: no more writes, all that was written is there"
	for ((ring = 0; ring < 8 && ring < $(nproc --all); ring++)); do echo $((16384 + ring * 262144 + 4096 * 20)); done >"$DIR/pages"
	# shellcheck disable=SC2046 # several offsets
	poison $(cat "$DIR/pages")
	n=0
	while printf '%s\n' "line $n" >>"$MNT/lines" 2>"$DIR/error"; do
		echo "line $n" >>"$DIR/lines"
		n=$((n + 1))
		[ "$n" -lt 20000 ] || fail "writes go on without a log"
	done
	grep -q 'Input/output error' "$DIR/error" || fail "not EIO: $(cat "$DIR/error")"
	[ "$n" -gt 0 ] || fail "nothing was written before"
	same "$DIR/lines" "$MNT/lines"
	same "$DIR/clean" "$MNT/clean"
	alive
	kill -9 "$PID"
	wait_gone "$PID" 20
	fusermount3 -u "$MNT" || umount -l "$MNT"
	mount_fs
	same "$DIR/lines" "$MNT/lines"
	same "$DIR/clean" "$MNT/clean"
	same "$DIR/dirty" "$MNT/dirty"
	unmount_fs
	fsck_fs
	rm "$DIR/lines"
done
