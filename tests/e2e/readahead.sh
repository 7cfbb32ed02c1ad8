#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A stream of small reads comes from the backing in large ones, ahead of the reader; random reads do not read
# what nobody asked for; what is in the tier is not read again.
. "$(dirname "$0")/lib.sh"

PAGES=16384 # 64 MiB, twice the tier
make_pair 32 256
mount_fs
random_file "$DIR/data" 64
cp "$DIR/data" "$MNT/f"
sync_fs

backing_reads() { counter backing_reads; }
backing_pages() { echo $(($(counter backing_read_bytes) / 4096)); }

step "in sequence, 4 KiB at a time"
reads=$(backing_reads) pages=$(backing_pages)
dd if="$MNT/f" bs=4k status=none | cmp - "$DIR/data" || fail "read something else than was written"
reads=$(($(backing_reads) - reads)) pages=$(($(backing_pages) - pages))
echo "$PAGES pages in $reads reads of the backing, $pages pages"
[ "$reads" -lt $((PAGES / 4)) ] || fail "a stream was read page by page"
[ "$pages" -lt $((2 * PAGES)) ] || fail "a stream was read twice"

step "at random"
pages=$(backing_pages) misses=$(counter read_misses) nodes=$(counter node_misses)
for page in $(shuf -i 0-$((PAGES - 1)) -n 1000 --random-source="$DIR/data"); do
	echo "$((page * 4096))"
done | python3 -c '
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
data = open(sys.argv[2], "rb")
for line in sys.stdin:
    data.seek(int(line))
    assert os.pread(fd, 4096, int(line)) == data.read(4096)
' "$MNT/f" "$DIR/data"
pages=$(($(backing_pages) - pages))
echo "1000 pages at random: $pages pages of the backing"
[ "$pages" -lt 1500 ] || fail "random reads have read ahead"

step "in sequence, from the tier"
head -c 8M "$DIR/data" >"$MNT/small"
sync_fs
pages=$(backing_pages)
for i in 1 2 3; do dd if="$MNT/small" bs=4k status=none | cmp - <(head -c 8M "$DIR/data") || fail "wrong"; done
pages=$(($(backing_pages) - pages))
[ "$pages" -lt 512 ] || fail "what is in the tier was read from the backing: $pages pages"

step "truncated and overwritten under the reader"
for i in 1 2 3 4 5; do
	dd if="$MNT/f" of=/dev/null bs=4k status=none &
	truncate -s $((i * 8))M "$MNT/f"
	dd if="$DIR/data" of="$MNT/f" bs=1M conv=notrunc status=none
	wait "$!"
done
same "$MNT/f" "$DIR/data"
unmount_fs
fsck_fs
