# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether it stays what it is when the tier, the backing, or the number of files grows. Tiers and backings are sparse, and
mounts of their own; what is measured of each is in MEASURES. A tier is in memory as long as it takes less than half of what is
free there; then it is an ordinary file on --disk: the table lies in the page cache, and writes wait for the disk."""
import collections
import os
from functools import partial

from .cost import anonymous_bytes
from .hits import bench_names
from .rows import Row, fio, hot_file, is_vemsfuse, once_a_round, side
from .subjects import GIB, Unavailable, Vemsfuse

MEASURES = {"mount": "ms", "mount after kill -9": "ms", "DRAM": "MB", "create": "us", "lookup": "us", "4k hit read": "us",
            "nodes from the disk, a lookup": "nodes"}
PROBES = 10000       # creates and lookups to one figure
FILES = 10000        # beside them, where their number is not what grows
HOT_BYTES = 16 << 20
TIER, BACKING = GIB // 4, 16 * GIB # where they are not what grows


def axes(bench):
    """Of each what grows, and its points: label and figure."""
    size = lambda n: f"{n} GiB" if n < 1024 else f"{n >> 10} TiB" if n < 1 << 20 else f"{n >> 20} PiB"
    yield "tier", [(size(n), n * GIB) for n in ([1, 4] if bench.quick else [1, 4, 16, 64])]
    yield "backing", [(size(n), n * GIB) for n in [1, 1 << 10, 1 << 20]]
    yield "files", [(f"10^{power}", 10 ** power) for power in ([4, 5] if bench.quick else [4, 5, 6, 7])]


def available_bytes():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


def free_bytes(path):
    st = os.statvfs(path)
    return st.f_bavail * st.f_frsize


class Scaled(Vemsfuse):
    def __init__(self, bench, subject, axis, point, figure):
        super().__init__(bench, f"{subject.name}-{axis}-{point.replace(' ', '')}-{bench.round}", subject.transport,
                         figure if axis == "tier" else TIER, figure if axis == "backing" else BACKING)
        if axis == "backing": # only tmpfs and xfs have sparse files of 1 PiB
            self.backing = os.path.join(bench.fast, self.name + ".backing")
        self.in_memory = self.tier_bytes < min(available_bytes(), free_bytes(bench.fast)) / 2
        if not self.in_memory:
            self.tier = os.path.join(self.place, "tier")
            if self.tier_bytes + 4 * GIB > free_bytes(bench.disk):
                raise Unavailable(f"no room for a tier of {self.tier_bytes >> 30} GiB, in memory or in --disk")

    def make_pair(self):
        try:
            super().make_pair()
        except OSError as error:
            raise Unavailable(f"no sparse file of that size: {error.strerror}") from error


def probe(bench, mounted, files):
    """Everything of MEASURES, of a mount with so many files in one directory; starts and ends with them."""
    place = os.path.join(mounted.dir, "files")
    mounted.unmount()
    said = {"mount": mounted.mount() * 1000, "DRAM": anonymous_bytes(mounted.daemon.pid) / 1e6}
    before = mounted.stats()["node_misses"] # nothing of the names is in the kernel's memory now
    said["lookup"] = 1e6 / bench_names(bench, "--lookup", place, files, PROBES)["lookup"]
    said["nodes from the disk, a lookup"] = (mounted.stats()["node_misses"] - before) / PROBES
    if mounted.in_memory:
        said["create"] = 1e6 / bench_names(bench, "--create", place, files, PROBES)["create"]
    said["4k hit read"] = 1e6 / side(fio(*hot_file(bench, mounted, HOT_BYTES), "--rw=randread", "--bs=4k", seconds=bench.seconds))["iops"]
    mounted.kill()
    said["mount after kill -9"] = mounted.mount() * 1000
    return said


def fill(bench, mounted, done, files):
    place = os.path.join(mounted.dir, "files")
    os.makedirs(place, exist_ok=True)
    bench_names(bench, "--fill", place, done, files)


def one_pair(bench, subject, axis, point, figure):
    """A pair for each point."""
    def measure():
        with Scaled(bench, subject, axis, point, figure) as mounted:
            files = FILES if mounted.in_memory else FILES // 10
            fill(bench, mounted, 0, files)
            return probe(bench, mounted, files)
    return once_a_round(bench, subject, (axis, point), measure)


def one_mount_filled(bench, subject, points):
    """All points in one pair, the fewest files first: what is said of each, or the error that made it the last."""
    def measure():
        said, done = {}, 0
        with Scaled(bench, subject, "files", "all", 0) as mounted:
            for point, files in points:
                try:
                    fill(bench, mounted, done, files)
                    done, said[point] = files, probe(bench, mounted, files)
                except Exception as error:
                    return collections.defaultdict(lambda: error, said)
        return said
    return once_a_round(bench, subject, "files", measure)


def scaled(bench, subject, axis, points, index, what):
    point, figure = points[index]
    said = one_mount_filled(bench, subject, points)[point] if axis == "files" else one_pair(bench, subject, axis, point, figure)
    if isinstance(said, Exception):
        raise said
    if what not in said:
        raise Unavailable("the tier is an ordinary file here, so that each create waits for the disk")
    return said[what]


def rows(bench):
    for axis, points in axes(bench):
        for index, (point, figure) in enumerate(points):
            for what, unit in MEASURES.items():
                if what == "nodes from the disk, a lookup" and axis != "files":
                    continue
                seconds = figure / 20000 if axis == "files" else 4 + (figure / GIB / 4 if axis == "tier" else 0)
                yield Row("scale", f"{what}, {axis} of {point}", unit, partial(scaled, axis=axis, points=points, index=index, what=what),
                          of=is_vemsfuse, point=(what, axis, point), once=axis == "files",
                          seconds=seconds + bench.seconds if what == "mount" else 0)
