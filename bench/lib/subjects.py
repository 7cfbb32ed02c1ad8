# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: vemsfuse and the null server by each transport, the limits, and the peers that are there.

A subject puts what it has made on `undo` as soon as it is made, so that stop() leaves nothing, wherever start() or a
row has failed or was interrupted."""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

DURABLE = ["--direct=1", "--sync=dsync"]  # what a disk file system needs for a durable write
GIB = 1 << 30


class Unavailable(Exception):
    """With the reason."""


def note(text):
    print(text, file=sys.stderr, flush=True)


def why(error):
    """One line of what a failed command, or anything else, has said."""
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or error.stdout or "").strip().splitlines() or [f"exit {error.returncode}"]
        return f"{' '.join(map(str, error.cmd))[:80]}: {said[-1][-200:]}"
    return str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"


def end_group(process):
    """fio's jobs, make's compilers and the like end with what has started them."""
    for sign in signal.SIGTERM, signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
            return


def run(*command, input=None, **more):
    """In a group of its own, of which nothing is left if this is interrupted."""
    command = [str(c) for c in command]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE if input else subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True, **more)
    try:
        out, err = process.communicate(input)
    except BaseException:
        end_group(process)
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, err)
    return subprocess.CompletedProcess(command, 0, out, err)


def need(program):
    path = shutil.which(program, path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if not path:
        raise Unavailable(f"{program} is not installed")
    return path


def need_root(what):
    if os.geteuid():
        raise Unavailable(f"{what} needs root")


def is_mounted(path):
    """Also where the daemon is dead, and stat() fails."""
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == path for line in mounts)


def unmount(path, *command):
    """Gently; if something stays in it, out of sight."""
    for wait in 0, 0.1, 0.3, 1, 3:
        time.sleep(wait)
        if not is_mounted(path) or subprocess.run([*command, path], capture_output=True, check=False).returncode == 0:
            return
    run(*command, "-z" if "fusermount3" in command[0] else "-l", path)


def for_all_users():
    """PostgreSQL has its own; users may not allow it."""
    return [] if os.geteuid() else ["-o", "allow_other"]


def sparse(path, size):
    with open(path, "wb") as f:
        f.truncate(size)


def unlink(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class Subject:
    """A mounted file system; `durable` are fio's options for writes that are durable when they return, `direct` for
    what is not to come from the page cache. `tiered`: what was read has come nearer. `memory`: it has nothing else."""

    durable, direct, tiered, memory = [], [], False, False

    def __init__(self, bench, name):
        self.bench, self.name, self.daemon, self.undo = bench, name, None, contextlib.ExitStack()
        self.place = os.path.join(bench.disk, name)
        self.dir = os.path.join(self.place, "mnt")
        self.log = os.path.join(self.place, "log")
        os.makedirs(self.dir)

    def start(self):
        raise NotImplementedError

    def stop(self):
        try:
            self.undo.close()
        except Exception as error:  # the others are still to be stopped
            note(f"{self.name}: not all of it could be undone: {why(error)}")

    def loop(self, path, *options):
        device = run(need("losetup"), *options, "--show", "-f", path).stdout.strip()
        self.undo.callback(run, "losetup", "-d", device)
        return device

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error):
        self.stop()

    def alive(self):
        return not self.daemon or self.daemon.poll() is None

    def last_words(self):
        with open(self.log) as log:
            return (log.read().strip().splitlines() or ["nothing was said"])[-1][-200:]

    def spawn(self, *command):
        """Not in our group: ^C is for us, who unmount."""
        with open(self.log, "w") as log:
            self.daemon = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, start_new_session=True)

    def serve(self, *command):
        self.spawn(*command)
        self.undo.callback(self.kill) # nobody wants what is in it
        deadline = time.monotonic() + 120
        while not is_mounted(self.dir):
            if not self.alive() or time.monotonic() > deadline:
                raise Unavailable("it did not mount: " + self.last_words())
            time.sleep(0.001)

    def kill(self):
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None
        unmount(self.dir, "fusermount3", "-uz")


class Vemsfuse(Subject):
    tiered = True

    def __init__(self, bench, name, transport, tier_bytes=None, backing_bytes=None, options=()):
        super().__init__(bench, name)
        self.transport, self.options = transport, list(options)
        self.tier_bytes, self.backing_bytes = tier_bytes or bench.tier_bytes, backing_bytes or bench.backing_bytes
        self.tier, self.backing = os.path.join(bench.fast, name + ".tier"), os.path.join(self.place, "backing")

    def make_pair(self):
        for path, size in (self.tier, self.tier_bytes), (self.backing, self.backing_bytes):
            self.undo.callback(unlink, path)
            sparse(path, size)

    def start(self):
        self.make_pair()
        self.mount()

    def mount(self):
        """Seconds, from the command to the mount's answer."""
        began = time.monotonic()
        self.serve(self.bench.program("vemsfuse"), "-f", "--assume-persistent", f"--pmem={self.tier}", f"--backing={self.backing}",
                   f"--transport={self.transport}", *self.options, *for_all_users(), self.dir)
        return time.monotonic() - began

    def unmount(self):
        """Cleanly, as opposed to kill()."""
        unmount(self.dir, "fusermount3", "-u")
        self.daemon.wait(600)

    def stats(self):
        return json.loads(run(self.bench.program("vemsctl"), "stats", "--json", self.dir).stdout)


