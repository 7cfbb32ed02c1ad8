# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces of what real programs do to their files, by strace: those below the directory where they run."""
import os
import re
import shutil
import subprocess
import tempfile

PAGE = 4096

SQLITE = """
import bisect, random, sqlite3
rng = random.Random(5)
db = sqlite3.connect("db", isolation_level=None)
db.execute("pragma journal_mode=wal"); db.execute("pragma cache_size=64"); db.execute("pragma mmap_size=0")
db.execute("create table t(a integer primary key, b text, c int)"); db.execute("create index i on t(c)")
rows = 200000
db.execute("begin")
for n in range(rows):
    db.execute("insert into t values(?,?,?)", (n, "%0200d" % n, rng.randrange(rows)))
db.execute("commit")
total, sums = 0.0, []
for rank in range(rows):
    total += (rank + 1) ** -0.9
    sums.append(total)
place = list(range(rows)); rng.shuffle(place)
def key():
    return place[bisect.bisect(sums, rng.random() * total)]
for n in range(12000):
    if n % 10 < 6:
        db.execute("select b from t where a=?", (key(),)).fetchall()
    elif n % 10 < 7:
        db.execute("select b from t where c between ? and ?+5", (n * 7, n * 7)).fetchall()
    else:
        db.execute("update t set c=?, b=? where a=?", (rng.randrange(rows), "%0200d" % n, key()))
    if n % 4000 == 3999:
        db.execute("select sum(length(b)) from t").fetchall()
"""

MAIL = """
import os, random
rng = random.Random(6)
for box in range(40):
    os.makedirs("box%d/new" % box); os.makedirs("box%d/cur" % box)
live = []
for n in range(24000):
    box = min(int(rng.expovariate(0.12)), 39)
    name = "box%d/new/%d" % (box, n)
    with open(name + ".tmp", "wb") as f:
        f.write(bytes(min(int(rng.paretovariate(1.1) * 2500), 400000)))
    os.rename(name + ".tmp", name)
    with open("box%d/index" % box, "ab") as f:
        f.write(bytes(64))
    live.append(name)
    for _ in range(2):
        back = min(int(rng.expovariate(1 / 400)), len(live) - 1)
        name = live[-1 - back]
        if "/new/" in name and rng.random() < 0.5:
            seen = name.replace("/new/", "/cur/")
            os.rename(name, seen)
            live[-1 - back] = name = seen
        open(name, "rb").read()
    if n % 10 == 0:
        open("box%d/index" % box, "rb").read()
    while len(live) > 6000:
        os.unlink(live.pop(int(rng.random() ** 2 * 5000)))
    if n % 6000 == 5999:
        for name in live:
            open(name, "rb").read()
"""

HOT = """
import os, random, subprocess
rng = random.Random(7)
fd = os.open("hot", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes(16 << 20), 0)
scans = [["tar", "cf", "t.tar", "tree"], ["cat", "t.tar"], ["rsync", "-a", "tree/", "copy/"], ["rsync", "-ac", "tree/", "copy/"],
         ["tar", "xf", "t.tar", "-C", "out"], ["grep", "-r", "nowhere", "tree"], ["rm", "-r", "copy"]]
os.mkdir("out")
for n in range(21):
    scan = subprocess.Popen(scans[n % 7], stdout=subprocess.DEVNULL)
    while scan.poll() is None or rng.random() < 0.999:
        page = min(int(rng.paretovariate(0.5)) - 1, 4095) * 2654435761 % 4096
        if rng.random() < 0.2:
            os.pwrite(fd, bytes(4096), page * 4096)
        else:
            os.pread(fd, 4096, page * 4096)
"""

SORT = """
import random
rng = random.Random(8)
with open("lines", "w") as f:
    for n in range(600000):
        f.write("%016x %d some more text to make it long enough\\n" % (rng.getrandbits(64), n))
"""

LSM = """
import bisect, heapq, os, random
# What a store of sorted runs does: writes a log and runs, merges four runs into one of the next level, deletes the old
# ones, and reads by popularity through an index block and a data block of each run.
rng = random.Random(9)
levels, number = [[], [], [], []], 0
def write(blocks):
    global number
    number += 1
    with open("run%d" % number, "wb") as f:
        for _ in range(blocks):
            f.write(bytes(4096))
    return number, blocks, os.open("run%d" % number, os.O_RDONLY)
def compact(level):
    blocks = 0
    for _, n, fd in levels[level]:
        for at in range(0, n, 16):
            os.pread(fd, 65536, at * 4096)
        blocks += n
    new = write(int(blocks * (0.95 if level == 2 else 1)))
    for number, _, fd in levels[level]:
        os.close(fd); os.unlink("run%d" % number)
    levels[level] = []
    levels[level + 1].append(new)
def popular(n):
    return int(n * rng.random() ** 4)
log = open("log", "wb")
for n in range(60000):
    if n % 3 == 0:
        log.write(bytes(512)); log.flush()
    if n % 600 == 599:
        levels[0].append(write(80))
        log.close(); log = open("log", "wb")
        for level in range(3):
            if len(levels[level]) >= 4 and (level < 2 or len(levels[2]) >= 6):
                compact(level)
    key = popular(1 << 20)
    for level in levels:
        for _, blocks, fd in reversed(level):
            os.pread(fd, 4096, (blocks - 1 - key % 4096 * (blocks // 64 + 1) // 4096) * 4096)
            if rng.random() < 0.3:
                os.pread(fd, 4096, key * 2654435761 % (1 << 20) * blocks // (1 << 20) * 4096)
                break
"""

