#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# As the upper layer of overlayfs: whiteouts, opaque directories, copies up, renames; over an unmount too.
. "$(dirname "$0")/lib.sh"
need_root "mount overlayfs"
need setfattr

make_pair 32 256
mount_fs -o allow_other
mkdir "$DIR/lower" "$DIR/merged" "$MNT/upper" "$MNT/work"
mkdir -p "$DIR/lower/dir/sub"
for i in 1 2 3 4; do echo "lower $i" >"$DIR/lower/file$i"; done
echo deep >"$DIR/lower/dir/sub/deep"
overlay() { mount -t overlay overlay -o "lowerdir=$DIR/lower,upperdir=$MNT/upper,workdir=$MNT/work" "$DIR/merged"; }
at_end() { umount -l "$DIR/merged" 2>/dev/null || :; }
overlay 2>"$DIR/why" || skip "this kernel takes no FUSE file system as upper layer: $(cat "$DIR/why")"

cd "$DIR/merged"
step "changes"
echo more >>file1
rm file2
mv file3 moved
rm -r dir
mkdir dir
echo new >dir/new
ln file1 linked
chmod 600 file4
python3 -c 'import os; fd = os.open(".", os.O_TMPFILE | os.O_RDWR); os.write(fd, b"x")'
check() {
	equal "$(cat "$DIR/merged/file1")" "$(printf 'lower 1\nmore')"
	[ ! -e "$DIR/merged/file2" ] || fail "a deleted file is there"
	[ ! -e "$DIR/merged/file3" ] || fail "a file that has moved is there"
	equal "$(cat "$DIR/merged/moved")" "lower 3"
	equal "$(ls "$DIR/merged/dir")" new "names in a directory made again"
	equal "$(stat -c %a "$DIR/merged/file4")" 600
}
check
[ -c "$MNT/upper/file2" ] || fail "no whiteout"
cd /
umount "$DIR/merged"
step "again"
remount
overlay
check
umount "$DIR/merged"
unmount_fs
fsck_fs
