#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What Linux has beyond POSIX: O_TMPFILE, whiteouts, copy_file_range, chattr, birth time, file handles,
# nodes of every type, O_DIRECT and O_SYNC.
. "$(dirname "$0")/lib.sh"
need python3 chattr lsattr

calls() {
	(cd "$MNT" && python3 - "$@") <<'PY'
import ctypes, errno, fcntl, os, socket, stat, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
root = os.geteuid() == 0

def c(name, *args):
    r = getattr(libc, name)(*args)
    return -ctypes.get_errno() if r < 0 else r

def fails(code, call, *args, **kw):
    try:
        call(*args, **kw)
    except OSError as e:
        assert e.errno == code, f"{call.__name__}{args}: {errno.errorcode[e.errno]}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"{call.__name__}{args}: no error, not {errno.errorcode[code]}")

def write(path, data=b"x"):
    with open(path, "wb") as f:
        f.write(data)

def link_fd(fd, name): # os.link() does not follow
    return c("linkat", AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, name.encode(), AT_SYMLINK_FOLLOW)

# O_TMPFILE: no name, then one; with O_EXCL never one
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
assert os.fstat(fd).st_nlink == 0 and stat.S_ISREG(os.fstat(fd).st_mode)
os.write(fd, b"temporary")
assert os.listdir(".") == []
assert link_fd(fd, "named") == 0
assert os.fstat(fd).st_nlink == 1
os.close(fd)
assert open("named", "rb").read() == b"temporary"
fd = os.open(".", os.O_TMPFILE | os.O_EXCL | os.O_RDWR)
assert link_fd(fd, "excl") == -errno.ENOENT
os.close(fd)
fd = os.open("named", os.O_RDONLY)
os.unlink("named")
assert link_fd(fd, "again") == -errno.ENOENT
os.close(fd)

# renameat2
def renameat2(a, b, flags):
    return c("renameat2", AT_FDCWD, a.encode(), AT_FDCWD, b.encode(), flags)
write("a", b"a"); write("b", b"b")
assert renameat2("a", "b", 1) == -errno.EEXIST
assert renameat2("a", "b", 2) == 0 and open("a").read() == "b"
assert renameat2("a", "c", 2) == -errno.ENOENT
if root:
    assert renameat2("a", "c", 4) == 0
    white = os.lstat("a")
    assert stat.S_ISCHR(white.st_mode) and white.st_rdev == 0 and open("c").read() == "b"
    assert renameat2("b", "c", 4) == 0 and open("c").read() == "a"
    assert sorted(os.listdir(".")) == ["a", "b", "c"]
    assert renameat2("c", "b", 1 | 4) == -errno.EEXIST
    os.unlink("a"); os.unlink("b")

# copy_file_range
data = os.urandom(5 << 20)
write("from", data)
src, dst = os.open("from", os.O_RDONLY), os.open("to", os.O_CREAT | os.O_RDWR)
done = 0
while done < len(data) - 1000:
    n = os.copy_file_range(src, dst, len(data) - 1000 - done, 1000 + done, 77 + done)
    assert n > 0
    done += n
assert os.pread(dst, len(data), 0) == bytes(77) + data[1000:]
assert os.copy_file_range(src, dst, 100, len(data), 0) == 0
fails(errno.EBADF, os.copy_file_range, dst, src, 100, 0, 0)
os.close(src); os.close(dst)

# birth time
class Statx(ctypes.Structure):
    _fields_ = [("mask", ctypes.c_uint32), ("blksize", ctypes.c_uint32), ("attributes", ctypes.c_uint64),
                ("nlink", ctypes.c_uint32), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32), ("mode", ctypes.c_uint16),
                ("spare", ctypes.c_uint16), ("ino", ctypes.c_uint64), ("size", ctypes.c_uint64), ("blocks", ctypes.c_uint64),
                ("attributes_mask", ctypes.c_uint64), ("times", ctypes.c_int64 * 8), ("more", ctypes.c_uint64 * 20)]
def statx(path):
    s = Statx()
    assert c("statx", AT_FDCWD, path.encode(), 0x100, 0xfff, ctypes.byref(s)) == 0
    return s
