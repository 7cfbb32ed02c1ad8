# SPDX-License-Identifier: GPL-2.0-or-later
"""What each call returns in each state, as lines `call state: result`, in the directory that is given.

    errno.py DIRECTORY      as root, so that other users can be played

Run on two file systems, the outputs can be compared. States: what a name leads to. A result is `ok`, or
the errno; after some calls, what has become of times and modes."""
import ctypes, errno, fcntl, os, socket, stat, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
top = os.path.abspath(sys.argv[1])
LONG = "n" * 256
PATH_LONG = "/".join(["d" * 100] * 45)
NOBODY = 65534

def code(call, *args, **kw):
    try:
        r = call(*args, **kw)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
    return "ok" if r is None or isinstance(r, (int, os.stat_result, bytes, str)) else "ok"

def c(name, *args):
    r = getattr(libc, name)(*args)
    if r < 0:
        n = ctypes.get_errno()
        raise OSError(n, os.strerror(n))
    return r

def say(*words):
    print(" ".join(str(w) for w in words), flush=True)

def touch(path, data=b"0123456789", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    os.write(fd, data)
    os.close(fd)

count = 0
def fresh():
    """A directory of its own for each line, with one of each kind."""
    global count
    count += 1
    d = f"{top}/t{count}"
    os.mkdir(d)
    os.chmod(d, 0o777)
    os.chdir(d)
    touch("file")
    os.mkdir("empty")
    os.mkdir("full"); touch("full/inside")
    os.symlink("file", "link")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    os.symlink("empty", "dirlink")
    os.mkfifo("fifo")
    os.mknod("chr", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("blk", stat.S_IFBLK | 0o666, os.makedev(7, 200))
    s = socket.socket(socket.AF_UNIX)
    s.bind("socket")
    s.close()
    os.mkdir("private", 0o700); touch("private/x")
    os.mkdir("sticky"); os.chmod("sticky", 0o1777); touch("sticky/x", mode=0o666); os.chmod("sticky/x", 0o666)
    os.mkdir("readonly", 0o555); touch("readonly/x", mode=0o444)
    os.chmod("readonly", 0o555)

NAMES = ["file", "empty", "full", "link", "dangling", "loop", "dirlink", "fifo", "chr", "socket", "missing", "missing/x",
         "file/x", "file/", "empty/", "missing/", "loop/x", "private/x", "sticky/x", "readonly/x", "readonly/new", ".", "..",
         "empty/.", "empty/..", "", LONG, LONG[:255], "empty/" + LONG, PATH_LONG]

def label(name):
    if name == PATH_LONG:
        return "(path of 4,500)"
    return {LONG: "(256)", LONG[:255]: "(255)", "empty/" + LONG: "empty/(256)"}.get(name, repr(name))

def as_user(uid, fn):
    """Runs fn in a child with that user, returns its line."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([]); os.setgid(uid); os.setuid(uid)
            os.write(w, fn().encode())
        except BaseException as e:
            os.write(w, repr(e).encode())
        os._exit(0)
    os.close(w)
    out = os.read(r, 4096).decode()
    os.close(r)
    os.waitpid(pid, 0)
    return out

# ---- calls on one name, by root and by another user
def opener(flags, mode=0o644):
    def f(name):
        os.close(os.open(name, flags | os.O_NONBLOCK, mode))
    return f

def bind(name):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.bind(name)
    finally:
        s.close()

def c_at(call, *rest):
    return lambda name: c(call, name.encode(), *rest)

ONE = {
    "open RDONLY": opener(os.O_RDONLY), "open WRONLY": opener(os.O_WRONLY), "open RDWR|TRUNC": opener(os.O_RDWR | os.O_TRUNC),
    "open CREAT": opener(os.O_CREAT | os.O_WRONLY), "open CREAT|EXCL": opener(os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open DIRECTORY": opener(os.O_DIRECTORY), "open NOFOLLOW": opener(os.O_NOFOLLOW), "open PATH": opener(os.O_PATH),
    "open CREAT|DIRECTORY": opener(os.O_CREAT | os.O_DIRECTORY), "open APPEND|TRUNC": opener(os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
    "open TMPFILE": opener(os.O_TMPFILE | os.O_RDWR), "open NOATIME": opener(os.O_NOATIME),
    "stat": os.stat, "lstat": os.lstat, "access R": lambda n: c("access", n.encode(), 4),
    "access W": lambda n: c("access", n.encode(), 2), "access X": lambda n: c("access", n.encode(), 1),
    "mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink, "mkfifo": os.mkfifo,
    "mknod chr": lambda n: os.mknod(n, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "mknod reg": lambda n: os.mknod(n, stat.S_IFREG | 0o600), "mknod dir": c_at("mknod", stat.S_IFDIR | 0o700, 0),
    "bind": bind, "symlink to": lambda n: os.symlink("target", n), "symlink of": lambda n: os.symlink(n, "newlink"),
    "readlink": os.readlink, "readdir": os.listdir, "chmod": lambda n: os.chmod(n, 0o711), "chown": lambda n: os.chown(n, 1, 1),
    "lchown": lambda n: os.lchown(n, 1, 1), "chgrp own": lambda n: os.chown(n, -1, os.getegid()),
    "truncate 0": lambda n: os.truncate(n, 0), "truncate grow": lambda n: os.truncate(n, 1 << 40),
    "truncate negative": c_at("truncate", ctypes.c_int64(-1)),
    "utime now": lambda n: os.utime(n), "utime set": lambda n: os.utime(n, (1, 2)), "chdir": os.chdir, "statfs": os.statvfs,
    "setxattr user": lambda n: os.setxattr(n, "user.a", b"1"), "getxattr user": lambda n: os.getxattr(n, "user.a"),
    "setxattr trusted": lambda n: os.setxattr(n, "trusted.a", b"1"), "getxattr trusted": lambda n: os.getxattr(n, "trusted.a"),
    "setxattr security": lambda n: os.setxattr(n, "security.a", b"1"),
    "setxattr none": lambda n: os.setxattr(n, "none.a", b"1"), "setxattr user.": lambda n: os.setxattr(n, "user.", b"1"),
    "setxattr REPLACE": lambda n: os.setxattr(n, "user.a", b"1", os.XATTR_REPLACE),
    "setxattr long": lambda n: os.setxattr(n, "user." + "n" * 251, b"1"), "lsetxattr": lambda n: os.setxattr(n, "user.a", b"1", follow_symlinks=False),
    "removexattr": lambda n: os.removexattr(n, "user.a"), "listxattr": os.listxattr,
}
for call, fn in ONE.items():
    for name in NAMES:
        fresh()
        here = os.getcwd()
        say(call, label(name) + ":", code(fn, name))
        os.chdir(here)
        fresh()
        say(call, label(name), "by another:", as_user(NOBODY, lambda: code(fn, name)))

# ---- calls on two
def renamer(flags):
    return lambda a, b: c("renameat2", -100, a.encode(), -100, b.encode(), flags)
TWO = {"rename": os.rename, "rename NOREPLACE": renamer(1), "rename EXCHANGE": renamer(2), "rename WHITEOUT": renamer(4),
       "rename NOREPLACE|EXCHANGE": renamer(3), "rename 8": renamer(8),
       "link": lambda a, b: os.link(a, b, follow_symlinks=False), "link follow": lambda a, b: c("linkat", -100, a.encode(), -100, b.encode(), 0x400)}
FROM = ["file", "empty", "full", "link", "dangling", "loop", "fifo", "missing", "file/", "empty/", "link/", "dirlink/", ".", "..", "private/x", "sticky/x",
        "readonly/x", "file/x", "", LONG]
TO = ["new", "new/", "file", "empty", "full", "link", "dangling", "fifo", "missing/x", "file/x", "empty/x", "full/x", ".", "..", "private/new", "sticky/new",
      "readonly/new", "empty/.", "full/..", "", LONG]
for call, fn in TWO.items():
    for a in FROM:
        for b in TO:
            fresh()
            r = code(fn, a, b)
            say(call, label(a), label(b) + ":", r, os.lstat("empty").st_nlink if os.path.lexists("empty") else "-")
            if call in ("rename", "link"):
                fresh()
                say(call, label(a), label(b), "by another:", as_user(NOBODY, lambda: code(fn, a, b)))

# ---- descriptors
def on_fd(flags, what, call):
    fresh()
    fd = os.open(what, flags)
    try:
        return code(call, fd)
    finally:
        os.close(fd)
FD = {
    "read": lambda fd: os.read(fd, 10), "write": lambda fd: os.write(fd, b"x"), "pread negative": lambda fd: c("pread", fd, b" " * 8, 4, ctypes.c_int64(-1)),
    "pwrite at the end": lambda fd: os.pwrite(fd, b"x", (1 << 63) - 2), "write bad address": lambda fd: c("write", fd, ctypes.c_void_p(1), 10),
    "read bad address": lambda fd: c("read", fd, ctypes.c_void_p(1), 10),
    "ftruncate": lambda fd: os.ftruncate(fd, 5), "ftruncate negative": lambda fd: c("ftruncate", fd, ctypes.c_int64(-1)),
    "lseek END": lambda fd: os.lseek(fd, 0, os.SEEK_END), "lseek negative": lambda fd: os.lseek(fd, -1, os.SEEK_SET),
    "lseek DATA": lambda fd: os.lseek(fd, 0, os.SEEK_DATA), "lseek DATA past": lambda fd: os.lseek(fd, 1000, os.SEEK_DATA),
    "lseek HOLE": lambda fd: os.lseek(fd, 0, os.SEEK_HOLE), "lseek 9": lambda fd: os.lseek(fd, 0, 9),
    "fsync": os.fsync, "fdatasync": os.fdatasync, "fchmod": lambda fd: os.fchmod(fd, 0o600), "fchown": lambda fd: os.fchown(fd, 1, 1),
    "fallocate": lambda fd: c("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(100)),
    "fallocate 0": lambda fd: c("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(0)),
    "fallocate negative": lambda fd: c("fallocate", fd, 0, ctypes.c_int64(-1), ctypes.c_int64(10)),
    "fallocate KEEP_SIZE": lambda fd: c("fallocate", fd, 1, ctypes.c_int64(0), ctypes.c_int64(100)),
    "fallocate KEEP_SIZE far": lambda fd: c("fallocate", fd, 1, ctypes.c_int64(0), ctypes.c_int64(100000)),
    "fallocate PUNCH": lambda fd: c("fallocate", fd, 2, ctypes.c_int64(0), ctypes.c_int64(100)),
    "fallocate PUNCH|KEEP": lambda fd: c("fallocate", fd, 3, ctypes.c_int64(0), ctypes.c_int64(100)),
    "fallocate ZERO": lambda fd: c("fallocate", fd, 16, ctypes.c_int64(0), ctypes.c_int64(100)),
    "fallocate COLLAPSE": lambda fd: c("fallocate", fd, 8, ctypes.c_int64(0), ctypes.c_int64(4096)),
    "fallocate INSERT": lambda fd: c("fallocate", fd, 32, ctypes.c_int64(0), ctypes.c_int64(4096)),
    "getdents": lambda fd: os.listdir(fd), "fsetxattr": lambda fd: os.setxattr(fd, "user.a", b"1"), "fstatvfs": os.fstatvfs,
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), "lockf": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "mmap": lambda fd: __import__("mmap").mmap(fd, 10, prot=1), "mmap w": lambda fd: __import__("mmap").mmap(fd, 10),
    "copy_file_range": lambda fd: os.copy_file_range(fd, fd, 5, 0, 100), "copy_file_range over": lambda fd: os.copy_file_range(fd, fd, 8, 0, 1),
    "GETFLAGS": lambda fd: fcntl.ioctl(fd, 0x80086601, bytes(8)),
    # Not 0: ext4 migrates a file from extents then, or does not, by where its blocks lie.
    "SETFLAGS as they are": lambda fd: fcntl.ioctl(fd, 0x40086602, fcntl.ioctl(fd, 0x80086601, bytes(8))),
    "ioctl none": lambda fd: fcntl.ioctl(fd, 0x5678, 0), "openat": lambda fd: os.close(os.open("x", os.O_RDONLY, dir_fd=fd)),
    "syncfs": lambda fd: c("syncfs", fd),
}
KINDS = {"file r": (os.O_RDONLY, "file"), "file w": (os.O_WRONLY, "file"), "file rw": (os.O_RDWR, "file"), "file append": (os.O_RDWR | os.O_APPEND, "file"),
         "file direct": (os.O_RDWR | os.O_DIRECT, "file"), "dir": (os.O_RDONLY, "empty"), "path": (os.O_PATH, "file"), "fifo": (os.O_RDWR | os.O_NONBLOCK, "fifo")}
for call, fn in FD.items():
    for kind, (flags, what) in KINDS.items():
        say(call, kind + ":", on_fd(flags, what, fn))

# ---- objects without a name
for what, flags in (("file", os.O_RDWR), ("empty", os.O_RDONLY)):
    for call, fn in {**FD, "create in": lambda fd: os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)),
                     "mkdir in": lambda fd: os.mkdir("x", dir_fd=fd), "link": lambda fd: c("linkat", -100, f"/proc/self/fd/{fd}".encode(), -100, b"again", 0x400),
                     "dotdot": lambda fd: os.stat("..", dir_fd=fd), "dot": lambda fd: os.stat(".", dir_fd=fd),
                     "rename in": lambda fd: os.rename("file2", "x", dst_dir_fd=fd)}.items():
        if what == "file" and call in ("dotdot", "dot", "create in", "mkdir in", "rename in"):
            continue
        fresh()
        touch("file2")
        fd = os.open(what, flags)
        (os.rmdir if what == "empty" else os.unlink)(what)
        say("removed", what, call + ":", code(fn, fd))
        os.close(fd)

# ---- which times move, and what becomes of setuid
def times(path):
    st = os.lstat(path)
    return (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
def moved(before, path):
    if not os.path.lexists(path):
        return "gone"
    return "".join(l if a != b else "-" for l, a, b in zip("amc", before, times(path)))
def write_fd(path, data):
    fd = os.open(path, os.O_WRONLY)
    r = os.write(fd, data)
    os.close(fd)
    return r
CHANGES = {
    "create": lambda: touch("empty/x"), "mkdir": lambda: os.mkdir("empty/x"), "symlink": lambda: os.symlink("a", "empty/x"), "mkfifo": lambda: os.mkfifo("empty/x"),
    "link": lambda: os.link("file", "empty/x"), "unlink": lambda: os.unlink("full/inside"), "rmdir": lambda: os.rmdir("empty"),
    "rename in": lambda: os.rename("file", "empty/x"), "rename out": lambda: os.rename("full/inside", "out"), "rename dir": lambda: os.rename("empty", "full/sub"),
    "rename over": lambda: os.rename("file", "full/inside"), "rename same": lambda: os.rename("file", "file"),
    "write": lambda: write_fd("file", b"abc"), "write nothing": lambda: write_fd("file", b""), "truncate": lambda: os.truncate("file", 3),
    "truncate same": lambda: os.truncate("file", 10), "ftruncate same": lambda: on(lambda fd: os.ftruncate(fd, 10)), "open TRUNC": lambda: touch("file", b""),
    "open TRUNC empty": lambda: (os.truncate("file", 0), touch("file", b""))[1], "chmod": lambda: os.chmod("file", 0o600), "chmod same": lambda: os.chmod("file", 0o644),
    "chown": lambda: os.chown("file", 1, 1), "chown none": lambda: os.chown("file", -1, -1), "chown same": lambda: os.chown("file", 0, 0),
    "utime": lambda: os.utime("file", (5, 6)), "setxattr": lambda: os.setxattr("file", "user.a", b"1"), "read": lambda: open("file", "rb").read(),
    "fallocate in": lambda: on(lambda fd: c("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(5))),
    "fallocate grow": lambda: on(lambda fd: c("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(50))),
    "fallocate KEEP_SIZE far": lambda: on(lambda fd: c("fallocate", fd, 1, ctypes.c_int64(0), ctypes.c_int64(100000))),
    "punch": lambda: on(lambda fd: c("fallocate", fd, 3, ctypes.c_int64(0), ctypes.c_int64(5))),
    "failed create": lambda: code(os.open, "empty", os.O_CREAT | os.O_EXCL | os.O_WRONLY), "failed rmdir": lambda: code(os.rmdir, "full"),
}
def on(fn):
    fd = os.open("file", os.O_RDWR)
    fn(fd)
    os.close(fd)
import time
for name, fn in CHANGES.items():
    fresh()
    for p in ("file", "empty", "full", "full/inside", "."):
        os.utime(p, ns=(1600000000 * 10**9, 1600000001 * 10**9))
    before = {p: times(p) for p in ("file", "empty", "full", "full/inside", ".")}
    time.sleep(0.012)
    fn()
    say("times", name + ":", " ".join(f"{p}={moved(b, p)}" for p, b in before.items()))

SUID = {"write": lambda: write_fd("file", b"x"), "truncate": lambda: os.truncate("file", 1), "ftruncate": lambda: on(lambda fd: os.ftruncate(fd, 1)),
        "open TRUNC": lambda: touch("file", b""), "chown same": lambda: os.chown("file", NOBODY, NOBODY), "chgrp": lambda: os.chown("file", -1, NOBODY),
        "chown none": lambda: os.chown("file", -1, -1), "utime": lambda: os.utime("file"), "setxattr": lambda: os.setxattr("file", "user.a", b"1"),
        "link": lambda: os.link("file", "file2"), "rename": lambda: os.rename("file", "file2"), "fallocate": lambda: on(lambda fd: c("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(50))),
        "fallocate KEEP_SIZE far": lambda: on(lambda fd: c("fallocate", fd, 1, ctypes.c_int64(0), ctypes.c_int64(100000))),
        "punch": lambda: on(lambda fd: c("fallocate", fd, 3, ctypes.c_int64(0), ctypes.c_int64(5))), "chmod": lambda: os.chmod("file", 0o6755)}
for mode in (0o4755, 0o2755, 0o6777, 0o2745, 0o6666):
    for name, fn in SUID.items():
        for who in (0, NOBODY):
            fresh()
            os.chown("file", NOBODY, NOBODY)
            os.chmod("file", mode)
            def act():
                r = code(fn)
                return r + " " + oct(os.stat("file2" if name == "rename" else "file").st_mode & 0o7777)
            say("setuid", oct(mode), name, "by root:" if not who else "by the owner:", as_user(who, act) if who else act())
for mode in (0o4755, 0o2755, 0o2745): # by one who is neither root nor of the group
    fresh()
    os.chown("file", NOBODY, 77)
    os.chmod("file", mode | 0o222)
    say("setuid", oct(mode), "write by another:", as_user(1234, lambda: code(SUID["write"]) + " " + oct(os.stat("file").st_mode & 0o7777)))
    say("setuid", oct(mode), "chmod by the owner, not of the group:", as_user(NOBODY, lambda: code(os.chmod, "file", mode) + " " + oct(os.stat("file").st_mode & 0o7777)))

# ---- setgid directories, sticky ones
fresh()
os.chown("empty", 0, 77); os.chmod("empty", 0o2777)
say("setgid dir:", as_user(NOBODY, lambda: (os.umask(0), touch("empty/f", mode=0o2777), os.mkdir("empty/d"),
    f"{os.stat('empty/f').st_gid} {oct(os.stat('empty/f').st_mode)} {os.stat('empty/d').st_gid} {oct(os.stat('empty/d').st_mode)}")[3]))
for call, fn in {"unlink": lambda: os.unlink("sticky/x"), "rename": lambda: os.rename("sticky/x", "sticky/y"), "over": lambda: os.rename("sticky/mine", "sticky/x"),
                 "write": lambda: write_fd("sticky/x", b"1")}.items():
    fresh()
    def act():
        touch("sticky/mine")
        return code(fn)
    say("sticky", call + ":", as_user(NOBODY, act))
