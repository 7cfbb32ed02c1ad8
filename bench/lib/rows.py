# SPDX-License-Identifier: GPL-2.0-or-later
"""A row of the table, and what many of them use: fio, the file that is in the tier, the file that is larger than it."""
import dataclasses
import json
import os
import shutil
import time
import typing

from .subjects import Raw, Vemsfuse, run

LESS = {"s", "us", "ms", "us/op", "bytes", "MB", "requests", "nodes", "x longer"}  # the better the less


def is_file_system(subject):
    return not isinstance(subject, Raw)


def is_vemsfuse(subject):
    return isinstance(subject, Vemsfuse)


@dataclasses.dataclass
class Row:
    """`measure` is a function of (bench, subject), for subjects that `of` says; `seconds` is about what it takes."""

    group: str
    name: str
    unit: str
    measure: typing.Callable
    of: typing.Callable = is_file_system
    seconds: float = 1
    point: tuple = ()   # of a scale: what is measured, the axis, the point on it
    once: bool = False  # takes so long that one round has to do
    values: dict = dataclasses.field(default_factory=dict)


def once_a_round(bench, subject, what, measure):
    """For rows that come out of one and the same measurement; if it fails, it does for all of them."""
    key = subject.name, what, bench.round
    if key not in bench.cache:
        try:
            bench.cache[key] = measure()
        except Exception as error:
            bench.cache[key] = error
    if isinstance(bench.cache[key], Exception):
        raise bench.cache[key]
    return bench.cache[key]


def seconds_of(*command, **more):
    began = time.monotonic()
    run(*command, **more)
    return time.monotonic() - began


def fresh(subject, name):
    place = os.path.join(subject.dir, name)
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    return place


# ---- fio ----------------------------------------------------------------------------------------------------

def pinned_to_one():
    return ["taskset", "-c", str(min(os.sched_getaffinity(0)))]


# Memory is aligned for all of them, as O_DIRECT needs it: FUSE asks twice for 1 MiB that begins within a page.
def fio_command(*options, pinned=True):
    return [*(pinned_to_one() if pinned else []), "fio", "--output-format=json", "--ioengine=psync", "--randrepeat=1", "--group_reporting",
            "--fallocate=none", "--iomem_align=4096", "--name=x", *options]


def fio(*options, pinned=True, seconds=None):
    """To the end of the file, or for so long; what fio says of its jobs together."""
    timed = ["--time_based", f"--runtime={round(seconds * 1000)}ms"] if seconds else []
    said = run(*fio_command(*options, *timed, pinned=pinned)).stdout
    return json.loads(said[said.index("{"):])["jobs"][0] # warnings come first


def side(job):
    return job["read"] if job["read"]["total_ios"] else job["write"]


def speed(job, bs):
    return side(job)["bw_bytes"] / 1e6 if bs == "1M" else side(job)["iops"]


def speed_unit(bs):
    return "MB/s" if bs == "1M" else "/s"


# ---- files that rows share --------------------------------------------------------------------------------------

def hot_file(bench, subject, size=None):
    """Options for a file that is in the tier."""
    path, size = os.path.join(subject.dir, "hot"), size or bench.hot_bytes
    if not os.path.exists(path):
        fio(f"--filename={path}", "--rw=write", "--bs=1M", f"--size={size}", "--end_fsync=1")
    for _ in range(3 if subject.tiered else 0): # what is larger than the tier may have displaced it since the last round
        run("dd", f"if={path}", "of=/dev/null", "bs=1M")
    return [f"--filename={path}", f"--size={size}"]


def big_file(bench, subject):
    """Options for a file of four times the tier."""
    path, size = os.path.join(subject.dir, "big"), 4 * bench.tier_bytes
    if not os.path.exists(path):
        fio(f"--filename={path}", "--rw=write", "--bs=1M", f"--size={size}", "--end_fsync=1", *subject.direct)
        if is_vemsfuse(subject):
            run(bench.program("vemsctl"), "sync", subject.dir)
    return [f"--filename={path}", f"--size={size}"]
