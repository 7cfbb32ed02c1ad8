#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The file system class of stress-ng, each stressor for a second or two with its results verified, and dbench;
# then fsck. The tier is smaller than what they write.
. "$(dirname "$0")/lib.sh"
need stress-ng

SECONDS_EACH=${VEMS_E2E_STRESS_SECONDS:-1}
# Those that work on the directory that they are given; --all would stress the machine as well.
STRESSORS=(access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap file-ioctl
	filename flock fpunch fstat getdent hdd inode-flags io lease link locka lockf lockofd mknod msync open readahead
	rename seal seek sendfile splice symlink touch unlink utime xattr)

make_pair 64 512
mount_fs -o allow_other
mkdir "$MNT/stress"
stress-ng --help >"$DIR/known" 2>&1 || :
known() { grep -q -- "--$1 N" "$DIR/known"; }
for s in "${STRESSORS[@]}"; do
	known "$s" || continue
	timeout 60 stress-ng --quiet --temp-path "$MNT/stress" --verify --timeout "${SECONDS_EACH}s" "--$s" 2 \
		--hdd-bytes 32M --fallocate-bytes 32M --seek-size 32M --readahead-bytes 32M --msync-bytes 16M \
		--dirdeep-inodes 2000 --dirmany-bytes 0 \
		>"$DIR/stress" 2>&1 || case $? in
		3 | 4) echo "$s: not here: $(head -n 1 "$DIR/stress")" ;; # no resources, not implemented
		*) cat "$DIR/stress"; fail "stress-ng --$s" ;;
	esac
	is_mounted || fail "stress-ng --$s: the mount is gone"
	kill -0 "$PID" || fail "stress-ng --$s: the daemon is gone"
done
rm -rf "$MNT/stress"
if command -v dbench >/dev/null; then
	step "dbench"
	dbench -D "$MNT" -c "$(dpkg -L dbench | grep 'client.txt')" -t 5 4 >"$DIR/dbench" 2>&1 || :
	if grep -q "barrier semaphore" "$DIR/dbench"; then
		echo "dbench: no System V semaphores here"
	else
		grep -q "^Throughput" "$DIR/dbench" && ! grep -qi "failed\|error" "$DIR/dbench" || { tail "$DIR/dbench"; fail "dbench"; }
	fi
fi
unmount_fs
fsck_fs