PGBENCH = """
echo "shared_buffers=1MB
autovacuum_naptime=20s
max_wal_size=64MB
min_wal_size=32MB
unix_socket_directories='$PWD'
listen_addresses=''
fsync=off" >>data/postgresql.conf
postgres -D data & server=$!
until pgbench -h $PWD -n -i -I d postgres; do sleep 0.5; done
pgbench -h $PWD -q -i -s 8 postgres
pgbench -h $PWD -n -c 2 -t 2500 postgres
echo '\\set a random_zipfian(1, 800000, 1.05)
select abalance from pgbench_accounts where aid = :a;' >zipf
pgbench -h $PWD -n -c 1 -t 12000 -f zipf -f zipf postgres
pgbench -h $PWD -n -c 2 -t 1500 postgres
kill -INT $server; wait
"""


def python(text):
    return "python3 - <<'END'\n" + text + "\nEND\n"


# What is made ready before, and what is recorded. {top}: this repository.
PROGRAMS = {
    "git": ("", "git clone -q --no-local {top} r; cd r; git log -p -60; git gc -q; git grep store; git log --stat | tail -1;"
            "for i in 1 2 3 4 5 6 7 8; do git checkout -q HEAD~15; git status; git grep -c tier; done; git repack -adfq; git fsck"),
    "sqlite": ("", python(SQLITE)),
    "build": ("git clone -q {top} b", "cd b; meson setup o; ninja -C o; touch include/vems/format.h; ninja -C o;"
              "meson setup o2 --buildtype=release; ninja -C o2; rm -rf o o2"),
    "scans": ("git clone -q {top} tree; cp -r /usr/include/linux /usr/include/c++ tree/", python(HOT)),
    "grep": ("git clone -q {top} r; mkdir i; cp -r /usr/include \"$(python3 -c 'import sysconfig; print(sysconfig.get_path(\"stdlib\"))')\" i/;"
             "cp -r i/include/linux hot",
             "for i in 1 2 3 4 5; do grep -rc page i; grep -rl store r hot; grep -r frame hot r; grep -rl int hot;"
             "for f in hot/*.h; do echo >>$f; done; done"),
    "mail": ("", python(MAIL)),
    "sort": ("", python(SORT) + "sort -S 2M --parallel=1 -T . -o sorted lines; join lines sorted; sort -m -T . lines sorted -o both;"
             "uniq both; sort -S 4M --parallel=1 -T . -k2n sorted -o back; comm lines back; rm both; wc lines sorted back"),
    "lsm": ("", python(LSM)),
    "ext4": ("cp -r /usr/include/linux d; git clone -q {top} d/r",
             "mke2fs -q -t ext4 -d d image 256M; e2fsck -fy image; tune2fs -O ^has_journal image; e2fsck -fD -y image;"
             "for i in 1 2 3; do debugfs -R 'ls -l /' image; debugfs -w -R 'rm /xfs.h' image; e2fsck -fy image; done;"
             "resize2fs image 200M; resize2fs -M image; e2fsck -fy image; debugfs -R 'rdump / out' image; e2image -r image meta"),
    "pgbench": ("initdb -D data", PGBENCH),
}
NEEDS = {"pgbench": "postgres", "ext4": "debugfs", "scans": "rsync"}
CALLS = ("read,readv,write,writev,pread64,preadv,pwrite64,pwritev,lseek,mmap,close,openat,unlink,unlinkat,rename,renameat,"
         "renameat2,ftruncate,copy_file_range")


