#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Which tier goes with which backing: every refusal names the option that helps and leaves both
# devices as they were (refuse() in lib.sh compares them).
. "$(dirname "$0")/lib.sh"

make_pair 32 64
mount_fs
mkdir "$MNT/dir"
random_file "$MNT/dir/data" 12
ln -s dir/data "$MNT/link"
cp -a "$MNT/." "$DIR/expected"
complete() { diff -r "$DIR/expected" "$MNT" || fail "something is missing"; }

step "a cleanly unmounted backing and a blank tier: complete"
unmount_fs
cp "$TIER" "$FAST/clean-tier" # of the first attach
blank_tier
mount_fs
complete
TIER_1=$TIER BACKING_1=$BACKING MNT_1=$MNT

step "killed, the tier is there: nothing is lost, and options that are not needed change nothing"
echo more >"$DIR/expected/more"
cp "$DIR/expected/more" "$MNT/more"
kill9
mount_fs
complete
kill9
mount_fs --lose-tier
complete
unmount_fs
mount_fs --discard-tier
complete

step "killed, the tier is lost or of an earlier attach: refused; --lose-tier mounts the last epoch"
sync_fs
echo lost >"$MNT/perhaps-lost"
kill9
cp "$TIER" "$FAST/good-tier"
cp "$FAST/clean-tier" "$TIER"
refuse '--lose-tier'
blank_tier
refuse '--lose-tier'
refuse '--lose-tier' --discard-tier
mount_fs --lose-tier -o ro
diff -r -x perhaps-lost "$DIR/expected" "$MNT" || fail "the last epoch is not complete (read-only)"
unmount_fs
mount_fs --lose-tier
said '[0-9]+(\.[0-9]+)? ?(s|sec|seconds?)([^a-z]|$)'
diff -r -x perhaps-lost "$DIR/expected" "$MNT" || fail "the last epoch is not complete"
rm -f "$MNT/perhaps-lost"
complete

step "the tier that was thought lost comes back: it is of another attach now"
kill9
cp "$TIER" "$FAST/new-tier"
cp "$FAST/good-tier" "$TIER"
refuse '--lose-tier'
cp "$FAST/new-tier" "$TIER"
mount_fs
complete

step "a stale copy of either device is refused"
sync_fs
kill9
cp "$TIER" "$FAST/old-tier"
cp --sparse=always "$BACKING" "$DIR/old-backing"
mount_fs
for i in 1 2 3; do
	echo "$i" >"$MNT/epoch"
	sync_fs
done
cp "$MNT/epoch" "$DIR/expected/epoch"
kill9
cp "$TIER" "$FAST/new-tier"
cp --sparse=always "$BACKING" "$DIR/new-backing"
cp "$FAST/old-tier" "$TIER"
refuse 'stale|older|copy|--lose-tier'
cp "$FAST/new-tier" "$TIER"
cp --sparse=always "$DIR/old-backing" "$BACKING"
refuse 'stale|newer|older|copy|--lose-tier'
cp --sparse=always "$DIR/new-backing" "$BACKING"
mount_fs
complete
unmount_fs

step "a clean backing and another file system's tier: refused; --discard-tier takes it"
make_pair 32 64
mount_fs
echo other >"$MNT/other"
unmount_fs
BACKING_2=$BACKING MNT_2=$MNT
BACKING=$BACKING_1 MNT=$MNT_1
refuse '--discard-tier'
refuse '--discard-tier' --lose-tier

step "with a warning of its own where that tier is in use"
BACKING=$BACKING_2 MNT=$MNT_2
mount_fs
echo acknowledged >"$MNT/other"
kill9
BACKING=$BACKING_1 MNT=$MNT_1
refuse '--discard-tier'
mount_fs --discard-tier
complete
unmount_fs
BACKING=$BACKING_2 MNT=$MNT_2 # its tier is gone
refuse '--lose-tier'

step "a blank backing and a tier that is not blank: refused"
rm "$BACKING"
truncate -s 64M "$BACKING"
refuse 'mkfs\.vemsfuse.*--force'

step "a clean backing and a tier that holds something foreign: refused"
BACKING=$BACKING_1 MNT=$MNT_1 TIER=$TIER_1
random_file "$TIER" 32
refuse 'force|--discard-tier'
blank_tier
mount_fs
complete
unmount_fs
fsck_fs
