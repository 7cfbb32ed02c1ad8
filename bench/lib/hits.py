# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the tier: data by one job and by many, names, and how late an answer may come."""
import contextlib
import os
import shutil
import subprocess
import time
from functools import partial

from .rows import Row, fio, fio_command, fresh, hot_file, is_vemsfuse, once_a_round, pinned_to_one, side, speed, speed_unit
from .subjects import end_group, run


def data(bench, subject, rw, bs, jobs, pinned):
    options = subject.durable if "write" in rw else subject.direct
    return speed(fio(*hot_file(bench, subject), f"--rw={rw}", f"--bs={bs}", f"--numjobs={jobs}", *options, pinned=pinned,
                     seconds=bench.seconds), bs)


def data_rows(bench, group, jobs, pinned):
    for rw, bs in ("randread", "4k"), ("randwrite", "4k"), ("randread", "512"), ("randwrite", "512"), ("read", "1M"), ("write", "1M"):
        name = f"{bs} {rw.replace('rand', '')} {jobs} job{'s' if jobs > 1 else ''}{', pinned' if pinned else ''}"
        yield Row(group, name, speed_unit(bs), partial(data, rw=rw, bs=bs, jobs=jobs, pinned=pinned), seconds=bench.seconds + 0.7)


def write_fsync(bench, subject):
    return speed(fio(*hot_file(bench, subject), "--rw=randwrite", "--bs=4k", "--fsync=1", *subject.direct, seconds=bench.seconds), "4k")


def many_files(bench, subject):
    place = os.path.join(subject.dir, "many")
    os.makedirs(place, exist_ok=True)
    return speed(fio(f"--directory={place}", "--nrfiles=1000", "--size=64M", "--rw=randread", "--bs=4k", *subject.direct,
                     seconds=bench.seconds), "4k")


# ---- names --------------------------------------------------------------------------------------------------

def bench_names(bench, *arguments):
    said = run(*pinned_to_one(), bench.program("bench/bench-names"), *arguments).stdout
    return {name: float(value) for name, value in (line.split() for line in said.splitlines())}


def names(bench, subject, call):
    def measure():
        place = fresh(subject, "names")
        try:
            return bench_names(bench, place, bench.files)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return once_a_round(bench, subject, "names", measure)[call]


def mail(bench, subject):
    return bench_names(bench, "--mail", fresh(subject, "mail"), max(bench.files // 20, 200))["mail"]


# ---- latency ------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def writer(bench, subject):
    """More than the tier holds, again and again."""
    path = os.path.join(subject.dir, "writer")
    command = fio_command(f"--filename={path}", "--rw=write", "--bs=256k", f"--size={2 * subject.tier_bytes}", "--time_based",
                          "--runtime=1d", pinned=False)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        time.sleep(min(2, 2 * bench.seconds))
        yield
        if process.poll() is not None:
            raise RuntimeError("the writer beside it has ended too early")
    finally:
        end_group(process)
        os.unlink(path)


def hit_latency(bench, subject, busy):
    """fio's percentiles of bench.hits reads. With `busy` the other kind is measured right before or after, in each round."""
    def measure():
        with writer(bench, subject) if busy else contextlib.nullcontext():
            job = fio(*hot_file(bench, subject), "--rw=randread", "--bs=4k", f"--io_size={bench.hits * 4096}", "--norandommap")
        return side(job)["clat_ns"]["percentile"]
    return once_a_round(bench, subject, ("latency", busy), measure)


def latency(bench, subject, percentile, busy):
    return hit_latency(bench, subject, busy)[f"{percentile:.6f}"] / 1000


def latency_ratio(bench, subject, percentile):
    return latency(bench, subject, percentile, True) / latency(bench, subject, percentile, False)


# ---- the rows -----------------------------------------------------------------------------------------------

def rows(bench):
    several = max(2, os.cpu_count())
    yield from data_rows(bench, "data", 1, True)
    yield Row("data", "4k write + fsync", "/s", write_fsync, seconds=bench.seconds + 0.7)
    yield from data_rows(bench, "jobs", 1, False)
    yield from data_rows(bench, "jobs", several, False)
    yield Row("jobs", "4k read, 1000 files", "/s", many_files, seconds=bench.seconds + 2)
    for call in "create", "stat", "readdir", "rename", "unlink":
        yield Row("names", f"{call} of {bench.files:,}" if call == "readdir" else call, "/s", partial(names, call=call),
                  seconds=bench.files / 6000 if call == "create" else 0)
    yield Row("names", "mail: 4 KiB file + fsync", "/s", mail, seconds=bench.files / 100000)
    for busy in False, True:
        for percentile in 50, 99, 99.9:
            yield Row("latency", f"hit p{percentile}{', under write-back' if busy else ''}", "us",
                      partial(latency, percentile=percentile, busy=busy), of=is_vemsfuse,
                      seconds=0 if percentile > 50 else bench.hits / (30000 if busy else 60000))
    for percentile in 99, 99.9:
        yield Row("latency", f"hit p{percentile}, under write-back / idle", "x longer", partial(latency_ratio, percentile=percentile),
                  of=is_vemsfuse, seconds=0)
