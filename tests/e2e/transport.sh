#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Both ways by which requests come, and what must hold on each: data comes back, a daemon that is
# killed, terminated or unmounted in the middle ends and holds up nobody, one CPU is enough. With
# io_uring besides: misses that wait do not hold up hits of their core, and where the kernel refuses a
# queue, or io_uring is forbidden, /dev/fuse does.
. "$(dirname "$0")/lib.sh"
need fio python3 taskset

PARAMETER=/sys/module/fuse/parameters/enable_uring
switched_on=
offered() { [ "$(cat "$PARAMETER" 2>/dev/null)" = Y ]; }
at_end() {
	[ -z "$switched_on" ] || echo N >"$PARAMETER"
	[ -z "$CGROUP" ] || rmdir "$CGROUP" 2>/dev/null
}
CGROUP=

# In the background, for as long as it can. Its exit does not matter, that it ends does. It has all its files
# open when this returns: what it opens once the mount is gone lies in the directory below.
load() {
	local before
	before=$(counter read_hits)
	fio --name=load --directory="$MNT" --ioengine=psync --rw=randrw --bs=4k --size=8M --numjobs=4 --thread \
		--time_based --runtime=120 >"$DIR/load" 2>&1 &
	LOAD=$!
	JOBS+=("$LOAD")
	until [ "$(counter read_hits)" -gt $((before + 1000)) ]; do sleep 0.2; done
	sleep 1
}
where_it_hangs() { # as far as the kernel tells
	local task
	for task in "/proc/$LOAD/task"/*; do
		echo "$(cat "$task/comm"): $(head -n 6 "$task/stack" | tr '\n' ' ')"
	done
	grep . /sys/fs/fuse/connections/*/waiting
	ps -eLo pid,stat,wchan:30,comm | grep -E 'vems|iou'
} >&2 2>/dev/null
load_ends() {
	wait_gone "$LOAD" 60 || { where_it_hangs || :; fail "a client of the mount still hangs 60 s after $1"; }
	JOBS=()
	wait "$LOAD" 2>/dev/null || :
}

data_comes_back() {
	step "$1: what was written is read"
	fio --name=verify --directory="$MNT" --ioengine=psync --rw=randwrite --bsrange=512-1m --bs_unaligned --size=24M \
		--numjobs=2 --thread --verify=crc32c --verify_fatal=1 --verify_state_save=0 >"$DIR/fio" 2>&1 || fail "$(tail -n 20 "$DIR/fio")"
	rm "$MNT"/verify*
	cp -r "$TOP/src" "$MNT/src"
	diff -r "$TOP/src" "$MNT/src" || fail "a copied tree differs"
	rm -r "$MNT/src"
}

# A deep queue on one core: more than one entry is under way.
many_at_once() {
	step "$1: 64 clients at once on one core, 1 MiB each"
	taskset -c "$FIRST_CPU" fio --name=many --directory="$MNT" --ioengine=psync --rw=randrw --bs=1m --size=1m --numjobs=64 \
		--thread --loops=4 --group_reporting >"$DIR/fio" 2>&1 || fail "$(tail -n 20 "$DIR/fio")"
	rm "$MNT"/many*
}

ends_under_load() { # TRANSPORT
	step "$1: killed under load"
	load
	kill9
	load_ends "the daemon was killed"
	mount_fs "--transport=$1"
	step "$1: terminated under load"
	load
	kill -TERM "$PID"
	wait_gone "$PID" 60 || fail "SIGTERM did not end the daemon"
	load_ends "SIGTERM"
	mount_fs "--transport=$1"
	step "$1: unmounted under load"
	load
	fusermount3 -uz "$MNT"
	kill "$LOAD"
	load_ends "the unmount"
	wait_gone "$PID" 60 || fail "the daemon is still there a minute after the unmount"
	fsck_fs
}

# A client on any CPU is served by a daemon that may use one.
one_cpu() {
	step "$1: a daemon on one CPU, clients on all"
	local vemsfuse=$VEMSFUSE cpu
	printf '#!/bin/sh\nexec taskset -c %s %s "$@"\n' "$FIRST_CPU" "$vemsfuse" >"$DIR/pinned"
	chmod +x "$DIR/pinned"
	VEMSFUSE=$DIR/pinned
	mount_fs "--transport=$1"
	VEMSFUSE=$vemsfuse
	for cpu in "${CPUS[@]}"; do
		timeout 20 taskset -c "$cpu" sh -c "echo $cpu >'$MNT/cpu$cpu'" || fail "a client on CPU $cpu hangs"
		equal "$(timeout 20 taskset -c "$cpu" cat "$MNT/cpu$cpu")" "$cpu"
	done
	unmount_fs
}

scenario() { # TRANSPORT VALUE
	make_pair 64 256
	mount_fs "--transport=$1"
	equal "$(counter transport)" "$2" "transport"
	data_comes_back "$1"
	many_at_once "$1"
	ends_under_load "$1"
	one_cpu "$1"
}

# Reads of a device by a process, so many a second.
throttle() { # DEVICE READS_PER_SECOND PID
	local numbers
	numbers=$(lsblk -ndo MAJ:MIN "$1" | tr -d ' ')
	if mkdir "/sys/fs/cgroup/blkio/vems-e2e.$$" 2>/dev/null; then
		CGROUP=/sys/fs/cgroup/blkio/vems-e2e.$$
		echo "$3" >"$CGROUP/cgroup.procs"
		echo "$numbers $2" >"$CGROUP/blkio.throttle.read_iops_device"
	elif grep -qw io /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null && mkdir "/sys/fs/cgroup/vems-e2e.$$" 2>/dev/null; then
		CGROUP=/sys/fs/cgroup/vems-e2e.$$
		echo "$3" >"$CGROUP/cgroup.procs"
		echo "$numbers riops=$2" >"$CGROUP/io.max"
	else
		return 1
	fi
}

