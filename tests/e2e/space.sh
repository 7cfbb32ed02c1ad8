#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Space of files: fallocate in every mode, blocks, holes and data by lseek, du and statfs that add up.
. "$(dirname "$0")/lib.sh"
need python3 fallocate

calls() {
	(cd "$MNT" && python3 -) <<'PY'
import ctypes, errno, mmap, os, resource, signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

libc = ctypes.CDLL(None, use_errno=True)
KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32

def fallocate(fd, mode, offset, length):
    r = libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    return 0 if r == 0 else ctypes.get_errno()

def blocks(fd):
    return os.fstat(fd).st_blocks // 8

def extents(fd):
    size, at, found = os.fstat(fd).st_size, 0, []
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            break
        at = os.lseek(fd, data, os.SEEK_HOLE)
        found.append((data, at))
    return found

fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o666)
assert fallocate(fd, 0, 0, 10000) == 0
assert os.fstat(fd).st_size == 10000 and blocks(fd) == 3
assert os.pread(fd, 20000, 0) == bytes(10000)
os.pwrite(fd, b"x" * 100000, 0)
assert blocks(fd) == 25 and extents(fd) == [(0, 100000)]
assert fallocate(fd, PUNCH | KEEP, 5000, 50000) == 0
assert os.pread(fd, 100000, 0) == b"x" * 5000 + bytes(50000) + b"x" * 45000
assert extents(fd) == [(0, 8192), (53248, 100000)], extents(fd)
assert blocks(fd) == 14, blocks(fd)
assert fallocate(fd, ZERO, 90000, 20000) == 0
assert os.fstat(fd).st_size == 110000
assert os.pread(fd, 99999, 90000) == bytes(20000)
assert fallocate(fd, ZERO | KEEP, 100000, 50000) == 0
assert os.fstat(fd).st_size == 110000
assert fallocate(fd, KEEP, 0, 110000) == 0  # holes inside are filled
assert extents(fd) == [(0, 110000)] and blocks(fd) == 27
assert fallocate(fd, COLLAPSE, 0, 4096) == errno.EOPNOTSUPP
assert fallocate(fd, INSERT, 0, 4096) == errno.EOPNOTSUPP
assert fallocate(fd, 0, 0, 1 << 50) == errno.ENOSPC
assert fallocate(fd, 0, (1 << 63) - 4096, 8192) == errno.EFBIG
assert fallocate(fd, 0, 0, 0) == errno.EINVAL
assert os.fstat(fd).st_size == 110000, "a failed fallocate changes nothing"
ro = os.open("f", os.O_RDONLY)
assert fallocate(ro, 0, 0, 10) == errno.EBADF
d = os.open(".", os.O_RDONLY)
assert fallocate(d, 0, 0, 10) in (errno.EISDIR, errno.EBADF)
os.posix_fallocate(fd, 0, 3 << 20)
assert os.fstat(fd).st_size == 3 << 20 and blocks(fd) == 768

# more than there is: refused, and nothing is left of it
free = os.statvfs(".").f_bfree
for mode in 0, KEEP:
    assert fallocate(fd, mode, 0, (free + 5000) * 4096) == errno.ENOSPC
    assert os.fstat(fd).st_size == 3 << 20 and blocks(fd) == 768

# past the end: there, but not to be seen; what grows over it reads as zeroes; truncating gives it back
past = os.open("past", os.O_CREAT | os.O_RDWR, 0o666)
os.pwrite(past, b"x" * 5000, 0)
assert fallocate(past, KEEP, 0, 100000) == 0
assert os.fstat(past).st_size == 5000 and blocks(past) == 25 and extents(past) == [(0, 5000)]
assert os.pread(past, 200000, 0) == b"x" * 5000
os.pwrite(past, b"y" * 10, 20000)
assert os.pread(past, 200000, 0) == b"x" * 5000 + bytes(15000) + b"y" * 10 and blocks(past) == 25
os.ftruncate(past, 50000)
assert os.pread(past, 200000, 20000) == b"y" * 10 + bytes(29990) and blocks(past) == 25
assert fallocate(past, PUNCH | KEEP, 0, 100000) == 0  # no further than the end, as on ext4
assert os.pread(past, 200000, 0) == bytes(50000) and blocks(past) == 12
assert fallocate(past, ZERO | KEEP, 60000, 1000) == 0 and blocks(past) == 12
os.ftruncate(past, 50000)
assert blocks(past) == 0
assert fallocate(past, KEEP, 1 << 40, 8192) == 0  # what lies before it takes nothing
assert os.fstat(past).st_size == 50000 and blocks(past) == 2
os.close(os.open("past", os.O_WRONLY | os.O_TRUNC))
assert fallocate(past, KEEP, 0, 100000) == 0 and blocks(past) == 25
os.close(os.open("past", os.O_WRONLY | os.O_TRUNC))  # from nothing to nothing
assert blocks(past) == 0
assert fallocate(past, KEEP, (1 << 63) - 4096, 8192) == errno.EFBIG
pid = os.fork()
if pid == 0:  # a limit is of the size
    resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))
    os._exit(not (fallocate(past, KEEP, 0, 100000) == 0 and fallocate(past, 0, 0, 100000) == errno.EFBIG))
assert os.waitpid(pid, 0)[1] == 0 and os.fstat(past).st_size == 0 and blocks(past) == 25

# setuid goes with a change, unless root does it
os.fchmod(fd, 0o4755)
assert fallocate(fd, PUNCH | KEEP, 0, 4096) == 0
assert os.fstat(fd).st_mode & 0o7777 == (0o755 if os.geteuid() else 0o4755), oct(os.fstat(fd).st_mode)

