#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Untar, and a C build on the mount: this project, built and run where it lies.
. "$(dirname "$0")/lib.sh"
need meson ninja tar

make_pair 32 1024
mount_fs

step "untar /usr/include, compare"
tar -C /usr -cf "$DIR/include.tar" include
tar -C "$MNT" -xf "$DIR/include.tar"
diff -r --no-dereference /usr/include "$MNT/include" || fail "untarred files differ"

step "configure and build"
tar -C "$TOP" -cf "$DIR/source.tar" --exclude=.git --exclude='build*' .
mkdir "$MNT/source"
tar -C "$MNT/source" -xf "$DIR/source.tar"
meson setup "$MNT/build" "$MNT/source" >"$DIR/build.log" 2>&1 || fail "meson: $(tail -n 20 "$DIR/build.log")"
ninja -C "$MNT/build" vemsfuse vemsctl >"$DIR/build.log" 2>&1 || fail "ninja: $(tail -n 20 "$DIR/build.log")"

step "run what was built; nothing is left to build after a remount"
"$MNT/build/vemsfuse" --version
remount
"$MNT/build/vemsfuse" --version
ninja -C "$MNT/build" vemsfuse vemsctl | tee "$DIR/build.log"
grep -q 'no work to do' "$DIR/build.log" || fail "times changed over the remount"
rm -r "$MNT/source" "$MNT/build" "$MNT/include"
equal "$(ls -A "$MNT")" '' "after deleting everything"
unmount_fs
fsck_fs
