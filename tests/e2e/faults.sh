#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Faults of the backing: errors for a while, a failed flush, a disk that is gone, slow or stuck, and
# what a full tier and parked operations do then. Whether something waited is told by counting I/Os on
# a disk that ends none, not by the clock. Latencies of hits beside a slow disk are printed.
. "$(dirname "$0")/lib.sh"
need python3 fio

random_file "$DIR/cold" 48 # more than the tier
random_file "$DIR/hot" 2
random_file "$DIR/more" 48

# A fresh pair with a cold file that is on the disk and a hot one that is in the tier as well.
start() { # [MOUNT OPTION...]
	make_fault_pair 32 256
	mount_fs "$@"
	cp "$DIR/cold" "$MNT/cold"
	cp "$DIR/hot" "$MNT/hot"
	sync_fs
	warm
}
dirty_hot() { dd if="$DIR/hot" of="$MNT/hot" bs=1M conv=notrunc status=none; } # nothing evicts it from now on
warm() {
	local _
	for _ in 1 2 3; do same "$DIR/hot" "$MNT/hot"; done
}
end() {
	unmount_fs
	fsck_fs
	unmount "$DISK"
	rm "$TIER"
}
is() { [ "$(counter "$1")" = "$2" ]; } # COUNTER VALUE
is_not() { ! is "$@"; }
state() { "$VEMSCTL" stats "$MNT" | grep -Eq "^state +$1" || fail "vemsctl should say '$1': $("$VEMSCTL" stats "$MNT" | head -n 1)"; }
eio() { # COMMAND...: fails, with this very error
	! "$@" >"$DIR/eio" 2>&1 || fail "should have failed: $*"
	grep -q 'Input/output error' "$DIR/eio" || fail "should have failed with EIO: $*: $(cat "$DIR/eio")"
}
ends() { # PID SECONDS WHAT
	wait_gone "$1" "$2" || fail "$3 still waits after $2 s"
	JOBS=()
}

# Reads, overwrites and names, all of them in the tier. $1 tells this time from others.
hits() {
	timeout 20 cmp "$DIR/hot" "$MNT/hot" || fail "a hit waits or fails: read"
	timeout 20 dd if="$DIR/hot" of="$MNT/hot" bs=4k count=100 conv=notrunc status=none || fail "a hit waits or fails: overwrite"
	timeout 20 sh -c "mkdir '$MNT/dir$1' && ln -s '$1' '$MNT/dir$1/tmp' && mv '$MNT/dir$1/tmp' '$MNT/dir$1/link'" ||
		fail "a hit waits or fails: names"
}
check_hits() { equal "$(readlink "$MNT/dir$1/link")" "$1" "written while the disk failed"; }

errors_for_a_while() {
	step "the disk fails for a while"
	start --io-timeout=2 --interval=5
	local epochs
	epochs=$(counter epochs)
	hits 0 # their part of the tree is in the tier
	disk gone
	eio cat "$MNT/cold"
	warm
	hits 1
	dd if="$DIR/more" of="$MNT/new" bs=1M count=2 status=none
	eio sync_fs
	[ "$(counter epoch_failures)" -gt 0 ] || fail "no epoch failed"
	[ "$(counter backing_errors)" -gt 0 ] || fail "no I/O failed"
	[ "$(counter frames_dirty)" -ge 512 ] || fail "what could not be written is not dirty"
	equal "$(counter epochs)" "$epochs" "epochs that ended on a disk that fails"

	step "... for longer than the time-out: no new data, and vemsctl says why"
	until_true 20 is degraded 1 || fail "not degraded, 20 s after a time-out of 2 s"
	state 'the backing fails: new data is refused'
	eio dd if="$DIR/more" of="$MNT/refused" bs=1M count=1
	hits 2
	disk hang # in the next attempt
	until_true 20 disk_has in_flight 1 || fail "the epoch is not tried again"
	hits 3
	equal "$(counter epochs)" "$epochs" "epochs that ended on a disk that fails"

	step "... and works again: all of it is written"
	disk good
	until_true 20 is degraded 0 || fail "still degraded, 20 s after the disk came back"
	state well
	until_true 20 is frames_dirty 0 || fail "not written, 20 s after the disk came back"
	equal "$(counter epoch_failures)" 0 "epochs that failed"
	same_large "$DIR/cold" "$MNT/cold"
	dd if="$DIR/more" of="$MNT/refused" bs=1M count=1 status=none
	remount
	same_large "$DIR/cold" "$MNT/cold"
	same "$DIR/hot" "$MNT/hot"
	same "$MNT/new" <(head -c 2M "$DIR/more")
	check_hits 1
	check_hits 2
	check_hits 3
	end
}

