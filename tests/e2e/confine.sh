#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What serves has no privileges and opens no files; what mounts and unmounts is a process of its own.
. "$(dirname "$0")/lib.sh"
make_pair 32 128

mounter_pid() { # of the daemon, which has no other child
	local children
	children=$(cat "/proc/$PID/task/$PID/children")
	echo "${children// /}"
}

check_threads() { # all of them, however they were started
	equal "$(awk '/^(CapEff|CapPrm|NoNewPrivs):/ { print $1 $2 }' "/proc/$PID/task"/*/status | sort -u | xargs)" \
		"CapEff:0000000000000000 CapPrm:0000000000000000 NoNewPrivs:1" "privileges of threads"
}
# Devices, the connection, sockets and what the kernel made up: no directory, no file.
check_descriptors() {
	local fd target
	for fd in "/proc/$PID/fd"/*; do
		target=$(readlink "$fd") || continue
		case $target in
		"$TIER" | "$BACKING" | /dev/fuse | /dev/null | socket:* | anon_inode:* | "$DIR/said") ;;
		*) fail "the daemon has $target open" ;;
		esac
	done
}
gone() { wait_gone "$PID" 20 || fail "the daemon stays after $1"; ! is_mounted || fail "still mounted after $1"; }
mounter_gone() { wait_gone "$1" 10 || fail "the process that mounts stays after $2"; }

for transport in dev auto; do
	step "no thread has a privilege left ($transport)"
	mount_fs --transport="$transport"
	check_threads
	check_descriptors
	mounter=$(mounter_pid)
	equal "$(cat "/proc/$mounter/comm")" vems-mounter "the child of the daemon"
	equal "$(find "/proc/$mounter/fd" -type l -not -lname /dev/null -not -lname 'socket:*')" "" "descriptors of the mounter"
	step "and all works: data, a miss, the control interface"
	random_file "$MNT/file" 40 # more than the tier has
	sum=$(sha256sum <"$MNT/file")
	sync_fs
	equal "$(sha256sum <"$MNT/file")" "$sum"
	[ "$(counter read_misses)" -gt 0 ] || fail "nothing was read from the backing"
	fusermount3 -u "$MNT"
	gone "fusermount3 -u"
	mounter_gone "$mounter" "fusermount3 -u"
done

step "SIGTERM unmounts, while a file is open"
mount_fs
mounter=$(mounter_pid)
exec 5<"$MNT/file"
kill -TERM "$PID"
gone SIGTERM
mounter_gone "$mounter" SIGTERM
exec 5<&-

step "a signal to all of a terminal's processes does, too"
mount_fs
mounter=$(mounter_pid)
kill -INT "$mounter"
kill -TERM "$mounter"
sleep 0.2
[ -d "/proc/$mounter" ] || fail "the process that mounts has ended"
kill -INT "$PID"
gone SIGINT

step "with the daemon the other process ends, and unmounts nothing"
mount_fs
mounter=$(mounter_pid)
kill -9 "$PID"
wait_gone "$PID" 20 || fail "cannot kill the daemon"
mounter_gone "$mounter" "the daemon"
is_mounted || fail "a crash should be seen"
fusermount3 -uz "$MNT"

step "without the other process, it says that it cannot unmount"
try_mount -f & # in the foreground, to hear it
for ((i = 0; i < 100; i++)); do is_mounted && "$VEMSCTL" stats "$MNT" >/dev/null 2>&1 && break; sleep 0.1; done
PID=$(daemon_pid)
kill -9 "$(mounter_pid)"
kill -TERM "$PID"
wait_gone "$PID" 20 || fail "the daemon stays"
wait
said 'cannot unmount'
fusermount3 -uz "$MNT"

step "it is all there"
mount_fs
equal "$(sha256sum <"$MNT/file")" "$sum"
if [ "$(id -u)" = 0 ]; then
	umount "$MNT"
	gone umount
else
	unmount_fs
fi
fsck_fs
