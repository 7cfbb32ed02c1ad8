#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A mount's life: formatted once, in use once, read-only, foreground, killed, and what is refused.
. "$(dirname "$0")/lib.sh"

formats_once() {
	step "a blank pair is formatted, and says so; the mount serves when the command returns"
	make_pair 32 64
	random_file "$DIR/data" 8
	mount_fs
	cp "$DIR/data" "$MNT/data" # at once
	said format
	same "$DIR/data" "$MNT/data"

	step "unmount, mount: all is there, nothing is formatted"
	remount
	not_said format
	same "$DIR/data" "$MNT/data"
}

in_use_once() {
	step "a pair in use is refused, the mount goes on"
	local mnt=$MNT
	MNT=$DIR/second
	mkdir "$MNT"
	! try_mount || fail "mounted twice"
	said 'in use|locked|mounted'
	MNT=$mnt
	! "$MKFS" --force --pmem="$TIER" --backing="$BACKING" >"$DIR/said" 2>&1 || fail "formatted under a mount"
	same "$DIR/data" "$MNT/data"
	unmount_fs
}

read_only() {
	step "-o ro reads everything and writes nothing, on a clean pair and on a killed one"
	local before
	before=$(sums)
	mount_fs -o ro
	same "$DIR/data" "$MNT/data"
	! touch "$MNT/new" 2>/dev/null || fail "created a file on a read-only mount"
	unmount_fs
	equal "$(sums)" "$before" "devices after a read-only mount"

	mount_fs
	echo late >"$MNT/late"
	kill9
	before=$(sums)
	mount_fs -o ro
	equal "$(cat "$MNT/late")" late
	same "$DIR/data" "$MNT/data"
	unmount_fs
	equal "$(sums)" "$before" "killed devices after a read-only mount"
}

dead_mount() {
	step "a dead mount is named, with the command that clears it"
	mount_fs
	kill -9 "$PID"
	wait_gone "$PID" 20 || fail "cannot kill the daemon"
	refuse_dead
	unmount "$MNT"
	mount_fs
	equal "$(cat "$MNT/late")" late
	unmount_fs
}
refuse_dead() { # is_mounted() is true here, unlike after any other refusal
	! try_mount || fail "mounted over a dead mount"
	said 'fusermount3 -u|umount'
}

foreground() {
	step "-f stays; SIGTERM ends it cleanly"
	local i
	"$VEMSFUSE" -f --assume-persistent --pmem="$TIER" --backing="$BACKING" "$MNT" >"$DIR/said" 2>&1 &
	PID=$!
	for ((i = 0; i < 200; i++)); do
		is_mounted && break
		sleep 0.05
	done
	echo fore >"$MNT/fore"
	kill -TERM "$PID"
	wait "$PID" || fail "SIGTERM: exit status $?"
	! is_mounted || fail "still mounted after SIGTERM"
	fsck_fs
	mount_fs
	equal "$(cat "$MNT/fore")" fore

	step "SIGTERM in the background too"
	kill -TERM "$PID"
	wait_gone "$PID" 60 || fail "SIGTERM did not end the daemon"
	! is_mounted || fail "still mounted after SIGTERM"
	fsck_fs
}

foreign() {
	step "another file system is refused by its name, until mkfs --force"
	need mkfs.ext4
	make_pair 32 64
	mkfs.ext4 -q -F "$BACKING" 2>/dev/null
	refuse 'ext4'
	said 'mkfs\.vemsfuse.*--force'
	local before
	before=$(sums)
	! "$MKFS" --pmem="$TIER" --backing="$BACKING" >"$DIR/said" 2>&1 || fail "mkfs overwrote ext4 without --force"
	equal "$(sums)" "$before" "devices after a refused mkfs"
	"$MKFS" --force --pmem="$TIER" --backing="$BACKING" >"$DIR/said" 2>&1 || fail "mkfs --force: $(cat "$DIR/said")"
	mount_fs
	echo yes >"$MNT/file"
	remount
	equal "$(cat "$MNT/file")" yes
	unmount_fs
}

refused() {
	step "what cannot be is refused in one line"
	local mnt=$MNT
	make_pair 32 64
	truncate -s 16M "$TIER"
	refuse 'small|at least|32'
	truncate -s 32M "$TIER"
	truncate -s 32M "$BACKING"
	refuse 'small|at least|64'
	truncate -s 64M "$BACKING"
	refuse 'no-such-option' --no-such-option
	MNT=$TIER # no directory
	refuse 'directory'
	MNT=$mnt
}

one_line() { equal "$(wc -l <"$DIR/said")" 1 "lines said: $(cat "$DIR/said")"; }

# Run as nobody by user.sh.
refused_to_users() {
	step "what fusermount3 would refuse an ordinary user is refused before the pair is formatted"
	[ "$(id -u)" != 0 ] || { echo "not as root: root may"; return 0; }
	local mnt word
	make_pair 32 64
	mnt=$MNT
	if grep -qx '[[:space:]]*user_allow_other[[:space:]]*' /etc/fuse.conf 2>/dev/null; then
		echo "/etc/fuse.conf has user_allow_other"
	else
		for word in allow_other allow_root; do
			refuse "$word .*/etc/fuse.conf: user_allow_other" -o "noatime,$word"
			one_line
		done
	fi
	chmod 555 "$mnt"
	refuse "mount point $mnt cannot be written to"
	one_line
	chmod 755 "$mnt"
	if [ -k /var/tmp ] && [ ! -O /var/tmp ] && ! is_mounted /var/tmp; then
		MNT=/var/tmp
		refuse 'sticky and belongs to another user'
		one_line
		MNT=$mnt
	fi
	mount_fs
	said format
	unmount_fs
}

export PATH=$PATH:/usr/sbin:/sbin
formats_once
in_use_once
read_only
dead_mount
foreground
foreign
refused
refused_to_users
