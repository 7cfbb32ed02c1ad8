#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The errno of each call in each state, and what it does to times and modes: as on ext4, but for the lines
# of errno.known, which docs/POSIX.md explains.
. "$(dirname "$0")/lib.sh"
need python3 mkfs.ext4
need_root "act for another user, and mount the reference"
HERE=$TOP/tests/e2e

table() { (umask 022 && cd "$1" && python3 "$HERE/errno.py" "$1"); }

truncate -s 256M "$DIR/ext4"
mkfs.ext4 -q -I 256 -N 200000 "$DIR/ext4"
mkdir "$DIR/reference"
mount -o loop "$DIR/ext4" "$DIR/reference" 2>/dev/null || skip "no ext4 by a loop device here"
at_end() { umount -l "$DIR/reference" 2>/dev/null || :; }
make_pair 64 512
mount_fs -o allow_other,dev
mkdir "$DIR/reference/t" "$MNT/t"
chmod 755 "$DIR/reference" "$DIR/reference/t" "$MNT" "$MNT/t"
step "ext4"
table "$DIR/reference/t" >"$DIR/ext4.table"
step "vemsfuse"
table "$MNT/t" >"$DIR/vemsfuse.table"
lines=$(wc -l <"$DIR/ext4.table")
diff "$DIR/ext4.table" "$DIR/vemsfuse.table" | grep '^[<>]' >"$DIR/differences" || :
[ -z "${VEMS_E2E_KEEP-}" ] || cp "$DIR/differences" "$VEMS_E2E_KEEP"
diff "$HERE/errno.known" "$DIR/differences" >"$DIR/unknown" || { head -n 60 "$DIR/unknown"; fail "differences that are not known, or known ones that are gone"; }
step "$lines lines, $(grep -c '^>' "$DIR/differences" || :) of them known to be different"
unmount_fs
fsck_fs
