#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""nth.py CONTROL MOUNT VEMSCTL KIND FIRST STRIDE COUNT: works on a mount while its daemon's Nth allocation (KIND a) or
Nth I/O (r, w, f) fails, for N = FIRST, FIRST + STRIDE, ... until none does, COUNT of them in a row. Every call
succeeds or fails with ENOMEM or EIO and has then changed nothing: it is made again."""
import errno, mmap, os, random, struct, subprocess, sys, time

control_path, mount, vemsctl, kind = sys.argv[1:5]
first, stride, in_a_row = (int(a) for a in sys.argv[5:8])
injected = errno.ENOMEM if kind == 'a' else errno.EIO
TRIES = 300
COLD_BYTES = 72 << 20  # more than the tier has


def path(name):
    return os.path.join(mount, name)


class Control:  # struct control of nth_preload.c
    def __init__(self):
        with open(control_path, 'r+b') as f:
            self.map = mmap.mmap(f.fileno(), 0)

    def arm(self, n):
        self.map[:40] = struct.pack('5Q', 0, n, in_a_row, 0, 0)
        self.map[:8] = struct.pack('Q', ord(kind))

    def disarm(self):
        self.map[:8] = struct.pack('Q', 0)

    def failures(self):
        return struct.unpack('Q', self.map[32:40])[0]


def retry(call, *args, undone=None):
    """The kernel may retry by itself what libfuse has refused; whatever it says must be what was injected."""
    for _ in range(TRIES):
        try:
            return call(*args)
        except OSError as e:
            if e.errno != injected:
                raise
            if undone:
                undone()
        time.sleep(0.001)
    raise SystemExit(f'{call.__name__}{args}: fails for good')


def block(stamp, bytes_):
    return random.Random(stamp).randbytes(bytes_)


def read_whole(name):
    def read():
        with open(path(name), 'rb', buffering=0) as f:
            data = b''
            while part := f.read(1 << 20):
                data += part
            return data
    return retry(read)


def write_at(name, offset, data):
    """To a descriptor that stays: an error is of this write, and nothing of it has been done."""
    def opened():
        return os.open(path(name), os.O_RDWR | os.O_CREAT, 0o644)
    fd = retry(opened)
    try:
        done = 0
        while done < len(data):
            done += retry(os.pwrite, fd, data[done:done + (1 << 20)], offset + done)
    finally:
        os.close(fd)


def expect(found, wanted, what):
    if found != wanted:
        raise SystemExit(f'{what}: not as expected')


def make_cold():
    for at in range(0, COLD_BYTES, 1 << 20):
        write_at('cold', at, block(at, 1 << 20))


def read_cold():
    """Other places each time: what was read is in the tier."""
    fd = retry(os.open, path('cold'), os.O_RDONLY)
    try:
        for _ in range(16):
            at = random.randrange(COLD_BYTES // 65536) * 65536
            whole = block(at & ~((1 << 20) - 1), 1 << 20)
            start = at & ((1 << 20) - 1)
            expect(retry(os.pread, fd, 65536, at), whole[start:start + 65536], f'cold file at {at}')
    finally:
        os.close(fd)


def sync():
    def run():
        said = subprocess.run([vemsctl, 'sync', mount], capture_output=True, text=True)
        if said.returncode:
            raise OSError(injected, said.stderr)
    retry(run)


def is_there(name):
    try:
        return bool(retry(os.lstat, path(name)))
    except FileNotFoundError:
        return False


def make(call, name, *args):
    """A call that makes a name; if the answer got lost, the name may be there."""
    for _ in range(TRIES):
        try:
            return call(*args)
        except FileExistsError:
            expect(is_there(name), True, name)
            return None
        except OSError as e:
            if e.errno != injected:
                raise
    raise SystemExit(f'{call.__name__}{args}: fails for good')


def remove(call, name):
    for _ in range(TRIES):
        try:
            return call(path(name))
        except FileNotFoundError:
            return expect(is_there(name), False, name)
        except OSError as e:
            if e.errno != injected:
                raise
    raise SystemExit(f'{name}: cannot be removed')


def work(n):
    data = bytearray(block(n, 200000))
    write_at('a', 0, data)
    expect(read_whole('a'), bytes(data), 'a')
    write_at('a', 5000, b'x' * 3000)
    data[5000:8000] = b'x' * 3000
    retry(os.truncate, path('a'), 150001)
    data = data[:150001]
    expect(retry(os.stat, path('a')).st_size, len(data), 'size')
    retry(os.setxattr, path('a'), 'user.large', bytes([n % 251]) * 5000)
    expect(retry(os.getxattr, path('a'), 'user.large'), bytes([n % 251]) * 5000, 'attribute')
    make(os.mkdir, 'd', path('d'))
    names = sorted(f'entry {i} of a directory' for i in range(12))
    for name in names:
        make(os.symlink, f'd/{name}', 'target', path(f'd/{name}'))
    expect(sorted(retry(os.listdir, path('d'))), names, 'listing')
    retry(os.rename, path('a'), path('b'))
    sync()
    read_cold()
    expect(read_whole('b'), bytes(data), 'b')
    for name in names:
        remove(os.unlink, f'd/{name}')
    remove(os.rmdir, 'd')
    remove(os.unlink, 'b')
    retry(os.statvfs, mount)
    sync()


def main():
    control = Control()
    if not is_there('cold'):
        make_cold()
        sync()
    runs, n = 0, first
    while True:
        control.arm(n)
        work(n)
        control.disarm()
        runs += 1
        if not control.failures():
            break
        n += stride
    print(f'kind {kind}: {runs} runs, up to call {n}')
    if runs == 1:
        raise SystemExit('nothing has failed')


main()
