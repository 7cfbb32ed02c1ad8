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
refuse_old_tier() { # the copy in old-tier; the tier itself is put back
	cp "$TIER" "$FAST/new-tier"
	cp "$FAST/old-tier" "$TIER"
	refuse 'stale.*--lose-tier'
	cp "$FAST/new-tier" "$TIER"
}

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

step "the tier has been cut short: refused, and --lose-tier alone does not give it up; with its size it mounts again"
sync_fs
kill9
size=$(stat -c %s "$TIER")
truncate -s $((size - 1)) "$TIER"
refuse 'smaller.*restore its size'
refuse 'smaller.*restore its size' --lose-tier
refuse 'smaller.*restore its size' --discard-tier
truncate -s "$size" "$TIER"
mount_fs
complete

step "the tier that was thought lost comes back: it is of another attach now"
kill9
cp "$TIER" "$FAST/new-tier"
cp "$FAST/good-tier" "$TIER"
refuse '--lose-tier'
cp "$FAST/new-tier" "$TIER"
mount_fs
complete

step "a copy of either device that is one epoch old is refused"
sync_fs
kill9
cp "$TIER" "$FAST/old-tier"
cp --sparse=always "$BACKING" "$DIR/old-backing"
mount_fs
echo 1 >"$MNT/epoch"
sync_fs
echo 2 >"$MNT/epoch" # in the tier alone
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

step "so is that of a tier that was unmounted, once it has been mounted again"
cp "$TIER" "$FAST/old-tier"
mount_fs
echo 3 >"$MNT/epoch"
cp "$MNT/epoch" "$DIR/expected/epoch"
kill9
refuse_old_tier
mount_fs
complete
unmount_fs

step "too small for a tier, blank or not"
cp "$TIER" "$FAST/new-tier"
rm "$TIER"
truncate -s 16M "$TIER"
refuse 'too small.*32 MiB'
rm "$TIER"
head -c 16384 /dev/urandom >"$TIER"
refuse 'too small.*32 MiB' --discard-tier
cp "$FAST/new-tier" "$TIER"

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

step "--discard-tier takes that too, and a tier that was cut short"
random_file "$TIER" 32
mount_fs --discard-tier
complete
unmount_fs
truncate -s 20M "$TIER"
refuse '--discard-tier'
truncate -s 32M "$TIER"
mount_fs --discard-tier
complete
unmount_fs

step "a tier whose log is damaged: refused; --lose-tier mounts the last epoch"
make_pair 32 64
mount_fs
echo kept >"$MNT/kept"
sync_fs
for ((i = 0; i < 600; i++)); do : >"$MNT/lost.$i"; done
kill9
# A byte in every second page of the rings: records before and behind it are whole.
python3 - "$TIER" <<'END'
import sys
with open(sys.argv[1], 'r+b') as f:
    for at in range(16384 + 100, 16384 + 512 * 1024, 8192):
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))
END
refuse '--lose-tier'
mount_fs --lose-tier
[ "$(cat "$MNT/kept")" = kept ] || fail "the last epoch is not complete"
[ ! -e "$MNT/lost.599" ] || fail "more than the last epoch" # one may have been cut on the way
unmount_fs
fsck_fs

step "a tier that is overwritten while ATTACHED: --lose-tier alone does not take the unknown"
mount_fs
echo later >"$MNT/later"
kill9
random_file "$TIER" 32
for options in '' --lose-tier --discard-tier; do
	# shellcheck disable=SC2086 # none or one
	refuse '--lose-tier with --discard-tier' $options
done
mount_fs --lose-tier --discard-tier
[ "$(cat "$MNT/kept")" = kept ] || fail "the last epoch is not complete"
unmount_fs

step "the two exchanged: said, and no advice to overwrite them"
tier=$TIER TIER=$BACKING BACKING=$tier
refuse 'exchange --pmem and --backing'
not_said 'mkfs'
tier=$TIER TIER=$BACKING BACKING=$tier
mount_fs
unmount_fs

step "a copy of the tier that was told of superblocks which did not come: refused once others have"
make_fault_pair 32 128
mount_fs --interval=3600
write_all() { head -c 2M /dev/zero | tr '\0' "$1" >"$MNT/data"; }
write_all 1
sync_fs
write_all 2
disk range 0 1 # superblock A
! timeout 6 "$VEMSCTL" sync "$MNT" 2>/dev/null || fail "an epoch without a superblock"
kill9
disk good
cp "$TIER" "$FAST/old-tier"
mount_fs --interval=3600
write_all 3
sync_fs
kill9
refuse_old_tier
mount_fs
[ "$(tr -d 3 <"$MNT/data" | wc -c)" = 0 ] || fail "what was written last is not there"
unmount_fs
fsck_fs
unmount "$DISK"