# Misses are asked for from the core of the hits, more of them than there are threads at first.
misses_beside_hits() {
	step "$1: misses that wait, beside hits on the same core"
	[ "$(id -u)" = 0 ] || { echo "not as an ordinary user: it takes a slow device"; return 0; }
	make_pair 64 512
	local loop
	loop=$(losetup -f --show --direct-io=on "$BACKING" 2>/dev/null) || { echo "there is no loop device"; return 0; }
	LOOPS+=("$loop")
	BACKING=$loop
	mount_fs --transport="$1"
	random_file "$MNT/cold" 192
	sync_fs
	random_file "$MNT/hot" 4
	cat "$MNT/hot" >/dev/null
	throttle "$loop" 20 "$PID" || { echo "no cgroup can slow the device down"; unmount_fs; return 0; }
	taskset -c "$FIRST_CPU" fio --name=cold --filename="$MNT/cold" --ioengine=psync --rw=randread --bs=4k --numjobs=48 --thread \
		--time_based --runtime=6 --readonly --randrepeat=0 --group_reporting --output-format=json >"$DIR/cold" 2>&1 &
	JOBS+=("$!")
	sleep 2
	taskset -c "$FIRST_CPU" fio --name=hot --filename="$MNT/hot" --ioengine=psync --rw=randread --bs=4k --time_based --runtime=2 \
		--readonly --output-format=json >"$DIR/hot" 2>&1
	timeout 5 touch "$MNT/new" || fail "a create waits for misses"
	wait "${JOBS[0]}" || fail "reads that missed failed: $(tail -n 5 "$DIR/cold")"
	JOBS=()
	local cold hot
	cold=$(jq '.jobs[0].read.total_ios' "$DIR/cold") hot=$(jq '.jobs[0].read.total_ios' "$DIR/hot")
	echo "$cold misses in 6 s, $hot hits in 2 s of them"
	[ "$1" = dev ] || [ "$(counter requests_waited)" -gt 48 ] || fail "nothing had to wait"
	[ "$hot" -gt $((cold * 10)) ] || fail "hits wait for misses"
	[ "$hot" -gt 2000 ] || fail "hits are slow"
	echo "$$" >"${CGROUP%/*}/cgroup.procs" # rmdir wants it empty; the daemon moves, too
	echo "$PID" >"${CGROUP%/*}/cgroup.procs"
	rmdir "$CGROUP"
	CGROUP=
	unmount_fs
}

refused() {
	local queue
	for queue in 0 $(($1 - 1)); do
		step "the kernel refuses queue $queue"
		make_pair 64 256
		VEMSFUSE_TEST_REFUSE_QUEUE=$queue mount_fs --transport=auto
		equal "$(grep -c 'refused a queue' "$DIR/said")" 1 "lines about it"
		equal "$(counter transport)" 0 "transport"
		"$VEMSCTL" stats "$MNT" | grep -q '^transport .*refused a queue' || fail "stats do not say why"
		data_comes_back "refused"
		unmount_fs
	done
}

# As a container's seccomp filter does it: io_uring_setup(2) fails with EPERM.
forbidden() {
	step "io_uring is forbidden"
	[ "$(uname -m)" = x86_64 ] || return 0
	cat >"$DIR/forbid.py" <<'PY'
import ctypes, os, struct, sys
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, 425) + op(0x06, 0, 0, 0x00050001) + op(0x06, 0, 0, 0x7fff0000)
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
if os.getuid():
    libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, ctypes.byref(Fprog(4, program)), 0, 0):
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
PY
	local vemsfuse=$VEMSFUSE
	printf '#!/bin/sh\nexec python3 %s/forbid.py %s "$@"\n' "$DIR" "$vemsfuse" >"$DIR/forbidden"
	chmod +x "$DIR/forbidden"
	make_pair 64 256
	VEMSFUSE=$DIR/forbidden
	mount_fs --transport=auto
	equal "$(counter transport)" 0 "transport"
	"$VEMSCTL" stats "$MNT" | grep -q '^transport .*forbidden' || fail "stats do not say why"
	data_comes_back "forbidden"
	unmount_fs
	! try_mount --transport=uring || fail "--transport=uring was taken where there is no io_uring"
	! is_mounted || fail "refused, but mounted"
	said 'forbidden'
	VEMSFUSE=$vemsfuse
}

mapfile -t CPUS < <(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)), sep="\n")')
FIRST_CPU=${CPUS[0]}
scenario dev 0
misses_beside_hits dev
if ! offered && [ "$(id -u)" = 0 ] && [ -w "$PARAMETER" ]; then
	step "--uring=on"
	switched_on=1
	make_pair 64 256
	mount_fs --uring=on
	said 'switched on'
	unmount_fs
fi
if ! offered; then
	step "this kernel does not offer io_uring: it is not asked for in vain"
	make_pair 64 256
	! try_mount --transport=uring || fail "--transport=uring was taken"
	said 'does not offer'
	exit 0
fi
scenario uring 1
misses_beside_hits uring
refused "$(python3 -c 'import os; print(sum(int(b or a) - int(a) + 1 for a, _, b in (x.partition("-") for x in open("/sys/devices/system/cpu/possible").read().split(","))))')"
forbidden