# what is mapped is seen to be gone
try:
    m = mmap.mmap(fd, 8192)
    m[4096:4100] = b"abcd"
    m.flush()
    assert fallocate(fd, PUNCH | KEEP, 0, 8192) == 0
    assert m[4096:4100] == bytes(4)
    m.close()
except OSError as e:
    assert e.errno == errno.ENODEV  # before Linux 6.6

# a sparse file of the largest size
big = os.open("big", os.O_CREAT | os.O_RDWR)
os.pwrite(big, b"end", (1 << 63) - 4)
assert os.fstat(big).st_size == (1 << 63) - 1 and blocks(big) == 1
assert extents(big) == [((1 << 63) - 4096, (1 << 63) - 1)], extents(big)
try:
    os.pwrite(big, b"0123456789", (1 << 63) - 5)
except OSError as e:
    assert e.errno in (errno.EFBIG, errno.EINVAL), e
os.ftruncate(big, 100)
assert blocks(big) == 0 and extents(big) == []
os.unlink("big"); os.unlink("f")

# any pattern of holes, before and after write-back
fd = os.open("holes", os.O_CREAT | os.O_RDWR)
there = set()
for i in range(400):
    page = i * 7919 % 3000
    os.pwrite(fd, b"p", page * 4096)
    there.add(page)
    if i % 3 == 0:
        gone = i * 104729 % 3000
        if gone * 4096 < os.fstat(fd).st_size:
            assert fallocate(fd, PUNCH | KEEP, gone * 4096, 5 * 4096) == 0
            there -= set(range(gone, gone + 5))
def check():
    assert blocks(fd) == len(there), (blocks(fd), len(there))
    seen = set()
    for data, hole in extents(fd):
        seen |= set(range(data // 4096, (hole + 4095) // 4096))
    assert seen == there, (len(seen), len(there))
check()
PY
}

make_pair 32 128
mount_fs
step "calls"
calls

step "du and statfs add up, before and after write-back"
used() { stat -f -c '%b %f' "$MNT" | awk '{ print ($1 - $2) * 4 }'; }
before=0
is_settled() { # what was deleted is gone when the kernel has forgotten it
	local was=$before
	sync_fs
	before=$(used)
	[ "$before" = "$was" ]
}
until_true 20 is_settled || fail "statfs moves on its own"
random_file "$MNT/random" 12
du=$(du -k "$MNT/random" | cut -f 1)
equal "$du" 12288 "du of 12 MiB"
[ "$(($(used) - before))" -ge 12288 ] || fail "statfs: $(($(used) - before)) KiB more in use after writing 12 MiB"
[ "$(($(used) - before))" -le 14000 ] || fail "statfs: $(($(used) - before)) KiB more in use after writing 12 MiB"
holes=$(stat -c %b "$MNT/holes")
sync_fs
equal "$(du -k "$MNT/random" | cut -f 1)" 12288 "du after write-back"
[ "$(($(used) - before))" -ge 12000 ] && [ "$(($(used) - before))" -le 14000 ] ||
	fail "statfs: $(($(used) - before)) KiB more in use after write-back"
cp --sparse=always "$MNT/holes" "$MNT/copy"
equal "$(stat -c %b "$MNT/copy")" "$holes" "blocks of a sparse copy"

uses() { # KIB: that much more is in use than before, but for what the tree takes
	local more=$(($(used) - before))
	[ "$more" -ge $(($1 - 64)) ] && [ "$more" -le $(($1 + 1024)) ]
}
check_uses() { until_true 5 uses "$1" || fail "statfs: $(($(used) - before)) KiB more in use, not $1, $2"; }
until_true 20 is_settled || fail "statfs moves on its own"

step "statfs tells at once of what is deleted and cut short: in the tier, on the backing, replaced, evicted"
random_file "$MNT/a" 16
check_uses 16384 "after a file of 16 MiB"
truncate -s 4M "$MNT/a"
check_uses 4096 "cut to 4 MiB in the tier"
rm "$MNT/a"
check_uses 0 "deleted"
random_file "$MNT/a" 16
sync_fs
truncate -s 4M "$MNT/a"
check_uses 4096 "cut to 4 MiB on the backing"
for i in 1 2 3 4 5; do random_file "$MNT/a" 4; done
check_uses 4096 "written anew time and again"
for i in 1 2 3 4 5 6; do
	random_file "$MNT/b" 8 # in all more than the tier holds
	rm "$MNT/b"
done
check_uses 4096 "with others that were deleted"
rm "$MNT/a"
check_uses 0 "deleted"
sync_fs
check_uses 0 "deleted and written back"

step "what was deleted can be allocated at once, before write-back as well"
free=$(stat -f -c %a "$MNT") # in pages
fallocate -l $((free * 3072)) "$MNT/deleted" # 3/4 of them
sync_fs
rm "$MNT/deleted"
fallocate -l $((free * 3072)) "$MNT/allocated" || fail "no room in what was deleted"
rm "$MNT/allocated"

step "all that statfs has available can be allocated"
available=$(stat -f -c %a "$MNT")
fallocate -l $((available * 4096)) "$MNT/allocated" || fail "no room for the $available blocks that statfs has"
rm "$MNT/allocated"

step "the same after kill -9 and after an unmount"
kill9
mount_fs
equal "$(stat -c %b "$MNT/holes" "$MNT/copy" | tr '\n' ' ')" "$holes $holes " "blocks after kill -9"
same "$MNT/holes" "$MNT/copy"
remount
equal "$(stat -c %b "$MNT/holes" "$MNT/copy" | tr '\n' ' ')" "$holes $holes " "blocks after an unmount"
unmount_fs
fsck_fs
