#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fsck.vemsfuse on a pair that is in use, that was left by a killed daemon, that was unmounted, that is
# damaged: what it exits with, that it writes nothing before it is told to, and that what it repairs is a
# file system with all that was not told as lost.
. "$(dirname "$0")/lib.sh"

[ -x "$FSCK" ] || fail "$FSCK is not built"

run_fsck() { # EXIT [OPTION...]: what it printed is in $DIR/fsck
	local expected=$1 rc=0
	shift
	"$FSCK" "$@" >"$DIR/fsck" 2>&1 || rc=$?
	[ "$rc" = "$expected" ] || fail "fsck $*: exit $expected expected, found $rc: $(tail -n 20 "$DIR/fsck")"
}
check() { # likewise, and nothing is written
	local before
	before=$(sums)
	run_fsck "$@"
	[ "$(sums)" = "$before" ] || fail "fsck $*: a device was changed"
}
pair() { check "$1" --pmem="$TIER" --backing="$BACKING" "${@:2}"; }
repair() { run_fsck "$1" --pmem="$TIER" --backing="$BACKING" "${@:2}"; }
prints() { grep -Eq -- "$1" "$DIR/fsck" || fail "fsck should print /$1/, printed: $(cat "$DIR/fsck")"; }
says_once() { prints "$1" && equal "$(wc -l <"$DIR/fsck")" 1 "lines for one error"; }

make_pair 32 192
check 16 --pmem="$TIER"
check 16 --pmem="$TIER" --backing="$BACKING" --mend
pair 8
says_once 'blank: no file system here'
seq 20000 >"$DIR/numbers"
check 8 --backing="$DIR/numbers"
says_once 'mkfs.vemsfuse --force --pmem=PATH --backing='

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
says_once 'in use'

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
prints ': clean: .* 0 errors, [01] warnings' # an epoch may have got to one of the superblocks
pair 0 --quick
check 8 --backing="$BACKING"
says_once 'not unmounted: .*--pmem=PATH'
check 0 --backing="$BACKING" --lose-tier

step "unmounted"
mount_fs
unmount_fs
pair 0
prints ': clean: .* 0 errors, 0 warnings'
check 0 --backing="$BACKING"
check 0 --backing="$BACKING" -p
pair 0 -p
pair 0 -y
check 16 --pmem="$TIER" --backing="$BACKING" -p -y
prints 'only one of'

step "damaged: a bit of a file"
marker=$(LC_ALL=C grep -m 1 -obUaF 'found again on the backing by these words' "$BACKING" | cut -d: -f1)
[ -n "$marker" ] || fail "the content of a file should be on the backing"
printf 'X' | dd of="$BACKING" bs=1 seek="$marker" conv=notrunc status=none
pair 4
prints '^error: object [0-9]+, page 0: data does not match its checksum'
prints 'NOT CLEAN'

# What stays on the device can be repaired by nobody; what else is wrong, is.
step "a repair leaves what it cannot know"
pair 4 -y
prints 'nothing to repair: .*--drop-damaged'
pair 4 -p --drop-damaged
prints 'not repaired: something would be lost'

tree_sum() { (cd "$MNT/tree" && find . -type f -exec sha256sum {} + | sort -k 2 | sha256sum); }
files_sum() { (cd "$MNT" && find . -type f ! -name words ! -name lost+found -exec sha256sum {} + | sort -k 2 | sha256sum); }
step "copy A of the superblock: -p, and no file changes"
mount_fs
before=$(files_sum)
unmount_fs
head -c 4096 /dev/zero | dd of="$BACKING" bs=4096 conv=notrunc status=none
pair 4
prints '^error: block 0: copy of the superblock is damaged'
repair 5 -p
prints ': repaired; 1 damaged pages'
pair 4
prints ' 1 errors, 0 warnings'
mount_fs
equal "$(files_sum)" "$before" "files after the repair"
cat "$MNT/words" >/dev/null 2>&1 && fail "a damaged page should read as an error"
unmount_fs

step "--drop-damaged"
repair 1 -y --drop-damaged
prints ': repaired$'
pair 0
mount_fs
equal "$(tr -d '\0' <"$MNT/words" | wc -c)" 0 "bytes left of a page that was dropped"
equal "$(files_sum)" "$before" "files after the repair"