class FullTier(Vemsfuse):
    """A tier of 1 GiB in which dirty pages stay dirty: each flush of its disk fails."""

    def __init__(self, bench, name, transport):
        super().__init__(bench, name, transport, tier_bytes=GIB, options=["--interval=3600", "--io-timeout=3600"])
        self.disk = os.path.join(self.place, "disk")
        os.makedirs(self.disk)

    def start(self):
        self.make_pair()
        self.undo.callback(unmount, self.disk, "fusermount3", "-uz")  # what a killed daemon had under way may still hold it
        run(self.bench.program("tests/e2e/faultdisk"), self.backing, self.disk)
        self.backing = os.path.join(self.disk, "disk")
        self.mount()
        with open(os.path.join(self.disk, "ctl"), "w") as ctl:
            ctl.write("flush-error")


class Null(Subject):
    memory = True

    def __init__(self, bench, name, transport):
        super().__init__(bench, name)
        self.transport = transport

    def start(self):
        self.serve(self.bench.program("bench/bench-null"), f"--transport={self.transport}", *for_all_users(), self.dir)


class Tmpfs(Subject):
    memory = True

    def start(self):
        if os.geteuid():
            self.dir = os.path.join(self.bench.fast, "tmpfs")
            os.makedirs(self.dir)
        else:
            self.undo.callback(unmount, self.dir, "umount")
            run("mount", "-t", "tmpfs", "tmpfs", self.dir)


class Raw(Subject):
    """The disk that the backing lies on, as it is."""

    durable, direct = ["--direct=1"], ["--direct=1"]

    def start(self):
        pass


class OnDisk(Subject):
    """A file system of the kernel on a loop device, on a file beside vemsfuse's backing."""

    durable, direct = DURABLE, ["--direct=1"]

    def start(self):
        need_root("a loop device")
        mkfs, image = need(f"mkfs.{self.name}"), os.path.join(self.place, "image")
        self.undo.callback(unlink, image)
        sparse(image, self.bench.backing_bytes)
        loop = self.loop(image, "--direct-io=on")
        run(mkfs, "-q", loop)
        self.undo.callback(unmount, self.dir, "umount")
        run("mount", loop, self.dir)


class Fuse2fs(Subject):
    durable = ["--sync=dsync"]

    def start(self):
        program, image = need("fuse2fs"), os.path.join(self.place, "image")
        self.undo.callback(unlink, image)
        sparse(image, self.bench.backing_bytes)
        run(need("mkfs.ext4"), "-q", "-F", image)
        self.serve(program, "-f", "-o", "fakeroot,rw", *for_all_users(), image, self.dir)


class Mergerfs(Subject):
    """Two branches; all goes to the first, in memory."""

    durable, memory = ["--sync=dsync"], True

    def start(self):
        branches = [os.path.join(self.bench.fast, "mergerfs"), os.path.join(self.place, "branch")]
        for branch in branches:
            os.makedirs(branch)
        self.serve(need("mergerfs"), "-f", "-o", "category.create=ff", ":".join(branches), self.dir)


class ZfsFuse(Subject):
    """Its intent log (SLOG) and its read cache (L2ARC) are in memory; the latter has to be a device."""

    durable, tiered = ["--sync=dsync"], True

    def start(self):
        need_root("zfs-fuse")
        program, zpool, pool = need("zfs-fuse"), need("zpool"), f"vemsbench{os.getpid()}"
        image, slog, l2arc = os.path.join(self.place, "image"), os.path.join(self.bench.fast, "slog"), os.path.join(self.bench.fast, "l2arc")
        for path, size in (slog, GIB // 4), (l2arc, GIB // 2), (image, self.bench.backing_bytes):
            self.undo.callback(unlink, path)
            sparse(path, size)
        cache = self.loop(l2arc)
        serves = lambda: subprocess.run([zpool, "list"], capture_output=True, check=False).returncode == 0
        if serves():
            raise Unavailable("another one is running")
        self.undo.callback(self.end)
        self.spawn(program, "--no-daemon")
        deadline = time.monotonic() + 20
        while not serves():
            if not self.alive() or time.monotonic() > deadline:
                raise Unavailable("it did not start: " + self.last_words())
            time.sleep(0.1)
        self.undo.callback(subprocess.run, [zpool, "destroy", "-f", pool], capture_output=True, check=False)
        run(zpool, "create", "-m", self.dir, pool, image, "log", slog, "cache", cache)

    def end(self):
        self.daemon.terminate()
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        unmount(self.dir, "umount")


def by_uring(make):
    """Where the kernel offers requests by io_uring."""
    def checked(bench, name):
        path = "/sys/module/fuse/parameters/enable_uring"
        if not os.path.exists(path):
            raise Unavailable("this kernel has no FUSE by io_uring (Linux 6.14)")
        with open(path) as f:
            if f.read().strip() != "Y":
                raise Unavailable(f"FUSE by io_uring is switched off: as root, echo Y >{path}")
        return make(bench, name)
    return checked


# Limits and vemsfuse first: name, and how to make it.
SUBJECTS = [
    ("tmpfs", Tmpfs),
    ("null-uring", by_uring(lambda b, n: Null(b, n, "uring"))), ("vems-uring", by_uring(lambda b, n: Vemsfuse(b, n, "uring"))),
    ("null-dev", lambda b, n: Null(b, n, "dev")), ("vems-dev", lambda b, n: Vemsfuse(b, n, "dev")),
    ("raw", Raw), ("ext4", OnDisk), ("xfs", OnDisk), ("fuse2fs", Fuse2fs), ("mergerfs", Mergerfs), ("zfs-fuse", ZfsFuse)]
PEERS = {"fuse2fs", "mergerfs", "zfs-fuse"}
