#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Deleting what is large: unlink returns at once, the space comes back in the background, through kill -9 as
# well, and nobody waits for it meanwhile. And deleting what is many, at a steady rate.
# VEMS_E2E_DELETE_MIB (512 by default) is the written file, VEMS_E2E_DELETE_FILES (20000) how many the many are.
. "$(dirname "$0")/lib.sh"
need python3
mib=${VEMS_E2E_DELETE_MIB:-512} files=${VEMS_E2E_DELETE_FILES:-20000}
AT_ONCE_MS=2000 # on a busy machine; writing that file takes longer by far

make_fault_pair 32 $((mib + 256))
mount_fs --interval=3600

sync_fs
empty=$(counter blocks_free)
is_empty() { sync_fs && [ "$(counter blocks_free)" = "$empty" ]; }
all_is_back() { until_true 30 is_empty || fail "$empty blocks were free before, $(counter blocks_free) after the file was deleted"; }

write_large() {
	dd if=/dev/zero of="$MNT/large" bs=1M count="$mib" status=none
	sync_fs
	[ $((empty - $(counter blocks_free))) -ge $((mib * 256)) ] || fail "$mib MiB take less than as many blocks"
}
unlink_at_once() {
	local ms
	ms=$(python3 -c 'import os, sys, time; t = time.monotonic(); os.unlink(sys.argv[1]); print(int((time.monotonic() - t) * 1000))' "$1")
	echo "unlink: $ms ms"
	[ "$ms" -le "$AT_ONCE_MS" ] || fail "unlink took $ms ms"
}
epoch_runs() { [ "$(counter epoch_running)" = 1 ]; }

step "1 TiB, sparse"
python3 - "$MNT/sparse" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for gib in range(0, 1024, 8):
    os.pwrite(fd, b"here" * 1024, gib << 30)
os.ftruncate(fd, 1 << 40)
PY
sync_fs
unlink_at_once "$MNT/sparse"
all_is_back

step "$mib MiB, while others work"
write_large
unlink_at_once "$MNT/large"
disk delay 10
sync_fs &
JOBS+=($!)
until_true 10 epoch_runs || fail "no epoch has begun"
python3 - "$MNT" <<'PY' || fail "others waited for a deletion"
import os, sys, time
os.chdir(sys.argv[1])
fd, worst = os.open("hot", os.O_CREAT | os.O_RDWR), 0
for i in range(100):
    t = time.monotonic()
    os.pwrite(fd, b"%16d" % i * 256, i % 7 * 4096)
    os.close(os.open(f"new{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.unlink(f"new{i}")
    worst = max(worst, time.monotonic() - t)
os.unlink("hot")
print(f"slowest write, create and unlink: {worst * 1000:.0f} ms")
PY
epoch_runs || echo "(the epoch has ended before them)"
disk good
wait "${JOBS[@]}"
JOBS=()
all_is_back

step "killed before the space is back"
write_large
unlink_at_once "$MNT/large"
kill9
mount_fs --interval=3600
[ ! -e "$MNT/large" ] || fail "an unlinked file is there after kill -9"
all_is_back

step "killed while the space comes back, the file having been open as well"
write_large
exec 3<"$MNT/large"
unlink_at_once "$MNT/large"
sync_fs
equal "$(head -c 4 <&3 | od -An -tx1)" " 00 00 00 00" "an unlinked file that is open"
kill9
exec 3<&-
mount_fs --interval=3600
disk delay 10
"$VEMSCTL" sync "$MNT" 2>/dev/null || : & # cut off in the middle
JOBS+=($!)
until_true 10 epoch_runs || fail "no epoch has begun"
kill9
stop_jobs
disk good
mount_fs --interval=3600
all_is_back

step "$files files: a steady rate"
python3 - "$MNT/many" "$files" <<'PY' || fail "rm -r is not steady"
import os, sys, time
top, files = sys.argv[1], int(sys.argv[2])
os.mkdir(top)
os.chdir(top)
for i in range(files):
    fd = os.open(f"{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, b"some bytes")
    os.close(fd)
seconds, each = [], files // 10
for i in range(10):
    t = time.monotonic()
    for name in range(i * each, (i + 1) * each):
        os.unlink(f"{name}")
    seconds.append(time.monotonic() - t)
print("files a second:", *(int(each / s) for s in seconds))
assert max(seconds) < 10 * sorted(seconds)[5] + 1, seconds
PY
rmdir "$MNT/many"
all_is_back
unmount_fs
fsck_fs
