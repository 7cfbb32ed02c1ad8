#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fsck.vemsfuse on a pair that is in use, that was left by a killed daemon, that was unmounted, that is
# damaged: what it exits with, and that it writes nothing.
. "$(dirname "$0")/lib.sh"

[ -x "$FSCK" ] || fail "$FSCK is not built"

check() { # EXIT [OPTION...]: what it printed is in $DIR/fsck
	local expected=$1 rc=0 before
	shift
	before=$(sums)
	"$FSCK" "$@" >"$DIR/fsck" 2>&1 || rc=$?
	[ "$rc" = "$expected" ] || fail "fsck $*: exit $expected expected, found $rc: $(tail -n 20 "$DIR/fsck")"
	[ "$(sums)" = "$before" ] || fail "fsck $*: a device was changed"
}
pair() { check "$1" --pmem="$TIER" --backing="$BACKING" "${@:2}"; }
prints() { grep -Eq -- "$1" "$DIR/fsck" || fail "fsck should print /$1/, printed: $(cat "$DIR/fsck")"; }

make_pair 32 192
check 16 --pmem="$TIER"
check 16 --pmem="$TIER" --backing="$BACKING" --mend
pair 8 # blank: there is nothing to check

step "in use"
mount_fs
random_file "$DIR/data" 24
mkdir "$MNT/tree"
echo 'found again on the backing by these words' >"$MNT/words"
cp -r "$TOP/src" "$TOP/docs" "$MNT/tree"
for i in 1 2 3; do cp "$DIR/data" "$MNT/data.$i"; done # more than the tier holds
rc=0
"$FSCK" --pmem="$TIER" --backing="$BACKING" >"$DIR/fsck" 2>&1 || rc=$?
equal "$rc" 8 "exit for a pair in use"
prints 'in use'

step "left by a killed daemon, with files that are open and unlinked"
exec 7>"$MNT/open"
head -c 100000 /dev/urandom >&7
rm "$MNT/open" "$MNT/data.2"
cp "$DIR/data" "$MNT/tree/data"
ln "$MNT/data.1" "$MNT/tree/link"
truncate -s 12345 "$MNT/data.3"
kill9
exec 7>&-
pair 0 -v
prints ': clean: .* 0 errors, 0 warnings'
pair 0 --quick
check 8 --backing="$BACKING"
prints 'not unmounted'
check 0 --backing="$BACKING" --lose-tier

step "unmounted"
mount_fs
unmount_fs
pair 0
prints ': clean: .* 0 errors, 0 warnings'
check 0 --backing="$BACKING"
check 0 --backing="$BACKING" -p
prints 'does not mend'

step "damaged: a bit of a file"
marker=$(LC_ALL=C grep -m 1 -obUaF 'found again on the backing by these words' "$BACKING" | cut -d: -f1)
[ -n "$marker" ] || fail "the content of a file should be on the backing"
printf 'X' | dd of="$BACKING" bs=1 seek="$marker" conv=notrunc status=none
pair 4
prints '^error: object [0-9]+, page 0: data does not match its checksum'
prints 'NOT CLEAN'
