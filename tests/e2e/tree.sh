#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A tree of very many directories: VEMS_E2E_DIRS of them (a million by default), 100 in each, a
# tier of 64 MiB, and no more than 64 MiB of DRAM beside the index.
. "$(dirname "$0")/lib.sh"
need python3
dirs=${VEMS_E2E_DIRS:-1000000}

memory() { # as in bigdir.sh
	local limit=$((64 * 1024 + $(counter frames_total) * 64 / 1024)) used
	used=$(daemon_kib)
	echo "$1: $used KiB of $limit KiB"
	[ "$used" -le "$limit" ] || fail "the daemon uses $used KiB, more than $limit KiB"
}
create() { # top/NN/NN/NN...: breadth first, so that every level is there before the next
	python3 - "$MNT/top" "$dirs" <<'PY'
import os, sys
left = int(sys.argv[2])
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
level = ["."]
while left:
    below = []
    for parent in level:
        for i in range(min(100, left)):
            path = f"{parent}/{i:02}"
            os.mkdir(path)
            below.append(path)
        left -= min(100, left)
        if not left:
            break
    level = below
PY
}
count() { equal "$(find "$MNT/top" -mindepth 1 -type d | wc -l)" "$dirs" "directories found"; }

make_pair 64 2048
mount_fs
step "create $dirs"
create
memory created
step "kill -9 and walk"
kill9
mount_fs
echo "recovered in $(counter recovery_ms) ms"
count
memory walked
step "rename the top and walk again after an unmount"
mv "$MNT/top" "$MNT/renamed"
remount
mv "$MNT/renamed" "$MNT/top"
count
step "delete"
rm -r "$MNT/top"
memory deleted
equal "$(ls -A "$MNT")" '' "left on the mount"
unmount_fs
fsck_fs
