# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: vemsfuse and the null server by each transport, the limits, and the peers that are there."""
import glob
import os
import shutil
import subprocess
import time

DURABLE = ["--direct=1", "--sync=dsync"]  # what a disk file system needs for a durable write


class Unavailable(Exception):
    """With the reason."""


def run(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **more)


def need(program):
    path = shutil.which(program, path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if not path:
        raise Unavailable(f"{program} is not installed")
    return path


class Subject:
    """A mounted file system; `durable` are fio's options for writes that are durable when they return."""

    durable, direct = [], []

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.place = os.path.join(bench.disk, name)
        self.dir = os.path.join(self.place, "mnt")
        self.daemon = None
        os.makedirs(self.dir)

    def start(self):
        raise NotImplementedError

    def stop(self):
        pass

    def wait_mounted(self):
        for _ in range(10000):
            if os.path.ismount(self.dir):
                return
            if self.daemon and self.daemon.poll() is not None:
                break
            time.sleep(0.001)
        raise Unavailable("it did not mount: " + open(os.path.join(self.place, "log")).read().strip()[-200:])

    def serve(self, *command):
        with open(os.path.join(self.place, "log"), "w") as log:
            self.daemon = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log)
        self.wait_mounted()

    def unmount_served(self):
        if os.path.ismount(self.dir):
            run("fusermount3", "-u", self.dir)
        self.daemon.wait(600)
        self.daemon = None


class Vemsfuse(Subject):
    def __init__(self, bench, name, transport, tier_bytes=None, options=()):
        super().__init__(bench, name)
        self.transport, self.options = transport, list(options)
        self.tier_bytes = tier_bytes or bench.tier_bytes
        self.tier = os.path.join(bench.fast, name + ".tier")
        self.backing = os.path.join(self.place, "backing")

    def make_pair(self):
        for path, size in (self.tier, self.tier_bytes), (self.backing, self.bench.backing_bytes):
            with open(path, "wb") as f:
                f.truncate(size)

    def start(self):
        self.make_pair()
        self.mount()

    def mount(self):
        self.serve(self.bench.program("vemsfuse"), "-f", "--assume-persistent", f"--pmem={self.tier}", f"--backing={self.backing}",
                   f"--transport={self.transport}", *self.options, self.dir)

    def stop(self):
        if self.daemon:
            self.unmount_served()
        for path in self.tier, self.backing:
            if os.path.exists(path):
                os.unlink(path)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None
        run("fusermount3", "-uz", self.dir)

    def stats(self):
        import json
        return json.loads(run(self.bench.program("vemsctl"), "stats", "--json", self.dir).stdout)


class FullTier(Vemsfuse):
    """A tier of 1 GiB in which dirty pages stay dirty: each flush of its disk fails."""

    def __init__(self, bench, name, transport):
        super().__init__(bench, name, transport, 1 << 30, ["--interval=3600", "--io-timeout=3600"])
        self.disk = os.path.join(self.place, "disk")
        os.makedirs(self.disk)

    def start(self):
        self.make_pair()
        run(self.bench.program("tests/e2e/faultdisk"), self.backing, self.disk)
        self.file, self.backing = self.backing, os.path.join(self.disk, "disk")
        self.mount()
        with open(os.path.join(self.disk, "ctl"), "w") as ctl:
            ctl.write("flush-error")

    def stop(self):
        if self.daemon:
            self.kill()
        run("fusermount3", "-uz", self.disk)  # what was under way when the daemon was killed may still hold it
        os.unlink(self.tier)
        os.unlink(self.file)


class Null(Subject):
    def __init__(self, bench, name, transport):
        super().__init__(bench, name)
        self.transport = transport

    def start(self):
        self.serve(self.bench.program("bench/bench-null"), f"--transport={self.transport}", self.dir)

    def stop(self):
        if self.daemon:
            self.unmount_served()


class Tmpfs(Subject):
    def start(self):
        if os.geteuid():
            self.dir = os.path.join(self.bench.fast, "tmpfs")
            os.makedirs(self.dir)
        else:
            run("mount", "-t", "tmpfs", "tmpfs", self.dir)

    def stop(self):
        if os.path.ismount(self.dir):
            run("umount", self.dir)