step "leaves of the tree, of which the tier has copies: -p loses nothing"
mkdir "$MNT/between" # so that no leaf has items of both
(cd "$MNT/between" && touch $(seq 100))
mkdir "$MNT/many"
for i in $(seq 400); do echo "$i" >"$MNT/many/file-$i"; done
all=$(files_sum)
unmount_fs
damage_leaves() { # those with some of the names, in force or not
	python3 - "$BACKING" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    for at in range(0, len(data), 4096):
        if data[at : at + 6] == b"VMND\0\0" and b"file-17" in data[at : at + 4096]:
            f.seek(at + 100)
            f.write(bytes([data[at + 100] ^ 1]))
END
}
damage_leaves
pair 4
prints '^error: block [0-9]+: tree node does not match the checksum.*; the tier has a copy$'
repair 1 -p
pair 0
mount_fs
equal "$(files_sum)" "$all" "files after the repair"
tree=$(tree_sum)
unmount_fs

step "a leaf of the tree, of which there is no copy: what it had is told, -p refuses"
damage_leaves
blank_tier
pair 4
prints '^error: block [0-9]+: tree node does not match the checksum'
prints '^error: object [0-9]+, item [0-9a-f]+: cannot be read, nor what follows up to object'
pair 4 -p
prints 'not repaired'
check 4 --backing="$BACKING" -y
prints 'this needs the tier'
repair 1 -y
brought=$(sed -En 's|.*; ([0-9]+) without a name are in /lost\+found.*|\1|p' "$DIR/fsck")
pair 0
mount_fs
equal "$(tree_sum)" "$tree" "files that were not told as lost"
equal "${brought:-0}" "$(find "$MNT/lost+found" -mindepth 1 2>/dev/null | wc -l)" "files in lost+found"
for f in "$MNT/many"/* "$MNT/lost+found"/*; do
	[ ! -s "$f" ] || grep -qx '[0-9]*' "$f" || fail "$f: content of a file that was left"
done
[ "$(find "$MNT" -type f | wc -l)" -gt 300 ] || fail "too much was lost with one leaf"
rm -rf "$MNT/many" # which is not there if the leaf had the directory itself
echo more >"$MNT/more"
unmount_fs
pair 0

step "leaves with the extents of a file: what they had is told by its path and reads as an error, not as zeroes"
mount_fs
mkdir "$MNT/dir"
long() { python3 -c 'import sys
for i in range(2048): sys.stdout.buffer.write(b"PAGE%012d" % i * 256)'; }
long >"$MNT/dir/long"
object=$(stat -c %i "$MNT/dir/long")
unmount_fs
blank_tier
python3 - "$BACKING" "$object" <<'END'
import struct
import sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    for at in range(0, len(data), 4096): # leaves that begin in the second half of the file, in force or not
        key = data.find(struct.pack("<Q", int(sys.argv[2])), at, at + 4096)
        if data[at : at + 6] == b"VMND\0\0" and data[at + 7] == 0 and key > 0:
            if struct.unpack_from("<Q", data, key + 8)[0] >= 3 << 56 | 1000:
                f.seek(at + 100)
                f.write(bytes([data[at + 100] ^ 1]))
END
pair 4
prints '^error: object [0-9]+: content was in a part of the tree that cannot be read, bytes: [0-9]+ to [0-9]+ \(/dir/long\)$'
repair 5 -y
prints ': repaired; [0-9]+ damaged pages'
pair 4
mount_fs
long | python3 -c 'import errno, os, sys
fd, lost = os.open(sys.argv[1], os.O_RDONLY), 0
for i in range(2048):
    expected = sys.stdin.buffer.read(4096)
    try:
        if os.pread(fd, 4096, i * 4096) != expected:
            sys.exit("page %d is other data" % i)
    except OSError as e:
        if e.errno not in (errno.EIO, errno.EUCLEAN):
            sys.exit("page %d: %s" % (i, e))
        lost += 1
if not 0 < lost < 2048:
    sys.exit("%d pages are lost" % lost)' "$MNT/dir/long" || fail "a lost page should read as an error"
long >"$MNT/dir/long" # from the start
long | cmp - "$MNT/dir/long" || fail "what is written over should be as new"
unmount_fs
pair 0
