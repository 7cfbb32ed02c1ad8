#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Two promises by outside witnesses: a hit moves nothing on the backing (the loop device counts for
# itself), and nothing read or written lies in the page cache (the kernel's cachestat(2), and each
# repeated read reaching the daemon).
. "$(dirname "$0")/lib.sh"

witness_cache() { # pages of a file in the page cache, or "unknown" before Linux 6.5
	python3 - "$1" <<'PY'
import ctypes, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
span = (ctypes.c_uint64 * 2)(0, 0)  # all of the file
stat = (ctypes.c_uint64 * 5)()
libc = ctypes.CDLL(None, use_errno=True)
done = libc.syscall(451, fd, ctypes.byref(span), ctypes.byref(stat), 0) == 0
print(stat[0] if done else "unknown")
PY
}

no_page_cache() {
	step "nothing read or written lies in the page cache"
	need python3
	make_pair 64 128
	mount_fs
	random_file "$DIR/data" 16
	cat "$DIR/data" >/dev/null
	local cached before
	cached=$(witness_cache "$DIR/data")
	cp "$DIR/data" "$MNT/data"
	same "$DIR/data" "$MNT/data"
	if [ "$cached" = unknown ]; then
		echo "this kernel has no cachestat(2): only the daemon's own counts are looked at"
	else
		[ "$cached" -gt 0 ] || fail "the witness sees nothing even of a cached file"
		equal "$(witness_cache "$MNT/data")" 0 "pages in the page cache"
	fi
	for _ in 1 2 3; do
		before=$(counter read_hits)
		cat "$MNT/data" >/dev/null
		equal "$(($(counter read_hits) - before))" 4096 "pages that a repeated read of 16 MiB took from the tier"
	done
	unmount_fs
}

# I/Os and sectors read and written, flushes; not the times.
witness_device() { awk '{ print "reads", $1, $3, "writes", $5, $7, "flushes", $16 }' "/sys/block/${LOOP#/dev/}/stat"; }
own_counters() { "$VEMSCTL" stats --json "$MNT" | jq -c '[.backing_reads, .backing_writes, .backing_flushes, .read_misses, .write_waits, .epochs]'; }

hits_stay_in_the_tier() {
	step "hits move no counter of the backing"
	make_pair 64 256
	LOOP=$(losetup -f --show --direct-io=on "$BACKING" 2>/dev/null) || skip "no loop device to be had"
	LOOPS+=("$LOOP")
	BACKING=$LOOP
	mount_fs
	mkdir "$MNT/dir"
	cp "$DIR/data" "$MNT/dir/data"
	sync_fs
	# Once around, so that what the epoch left on the backing (tree nodes) is in the tier as well.
	work
	sync_fs
	work
	local device own
	device=$(witness_device)
	own=$(own_counters)
	work
	equal "$(witness_device)" "$device" "the loop device's counters over hits"
	equal "$(own_counters)" "$own" "the daemon's counters over hits"
	# The witness sees what is no hit.
	sync_fs
	[ "$(witness_device)" != "$device" ] || fail "an epoch passed the loop device by"
	unmount_fs
	fsck_fs
}
work() { # reads of all sizes, overwrites, names: well under the 30 s between epochs
	local i
	cat "$MNT/dir/data" >/dev/null
	dd if="$MNT/dir/data" of=/dev/null bs=4k count=1000 status=none
	dd if="$DIR/data" of="$MNT/dir/data" bs=4k count=500 conv=notrunc status=none
	dd if="$DIR/data" of="$MNT/dir/data" bs=1M count=2 conv=notrunc status=none
	ls -l "$MNT/dir" >/dev/null
	for i in 1 2 3; do
		echo "$i" >"$MNT/dir/small"
		mv "$MNT/dir/small" "$MNT/dir/moved"
		rm "$MNT/dir/moved"
	done
}

no_page_cache
need_root "make a loop device"
need losetup
hits_stay_in_the_tier
