# SPDX-License-Identifier: GPL-2.0-or-later
# Mappings of files in the current directory, in two processes where it takes two. `mappings.py STEP`: see mmap.sh.
import ctypes, errno, mmap, os, signal, subprocess, sys

PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long


def make(name, data=b""):
    fd = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o777)
    assert os.write(fd, data) == len(data)
    return fd


def aside(code, *args):
    """Runs code in another process; its exit status."""
    return subprocess.run([sys.executable, "-c", "import mmap, os, sys\n" + code, *args], check=False).returncode


def fails(code, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == code, f"{errno.errorcode[e.errno]}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"no error, not {errno.errorcode[code]}")


def private():
    """What is stored through it is its own."""
    fd = make("private", b"a" * 3 * PAGE)
    m = mmap.mmap(fd, 3 * PAGE, mmap.MAP_PRIVATE)
    m[PAGE:PAGE + 3] = b"own"
    assert m[:PAGE + 6] == b"a" * PAGE + b"ownaaa"
    assert os.pread(fd, 4 * PAGE, 0) == b"a" * 3 * PAGE
    read_only = mmap.mmap(os.open("private", os.O_RDONLY), 3 * PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ)
    assert read_only[:] == b"a" * 3 * PAGE


def shared():
    """Another process sees by read what was stored, and in its mapping too; and the other way round."""
    fd = make("shared", b"a" * 3 * PAGE)
    m = mmap.mmap(fd, 3 * PAGE)
    m[5000:5004] = b"here"
    look = """
fd = os.open("shared", os.O_RDWR)
other = mmap.mmap(fd, 3 * 4096)
assert os.pread(fd, 4, 5000) == b"here" and other[5000:5004] == b"here"
other[6000:6005] = b"there"
assert os.pwrite(fd, b"written", 9000) == 7 and other[9000:9007] == b"written"
assert other[6000:6005] == b"there"
"""
    assert aside(look) == 0
    assert m[6000:6005] == b"there" and m[9000:9007] == b"written"
    m[9000:9003] = b"WRI"
    assert os.pread(fd, 7, 9000) == b"WRItten"
    os.truncate("shared", 9001)
    os.truncate("shared", 3 * PAGE)
    assert m[8999:9004] == b"aW\0\0\0" and os.pread(fd, 5, 8999) == b"aW\0\0\0"
    m[2 * PAGE:] = bytes(PAGE)  # mtime moves with a store that is written back
    before = os.stat("shared").st_mtime_ns
    m[0:1] = b"b"
    m.flush()
    assert os.stat("shared").st_mtime_ns > before
    fails(errno.EACCES, mmap.mmap, os.open("shared", os.O_RDONLY), PAGE)


def written_while(other, count):
    """What write has returned is in mapping and file, while another process does this to the same page all the time."""
    fd = make("beside", bytes(PAGE))
    m = mmap.mmap(fd, PAGE)
    start = "m, i = mmap.mmap(os.open('beside', os.O_RDWR), 4096), 0\nprint('ready', flush=True)\nwhile True:\n    "
    with subprocess.Popen([sys.executable, "-c", "import mmap, os\n" + start + other], stdout=subprocess.PIPE) as p:
        try:
            p.stdout.readline()
            for i in range(count):
                data = i.to_bytes(8, "little")
                assert os.pwrite(fd, data, 2048) == 8
                assert m[2048:2056] == data, f"write {i} is not seen"
                assert os.pread(fd, 8, 2048) == data, f"write {i} is undone"
        finally:
            p.kill()


def looked_at():
    written_while("i += m[2048]", 1000)


def stored_to():
    written_while("i += 1; m[:8] = i.to_bytes(8, 'little')", 1000)


def past_the_end():
    """In the page in which the file ends, what is stored behind the end is no part of it."""
    fd = make("past", b"a" * 100)
    m = mmap.mmap(fd, 100)
    address = libc.mmap(None, PAGE, 3, mmap.MAP_SHARED, fd, 0)
    ctypes.memset(address, ord("b"), 200)
    m.flush()
    assert os.fstat(fd).st_size == 100
    os.ftruncate(fd, 300)
    assert os.pread(fd, 300, 0) == b"b" * 100 + bytes(200)


def execute():
    """Code runs from private and shared mappings, and as a program; while it runs, nobody may write to it."""
    code = bytes.fromhex("b82a000000c3")  # return 42
    fd = make("code", code)
    for flags in mmap.MAP_PRIVATE, mmap.MAP_SHARED:
        address = libc.mmap(None, PAGE, 1 | 4, flags, fd, 0)
        assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42
    with open("/bin/sleep", "rb") as f:
        os.close(make("program", f.read()))
    running = subprocess.Popen(["./program", "60"])
    try:
        fails(errno.ETXTBSY, os.open, "program", os.O_WRONLY)
    finally:
        running.kill()
        running.wait()
    os.close(os.open("program", os.O_WRONLY))
    assert subprocess.run(["./program", "0"], check=True).returncode == 0


def truncated():
    """SIGBUS behind the end, and no more: what is before it stays, and the file may grow again under the mapping."""
    touch = """
m = mmap.mmap(os.open("cut", os.O_RDWR), 4 * 4096)
m[:] = b"a" * len(m)
os.truncate("cut", 4097)
assert m[4096:4099] == b"a\\0\\0" and m[8191] == 0
if sys.argv[1] == "store":
    m[8192] = 1
elif sys.argv[1] == "load":
    m[8192]
else:
    os.truncate("cut", 4 * 4096)
    assert m[4096:] == b"a" + bytes(3 * 4096 - 1)
"""
    for how, status in ("load", -signal.SIGBUS), ("store", -signal.SIGBUS), ("grow", 0):
        os.close(make("cut", b"x" * 4 * PAGE))
        found = aside(touch, how)
        assert found == status, f"{how}: ended with {found}, not {status}"
    with open("cut", "rb") as f:
        assert f.read() == b"a" * 4097 + bytes(3 * PAGE - 1)


def full():
    """Stores into holes for which there is no space are told of by msync; others are written."""
    holes = os.open("holes", os.O_CREAT | os.O_RDWR)
    os.ftruncate(holes, 8 << 20)
    there = make("there", b"a" * PAGE)
    fill = os.open("fill", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(fill, b"f" * (1 << 16))
    except OSError as e:
        assert e.errno == errno.ENOSPC
    m = mmap.mmap(holes, 8 << 20)
    m[:] = b"h" * len(m)
    fails(errno.ENOSPC, m.flush)
    overwritten = mmap.mmap(there, PAGE)
    overwritten[:] = b"b" * PAGE
    overwritten.flush()
    assert os.pread(there, PAGE, 0) == b"b" * PAGE
    os.ftruncate(fill, 0)
    m[:] = b"i" * len(m)
    m.flush()
    assert os.pread(holes, 1 << 20, 4 << 20) == b"i" * (1 << 20)
    os.unlink("holes"), os.unlink("there"), os.unlink("fill")


def synced():
    """Stores, msync for one half, fsync for the other; then the daemon is killed."""
    fd = make("synced", b"a" * 256 * PAGE)
    m = mmap.mmap(fd, 256 * PAGE)
    m[:128 * PAGE] = b"m" * 128 * PAGE
    m.flush(0, 128 * PAGE)
    m[128 * PAGE:] = b"f" * 128 * PAGE
    os.fsync(fd)
    m[0:5] = b"later"  # may be lost


def after_the_kill():
    with open("synced", "rb") as f:
        data = f.read()
    assert data[:5] in (b"mmmmm", b"later")
    assert data[5:] == b"m" * (128 * PAGE - 5) + b"f" * 128 * PAGE


def calls():
    for step in private, shared, past_the_end, execute, truncated, full:
        print(f"    {step.__name__}")
        step()


globals()[sys.argv[1]]()
