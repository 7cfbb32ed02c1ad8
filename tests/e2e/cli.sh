#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The command lines: help, version, what is wrong with one, and what each failure exits with.
. "$(dirname "$0")/lib.sh"

# expect STATUS PATTERN COMMAND...: exactly one line on stderr, which says PATTERN, nothing on stdout.
expect() {
	local status=$1 pattern=$2 rc=0
	shift 2
	"$@" >"$DIR/out" 2>"$DIR/said" </dev/null || rc=$?
	equal "$rc" "$status" "exit status of: $*"
	equal "$(wc -l <"$DIR/said")" 1 "lines on stderr of: $*"
	equal "$(wc -l <"$DIR/out")" 0 "lines on stdout of: $*"
	said "$pattern"
}
expect_usage() { # PATTERN COMMAND...
	expect 2 "$@"
	said "Try '$(basename "$2") --help'"
}

help_and_version() {
	step "--help teaches, --version tells, both on stdout and with 0"
	local program
	for program in "$VEMSFUSE" "$MKFS" "$VEMSCTL"; do
		"$program" --help >"$DIR/said" 2>"$DIR/out" || fail "$program --help"
		said "^Usage: $(basename "$program")"
		said '^Exit status'
		equal "$(wc -l <"$DIR/out")" 0 "lines on stderr"
		"$program" -h | cmp - "$DIR/said" || fail "-h is not --help"
		"$program" --version >"$DIR/said" || fail "$program --version"
		said "^$(basename "$program") [0-9]+\.[0-9]+"
	done
	"$VEMSFUSE" --help >"$DIR/said"
	said '/dev/dax0.0'
	said '/etc/fstab|fstab'
	said 'fusermount3 -u'
}

wrong_usage() {
	step "a wrong command line is one line that says what is wrong, and 2"
	local pair=("--pmem=$TIER" "--backing=$BACKING")
	expect_usage 'pmem=PATH is missing' "$VEMSFUSE"
	expect_usage 'backing=PATH is missing' "$VEMSFUSE" --pmem="$TIER" "$MNT"
	expect_usage 'MOUNTPOINT is missing' "$VEMSFUSE" "${pair[@]}"
	expect_usage "unknown option '--nonsense'" "$VEMSFUSE" "${pair[@]}" --nonsense "$MNT"
	expect_usage "unknown option '-x'" "$VEMSFUSE" -fx "${pair[@]}" "$MNT"
	expect_usage "value is missing" "$VEMSFUSE" "${pair[@]}" --interval
	expect_usage "value is missing" "$VEMSFUSE" --pmem= --backing="$BACKING" "$MNT"
	expect_usage "no value is taken by '--lose-tier=1'" "$VEMSFUSE" "${pair[@]}" --lose-tier=1 "$MNT"
	expect_usage "one argument too many: '/elsewhere'" "$VEMSFUSE" "${pair[@]}" "$MNT" /elsewhere
	expect_usage 'not a number of seconds' "$VEMSFUSE" "${pair[@]}" --interval=soon "$MNT"
	expect_usage 'not a number from' "$VEMSFUSE" "${pair[@]}" --threads=0 "$MNT"
	expect_usage '-o nonsense: no such option' "$VEMSFUSE" "${pair[@]}" -o ro,nonsense "$MNT"
	expect_usage '-o pmem: a value is missing' "$VEMSFUSE" "${pair[@]}" -o pmem "$MNT"
	expect_usage 'auto_unmount' "$VEMSFUSE" "${pair[@]}" -o auto_unmount "$MNT"
	expect_usage 'pmem=PATH is missing' "$MKFS"
	expect_usage "unknown option '--nonsense'" "$MKFS" "${pair[@]}" --nonsense
	expect_usage 'one argument too many' "$MKFS" "${pair[@]}" more
	expect_usage 'a command is missing' "$VEMSCTL"
	expect_usage "unknown command 'nonsense'" "$VEMSCTL" nonsense "$MNT"
	expect_usage 'MOUNTPOINT is missing' "$VEMSCTL" stats
	expect_usage 'json' "$VEMSCTL" sync --json "$MNT"
}

missing_paths() {
	step "what is not there, or is not what it should be, is named, and 1"
	touch "$DIR/file"
	expect 1 "$DIR/nowhere" "$VEMSFUSE" --pmem="$TIER" --backing="$BACKING" "$DIR/nowhere"
	expect 1 'not a directory' "$VEMSFUSE" --pmem="$TIER" --backing="$BACKING" "$DIR/file"
	expect 1 "$DIR/none" "$VEMSFUSE" --pmem="$DIR/none" --backing="$BACKING" "$MNT"
	expect 1 "$DIR/none" "$VEMSFUSE" --pmem="$TIER" --backing="$DIR/none" "$MNT"
	expect 1 "$DIR/none" "$VEMSFUSE" -f -o "pmem=$TIER,backing=$DIR/none" "$MNT"
	expect 1 "$DIR/none" "$MKFS" --pmem="$TIER" --backing="$DIR/none"
	expect 1 "$DIR/nowhere" "$VEMSCTL" stats "$DIR/nowhere"
	expect 1 'not the mount point of a vemsfuse' "$VEMSCTL" stats "$DIR"
	expect 1 'not the mount point of a vemsfuse' "$VEMSCTL" sync "$DIR/file"
	! is_mounted || fail "mounted"
}

