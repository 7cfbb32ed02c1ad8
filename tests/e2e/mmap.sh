#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Mappings: private and shared, for reading, writing and running; coherent with read and write of other processes;
# durable by msync; truncated under; on a full file system. What is asked is in mappings.py.
. "$(dirname "$0")/lib.sh"
need python3
can_map_shared || skip "shared mappings of files that bypass the page cache take Linux 6.6"

mapped() { (cd "$MNT" && python3 "$TOP/tests/e2e/mappings.py" "$1") || fail "mappings.py $1"; }

for cache in none kernel; do
	step "--cache=$cache"
	make_pair 32 64
	mount_fs --cache=$cache
	mapped calls
	# A page that is mapped and written at once.
	! is_linux 6.18.3 || mapped looked_at # some older ones, too
	[ $cache = none ] || mapped stored_to
	mapped synced
	kill9
	mount_fs --cache=$cache
	mapped after_the_kill
	unmount_fs
	fsck_fs
done