# One kind of I/O fails, so many times: the next tries succeed, and no word is lost.
some_fail() { # KIND
	step "a few $1s"
	start
	local n
	for n in ${VEMS_E2E_ERRORS:-1 4}; do
		disk "$1" "$n"
		dd if="$DIR/more" of="$MNT/more" bs=64k conv=notrunc status=none 2>"$DIR/dd" ||
			grep -q 'Input/output error' "$DIR/dd" || fail "$(cat "$DIR/dd")"
		cat "$MNT/cold" >/dev/null 2>&1 || :
		disk good
		sync_fs
		dd if="$DIR/more" of="$MNT/more" bs=64k conv=notrunc status=none
		same_large "$DIR/cold" "$MNT/cold"
		same_large "$DIR/more" "$MNT/more"
	done
	equal "$(counter degraded)" 0 "degraded"
	remount
	same_large "$DIR/cold" "$MNT/cold"
	same_large "$DIR/more" "$MNT/more"
	end
}

# One I/O of a workload fails, the first, the second, ... until it has no more: an error with its name or
# none at all, and the same once more works.
work() { # NUMBER
	dd if="$DIR/more" of="$MNT/work" bs=128k count=4 skip="$1" conv=notrunc status=none &&
		mkdir "$MNT/work$1" && mv "$MNT/work" "$MNT/work$1/file" && sync_fs &&
		dd if="$MNT/cold" of=/dev/null bs=128k count=8 skip=$(($1 * 8 % 384)) status=none &&
		mv "$MNT/work$1/file" "$MNT/work" && rmdir "$MNT/work$1"
}
put_back() { # NUMBER: what a workload that has failed halfway has left
	[ ! -e "$MNT/work$1/file" ] || mv "$MNT/work$1/file" "$MNT/work"
	[ ! -e "$MNT/work$1" ] || rmdir "$MNT/work$1"
}
only_eio() { ! grep -v 'Input/output error' "$1" || fail "another error than EIO"; }
each_io_of_work() {
	step "each I/O of a workload fails once"
	start
	local n came
	for ((n = 1; ; n++)); do
		disk nth "$n"
		work "$n" 2>"$DIR/errors" || only_eio "$DIR/errors"
		came=$(disk_stat until_nth)
		disk good
		put_back "$n"
		work "$n" || fail "I/O $n has failed once, and it does not work the second time"
		same "$MNT/work" <(dd if="$DIR/more" bs=128k count=4 skip="$n" status=none)
		[ "$came" = 0 ] || break
	done
	echo "$((n - 1)) I/Os"
	[ "$n" -gt 5 ] || fail "a workload of so few I/Os shows nothing"
	same_large "$DIR/cold" "$MNT/cold"
	end
}
each_io_of_mount() {
	step "each I/O of an unmount and a mount fails once"
	start
	local n came
	for ((n = 1; ; n++)); do
		dd if="$DIR/more" of="$MNT/work" bs=128k count=4 skip="$n" conv=notrunc status=none
		disk nth "$n"
		unmount_fs
		if ! try_mount; then
			said 'Input/output error'
			mount_fs
		fi
		PID=$(daemon_pid)
		came=$(disk_stat until_nth)
		disk good
		same "$MNT/work" <(dd if="$DIR/more" bs=128k count=4 skip="$n" status=none)
		[ "$came" = 0 ] || break
	done
	echo "$((n - 1)) I/Os"
	[ "$n" -gt 5 ] || fail "an unmount and a mount of so few I/Os show nothing"
	same_large "$DIR/cold" "$MNT/cold"
	end
}

