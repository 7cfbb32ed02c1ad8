#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# --cache=kernel: re-reads come from the kernel's page cache, which shows all that was changed in any other way;
# a write is durable when it returns all the same.
. "$(dirname "$0")/lib.sh"
need python3

taken_by() { # COMMAND...: pages that it had from the daemon
	local before
	before=$(counter read_hits)
	"$@" >/dev/null
	echo $(($(counter read_hits) - before))
}

random_file "$DIR/data" 16
make_pair 64 128
mount_fs --cache=kernel

step "re-reads are the kernel's"
cp "$DIR/data" "$MNT/data"
same "$DIR/data" "$MNT/data"
stat "$MNT/data" >/dev/null # times that have changed are no reason to drop it
equal "$(taken_by cat "$MNT/data")" 0 "pages that a repeated read took from the tier"

step "it shows what was changed behind it"
python3 - "$MNT" <<'PY'
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PUNCH, KEEP, ZERO, K = 2, 1, 16, 4096
f, g = (os.open(f"{sys.argv[1]}/{name}", os.O_RDWR | os.O_CREAT) for name in "fg")
def content(fd): return os.pread(fd, 1 << 20, 0)
def fill(fd, byte, pages=8): os.pwrite(fd, byte * (pages * K), 0); assert content(fd) == byte * (pages * K)
def fallocate(mode, at, bytes):
    assert libc.fallocate(f, mode, ctypes.c_long(at), ctypes.c_long(bytes)) == 0, os.strerror(ctypes.get_errno())
fill(f, b"a")
os.pwrite(f, b"bb", K - 1)
want = bytearray(b"a" * (8 * K)); want[K - 1:K + 1] = b"bb"
assert content(f) == want, "written in part"
fallocate(PUNCH | KEEP, 100, 2 * K)
want[100:100 + 2 * K] = bytes(2 * K)
assert content(f) == want, "punched"
fallocate(ZERO, 5 * K, K)
want[5 * K:6 * K] = bytes(K)
assert content(f) == want, "zeroed"
os.ftruncate(f, 7 * K - 5); os.ftruncate(f, 8 * K)
want[7 * K - 5:] = bytes(K + 5)
assert content(f) == want, "cut and made longer"
fill(g, b"g")
assert os.copy_file_range(g, f, 3 * K, 0, 2 * K) == 3 * K
want[2 * K:5 * K] = b"g" * (3 * K)
assert content(f) == want, "copied by the daemon"
d = os.open(f"{sys.argv[1]}/f", os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, K); page.write(b"d" * K)
assert os.pwritev(d, [page], K) == K
want[K:2 * K] = b"d" * K
assert content(f) == want, "written past the cache"
m = mmap.mmap(f, 8 * K)
m[10:12] = b"mm"
want[10:12] = b"mm"
assert content(f) == want, "stored through a mapping"
os.pwrite(f, b"w", 20)
assert m[20:21] == b"w", "a mapping of what was written"
m.flush()
os.close(os.open(f"{sys.argv[1]}/f", os.O_WRONLY | os.O_TRUNC))
assert content(f) == b"", "opened with O_TRUNC"
PY

step "what write(2) has returned survives a kill -9"
python3 - "$MNT/data" "$PID" <<'PY'
import os, signal, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
for at in range(0, 1 << 20, 4099): os.pwrite(fd, b"%07d" % at, at)
os.kill(int(sys.argv[2]), signal.SIGKILL)
PY
wait_gone "$PID" 10 || fail "not killed"
unmount "$MNT"
mount_fs
python3 - "$MNT/data" "$DIR/data" <<'PY'
import sys
want, found = bytearray(open(sys.argv[2], "rb").read()), open(sys.argv[1], "rb").read()
for at in range(0, 1 << 20, 4099): want[at:at + 7] = b"%07d" % at
assert found == want, "not what was written"
PY

step "without the option it is as it was"
[ "$(taken_by cat "$MNT/data")" -gt 0 ] || fail "a read did not reach the daemon"
unmount_fs
fsck_fs

step "a wrong word"
! try_mount --cache=dram || fail "should have been refused"
said "--cache=dram: not none or kernel"