if sys.argv[1] == "birth":
    s, st = statx("from"), os.stat("from")
    assert s.mask & 0x800, "no birth time"
    assert (s.ino, s.size, s.blocks, s.mode, s.nlink) == (st.st_ino, st.st_size, st.st_blocks, st.st_mode, st.st_nlink)
    birth = s.times[2]
    assert abs(birth - st.st_mtime) < 60
    os.utime("from", (1, 1))
    s = statx("from")
    assert (s.times[0], s.times[2], s.times[6]) == (1, birth, 1)

# chattr, by both ways
GET, SET = 0x80086601, 0x40086602
XGET, XSET = 0x801c581f, 0x401c5820
def getflags(path):
    fd = os.open(path, os.O_RDONLY)
    flags = struct.unpack("i", fcntl.ioctl(fd, GET, bytes(8))[:4])[0]
    x = struct.unpack("IIIII", fcntl.ioctl(fd, XGET, bytes(28))[:20])[0]
    os.close(fd)
    return flags, x
def setflags(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SET, struct.pack("q", flags))
    finally:
        os.close(fd)
write("f")
assert getflags("f") == (0, 0)
before = os.stat("f").st_ctime_ns
setflags("f", 0x40 | 0x80)
assert getflags("f") == (0xc0, 0xc0)
assert os.stat("f").st_ctime_ns > before, "chattr should move the ctime"
fails(errno.EOPNOTSUPP, setflags, "f", 4)
setflags("f", 0)
if root:
    keep = os.open("f", os.O_RDWR)
    setflags("f", 0x10)
    assert getflags("f") == (0x10, 0x08)
    fails(errno.EPERM, os.open, "f", os.O_WRONLY)
    fails(errno.EPERM, os.write, keep, b"x")
    fails(errno.EPERM, os.unlink, "f")
    fails(errno.EPERM, os.chmod, "f", 0o600)
    fails(errno.EPERM, os.rename, "f", "g")
    fails(errno.EPERM, os.link, "f", "g")
    fails(errno.EPERM, os.truncate, "f", 0)
    fails(errno.EPERM, os.setxattr, "f", "user.a", b"a")
    setflags("f", 0x20)
    fails(errno.EPERM, os.open, "f", os.O_WRONLY)
    fails(errno.EPERM, os.open, "f", os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    fd = os.open("f", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"more")
    os.close(fd); os.close(keep)
    fails(errno.EPERM, os.unlink, "f")
    assert open("f").read() == "xmore"
    setflags("f", 0)
    os.mkdir("frozen"); write("frozen/in"); setflags("frozen", 0x10)
    fails(errno.EPERM, os.open, "frozen/new", os.O_CREAT | os.O_WRONLY)
    fails(errno.EPERM, os.unlink, "frozen/in")
    write("frozen/in", b"content may change")
    setflags("frozen", 0)

# nodes
os.mkfifo("fifo")
s = socket.socket(socket.AF_UNIX); s.bind("socket")
assert stat.S_ISFIFO(os.stat("fifo").st_mode) and stat.S_ISSOCK(os.stat("socket").st_mode)
pid = os.fork()
if not pid:
    with open("fifo", "wb") as f:
        f.write(b"through")
    os._exit(0)
assert open("fifo", "rb").read() == b"through"
os.waitpid(pid, 0)
c2 = socket.socket(socket.AF_UNIX); s.listen(); c2.connect("socket"); c2.close()
if root:
    for major, minor in ((1, 3), (0xfff, 0xfffff), (8, 255), (259, 256)):
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            os.mknod("node", kind | 0o600, os.makedev(major, minor))
            st = os.stat("node")
            assert stat.S_IFMT(st.st_mode) == kind and st.st_rdev == os.makedev(major, minor)
            os.unlink("node")
os.mknod("plain", stat.S_IFREG | 0o600)
assert stat.S_ISREG(os.stat("plain").st_mode)

# O_DIRECT, O_SYNC, O_NOATIME, O_PATH, O_NOFOLLOW, O_DIRECTORY
import mmap
page = mmap.mmap(-1, 8192)
page.write(b"d" * 8192)
fd = os.open("direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT | os.O_SYNC | os.O_NOATIME)
assert os.pwritev(fd, [page], 4096) == 8192
assert os.preadv(fd, [page], 4096) == 8192 and page[:8192] == b"d" * 8192
os.fsync(fd); os.fdatasync(fd)
os.close(fd)
os.symlink("direct", "link")
fails(errno.ELOOP, os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)
fails(errno.ENOTDIR, os.open, "direct", os.O_RDONLY | os.O_DIRECTORY)
fd = os.open("link", os.O_PATH | os.O_NOFOLLOW)
assert stat.S_ISLNK(os.fstat(fd).st_mode)
os.close(fd)
os.symlink("loop", "loop")
fails(errno.ELOOP, os.stat, "loop")
fd = os.open("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND)
os.close(fd)
PY
}

# Handles name an object whatever happens to its name, over an unmount too.
handles() { # make|use
	(cd "$MNT" && python3 - "$1" "$DIR/handles") <<'PY'
import ctypes, errno, os, pickle, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
def get(path):
    h, mount = Handle(128), ctypes.c_int()
    assert libc.name_to_handle_at(-100, path.encode(), ctypes.byref(h), ctypes.byref(mount), 0) == 0, ctypes.get_errno()
    return bytes(h)
def use(raw):
    h = Handle.from_buffer_copy(raw)
    root = os.open(".", os.O_RDONLY)
    fd = libc.open_by_handle_at(root, ctypes.byref(h), os.O_RDONLY)
    code = ctypes.get_errno()
    os.close(root)
    if fd < 0:
        raise OSError(code, os.strerror(code))
    return fd
if sys.argv[1] == "make":
    os.makedirs("deep/er")
    for name in ("deep/er/file", "deep/gone"):
        with open(name, "w") as f:
            f.write(name)
    kept = {name: get(name) for name in ("deep/er/file", "deep/er", "deep/gone", ".")}
    os.unlink("deep/gone")
    os.rename("deep/er/file", "moved")
    pickle.dump(kept, open(sys.argv[2], "wb"))
else:
    kept = pickle.load(open(sys.argv[2], "rb"))
    fd = use(kept["deep/er/file"])
    assert os.read(fd, 99) == b"deep/er/file" and os.path.samefile(fd, "moved")
    fd = use(kept["deep/er"])
    assert os.readlink(f"/proc/self/fd/{fd}").endswith("/deep/er"), os.readlink(f"/proc/self/fd/{fd}")
    assert os.path.samefile(use(kept["."]), ".")
    try:
        use(kept["deep/gone"])
        raise AssertionError("a handle of a deleted file opened something")
    except OSError as e:
        assert e.errno == errno.ESTALE, e
PY
}

birth=$(is_linux 6.6 && echo birth || echo none)
make_pair 32 256
mount_fs -o dev
step "calls"
calls "$birth"
step "chattr"
touch "$MNT/flags"
chattr +dA "$MNT/flags"
[[ $(lsattr "$MNT/flags") == *d*A* ]] || fail "lsattr: $(lsattr "$MNT/flags")"
if [ "$(id -u)" = 0 ]; then
	step "handles"
	handles make
	handles use
	remount
	handles use
	kill9
	mount_fs
	handles use
fi
step "access times"
accessed() { # 1: reading the file changes its access time
	local before
	before=$(stat -c %x "$MNT/read")
	cat "$MNT/read" >/dev/null
	[ "$(stat -c %x "$MNT/read")" != "$before" ]
}
echo text >"$MNT/read"
accessed || fail "relatime: the first read"
! accessed || fail "relatime: the second read"
touch -a -d '2 days ago' "$MNT/read"
accessed || fail "relatime: after a day"
python3 -c 'import os, sys; os.read(os.open(sys.argv[1], os.O_RDONLY), 1)' "$MNT/read"
touch -m "$MNT/read"
python3 -c 'import os, sys; os.read(os.open(sys.argv[1], os.O_RDONLY | os.O_NOATIME), 1)' "$MNT/read"
[ "$(stat -c %X "$MNT/read")" -le "$(stat -c %Y "$MNT/read")" ] || fail "O_NOATIME"
accessed || fail "relatime: after a change"
atime=$(stat -c %x "$MNT/read")
unmount_fs
mount_fs -o noatime
equal "$(stat -c %x "$MNT/read")" "$atime" "access time after an unmount"
touch -m "$MNT/read"
! accessed || fail "noatime"
unmount_fs
mount_fs -o strictatime
accessed && accessed || fail "strictatime"
before=$(lsattr "$MNT/flags")
remount
equal "$(lsattr "$MNT/flags")" "$before" "flags after an unmount"
unmount_fs
fsck_fs