bad_range() {
	step "blocks that refuse to be written or read"
	start
	disk range 16000 3000
	dd if="$DIR/more" of="$MNT/more" bs=1M count=40 status=none
	sync_fs
	same_large <(head -c 40M "$DIR/more") "$MNT/more"
	[ "$(disk_stat failed_writes)" -gt 0 ] || fail "nothing was written there"
	end
}

# What a flush that failed has lost is written again, all of it: the disk loses its cache, then the
# tier is lost too, and the last epoch is there.
failed_flush() {
	step "a failed flush: all since the last good one is written again"
	make_fault_pair 32 256
	disk cache
	mount_fs
	cp "$DIR/cold" "$MNT/cold"
	dd if="$DIR/hot" of="$MNT/hot" bs=1M status=none
	sync_fs
	local epochs
	epochs=$(counter epochs)
	dd if="$DIR/more" of="$MNT/hot" bs=1M count=8 conv=notrunc status=none
	mkdir "$MNT/new"
	disk flush-error 1
	eio sync_fs
	disk_has lost 2048 || fail "the failed flush has lost only $(disk_stat lost) blocks"
	equal "$(counter epochs)" "$epochs" "epochs that ended with a failed flush"
	same "$MNT/hot" <(head -c 8M "$DIR/more")
	sync_fs
	[ "$(counter epochs)" -gt "$epochs" ] || fail "no epoch ended"
	kill9
	disk drop
	blank_tier
	mount_fs --lose-tier
	same_large "$DIR/cold" "$MNT/cold"
	same "$MNT/hot" <(head -c 8M "$DIR/more")
	[ -d "$MNT/new" ] || fail "lost: a directory of the last epoch"

	step "flushes that fail until a power cut"
	disk flush-error
	dd if="$DIR/more" of="$MNT/hot" bs=1M skip=8 count=8 conv=notrunc status=none
	eio sync_fs
	kill9
	disk drop
	disk good
	mount_fs
	same "$MNT/hot" <(dd if="$DIR/more" bs=1M skip=8 count=8 status=none)
	disk flush-error 2
	unmount_fs
	disk drop
	mount_fs
	same "$MNT/hot" <(dd if="$DIR/more" bs=1M skip=8 count=8 status=none)
	same_large "$DIR/cold" "$MNT/cold"
	end
}

# Until the unmount, which ends and says so. All of the disk, or superblock A alone: then each epoch
# comes as far as that.
fails_for_good() { # COMMAND OF THE DISK
	step "the disk fails for good ($1): the unmount ends and says so"
	start --io-timeout=2
	unmount_fs
	rm -f "$DIR/status"
	(try_mount --io-timeout=2 -f || echo "$?" >"$DIR/status") &
	until_true 20 is_mounted || fail "not mounted"
	PID=$(daemon_pid)
	warm
	hits 0
	disk "$1"
	hits 1
	dd if="$DIR/more" of="$MNT/new" bs=1M count=2 status=none
	eio sync_fs
	until_true 20 is degraded 1 || fail "not degraded, 20 s after a time-out of 2 s"
	hits 2
	eio dd if="$DIR/more" of="$MNT/refused" bs=1M count=1
	unmount_fs
	wait "$!"
	[ -s "$DIR/status" ] || fail "vemsfuse ends with 0 though not everything was written"
	said 'not everything could be written back.*in the tier'
}
repaired() {
	step "... and back after a repair: everything is there"
	disk good
	fsck_fs
	mount_fs
	same "$DIR/hot" "$MNT/hot"
	same_large "$DIR/cold" "$MNT/cold"
	same "$MNT/new" <(head -c 2M "$DIR/more")
	check_hits 1
	check_hits 2
	end
}
gone_for_good() {
	fails_for_good gone
	if try_mount; then fail "mounted a disk that is gone"; fi
	said 'Input/output error'
	! is_mounted || fail "refused, but mounted"
	repaired
}
no_superblock() {
	fails_for_good "range 0 1"
	repaired
}

