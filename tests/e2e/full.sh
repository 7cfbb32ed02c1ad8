#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A full backing: ENOSPC comes from the write itself, what had been written is there, deleting gives
# the space back, and the same amount can be written again.
. "$(dirname "$0")/lib.sh"

make_pair 32 64
mount_fs
random_file "$DIR/data" 80

fill() { # files of 1 MiB until there is no space; sets `written`
	local i
	mkdir "$MNT/fill"
	for ((i = 0; i < 80; i++)); do
		dd if="$DIR/data" of="$MNT/fill/$i" bs=64k skip=$((i * 16)) count=16 status=none 2>"$DIR/dd" || break
	done
	[ "$i" -lt 80 ] || fail "80 MiB fit on 64 MiB"
	grep -q 'No space left' "$DIR/dd" || fail "not ENOSPC: $(cat "$DIR/dd")"
	written=$i
}
check() {
	local i
	for ((i = 0; i < written; i++)); do
		cmp -s "$MNT/fill/$i" <(dd if="$DIR/data" bs=1M skip="$i" count=1 status=none) || fail "file $i is not what was written"
	done
}

for round in 1 2 3; do
	step "round $round: fill"
	fill
	echo "$written MiB written"
	[ "$written" -ge 48 ] || fail "only $written MiB of 64 could be used"
	[ "$round" = 1 ] && first=$written
	[ "$written" -ge $((first - 2)) ] || fail "$first MiB fitted the first time, $written now"
	check
	step "full: overwrites and deletes go on, other writes do not"
	dd if="$DIR/data" of="$MNT/fill/0" bs=64k count=16 conv=notrunc status=none
	! dd if="$DIR/data" of="$MNT/fill/more" bs=1M count=8 status=none 2>/dev/null || fail "8 MiB more on a full backing"
	rm -f "$MNT/fill/more"
	remount # nothing that was acknowledged lacks space later
	check
	case $round in
	1) rm -r "$MNT/fill" ;;
	2) # truncated instead, and the space waited for by an epoch
		truncate -s 0 "$MNT"/fill/*
		sync_fs
		rm -r "$MNT/fill"
		;;
	3) ;;
	esac
done

step "killed while full"
kill9
mount_fs
check
rm -r "$MNT/fill"
sync_fs
unmount_fs
fsck_fs
