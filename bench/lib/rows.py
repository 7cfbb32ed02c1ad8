# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured of each subject: a row is a name, a unit and a function of the subject. Groups of rows are
set up once a subject and run round by round."""
import json
import os
import re
import shutil
import subprocess
import time

from .subjects import FullTier, Raw, Unavailable, Vemsfuse, need, run

ROWS = []  # (group, name, unit, function)


def row(group, name, unit, **fixed):
    """Registers a function of (bench, subject); all units but those in LESS are the better the more."""
    def measure(function, bench, subject):
        if group != "tier" and isinstance(subject, Raw):
            raise Unavailable("a device, not a file system")
        return function(bench, subject, **fixed)

    def register(function):
        ROWS.append((group, name, unit, lambda bench, subject: measure(function, bench, subject)))
        return function
    return register


LESS = {"s", "us", "ms", "us/op", "bytes"}


def fio(bench, *options, pinned=True, seconds=None):
    command = ["taskset", "-c", "0"] if pinned else []
    command += ["fio", "--output-format=json", "--ioengine=psync", "--randrepeat=1", "--group_reporting", "--fallocate=none",
                "--name=x", *options]
    seconds = bench.seconds if seconds is None else seconds
    if seconds:
        command += ["--time_based", f"--runtime={seconds}"]
    return json.loads(run(*command).stdout)["jobs"][0]


def side(job):
    return job["read"] if job["read"]["total_ios"] else job["write"]


# ---- data: hits -------------------------------------------------------------------------------------------

def hot_file(bench, subject):
    path = os.path.join(subject.dir, "hot")
    if not os.path.exists(path):
        fio(bench, f"--filename={path}", "--rw=write", "--bs=1M", f"--size={bench.hot_bytes}", "--end_fsync=1", seconds=0)
    for _ in range(3): # what is larger than the tier may have displaced it since the last round
        run("dd", f"if={path}", "of=/dev/null", "bs=1M")
    return path


def data(bench, subject, rw, bs, jobs, pinned):
    write = "write" in rw
    options = subject.durable if write else subject.direct
    job = side(fio(bench, f"--filename={hot_file(bench, subject)}", f"--size={bench.hot_bytes}", f"--rw={rw}", f"--bs={bs}",
                   f"--numjobs={jobs}", *options, pinned=pinned))
    return job["bw_bytes"] / 1e6 if bs == "1M" else job["iops"]


for jobs, pinned in (1, True), (1, False), (2, False):
    for rw, bs in ("randread", "4k"), ("randwrite", "4k"), ("randread", "512"), ("randwrite", "512"), ("read", "1M"), ("write", "1M"):
        label = f"{bs} {rw.replace('rand', '')} {jobs} job{'s' if jobs > 1 else ''}{', pinned' if pinned else ''}"
        row("data" if pinned else "jobs", label, "MB/s" if bs == "1M" else "/s", rw=rw, bs=bs, jobs=jobs, pinned=pinned)(data)


@row("data", "4k write + fsync", "/s")
def write_fsync(bench, subject):
    return side(fio(bench, f"--filename={hot_file(bench, subject)}", f"--size={bench.hot_bytes}", "--rw=randwrite", "--bs=4k",
                    "--fsync=1", *subject.direct))["iops"]


@row("jobs", "4k read, 1000 files", "/s")
def many_files(bench, subject):
    place = os.path.join(subject.dir, "many")
    os.makedirs(place, exist_ok=True)
    return side(fio(bench, f"--directory={place}", "--nrfiles=1000", "--size=64M", "--rw=randread", "--bs=4k", *subject.direct))["iops"]


# ---- names --------------------------------------------------------------------------------------------------

def names(bench, subject, what):
    """All of them are measured when the first is asked for."""
    key = (subject.name, "names", bench.round)
    if key not in bench.cache:
        place = os.path.join(subject.dir, "names")
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        said = run("taskset", "-c", "0", bench.program("bench/bench-names"), place, bench.files).stdout
        bench.cache[key] = {name: float(value) for name, value in (line.split() for line in said.splitlines())}
    return bench.cache[key][what]


for call in "create", "stat", "readdir", "rename", "unlink":
    row("names", call, "/s", what=call)(names)


@row("names", "mail: 4 KiB file + fsync", "/s")
def mail(bench, subject):
    place = os.path.join(subject.dir, "mail")
    os.makedirs(place, exist_ok=True)
    said = run("taskset", "-c", "0", bench.program("bench/bench-names"), "--mail", place, max(bench.files // 20, 200)).stdout
    return float(said.split()[1])


# ---- programs -----------------------------------------------------------------------------------------------

def fresh(subject, name):
    place = os.path.join(subject.dir, name)
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    return place


def seconds_of(*command, **more):
    began = time.monotonic()
    run(*command, **more)
    return time.monotonic() - began


@row("programs", "untar /usr/include", "s")
def untar(bench, subject):
    archive = os.path.join(bench.fast, "include.tar")
    if not os.path.exists(archive):
        run("tar", "cf", archive, "-C", "/usr", "include")
    return seconds_of("tar", "xf", archive, "-C", fresh(subject, "untar"))


@row("programs", "rm -r of it", "s")
def remove(bench, subject):
    return seconds_of("rm", "-r", os.path.join(subject.dir, "untar"))


@row("programs", "git clone", "s")
def clone(bench, subject):
    return seconds_of("git", "clone", "-q", "--no-local", bench.top, os.path.join(fresh(subject, "clone"), "r"))


@row("programs", "build of vemsfuse's store", "s")
def build(bench, subject):
    place = fresh(subject, "build")
    run("git", "clone", "-q", "--no-local", bench.top, os.path.join(place, "r"))
    run("meson", "setup", os.path.join(place, "o"), os.path.join(place, "r"))
    return seconds_of("ninja", "-C", os.path.join(place, "o"), "src/store/libstore.a")


def sqlite(bench, subject, mode):
    path = os.path.join(fresh(subject, "sqlite"), "db")
    count = bench.transactions
    sql = [f"pragma journal_mode={mode}; pragma synchronous=full; create table t(a integer primary key, b text);"]
    sql += [f"insert into t values({i}, hex(randomblob(200)));" for i in range(count)]
    return count / seconds_of(need("sqlite3"), path, input="\n".join(sql))


for mode in "wal", "delete":
    row("programs", f"SQLite FULL, {mode}", "/s", mode=mode)(sqlite)


@row("programs", "pgbench", "/s")
def pgbench(bench, subject):
    programs = sorted(p for p in os.listdir("/usr/lib/postgresql")) if os.path.isdir("/usr/lib/postgresql") else []
    if not programs or os.geteuid():
        raise Unavailable("PostgreSQL is not installed, or this is not root")
    binaries = f"/usr/lib/postgresql/{programs[-1]}/bin"
    place = fresh(subject, "pg")
    os.chmod(subject.place, 0o755)
    os.chmod(bench.disk, 0o755)
    shutil.chown(place, "postgres", "postgres")
    sock = os.path.join(bench.fast, "pgsock")
    os.makedirs(sock, exist_ok=True)
    shutil.chown(sock, "postgres", "postgres")

    def pg(program, *options):
        return run("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", os.path.join(binaries, program), *options,
                   cwd="/").stdout
    db = os.path.join(place, "db")
    pg("initdb", "-D", db, "-A", "trust")
    pg("pg_ctl", "-D", db, "-w", "-l", os.path.join(place, "log"), "-o", f"-c listen_addresses='' -k {sock}", "start")
    try:
        pg("pgbench", "-h", sock, "-i", "-q", "-s", "5", "postgres")
        said = pg("pgbench", "-h", sock, "-T", str(bench.seconds), "-c", "2", "postgres")
    finally:
        pg("pg_ctl", "-D", db, "-w", "-m", "fast", "stop")
    return float(re.search(r"tps = ([\d.]+)", said).group(1))


@row("programs", "dbench 2", "MB/s")
def dbench(bench, subject):
    said = run(need("dbench"), "-D", fresh(subject, "dbench"), "-t", str(bench.seconds), "2").stdout
    return float(re.search(r"Throughput ([\d.]+)", said).group(1))


# ---- more than the tier: vemsfuse and the raw device -------------------------------------------------------------

def big_file(bench, subject):
    """Four times the tier."""
    path, size = os.path.join(subject.dir, "big"), 4 * bench.tier_bytes
    if not os.path.exists(path):
        fio(bench, f"--filename={path}", "--rw=write", "--bs=1M", f"--size={size}", seconds=0)
        if isinstance(subject, Vemsfuse):
            run(bench.program("vemsctl"), "sync", subject.dir)
    return path, size


def beyond(bench, subject, rw, bs, more):
    if subject.name in ("tmpfs", "null-uring", "null-dev"):
        raise Unavailable("it is all memory")
    path, size = big_file(bench, subject)
    direct = subject.direct if "read" in rw else subject.durable
    job = side(fio(bench, f"--filename={path}", f"--size={size}", f"--rw={rw}", f"--bs={bs}", *direct, *more, pinned=False))
    return job["bw_bytes"] / 1e6 if bs == "1M" else job["iops"]


for rw, bs, more, label in (("randread", "4k", [], "4k read of 4 x tier"), ("randwrite", "4k", [], "4k write of 4 x tier"),
                            ("randread", "4k", ["--random_distribution=zipf:0.9"], "4k read of 4 x tier, zipf 0.9"),
                            ("read", "1M", [], "stream read of 4 x tier"), ("write", "1M", [], "stream write of 4 x tier")):
    row("tier", label, "MB/s" if bs == "1M" else "/s", rw=rw, bs=bs, more=more)(beyond)


@row("tier", "worst second of a burst of 2 x tier", "MB/s")
def burst(bench, subject):
    if not isinstance(subject, Vemsfuse):
        raise Unavailable("of vemsfuse alone")
    log = os.path.join(bench.fast, "burst")
    job = side(fio(bench, f"--filename={os.path.join(subject.dir, 'burst')}", "--rw=write", "--bs=256k", f"--size={2 * subject.tier_bytes}",
                   f"--write_bw_log={log}", "--log_avg_msec=1000", pinned=False, seconds=0))
    with open(log + "_bw.1.log") as lines:
        rates = [int(line.split(",")[1]) for line in lines]
    os.unlink(os.path.join(subject.dir, "burst"))
    return min(rates) * 1024 / 1e6 if rates else job["bw_bytes"] / 1e6 # it was over within a second


def latency(bench, subject, percentile, busy):
    """Of 4 KiB hits, with and without full write-back beside them."""
    if not isinstance(subject, Vemsfuse):
        raise Unavailable("of vemsfuse alone")
    key = (subject.name, "latency", busy, bench.round)
    if key not in bench.cache:
        writer = None
        if busy:
            path = os.path.join(subject.dir, "writer")
            writer = subprocess.Popen(["fio", "--name=w", f"--filename={path}", "--rw=write", "--bs=256k", "--ioengine=psync",
                                       f"--size={2 * subject.tier_bytes}", "--time_based", f"--runtime={bench.seconds + 3}"],
                                      stdout=subprocess.DEVNULL)
            time.sleep(2)
        job = side(fio(bench, f"--filename={hot_file(bench, subject)}", f"--size={bench.hot_bytes}", "--rw=randread", "--bs=4k"))
        if writer:
            writer.wait()
            os.unlink(path)
        bench.cache[key] = job["clat_ns"]["percentile"]
    return bench.cache[key][percentile] / 1000


for busy in False, True:
    for percentile in "50.000000", "99.000000", "99.900000":
        label = f"hit p{float(percentile):g}{', under write-back' if busy else ''}"
        row("latency", label, "us", percentile=percentile, busy=busy)(latency)


# ---- what it costs -------------------------------------------------------------------------------------------------

def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@row("cost", "CPU of the daemon, 4k write", "us/op")
def cpu(bench, subject):
    if not subject.daemon:
        raise Unavailable("no daemon")
    before = cpu_seconds(subject.daemon.pid)
    job = fio(bench, f"--filename={hot_file(bench, subject)}", f"--size={bench.hot_bytes}", "--rw=randwrite", "--bs=4k", *subject.durable)
    return (cpu_seconds(subject.daemon.pid) - before) * 1e6 / side(job)["total_ios"]


def anonymous_bytes(pid):
    return int(re.search(r"RssAnon:\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1)) * 1024


@row("cost", "DRAM of the daemon, a frame", "bytes")
def dram(bench, subject):
    if not isinstance(subject, Vemsfuse):
        raise Unavailable("of vemsfuse alone")
    big_file(bench, subject)
    return anonymous_bytes(subject.daemon.pid) / subject.stats()["frames_total"]


@row("cost", "unmount and mount again", "s")
def mount_again(bench, subject):
    if not isinstance(subject, Vemsfuse):
        raise Unavailable("of vemsfuse alone")
    began = time.monotonic()
    subject.unmount_served()
    subject.mount()
    return time.monotonic() - began


@row("cost", "recovery after kill -9", "ms")
def recovery(bench, subject):
    if not isinstance(subject, Vemsfuse):
        raise Unavailable("of vemsfuse alone")
    fio(bench, f"--filename={os.path.join(subject.dir, 'dirty')}", "--rw=randwrite", "--bs=4k", f"--size={subject.tier_bytes // 2}",
        pinned=False, seconds=0)
    subject.kill()
    subject.mount()
    return subject.stats()["recovery_ms"]


# ---- a full tier started again after kill -9 ------------------------------------------------------------------------

def restart(bench, subject, bs, what):
    """All frames dirty that may be; from the command to the mount's answer."""
    if not isinstance(subject, Vemsfuse):
        raise Unavailable("of vemsfuse alone")
    key = (subject.name, "restart", bs, bench.round)
    if key not in bench.cache:
        full = FullTier(bench, f"{subject.name}-{bs}-{bench.round}", subject.transport)
        try:
            full.start()
            size = (full.stats()["frames_total"] * 7 // 8 - 1024) * 4096
            fio(bench, f"--filename={os.path.join(full.dir, 'dirty')}", f"--rw={'write' if bs == '1M' else 'randwrite'}", f"--bs={bs}",
                f"--size={size}", pinned=False, seconds=0)
            full.kill()
            began = time.monotonic()
            full.mount()
            answers = (time.monotonic() - began) * 1000
            bench.cache[key] = {"answers": answers, "CPU": cpu_seconds(full.daemon.pid) * 1000,
                                "recovery": full.stats()["recovery_ms"]}
        finally:
            full.stop()
    return bench.cache[key][what]


for bs in "1M", "4k":
    for what in "answers", "recovery", "CPU":
        row("restart", f"full tier, {bs} writes: {what}", "ms", bs=bs, what=what)(restart)