# Nanoseconds: the median of reads and of writes that hit.
hit_medians() {
	fio --filename="$MNT/hot" --ioengine=psync --bs=4k --size=1M --time_based --runtime=1 --output-format=json \
		--name=read --rw=randread --name=write --stonewall --rw=randwrite >"$DIR/fio"
	jq -r '[.jobs[0].read, .jobs[1].write] | map(.clat_ns.percentile."50.000000" / 1000 | "\(.) us") | join(", ")' "$DIR/fio"
}
superblock_once() {
	step "a superblock fails once: who asks from then on is not told of that"
	start
	dirty_hot
	disk range 0 1
	eio sync_fs
	disk good
	sync_fs || fail "the disk is good, and a sync fails"
	end
}

latency() {
	step "a slow disk: hits keep their latency"
	start
	echo "medians of a read and a write that hit: $(hit_medians)"
	disk delay 100
	local i
	for i in 1 2 3 4; do
		(while dd if="$MNT/cold" of=/dev/null bs=4k count=1 skip=$((RANDOM % 12288)) status=none 2>/dev/null; do :; done) &
		JOBS+=($!)
	done
	sleep 0.5
	echo "beside four readers of a disk that takes 100 ms: $(hit_medians)"
	stop_jobs
	disk good
	dirty_hot
	warm
	end
}

# No I/O ends between the first look and the last, so whatever ended has waited for none.
no_hit_waits() {
	step "a disk that hangs, in misses and in an epoch: no hit waits for it"
	start
	hits 4 # something for the epoch
	disk hang
	local i ended
	for i in 0 1 2 3; do
		cat "$MNT/cold" >/dev/null &
		JOBS+=($!)
	done
	sync_fs &
	JOBS+=($!)
	until_true 10 disk_has in_flight 5 || fail "only $(disk_stat in_flight) I/Os under way"
	ended=$(grep -v in_flight "$DISK/stat")
	for i in 5 6 7; do hits "$i"; done
	equal "$(grep -v in_flight "$DISK/stat")" "$ended" "I/Os that ended"
	disk good
	wait "${JOBS[@]}"
	JOBS=()
	for i in 4 5 6 7; do check_hits "$i"; done
	end
}

# Whoever drops deleted files reads their attributes, and waits like any other.
no_hit_waits_for_deleted() {
	step "a disk that hangs while deleted files are dropped: no hit waits for it"
	start --transport=dev
	mkfifo "$DIR/go"
	python3 - "$MNT" "$DIR/go" <<'PY' &
import os, sys, threading
os.chdir(sys.argv[1])
os.mkdir("deleted")
def make(name):
    with open(name, "wb") as f:
        f.write(bytes(4096))
        for k in range(3): os.setxattr(name, f"user.{k}", b"y" * 30000)
        return os.dup(f.fileno())
files = [make(f"deleted/{i}") for i in range(40)]
for i in range(40): os.unlink(f"deleted/{i}")
os.rmdir("deleted")
open(sys.argv[2], "w").close() # ready
open(sys.argv[2]).close()      # go
for f in files: threading.Thread(target=os.close, args=[f]).start()
PY
	JOBS+=($!)
	: <"$DIR/go"
	sync_fs
	for _ in 1 2; do # their nodes leave the tier
		dd if=/dev/urandom of="$MNT/fill" bs=1M count=120 status=none
		sync_fs
	done
	rm "$MNT/fill"
	sync_fs
	warm
	disk hang
	: >"$DIR/go"
	until_true 10 disk_has in_flight 4 || fail "only $(disk_stat in_flight) I/Os under way"
	sleep 1 # until all have come to wait
	timeout 20 cmp "$DIR/hot" "$MNT/hot" || fail "a hit waits for deleted files"
	disk good
	wait "${JOBS[@]}"
	JOBS=()
	end
}

