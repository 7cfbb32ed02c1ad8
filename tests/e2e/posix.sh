#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# POSIX, call by call: names, links, times, attributes, holes, open files, permissions, listings.
. "$(dirname "$0")/lib.sh"
need python3 setfattr getfattr

# What needs an exact errno or a descriptor held open: run in the mount's root.
calls() {
	(cd "$MNT" && python3 -) <<'PY'
import errno, os, stat

def write(path, data=b"x", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    assert os.write(fd, data) == len(data)
    os.close(fd)

def read(path):
    with open(path, "rb") as f:
        return f.read()

def fails(code, call, *args, **kw):
    try:
        call(*args, **kw)
    except OSError as e:
        assert e.errno == code, f"{call.__name__}{args}: {errno.errorcode[e.errno]}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"{call.__name__}{args}: no error, not {errno.errorcode[code]}")

# create, names
write("a", b"hello")
fails(errno.EEXIST, os.open, "a", os.O_CREAT | os.O_EXCL)
fails(errno.ENOENT, os.open, "nothing", os.O_RDONLY)
fails(errno.ENOTDIR, os.open, "a/b", os.O_RDONLY)
write("n" * 255)
fails(errno.ENAMETOOLONG, os.open, "n" * 256, os.O_CREAT)
os.unlink("n" * 255)
os.mkdir("d")
fails(errno.EEXIST, os.mkdir, "d")
fails(errno.EISDIR, os.open, "d", os.O_WRONLY)
fails(errno.ENOTDIR, os.rmdir, "a")
assert os.stat("d").st_nlink == 2 and os.stat(".").st_nlink in (1, 3)

# rename over files and directories
write("b", b"other")
keep = os.open("b", os.O_RDONLY)
os.rename("a", "b")
assert read("b") == b"hello" and not os.path.exists("a")
assert os.read(keep, 9) == b"other", "a file replaced while open keeps its data"
os.close(keep)
os.mkdir("e"); os.mkdir("f"); write("f/x")
fails(errno.ENOTEMPTY, os.rename, "e", "f")
os.rename("f", "e")
assert os.listdir("e") == ["x"]
fails(errno.EINVAL, os.rename, "e", "e/inside")
fails(errno.EISDIR, os.rename, "b", "e")
fails(errno.ENOTDIR, os.rename, "e", "b")
fails(errno.ENOTEMPTY, os.rmdir, "e")
os.rename("e", "d/e")
assert os.path.samefile("d/e/..", "d")
write("d/e/y", b"moved up"); os.rename("d/e/y", "y"); assert read("y") == b"moved up"

# links
os.link("b", "b2")
assert os.stat("b").st_nlink == 2 and os.path.samefile("b", "b2")
os.rename("b", "b2")  # two names of one file: nothing happens
assert os.path.exists("b") and os.path.exists("b2")
os.unlink("b")
assert os.stat("b2").st_nlink == 1 and read("b2") == b"hello"
fails(errno.EPERM, os.link, "d", "d2")
for n in (1, 500, 4095):
    os.symlink("t" * n, "sym")
    assert os.readlink("sym") == "t" * n and os.lstat("sym").st_size == n
    os.unlink("sym")
os.mkfifo("fifo", 0o600)
assert stat.S_ISFIFO(os.stat("fifo").st_mode)

# an unlinked open file lives on
fd = os.open("gone", os.O_CREAT | os.O_RDWR)
os.write(fd, b"still here")
os.unlink("gone")
assert os.fstat(fd).st_nlink == 0
os.pwrite(fd, b"STILL", 0); os.ftruncate(fd, 8)
assert os.pread(fd, 99, 0) == b"STILL he"
os.close(fd)
fails(errno.ENOENT, os.stat, "gone")
old = os.getcwd(); os.mkdir("gonedir"); os.chdir("gonedir"); os.rmdir("../gonedir")
fails(errno.ENOENT, os.open, "x", os.O_CREAT)
os.chdir(old)

# sizes, holes, appends: bytes past the end are zero when they come back
write("s", b"0123456789" * 1000)
os.truncate("s", 5); os.truncate("s", 9000)
assert read("s") == b"01234" + bytes(8995)
fd = os.open("hole", os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"end", 1 << 32)
assert os.fstat(fd).st_size == (1 << 32) + 3
assert os.pread(fd, 8192, 1 << 31) == bytes(8192)
assert os.pread(fd, 9, (1 << 32) - 3) == b"\0\0\0end"
assert os.lseek(fd, 0, os.SEEK_DATA) in (0, 1 << 32) and os.lseek(fd, 0, os.SEEK_HOLE) in (0, (1 << 32) + 3)
os.close(fd)
fds = [os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(2)]
for i in range(200):
    os.write(fds[i % 2], b"%04d" % i)
assert read("log") == b"".join(b"%04d" % i for i in range(200))
for fd in fds:
    os.close(fd)
fd = os.open("odd", os.O_CREAT | os.O_RDWR)
model = bytearray(300000)
for i in range(300):  # pieces that are no pages
    at, n = i * 7919 % 290000, i * 131 % 9000 + 1
    piece = bytes([i % 251 + 1]) * n
    os.pwrite(fd, piece, at); model[at:at + n] = piece
end = os.fstat(fd).st_size
assert os.pread(fd, 300000, 0) == bytes(model[:end])
os.close(fd)

# a listing while the directory changes: what was there all along is seen once
os.mkdir("list")
for i in range(3000):
    write(f"list/stays-{i:05}", b"")
    write(f"list/goes-{i:05}", b"")
seen = []
with os.scandir("list") as entries:
    for i, entry in enumerate(entries):
        seen.append(entry.name)
        if i % 2 == 0 and i // 2 < 3000:
            os.unlink(f"list/goes-{i // 2:05}"); write(f"list/new-{i:05}", b"")
stays = [n for n in seen if n.startswith("stays")]
assert len(stays) == 3000 == len(set(stays)), f"{len(stays)} seen, {len(set(stays))} different"
assert len(seen) == len(set(seen)), "a name was listed twice"
PY
}

commands() {
	cd "$MNT"
	step "times to the nanosecond, modes"
	touch -d '2001-02-03 04:05:06.789012345 UTC' time
	equal "$(TZ=UTC stat -c %y time)" '2001-02-03 04:05:06.789012345 +0000' mtime
	touch -h -d '1969-12-31 23:59:58.5 UTC' time # before the epoch
	equal "$(TZ=UTC stat -c %y time)" '1969-12-31 23:59:58.500000000 +0000' mtime
	touch -d '2200-01-01 00:00:00 UTC' time # past 2106
	equal "$(TZ=UTC stat -c %y time)" '2200-01-01 00:00:00.000000000 +0000' mtime
	local before
	before=$(stat -c %z time)
	chmod 640 time
	equal "$(stat -c %a time)" 640 mode
	[ "$(stat -c %z time)" != "$before" ] || fail "ctime did not move"
	before=$(stat -c %y .)
	touch child
	[ "$(stat -c %y .)" != "$before" ] || fail "the directory's mtime did not move"

	step "extended attributes, small and large"
	local large
	large=$(printf '%020000d' 7)
	setfattr -n user.small -v one time
	setfattr -n user.large -v "$large" time
	setfattr -n user.empty time
	equal "$(getfattr --only-values -n user.small time)" one
	equal "$(getfattr --only-values -n user.large time)" "$large"
	setfattr -n user.small -v two time
	setfattr -n user.large -v short time
	equal "$(getfattr --only-values -n user.small time)$(getfattr --only-values -n user.large time)" twoshort
	equal "$(getfattr time | grep -c '^user\.')" 3 "attributes listed"
	setfattr -x user.large time
	! getfattr -n user.large time >/dev/null 2>&1 || fail "a removed attribute is there"

	step "statfs"
	[ "$(stat -f -c %S .)" = 4096 ] || fail "block size"
	[ "$(stat -f -c %b .)" -gt 0 ] || fail "no blocks"
}

others() { # another user on the mount: -o allow_other
	step "permissions hold for another user; a write clears setuid"
	cd "$MNT"
	chmod 755 .
	mkdir -m 700 private
	mkdir -m 1777 shared
	echo secret >private/file
	echo text >shared/readable
	chmod 644 shared/readable
	! as_nobody cat private/file 2>/dev/null || fail "another user read a private file"
	equal "$(as_nobody cat shared/readable)" text
	! as_nobody sh -c 'echo x >>shared/readable' 2>/dev/null || fail "another user wrote a file of 644"
	! as_nobody rm -f shared/readable 2>/dev/null || fail "another user removed a file from a sticky directory"
	! as_nobody chmod 777 shared/readable 2>/dev/null || fail "another user changed a mode"
	as_nobody sh -c 'umask 027; echo mine >shared/mine'
	equal "$(stat -c %u:%g:%a shared/mine)" 65534:65534:640 "owner and mode of a new file"
	for how in 'echo more >>shared/mine' 'truncate -s 2 shared/mine' 'dd if=/dev/zero of=shared/mine bs=1 count=1 conv=notrunc status=none'; do
		as_nobody chmod 6755 shared/mine
		as_nobody sh -c "$how"
		equal "$(stat -c %a shared/mine)" 755 "mode after '$how'"
	done
	chmod 4755 shared/mine
	chown 0:0 shared/mine
	equal "$(stat -c %a shared/mine)" 755 "mode after chown"
	mkdir -m 2777 setgid
	chgrp 65534 setgid
	chmod 2777 setgid
	touch setgid/file
	mkdir setgid/dir
	equal "$(stat -c %g setgid/file):$(stat -c %g:%a setgid/dir | sed 's/:2.*/:2/')" 65534:65534:2 "group in a set-gid directory"
}

root() { [ "$(id -u)" = 0 ]; }

make_pair 32 256
if root; then mount_fs -o allow_other; else mount_fs; fi
step "calls and their errors"
calls
(commands)
if root; then (others); else echo "not root: other users are not tested"; fi

step "all of it again after kill -9 and after an unmount"
state() { (cd "$MNT" && find . -printf '%p %y %m %u %s %T@ %n %l\n' | sort && sha256sum log odd s b2 y && getfattr -d time); }
before=$(state)
kill9
if root; then mount_fs -o allow_other; else mount_fs; fi
equal "$(state)" "$before" "after kill -9"
unmount_fs
fsck_fs
mount_fs
equal "$(state)" "$before" "after unmount"
unmount_fs