one_place() {
	step "one file or device for both is named as that"
	local other=$DIR/other loop
	ln -s "$BACKING" "$other"
	same_refused "$BACKING" "$BACKING"
	same_refused "$other" "$BACKING"
	[ "$(id -u)" = 0 ] || return 0
	loop=$(losetup -f --show "$BACKING" 2>/dev/null) || { echo "there is no loop device"; return 0; }
	LOOPS+=("$loop")
	mknod "$DIR/node" b $((0x$(stat -c %t "$loop"))) $((0x$(stat -c %T "$loop")))
	same_refused "$DIR/node" "$loop"
}
same_refused() { # TIER BACKING
	local pattern='--pmem and --backing are the same'
	expect 1 "$pattern" "$VEMSFUSE" --pmem="$1" --backing="$2" "$MNT"
	expect 32 "$pattern" "$DIR/mount.vemsfuse" "$2" "$MNT" -o "pmem=$1"
	expect 1 "$pattern" "$MKFS" --force --pmem="$1" --backing="$2"
	expect 8 "$pattern" "$FSCK" --pmem="$1" --backing="$2"
}

dead_mount() {
	step "a dead mount is named, with what clears it"
	mount_fs
	touch "$MNT/file"
	kill -9 "$PID"
	wait_gone "$PID" 20 || fail "cannot kill the daemon"
	expect 1 "dead FUSE mount.*fusermount3 -u $MNT" "$VEMSFUSE" --pmem="$TIER" --backing="$BACKING" "$MNT"
	expect 1 "dead.*fusermount3 -u $MNT" "$VEMSCTL" stats "$MNT"
	fusermount3 -u "$MNT"
	mount_fs
	[ -e "$MNT/file" ] || fail "the file is gone"
	unmount_fs
}

words_of_o() {
	step "all by words of -o, relative paths, underscores; words for fstab are ignored"
	local at
	at=$(pwd)
	cd "$DIR"
	"$VEMSFUSE" -o "defaults,noauto,_netdev,x-systemd.automount,pmem=$TIER" \
		-o "backing=$(basename "$BACKING"),assume_persistent,interval=5" "$(basename "$MNT")" \
		>"$DIR/said" 2>&1 </dev/null ||
		fail "cannot mount: $(cat "$DIR/said")"
	is_mounted || fail "returned 0 and nothing is mounted"
	unmount "$MNT"
	cd "$at"
	wait_released
}

helper() {
	step "mount.vemsfuse: as mount(8) calls it, with its exit codes"
	expect 1 'pmem=PATH is missing' "$DIR/mount.vemsfuse" "$BACKING" "$MNT" -o rw
	expect 1 '-o nonsense' "$DIR/mount.vemsfuse" "$BACKING" "$MNT" -o "nonsense,pmem=$TIER"
	expect 32 "$DIR/none" "$DIR/mount.vemsfuse" "$DIR/none" "$MNT" -o "pmem=$TIER"
	"$DIR/mount.vemsfuse" "$BACKING" "$MNT" -fnv -o "pmem=$TIER" || fail "a fake mount failed"
	! is_mounted || fail "a fake mount was made"
	"$DIR/mount.vemsfuse" "$BACKING" "$MNT" -n -s -o "rw,nonsense,nofail,pmem=$TIER,assume-persistent" \
		>"$DIR/said" 2>&1 ||
		fail "cannot mount: $(cat "$DIR/said")"
	is_mounted || fail "returned 0 and nothing is mounted"
	remounts
	unmount "$MNT"
	wait_released
}

remounts() {
	if [ "$(id -u)" != 0 ]; then
		expect 32 'cannot remount' "$DIR/mount.vemsfuse" "$BACKING" "$MNT" -o remount,ro
		return
	fi
	# As mount(8) puts it, from /proc/mounts.
	"$DIR/mount.vemsfuse" "$BACKING" "$MNT" -o rw,nosuid,nodev,relatime,user_id=0,group_id=0,remount,ro,noexec ||
		fail "cannot remount"
	! touch "$MNT/remounted" 2>/dev/null || fail "remounted read-only, and written to"
	[[ $(findmnt -n -o OPTIONS "$MNT") == ro,nosuid,nodev,noexec,* ]] || fail "remounted as $(findmnt -n -o OPTIONS "$MNT")"
	"$DIR/mount.vemsfuse" "$BACKING" "$MNT" -o remount,rw || fail "cannot remount"
	touch "$MNT/remounted" || fail "remounted rw, and not to be written to"
	expect 32 'cannot remount' "$DIR/mount.vemsfuse" "$BACKING" "$DIR" -o remount,ro # no mount of FUSE
}

