#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# One file of as many links as there may be, all in one directory, with others beside them if VEMS_E2E_ENTRIES
# says more (65000 by default): a listing that others change meanwhile has each untouched entry once, and a position
# in it (telldir, seekdir) stays what it was, through kill -9 as well.
. "$(dirname "$0")/lib.sh"
need python3
entries=${VEMS_E2E_ENTRIES:-65000}

listing() { # MODE
	python3 - "$MNT/dir" "$DIR/positions" "$1" <<'PY'
import ctypes, os, pickle, random, struct, subprocess, sys

top, positions, mode = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = ctypes.c_void_p, ctypes.c_long
for f in libc.readdir, libc.telldir, libc.closedir:
    f.argtypes = ctypes.c_void_p,
NAME = 19  # where it begins in a struct dirent

def read(d):
    entry = libc.readdir(d)
    return ctypes.string_at(entry + NAME).decode() if entry else None

def untouched(name):
    return name[0] == "n" and int(name[1:]) % 10

# What others do all the while: in the directory, names of their own and every tenth of those that are listed.
churn = '''
import os, random, sys
os.chdir(sys.argv[1])
tenth = [n for n in os.listdir(".") if n[0] == "n" and not int(n[1:]) % 10]
while True:
    i = random.randrange(1000)
    os.close(os.open(f"x{i}", os.O_CREAT | os.O_WRONLY))
    os.rename(f"x{i}", f"y{i}")
    os.unlink(f"y{i}")
    n = random.choice(tenth)
    os.rename(n, f"z{n}")
    os.rename(f"z{n}", n)
'''

d = libc.opendir(top.encode())
if mode == "note":
    noted = []
    while True:
        at, name = libc.telldir(d), read(d)
        if not name:
            break
        noted.append((at, name))
    with open(positions, "wb") as f:
        pickle.dump(noted, f)
with open(positions, "rb") as f:
    noted = pickle.load(f)
names = sorted(n for _, n in noted if untouched(n))
following = [None] * (len(noted) + 1)  # the first untouched one from there on
for i in reversed(range(len(noted))):
    following[i] = noted[i][1] if untouched(noted[i][1]) else following[i + 1]

others = [subprocess.Popen([sys.executable, "-c", churn, top]) for _ in range(2)] if mode == "note" else []
try:
    libc.rewinddir(ctypes.c_void_p(d))
    seen = sorted(n for n in iter(lambda: read(d), None) if untouched(n))
    assert seen == names, f"{len(seen)} untouched entries listed, {len(set(seen))} of them different; there are {len(names)}"
    for i in random.Random(3).sample(range(len(noted)), 200):
        libc.seekdir(d, noted[i][0])
        name = read(d)
        while name and not untouched(name):
            name = read(d)
        assert name == following[i], f"position {noted[i][0]}: {name}, not {following[i]}"
    assert all(o.poll() is None for o in others), "who changes the directory has failed"
finally:
    for o in others:
        o.terminate()
        o.wait()
PY
}

make_pair 32 256
mount_fs
sync_fs
empty=$(counter blocks_free)
is_empty() { sync_fs && [ "$(counter blocks_free)" = "$empty" ]; }

step "links of one file"
python3 - "$MNT" "$entries" <<'PY'
import errno, os, sys
os.chdir(sys.argv[1])
LINKS = 65000
os.close(os.open("file", os.O_CREAT | os.O_WRONLY))
os.mkdir("dir")
for i in range(1, LINKS):
    os.link("file", f"dir/n{i}")
assert os.stat("file").st_nlink == LINKS
for _ in range(2):
    try:
        os.link("file", "dir/n0")
        raise AssertionError(f"{LINKS + 1} links")
    except OSError as e:
        assert e.errno == errno.EMLINK, e
    assert os.stat("file").st_nlink == LINKS
    os.unlink("dir/n1")
    os.link("file", "dir/n1")
for i in range(LINKS, int(sys.argv[2])):
    os.close(os.open(f"dir/n{i}", os.O_CREAT | os.O_WRONLY))
PY

step "a listing, while others change the directory"
listing note
step "the same positions after kill -9"
kill9
mount_fs
listing again
equal "$(stat -c %h "$MNT/file")" 65000 "links after kill -9"

step "all of them go"
rm -r "$MNT/dir"
equal "$(stat -c %h "$MNT/file")" 1 "links"
rm "$MNT/file"
until_true 20 is_empty || fail "$empty blocks were free before, $(counter blocks_free) after everything was deleted"
unmount_fs
fsck_fs