class Raw(Subject):
    """The disk that the backing lies on, as it is."""

    durable, direct = ["--direct=1"], ["--direct=1"]

    def start(self):
        pass


class OnDisk(Subject):
    """A file system of the kernel on a loop device, on a file beside vemsfuse's backing."""

    durable, direct = DURABLE, ["--direct=1"]

    def __init__(self, bench, name):
        super().__init__(bench, name)
        self.loop = None

    def start(self):
        if os.geteuid():
            raise Unavailable("a loop device needs root")
        mkfs, image = need(f"mkfs.{self.name}"), os.path.join(self.place, "image")
        with open(image, "wb") as f:
            f.truncate(self.bench.backing_bytes)
        self.loop = run("losetup", "--direct-io=on", "--show", "-f", image).stdout.strip()
        run(mkfs, "-q", self.loop)
        run("mount", self.loop, self.dir)

    def stop(self):
        if os.path.ismount(self.dir):
            run("umount", self.dir)
        if self.loop:
            run("losetup", "-d", self.loop)
        image = os.path.join(self.place, "image")
        if os.path.exists(image):
            os.unlink(image)


class Fuse2fs(Subject):
    durable, direct = ["--sync=dsync"], []

    def start(self):
        program, image = need("fuse2fs"), os.path.join(self.place, "image")
        with open(image, "wb") as f:
            f.truncate(self.bench.backing_bytes)
        run(need("mkfs.ext4"), "-q", "-F", image)
        self.serve(program, "-f", "-o", "fakeroot,rw", image, self.dir)

    def stop(self):
        if self.daemon:
            self.unmount_served()


class Mergerfs(Subject):
    """Two branches, the first in memory."""

    durable, direct = ["--sync=dsync"], []

    def start(self):
        branches = [os.path.join(self.bench.fast, "mergerfs"), os.path.join(self.place, "branch")]
        for branch in branches:
            os.makedirs(branch)
        self.serve(need("mergerfs"), "-f", "-o", "category.create=ff", ":".join(branches), self.dir)

    def stop(self):
        if self.daemon:
            self.unmount_served()


class ZfsFuse(Subject):
    """Its intent log (SLOG) and its read cache (L2ARC) are files in memory."""

    durable, direct = ["--sync=dsync"], []
    pool = "vemsbench"

    def start(self):
        if os.geteuid():
            raise Unavailable("zfs-fuse needs root")
        program, zpool = need("zfs-fuse"), need("zpool")
        for path, size in ((os.path.join(self.bench.fast, "slog"), 1 << 28), (os.path.join(self.bench.fast, "l2arc"), 1 << 29),
                           (os.path.join(self.place, "image"), self.bench.backing_bytes)):
            with open(path, "wb") as f:
                f.truncate(size)
        with open(os.path.join(self.place, "log"), "w") as log:
            self.daemon = subprocess.Popen([program, "--no-daemon"], stdout=log, stderr=log)
        time.sleep(2)
        run(zpool, "create", "-m", self.dir, self.pool, os.path.join(self.place, "image"), "log",
            os.path.join(self.bench.fast, "slog"), "cache", os.path.join(self.bench.fast, "l2arc"))

    def stop(self):
        if self.daemon:
            subprocess.run(["zpool", "destroy", self.pool], capture_output=True, check=False)
            self.daemon.terminate()
            self.daemon.wait(60)
            self.daemon = None


def uring_offered():
    for path in glob.glob("/sys/module/fuse/parameters/enable_uring"):
        return open(path).read().strip() == "Y"
    return False


def all_subjects(bench):
    """Limits and vemsfuse first: name, and how to make it."""
    subjects = [("tmpfs", Tmpfs)]
    if uring_offered():
        subjects += [("null-uring", lambda b, n: Null(b, n, "uring")), ("vems-uring", lambda b, n: Vemsfuse(b, n, "uring"))]
    subjects += [("null-dev", lambda b, n: Null(b, n, "dev")), ("vems-dev", lambda b, n: Vemsfuse(b, n, "dev")),
                 ("raw", Raw),
                 ("ext4", OnDisk), ("xfs", OnDisk), ("fuse2fs", Fuse2fs), ("mergerfs", Mergerfs), ("zfs-fuse", ZfsFuse)]
    return subjects