# More than the tier takes, to a file that is there, until it has to wait; $! is the writer.
fill_tier() {
	local before
	before=$(counter write_waits)
	dd if="$DIR/more" of="$MNT/full" bs=64k conv=notrunc status=none 2>"$DIR/filled" &
	JOBS+=("$!")
	until_true 30 has_waited "$before" || fail "the writer never had to wait"
}
names_until_it_waits() { # $! makes them
	local before
	before=$(counter write_waits)
	python3 - "$MNT" 2>"$DIR/named" <<'PY' &
import os, sys
os.mkdir(sys.argv[1] + "/names")
for n in range(1000000): os.symlink("x" * 4000, f"{sys.argv[1]}/names/{n}")
PY
	JOBS+=("$!")
	until_true 30 has_waited "$before" || fail "no name had to wait: $(cat "$DIR/named")"
}
has_waited() { [ "$(counter write_waits)" -gt "$1" ]; }
full_tier() { # HOW THE DISK FAILS
	step "a tier full of dirty pages, and the disk is: $1"
	start --io-timeout=600
	touch "$MNT/full"
	disk "$1"
	dirty_hot
	fill_tier
	kill -9 "$!"
	ends "$!" 5 "a writer that was killed"
	warm
	fill_tier
	disk good
	wait "$!" || fail "the writer failed though the disk came back: $(cat "$DIR/filled")"
	JOBS=()
	same_large "$DIR/more" "$MNT/full"
	end
}