class Recorder:
    """Lines of strace as accesses of pages. A mapping counts as read once, from end to end."""

    whole = re.compile(r"^(\d+) +(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+)(?:<(.*)>)?")
    begun = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
    ended = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
    file = re.compile(r"^-?\d+<(/[^>]*)>")
    name = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"')

    def __init__(self, place):
        self.place = place + "/"
        self.number, self.count = {}, 0 # of the objects, by path
        self.size, self.at, self.parts = {}, {}, {}

    def lines(self, lines):
        for line in lines:
            m = self.begun.match(line)
            if m:
                self.parts[m.group(1)] = m.group(2)
                continue
            m = self.ended.match(line)
            if m:
                line = m.group(1) + " " + self.parts.pop(m.group(1), "") + m.group(2)
            m = self.whole.match(line)
            if m and not m.group(4).startswith("-"):
                yield from self.call(m.group(1), m.group(2), m.group(3), int(m.group(4), 0), m.group(5))

    def object(self, path):
        if path not in self.number:
            self.count += 1
            self.number[path] = self.count
        return self.number[path]

    def moved(self, what, path, offset, size):
        if size > 0 and path.startswith(self.place):
            first, last = offset // PAGE, (offset + size - 1) // PAGE
            self.size[path] = max(self.size.get(path, 0), offset + size)
            yield what, self.object(path), first, last - first + 1

    def gone(self, path, size=0):
        if path in self.number:
            first, end = ((n + PAGE - 1) // PAGE for n in (size, self.size.get(path, 0)))
            if first < end:
                yield "d", self.number[path], first, end - first
            self.size[path] = size
            if first == 0:
                del self.number[path]

    def names(self, args):
        return [os.path.normpath(os.path.join(at or self.place, name)) for at, name in self.name.findall(args)]

    def call(self, pid, call, args, result, opened):
        parts = args.split(", ")
        if call == "openat":
            if opened and opened.startswith(self.place):
                if "O_TRUNC" in args:
                    yield from self.gone(opened)
                self.at[pid, "%d<%s>" % (result, opened)] = self.size.get(opened, 0) if "O_APPEND" in args else 0
        elif call.startswith("unlink"):
            for path in self.names(args):
                yield from self.gone(path)
        elif call.startswith("rename"):
            paths = self.names(args)
            if len(paths) == 2 and paths[0] in self.number:
                yield from self.gone(paths[1])
                self.number[paths[1]] = self.number.pop(paths[0])
                self.size[paths[1]] = self.size.pop(paths[0], 0)
        elif call == "copy_file_range":
            yield from self.sequential(pid, "r", parts[0], result)
            yield from self.sequential(pid, "w", parts[2], result)
        else:
            yield from self.data(pid, call, parts, result)

    def sequential(self, pid, what, fd, size):
        at = self.at.get((pid, fd), 0)
        f = self.file.match(fd)
        if f:
            yield from self.moved(what, f.group(1), at, size)
            self.at[pid, fd] = at + size

    def data(self, pid, call, parts, result):
        f = self.file.match(parts[4] if call == "mmap" and len(parts) > 5 else parts[0])
        what = "w" if "write" in call else "r"
        if not f:
            return
        if call == "mmap":
            yield from self.moved("r", f.group(1), int(parts[5], 0), int(parts[1], 0))
        elif call == "ftruncate":
            yield from self.gone(f.group(1), int(parts[1]))
        elif call.startswith("p"):
            yield from self.moved(what, f.group(1), int(parts[-1], 0), result)
        elif call == "lseek":
            self.at[pid, parts[0]] = result
        elif call == "close":
            self.at.pop((pid, parts[0]), None)
        else:
            yield from self.sequential(pid, what, parts[0], result)


def last_line(text):
    return text.strip().rpartition("\n")[2] or "nothing was said"


def record(program, top, directory):
    """The trace's path; None where the program is not there or does not run, which is said."""
    for needed in ("strace", NEEDS.get(program, "sh")):
        if not shutil.which(needed):
            print("# %s: not recorded, there is no %s" % (program, needed))
            return None
    before, script = (text.replace("{top}", top) for text in PROGRAMS[program])
    path, said = os.path.join(directory, "real-" + program), os.path.join(directory, "strace")
    user = ["-u", "nobody"] if os.geteuid() == 0 and program == "pgbench" else []
    with tempfile.TemporaryDirectory(dir=directory) as place:
        if user:
            shutil.chown(place, "nobody")
        quiet = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "errors": "replace",
                 "env": dict(os.environ, GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")}
        ready = subprocess.run((["setpriv", "--reuid=nobody", "--clear-groups"] if user else []) + ["sh", "-ec", before], **quiet)
        if ready.returncode:
            print("# %s: not recorded, its files cannot be made: %s" % (program, last_line(ready.stderr)))
            return None
        # How it ends says nothing: a grep that finds nothing, a comm that finds something.
        ran = subprocess.run(["strace", *user, "-f", "--seccomp-bpf", "-y", "-s", "0", "-e", "signal=none", "-e", "trace=" + CALLS,
                        "-o", said, "sh", "-c", script], **quiet)
        recorder = Recorder(place)
        with open(said, errors="replace") as lines, open(path, "w") as trace:
            trace.writelines("%s %d %d %d\n" % access for access in recorder.lines(lines))
    os.unlink(said)
    if not os.path.getsize(path):
        print("# %s: not recorded, it has touched nothing: %s" % (program, last_line(ran.stderr)))
        return None
    return path
