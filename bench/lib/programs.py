# SPDX-License-Identifier: GPL-2.0-or-later
"""What people run: archives, git, a compiler, databases; and how many requests of the kernel that takes."""
import os
import re
import shutil
from functools import partial

from . import requests
from .rows import Row, fresh, seconds_of
from .subjects import Unavailable, need, need_root, run


def archive(bench):
    path = os.path.join(bench.fast, "include.tar")
    if not os.path.exists(path):
        run("tar", "cf", path, "-C", "/usr", "include")
    return path


def untar(bench, subject):
    return seconds_of("tar", "xf", archive(bench), "-C", fresh(subject, "untar"))


def remove(bench, subject):
    return seconds_of("rm", "-r", os.path.join(subject.dir, "untar"))


def source(bench):
    if not os.path.exists(os.path.join(bench.top, ".git")):
        raise Unavailable("this is not a clone of the repository")
    return bench.top


def clone(bench, subject):
    return seconds_of(need("git"), "clone", "-q", "--no-local", source(bench), os.path.join(fresh(subject, "clone"), "r"))


def build(bench, subject):
    place = fresh(subject, "build")
    run(need("git"), "clone", "-q", "--no-local", source(bench), os.path.join(place, "r"))
    run(need("meson"), "setup", os.path.join(place, "o"), os.path.join(place, "r"))
    return seconds_of("ninja", "-C", os.path.join(place, "o"), "src/store/libstore.a")


def sqlite(bench, subject, mode):
    path, count = os.path.join(fresh(subject, "sqlite"), "db"), bench.transactions
    sql = [f"pragma journal_mode={mode}; pragma synchronous=full; create table t(a integer primary key, b text);"]
    sql += [f"insert into t values({i}, hex(randomblob(200)));" for i in range(count)]
    return count / seconds_of(need("sqlite3"), path, input="\n".join(sql))


def pgbench(bench, subject):
    need_root("PostgreSQL, which runs as its own user,")
    home = "/usr/lib/postgresql"
    versions = sorted(os.listdir(home), key=lambda v: [int(n) for n in re.findall(r"\d+", v)]) if os.path.isdir(home) else []
    if not versions or not os.path.exists(os.path.join(home, versions[-1], "bin/initdb")):
        raise Unavailable("postgresql is not installed")
    place = fresh(subject, "pg")
    socket = os.path.join(bench.fast, "pgsock")
    os.makedirs(socket, exist_ok=True)
    os.chmod(subject.place, 0o755)
    for path in place, socket:
        shutil.chown(path, "postgres", "postgres")

    def pg(program, *options):
        return run("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", os.path.join(home, versions[-1], "bin", program),
                   *options, cwd="/").stdout
    db = os.path.join(place, "db")
    pg("initdb", "-D", db, "-A", "trust")
    try:
        pg("pg_ctl", "-D", db, "-w", "-l", os.path.join(place, "log"), "-o", f"-c listen_addresses='' -k {socket}", "start")
        pg("pgbench", "-h", socket, "-i", "-q", "-s", "5", "postgres")
        said = pg("pgbench", "-h", socket, "-T", max(1, round(bench.seconds)), "-c", "2", "postgres")
    finally:
        if os.path.exists(os.path.join(db, "postmaster.pid")):
            pg("pg_ctl", "-D", db, "-w", "-m", "fast", "stop")
    return float(re.search(r"tps = ([\d.]+)", said)[1])


def dbench(bench, subject):
    said = run(need("dbench"), "-D", fresh(subject, "dbench"), "-t", max(1, round(bench.seconds)), "2").stdout
    return float(re.search(r"Throughput ([\d.]+)", said)[1])


def requests_a_file(bench, subject, what, function, place):
    """Also by operation, in bench.series."""
    with requests.counted(bench, subject) as counts:
        function(bench, subject)
    files = sum(len(inside) + len(files) for _, inside, files in os.walk(os.path.join(subject.dir, place)))
    shutil.rmtree(os.path.join(subject.dir, place))
    each = {operation: count / files for operation, count in counts.most_common()}
    bench.series.setdefault(f"requests a file, {what}", {}).setdefault(subject.name, []).append(each)
    return sum(each.values())


def rows(bench):
    yield Row("programs", "untar /usr/include", "s", untar)
    yield Row("programs", "rm -r of it", "s", remove)
    yield Row("programs", "git clone", "s", clone)
    yield Row("programs", "build of vemsfuse's store", "s", build, seconds=15)
    for mode in "wal", "delete":
        yield Row("programs", f"SQLite FULL, {mode}", "/s", partial(sqlite, mode=mode), seconds=bench.transactions / 1500)
    yield Row("programs", "pgbench", "/s", pgbench, seconds=bench.seconds + 8)
    yield Row("programs", "dbench 2", "MB/s", dbench, seconds=bench.seconds + 4)
    for what, function, place in ("untar", untar, "untar"), ("git clone", clone, "clone"):
        yield Row("programs", f"requests a file, {what}", "requests", partial(requests_a_file, what=what, function=function, place=place),
                  of=lambda subject: subject.daemon, seconds=2)