full_tier_times_out() {
	step "a tier full of dirty pages, and the disk gone for longer than the time-out"
	start --io-timeout=3
	touch "$MNT/full"
	disk gone
	dirty_hot
	fill_tier
	! wait "$!" || fail "the writer has written to a tier that is full"
	grep -q 'Input/output error' "$DIR/filled" || fail "not EIO: $(cat "$DIR/filled")"
	JOBS=()
	warm
	unmount_fs

	local i
	step "SIGTERM while a writer waits for a disk that is gone"
	disk good
	mount_fs --io-timeout=600
	warm
	rm "$MNT/full"
	touch "$MNT/full"
	disk gone
	fill_tier
	kill -TERM "$PID"
	wait_gone "$PID" 60 || fail "the daemon is still there a minute after SIGTERM"
	ends "$!" 5 "a writer of a mount that is gone"
	disk good
	mount_fs --io-timeout=600

	step "SIGTERM while a superblock cannot be written"
	warm
	dirty_hot
	disk range 0 1
	(sync_fs || :) 2>"$DIR/sync" &
	until_true 20 is_not epoch_failures 0 || fail "no epoch failed"
	kill -TERM "$PID"
	wait_gone "$PID" 60 || fail "the daemon is still there a minute after SIGTERM"
	wait "$!"
	disk good
	mount_fs --io-timeout=600

	step "SIGTERM while a disk that is gone leaves no room for names, and access times are to be written"
	rm -f "$MNT/full"
	mkdir "$MNT/read"
	for ((i = 0; i < 500; i++)); do echo "$i" >"$MNT/read/$i"; done
	sync_fs
	disk gone
	cat "$MNT"/read/* >/dev/null
	names_until_it_waits
	kill -TERM "$PID"
	wait_gone "$PID" 60 || fail "the daemon is still there a minute after SIGTERM"
	ends "$!" 5 "a writer of a mount that is gone"
	disk good
	mount_fs
	same "$DIR/hot" "$MNT/hot"
	same_large "$DIR/cold" "$MNT/cold"
	end
}

# Eight operations of 1 MiB, reads and writes of files of their own, all waiting at once; then through.
# The tier is dirty up to the limit before, and nothing comes free: reads and writes have to wait alike.
eight_parked() { # TRANSPORT
	step "--transport=$1: eight parked operations of 1 MiB on the smallest tier"
	make_fault_pair 32 256
	mount_fs "--transport=$1"
	mkfifo "$DIR/to$1" "$DIR/from$1"
	timeout 250 python3 - "$MNT" "${VEMS_E2E_ROUNDS:-12}" <"$DIR/eight.py" 3<>"$DIR/to$1" 4<>"$DIR/from$1" 2>"$DIR/eight" &
	JOBS+=($!)
	exec 3<>"$DIR/to$1" 4<>"$DIR/from$1"
	local word
	read -r -t 60 word <&4 || fail "the files were not made: $(cat "$DIR/eight")"
	sync_fs
	touch "$MNT/full"
	disk hang
	fill_tier
	echo go >&3
	read -r -t 60 word <&4 || fail "the operations did not begin: $(cat "$DIR/eight")"
	equal "$word" 8 "operations that wait"
	disk good
	disk delay 20
	wait "${JOBS[0]}" || fail "$(cat "$DIR/eight")"
	wait "${JOBS[1]}"
	JOBS=()
	exec 3>&- 4>&-
	disk good
	same_large "$DIR/more" "$MNT/full"
	end
}
cat >"$DIR/eight.py" <<'PY'
import os, random, sys, threading, time
mnt, rounds = sys.argv[1], int(sys.argv[2])
MIB, PARTS = 1 << 20, 8
def content(who, part, version):
    return random.Random(f"{who} {part} {version}").randbytes(MIB)
class Client(threading.Thread):
    def __init__(self, who):
        super().__init__()
        self.random, self.who, self.version, self.done, self.wrong = random.Random(who), who, [0] * PARTS, 0, None
        self.fd = os.open(f"{mnt}/file{who}", os.O_CREAT | os.O_RDWR)
        for part in range(PARTS):
            os.pwrite(self.fd, content(who, part, 0), part * MIB)
    def check(self, part):
        if os.pread(self.fd, MIB, part * MIB) != content(self.who, part, self.version[part]):
            self.wrong = f"client {self.who}: part {part} is not what was written"
    def run(self):
        try:
            for i in range(rounds):
                part = self.random.randrange(PARTS)
                if (i + self.who) % 2:
                    self.version[part] += 1
                    assert os.pwrite(self.fd, content(self.who, part, self.version[part]), part * MIB) == MIB
                else:
                    self.check(part)
                self.done += 1
        except Exception as e:
            self.wrong = f"client {self.who}: {e}"
clients = [Client(who) for who in range(8)]
os.write(4, b"ready\n")
os.read(3, 10)
for c in clients: c.start()
time.sleep(2) # some may find their first in the tier
done = [c.done for c in clients]
time.sleep(1)
os.write(4, b"%d\n" % sum(c.is_alive() and c.done == d for c, d in zip(clients, done)))
for c in clients: c.join()
for c in clients:
    for part in range(PARTS): c.check(part)
sys.exit("\n".join(c.wrong for c in clients if c.wrong) or 0)
PY

errors_for_a_while
for kind in read-error write-error flush-error; do some_fail "$kind"; done
each_io_of_work
each_io_of_mount
bad_range
failed_flush
gone_for_good
no_superblock
superblock_once
latency
no_hit_waits
no_hit_waits_for_deleted
for how in gone hang "delay 100"; do full_tier "$how"; done
full_tier_times_out
eight_parked dev
[ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" != Y ] || eight_parked uring
