# SPDX-License-Identifier: GPL-2.0-or-later
# Many processes at one file, one name, one directory; what each of them may rely on, whatever the others do.
#
#	concurrent.py DIR SECONDS
import ctypes, os, struct, sys, time, zlib

os.chdir(sys.argv[1])
SECONDS = float(sys.argv[2])
RENAME_EXCHANGE = 2
libc = ctypes.CDLL(None, use_errno=True)

def start(*bodies): # each in a process of its own, as body(number)
    pids = []
    for n, body in enumerate(bodies):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                body(n)
                status = 0
            except BaseException as e:
                print(f"{body.__name__}: {e!r}", file=sys.stderr)
            finally:
                os._exit(status)
        pids.append(pid)
    return pids

def together(*bodies):
    failed = [pid for pid in start(*bodies) if os.waitpid(pid, 0)[1] != 0]
    assert not failed, "a process failed"

def in_time():
    end = time.monotonic() + SECONDS
    n = 0
    while time.monotonic() < end:
        yield n
        n += 1

def exchange(a, b):
    assert libc.renameat2(-100, a.encode(), -100, b.encode(), RENAME_EXCHANGE) == 0, os.strerror(ctypes.get_errno())

def put(path, data):
    with open(path, "wb") as f:
        f.write(data)

# ---- O_APPEND: every record is whole, and each writer's are in order --------------------------------

HEAD = struct.Struct("<IIII") # writer, number, bytes of the rest, its checksum

def append(writer):
    fd = os.open("log", os.O_WRONLY | os.O_APPEND)
    for n in in_time():
        rest = bytes([n % 251]) * (n * 7919 % 9000)
        record = HEAD.pack(writer, n, len(rest), zlib.crc32(rest)) + rest
        assert os.write(fd, record) == len(record)
        if n % 50 == 49: # while the others go on
            os.close(fd)
            fd = os.open("log", os.O_WRONLY | os.O_APPEND)

def appended():
    put("log", b"")
    together(*[append] * 4)
    with open("log", "rb") as f:
        log = f.read()
    at, counts = 0, [0] * 4
    while at < len(log):
        writer, n, size, check = HEAD.unpack_from(log, at)
        at += HEAD.size
        assert writer < 4 and n == counts[writer], f"at {at}: record {n} of writer {writer}, not {counts}"
        assert len(log) - at >= size and zlib.crc32(log[at:at + size]) == check, f"at {at}: a torn record"
        counts[writer] += 1
        at += size
    assert all(counts)
    return f"{sum(counts)} records"

# ---- one request, one version: neither writers nor readers see half of another -----------------------

WHOLE = 256 << 10

def overwrite(writer):
    fd = os.open("whole", os.O_WRONLY)
    for n in in_time():
        assert os.pwrite(fd, bytes([1 + (n * 3 + writer) % 255]) * WHOLE, 0) == WHOLE

def read_whole(_):
    fd = os.open("whole", os.O_RDONLY)
    for _ in in_time():
        data = os.pread(fd, WHOLE, 0)
        assert data == data[:1] * WHOLE, f"two versions in one read: {sorted(set(data))}"

def untorn():
    put("whole", bytes(WHOLE))
    together(*[overwrite] * 3, *[read_whole] * 3)

# ---- rename against lookup: what is replaced or exchanged is never missing, nor is what stays -------

def replace(n):
    for i in in_time():
        put(f"new{n}", b"%09d" % i)
        os.rename(f"new{n}", "name")

def swap(_):
    for _ in in_time():
        exchange("one", "other")

def turn(_):
    for i in in_time():
        os.rename(f"pair/m{i}", f"pair/m{i + 1}")

def look(_):
    for _ in in_time():
        with open("name", "rb") as f:
            assert len(f.read()) == 9
        a, b = os.stat("one/stays"), os.stat("other/stays")
        assert a.st_nlink == b.st_nlink == 1
        assert os.listdir("pair").count("stays") == 1

def names():
    put("name", b"%09d" % 0)
    for d in "one", "other", "pair":
        os.mkdir(d)
        put(f"{d}/stays", d.encode())
    put("pair/m0", b"")
    together(replace, replace, swap, turn, look, look)
    assert sorted(open(f"{d}/stays").read() for d in ("one", "other")) == ["one", "other"]

# ---- many processes in one directory: each has what it made, and nothing else -------------------------

def crowd_in(n):
    for i in in_time():
        put(f"crowd/{n}-{i}", b"")
        if i >= 20:
            os.unlink(f"crowd/{n}-{i - 20}")
            os.rename(f"crowd/{n}-{i - 1}", f"crowd/{n}-x")
            os.rename(f"crowd/{n}-x", f"crowd/{n}-{i - 1}")
    put(f"count{n}", b"%d" % i)

def crowd():
    os.mkdir("crowd")
    together(*[crowd_in] * 16)
    expected = set()
    for n in range(16):
        last = int(open(f"count{n}").read())
        expected |= {f"{n}-{i}" for i in range(max(0, last - 19), last + 1)}
    found = os.listdir("crowd")
    assert len(found) == len(set(found)) and set(found) == expected, f"not as made: {set(found) ^ expected}"
    for name in found:
        os.unlink(f"crowd/{name}")
    os.rmdir("crowd")

for test in appended, untorn, names, crowd:
    print(test.__name__, test() or "")
