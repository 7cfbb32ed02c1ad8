# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes: CPU, DRAM, time to mount and to recover."""
import os
import re
import time
from functools import partial

from .rows import Row, big_file, fio, hot_file, is_vemsfuse, once_a_round, side
from .subjects import FullTier, Vemsfuse


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu(bench, subject, rw):
    options = hot_file(bench, subject)
    before = cpu_seconds(subject.daemon.pid)
    job = fio(*options, f"--rw={rw}", "--bs=4k", *(subject.durable if rw == "randwrite" else subject.direct), seconds=bench.seconds)
    return (cpu_seconds(subject.daemon.pid) - before) * 1e6 / side(job)["total_ios"]


def anonymous_bytes(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1]) * 1024


def dram(bench, subject):
    """Of a daemon whose tier is full."""
    if is_vemsfuse(subject):
        big_file(bench, subject)
    return anonymous_bytes(subject.daemon.pid) / 1e6


def dram_a_frame(bench, subject):
    """What a full tier takes more than one of a quarter, after the same writes, without the overlay, which is bounded."""
    taken = []
    for tier_bytes in bench.tier_bytes, bench.tier_bytes // 4:
        with Vemsfuse(bench, f"{subject.name}-{tier_bytes >> 20}-{bench.round}", subject.transport, tier_bytes) as fresh:
            fio(f"--filename={os.path.join(fresh.dir, 'big')}", "--rw=write", "--bs=1M", f"--size={bench.tier_bytes * 5 // 4}")
            said = fresh.stats()
            taken.append((anonymous_bytes(fresh.daemon.pid) - said["overlay_bytes"], said["frames_total"]))
    (bytes, frames), (bytes_quarter, frames_quarter) = taken
    return (bytes - bytes_quarter) / (frames - frames_quarter)


def mount_again(bench, subject):
    began = time.monotonic()
    subject.unmount()
    subject.mount()
    return time.monotonic() - began


def recovery(bench, subject):
    """Half of the frames dirty."""
    fio(f"--filename={os.path.join(subject.dir, 'dirty')}", "--rw=randwrite", "--bs=4k", f"--size={subject.tier_bytes // 2}", pinned=False)
    subject.kill()
    subject.mount()
    return subject.stats()["recovery_ms"]


def restart(bench, subject, bs, what):
    """All frames dirty that may be; from the command to the mount's answer."""
    def measure():
        with FullTier(bench, f"{subject.name}-{bs}-{bench.round}", subject.transport) as full:
            size = (full.stats()["frames_total"] * 7 // 8 - 1024) * 4096
            fio(f"--filename={os.path.join(full.dir, 'dirty')}", f"--rw={'write' if bs == '1M' else 'randwrite'}", f"--bs={bs}",
                f"--size={size}", pinned=False)
            full.kill()
            return {"answers": full.mount() * 1000, "CPU": cpu_seconds(full.daemon.pid) * 1000, "recovery": full.stats()["recovery_ms"]}
    return once_a_round(bench, subject, ("restart", bs), measure)[what]


def rows(bench):
    for rw in "randread", "randwrite":
        yield Row("cost", f"CPU of the daemon, 4k {rw.replace('rand', '')}", "us/op", partial(cpu, rw=rw),
                  of=lambda subject: subject.daemon, seconds=bench.seconds + 0.7)
    yield Row("cost", "DRAM of the daemon", "MB", dram, of=lambda subject: subject.daemon and not subject.memory, seconds=1)
    yield Row("cost", "DRAM of the daemon, a frame", "bytes", dram_a_frame, of=is_vemsfuse, seconds=bench.tier_bytes / 1e8)
    yield Row("cost", "unmount and mount again", "s", mount_again, of=is_vemsfuse, seconds=1)
    yield Row("cost", "recovery after kill -9", "ms", recovery, of=is_vemsfuse, seconds=3)
    for bs in "1M", "4k":
        for what in "answers", "recovery", "CPU":
            yield Row("restart", f"full tier, {bs} writes: {what}", "ms", partial(restart, bs=bs, what=what), of=is_vemsfuse,
                      seconds=10 if what == "answers" else 0)
