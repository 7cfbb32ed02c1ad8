#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A full backing: ENOSPC comes from the write itself, and what was acknowledged before is there; overwrites
# go on without end; deleting never lacks space and gives all of it back, to the block, time and again.
. "$(dirname "$0")/lib.sh"
need python3 fallocate

OVERWRITES=${VEMS_E2E_OVERWRITES:-20000} # of 4 KiB

make_pair 32 64
mount_fs
random_file "$DIR/data" 80

fill() { # files of 1 MiB until there is no space; sets `written`
	local i
	mkdir "$MNT/fill"
	for ((i = 0; i < 80; i++)); do
		dd if="$DIR/data" of="$MNT/fill/$i" bs=64k skip=$((i * 16)) count=16 status=none 2>"$DIR/dd" || break
	done
	[ "$i" -lt 80 ] || fail "80 MiB fit on 64 MiB"
	grep -q 'No space left' "$DIR/dd" || fail "not ENOSPC: $(cat "$DIR/dd")"
	written=$i
}
check() {
	local i
	for ((i = 0; i < written; i++)); do
		cmp -s "$MNT/fill/$i" <(dd if="$DIR/data" bs=1M skip="$i" count=1 status=none) || fail "file $i is not what was written"
	done
}

# Files of a few bytes, each holding its own name, until there is no space; sets `written`.
fill_tiny() {
	mkdir "$MNT/fill"
	written=$(python3 - "$MNT/fill" <<'PY'
import errno, os, sys
top, n = sys.argv[1], 0
try:
    while True:
        if n % 1000 == 0:
            os.mkdir(f"{top}/{n // 1000}")
        fd = os.open(f"{top}/{n // 1000}/{n}", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"%d" % n)
        os.close(fd)
        n += 1
except OSError as e:
    assert e.errno == errno.ENOSPC, e
print(n)
PY
	)
}
check_tiny() {
	python3 - "$MNT/fill" "$written" <<'PY' || fail "a tiny file is not what was written"
import sys
for n in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/{n // 1000}/{n}", "rb") as f:
        assert f.read() == b"%d" % n, n
PY
}

# Pages at random of what is there, many times what is free; epochs come as they do.
overwrite() {
	python3 - "$MNT/fill" "$written" "$OVERWRITES" <<'PY' || fail "an overwrite failed"
import os, random, sys
top, files, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng, last = random.Random(4), {}
fds = [os.open(f"{top}/{i}", os.O_RDWR) for i in range(files)]
for i in range(count):
    at = rng.randrange(files), rng.randrange(256)
    assert os.pwrite(fds[at[0]], b"%16d" % i * 256, at[1] * 4096) == 4096
    last[at] = i
for (file, page), i in last.items():
    assert os.pread(fds[file], 4096, page * 4096) == b"%16d" % i * 256, (file, page)
PY
}
restore() {
	local i
	for ((i = 0; i < written; i++)); do
		dd if="$DIR/data" of="$MNT/fill/$i" bs=1M skip="$i" count=1 conv=notrunc status=none || fail "an overwrite of 1 MiB failed"
	done
}

sync_fs
empty=$(counter blocks_free)
is_empty() { sync_fs && [ "$(counter blocks_free)" = "$empty" ]; }
# A deleted file is gone when the kernel has forgotten it too.
all_is_back() { until_true 20 is_empty || fail "$empty blocks were free before, $(counter blocks_free) after everything was deleted"; }

for round in 1 2 3; do
	step "round $round: large files"
	fill
	echo "$written MiB written"
	[ "$written" -ge 48 ] || fail "only $written MiB of 64 could be used"
	[ "$round" = 1 ] && first=$written
	[ "$written" -ge $((first - 2)) ] || fail "$first MiB fitted the first time, $written now"
	check
	step "full: overwrites and deletes go on, other writes do not"
	! dd if="$DIR/data" of="$MNT/fill/more" bs=1M count=8 status=none 2>/dev/null || fail "8 MiB more on a full backing"
	rm -f "$MNT/fill/more"
	if [ "$round" = 1 ]; then
		overwrite
		restore
	fi
	remount # nothing that was acknowledged lacks space later
	check
	# Each way of giving space back works on the fullest.
	case $round in
	1) ;;
	2) truncate -s 0 "$MNT"/fill/* ;;
	3)
		for ((i = 0; i < written; i++)); do fallocate -p -o 4k -l 1020k "$MNT/fill/$i" || fail "a hole cannot be punched"; done
		;;
	esac
	rm -r "$MNT/fill"
	all_is_back

	step "round $round: tiny files"
	fill_tiny
	echo "$written files written"
	[ "$round" = 1 ] && first_tiny=$written
	[ "$written" -ge $((first_tiny * 98 / 100)) ] || fail "$first_tiny files fitted the first time, $written now"
	[ "$round" != 2 ] || remount
	check_tiny
	rm -r "$MNT/fill"
	all_is_back
done

step "what was preallocated can be written when nothing else can, after kill -9 and an unmount as well"
write_preallocated() { # BYTE: every page, at random
	python3 - "$MNT/preallocated" "$1" <<'PY' || fail "a write into what was preallocated failed"
import os, random, sys
fd, pages = os.open(sys.argv[1], os.O_RDWR), list(range(4096))
random.Random(7).shuffle(pages)
page = sys.argv[2].encode() * 4096
for i in pages:
    assert os.pwrite(fd, page, i * 4096) == 4096
for i in pages:
    assert os.pread(fd, 4096, i * 4096) == page, i
PY
}
truncate -s 12M "$MNT/preallocated"
fallocate -n -o 4k -l 8M "$MNT/preallocated" # a hole within
fallocate -n -l 16M "$MNT/preallocated"       # and past the end
fill
write_preallocated a
fallocate -p -l 16M "$MNT/preallocated"
fallocate -l 16M "$MNT/preallocated" # with the space that it has just given back
kill9
mount_fs
write_preallocated b
remount
write_preallocated c
rm -r "$MNT/fill" "$MNT/preallocated"
all_is_back

step "killed while full"
fill
kill9
mount_fs
check
rm -r "$MNT/fill"
all_is_back
unmount_fs
fsck_fs

step "each page of a file that fills it is overwritten by itself, then larger parts: their leaves have room"
make_pair 64 256
mount_fs
python3 - "$MNT/file" <<'PY' || fail "an overwrite failed"
import errno, os, random, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
data = os.urandom(1 << 20)
for size in 1 << 20, 4096:
    try:
        while os.write(fd, data[:size]) == size:
            pass
    except OSError as e:
        assert e.errno == errno.ENOSPC, e
pages = list(range(os.fstat(fd).st_size >> 12))
random.seed(5)
random.shuffle(pages)
for page in pages:
    os.pwrite(fd, data[:4096], page << 12)
for size in 1 << 20, 1 << 16:
    for at in range(0, 64 << 20, 1 << 20):
        os.pwrite(fd, data[:size], at)
PY
rm "$MNT/file"
unmount_fs
fsck_fs