# The backing is a file on another mount, whose daemon sleeps while the pair is written back.
slow_end() {
	step "-f: an end that takes its time says so on stderr, after SIGTERM and after an unmount"
	local tier=$TIER backing=$BACKING mnt=$MNT how job outer outer_mnt
	make_pair 64 256
	mount_fs
	outer=$PID outer_mnt=$MNT
	TIER=$FAST/slow BACKING=$outer_mnt/backing MNT=$mnt
	truncate -s 64M "$TIER"
	truncate -s 192M "$BACKING"
	for how in SIGTERM unmount; do
		: >"$DIR/said"
		"$VEMSFUSE" -f --assume-persistent --interval=3600 --pmem="$TIER" --backing="$BACKING" "$MNT" \
			>"$DIR/out" 2>"$DIR/said" </dev/null &
		job=$!
		wait_said 'is mounted'
		head -c 8M /dev/urandom >"$MNT/$how"
		kill -STOP "$outer"
		(sleep 5; kill -CONT "$outer") &
		if [ "$how" = unmount ]; then fusermount3 -u "$MNT"; else kill -TERM "$job"; fi
		wait "$job" || fail "ended with $? after $how: $(cat "$DIR/said")"
		said '^vemsfuse: [1-9][0-9]* MiB still to be written to the backing$'
		equal "$(wc -l <"$DIR/out")" 0 "lines on stdout"
	done
	step "in the background: so it does on the terminal that it was started from, while that is there"
	(sleep 6; kill -CONT "$outer") &
	script -qec "'$VEMSFUSE' --assume-persistent --interval=3600 --pmem='$TIER' --backing='$BACKING' '$MNT' &&
		head -c 8M /dev/urandom >'$MNT/terminal' && kill -STOP $outer && fusermount3 -u '$MNT' && sleep 4" \
		"$DIR/typescript" >/dev/null </dev/null || fail "a mount from a terminal: $(cat "$DIR/typescript")"
	grep -q '^vemsfuse: [1-9][0-9]* MiB still to be written to the backing' "$DIR/typescript" ||
		fail "the terminal says: $(cat "$DIR/typescript")"
	wait_released
	MNT=$outer_mnt PID=$outer
	unmount_fs
	TIER=$tier BACKING=$backing MNT=$mnt
}
wait_said() {
	local i
	for ((i = 0; i < 200; i++)); do
		! grep -q -- "$1" "$DIR/said" || return 0
		sleep 0.05
	done
	said "$1"
}

shrunk_backing() {
	step "a backing that was cut off is named as that, and serves again at its size"
	local said='is smaller than its file system: 63 MiB of 64 MiB; restore its size'
	mount_fs
	echo kept >"$MNT/kept"
	unmount_fs
	truncate -s $((64 * 1048576 - 4096)) "$BACKING"
	expect 1 "$BACKING: $said" "$VEMSFUSE" --pmem="$TIER" --backing="$BACKING" "$MNT"
	expect 4 "$BACKING: $said" "$FSCK" --pmem="$TIER" --backing="$BACKING"
	expect 4 "$BACKING: $said" "$FSCK" --backing="$BACKING"
	truncate -s 64M "$BACKING"
	mount_fs
	equal "$(cat "$MNT/kept")" kept
	unmount_fs
	fsck_fs
}

damaged_superblocks() {
	step "fsck sends nobody to fsck"
	local said='both superblocks are damaged$'
	cp "$BACKING" "$DIR/whole"
	dd if=/dev/urandom of="$BACKING" bs=100 count=1 seek=1 conv=notrunc status=none
	dd if=/dev/urandom of="$BACKING" bs=100 count=1 seek=$(((64 * 1048576 - 4096) / 100 + 2)) conv=notrunc status=none
	expect 1 "$said" "$VEMSFUSE" --pmem="$TIER" --backing="$BACKING" "$MNT"
	expect 4 "$said" "$FSCK" --pmem="$TIER" --backing="$BACKING"
	mv "$DIR/whole" "$BACKING"
}

# The daemon was not started by mount_fs: until its last epoch is over, the pair is in use.
wait_released() {
	local i
	for ((i = 0; i < 200; i++)); do
		if mount_once; then
			unmount_fs
			return
		fi
		sleep 0.1
	done
	fail "the pair is still in use: $(cat "$DIR/said")"
}
mount_once() { try_mount && PID=$(daemon_pid); }

foreground() {
	step "-f stays, and ends with 0 after SIGTERM, with 0 after an unmount"
	local job how i
	for how in 'kill -TERM' unmount; do
		"$VEMSFUSE" -f --assume-persistent --pmem="$TIER" --backing="$BACKING" "$MNT" \
			>"$DIR/said" 2>&1 </dev/null &
		job=$!
		for ((i = 0; i < 200; i++)); do
			is_mounted && stat "$MNT" >"$DIR/out" && break
			sleep 0.05
		done
		if [ "$how" = unmount ]; then fusermount3 -u "$MNT"; else kill -TERM "$job"; fi
		wait "$job" || fail "ended with $? after $how: $(cat "$DIR/said")"
		! is_mounted || fail "still mounted after $how"
	done
}

make_pair 32 64
ln -s "$VEMSFUSE" "$DIR/mount.vemsfuse"
help_and_version
wrong_usage
missing_paths
one_place
dead_mount
words_of_o
helper
foreground
slow_end
shrunk_backing
damaged_superblocks
