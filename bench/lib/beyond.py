# SPDX-License-Identifier: GPL-2.0-or-later
"""More than the tier holds: what misses, what is written back, and how steadily."""
import os
from functools import partial

from .rows import Row, big_file, fio, hot_file, is_vemsfuse, once_a_round, side, speed, speed_unit
from .subjects import Unavailable

ZIPF = "--random_distribution=zipf:0.9"


def on_disk(subject):
    return not subject.memory


def beyond(bench, subject, rw, bs):
    direct = subject.direct if "read" in rw else subject.durable
    value = speed(fio(*big_file(bench, subject), f"--rw={rw}", f"--bs={bs}", *direct, pinned=False, seconds=bench.seconds), bs)
    bench.cache[subject.name, rw, bs, bench.round] = value
    return value


def zipf(bench, subject):
    """And how that compares with its hits at the speed of hits, its misses at that of the raw disk: the times added up."""
    def measure():
        before = subject.stats() if is_vemsfuse(subject) else {}
        rate = speed(fio(*big_file(bench, subject), "--rw=randread", "--bs=4k", ZIPF, *subject.direct, pinned=False,
                         seconds=bench.seconds), "4k")
        after = subject.stats() if before else {}
        return rate, {name: after[name] - before[name] for name in ("read_hits", "read_misses") if before}
    return once_a_round(bench, subject, "zipf", measure)


def zipf_hit_rate(bench, subject):
    counts = zipf(bench, subject)[1]
    return 100 * counts["read_hits"] / sum(counts.values())


def zipf_of_prediction(bench, subject):
    rate, counts = zipf(bench, subject)
    raw = bench.cache.get(("raw", "randread", "4k", bench.round))
    if not raw:
        raise Unavailable("it takes the subject raw in the same run")
    hit = speed(fio(*hot_file(bench, subject), "--rw=randread", "--bs=4k", pinned=False, seconds=bench.seconds), "4k")
    predicted = sum(counts.values()) / (counts["read_hits"] / hit + counts["read_misses"] / raw)
    return rate / predicted


def burst(bench, subject):
    """The worst second; all of them are in bench.series."""
    path, log = os.path.join(subject.dir, "burst"), os.path.join(bench.fast, "burst")
    job = fio(f"--filename={path}", "--rw=write", "--bs=256k", f"--size={bench.burst_bytes}", f"--write_bw_log={log}",
              "--log_avg_msec=1000", *subject.durable, pinned=False)
    os.unlink(path)
    with open(log + "_bw.1.log") as lines:
        rates = [int(line.split(",")[1]) * 1024 / 1e6 for line in lines]
    os.unlink(log + "_bw.1.log")
    rates = rates or [side(job)["bw_bytes"] / 1e6] # it was over within a second
    bench.series.setdefault("burst, MB/s in each second", {}).setdefault(subject.name, []).append(rates)
    return min(rates)


def rows(bench):
    for rw, bs, name in ("randread", "4k", "4k read of 4 x tier"), ("randwrite", "4k", "4k write of 4 x tier"):
        yield Row("tier", name, speed_unit(bs), partial(beyond, rw=rw, bs=bs), of=on_disk, seconds=bench.seconds + 1)
    yield Row("tier", "4k read of 4 x tier, zipf 0.9", "/s", lambda *of: zipf(*of)[0], of=on_disk, seconds=bench.seconds + 1)
    yield Row("tier", "its hits, of all reads", "%", zipf_hit_rate, of=is_vemsfuse, seconds=0)
    yield Row("tier", "its speed, of the predicted", "x", zipf_of_prediction, of=is_vemsfuse, seconds=bench.seconds + 1)
    for rw, bs, name in ("read", "1M", "stream read of 4 x tier"), ("write", "1M", "stream write of 4 x tier"):
        yield Row("tier", name, speed_unit(bs), partial(beyond, rw=rw, bs=bs), of=on_disk, seconds=bench.seconds + 1)
    yield Row("tier", "worst second of a burst", "MB/s", burst, of=on_disk, seconds=bench.burst_bytes / 1e9)
