#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# One directory of very many files: VEMS_E2E_FILES of them (a million by default), a tier of
# 64 MiB, and no more than 64 MiB of DRAM beside the index.
. "$(dirname "$0")/lib.sh"
need python3
files=${VEMS_E2E_FILES:-1000000}

# 64 bytes a frame for the index, 64 MiB for all the rest.
memory() {
	local limit=$((64 * 1024 + $(counter frames_total) * 64 / 1024)) used
	used=$(daemon_kib)
	echo "$1: $used KiB of $limit KiB"
	[ "$used" -le "$limit" ] || fail "the daemon uses $used KiB, more than $limit KiB"
}
create() {
	python3 - "$MNT/big" "$files" <<'PY'
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
for i in range(int(sys.argv[2])):
    os.close(os.open(f"file-{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
PY
}
listed() { # every name once, and random ones found
	python3 - "$MNT/big" "$files" <<'PY'
import os, random, sys
count = int(sys.argv[2])
os.chdir(sys.argv[1])
seen = bytearray(count)
with os.scandir() as entries:
    for e in entries:
        i = int(e.name[5:])
        assert not seen[i], f"{e.name} is listed twice"
        seen[i] = 1
assert sum(seen) == count, f"{sum(seen)} names listed, {count} created"
for _ in range(2000):
    assert os.path.exists(f"file-{random.randrange(count)}")
    assert not os.path.exists(f"file-{count + random.randrange(count)}")
PY
}

make_pair 64 2048
mount_fs
step "create $files"
create
memory created
listed
memory listed
step "kill -9 and list again"
kill9
mount_fs
echo "recovered in $(counter recovery_ms) ms"
listed
step "unmount and list again"
remount
listed
memory "listed anew"
! rmdir "$MNT/big" 2>/dev/null || fail "removed a directory that is not empty"
step "delete"
python3 -c 'import os, sys; os.chdir(sys.argv[1]); [os.unlink(f"file-{i}") for i in range(int(sys.argv[2]))]' "$MNT/big" "$files"
memory deleted
equal "$(find "$MNT/big" | wc -l)" 1 "left in the directory"
rmdir "$MNT/big"
unmount_fs
fsck_fs
