#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fio --verify over four times the tier, with blocks of several sizes, aligned and not; then once
# more after a remount.
. "$(dirname "$0")/lib.sh"
need fio

# The same job writes and verifies; --verify_only repeats the checks against the same sequence.
job() { # NAME OPTION...
	local name=$1
	shift
	# fio empties a file that is shorter than it should be.
	[ -e "$MNT/$name" ] || truncate -s 128M "$MNT/$name"
	fio --name="$name" --filename="$MNT/$name" --ioengine=psync --rw=randwrite --size=128M \
		--verify=crc32c --verify_fatal=1 --verify_state_save=0 --randseed=7 --output="$DIR/fio.log" "$@" >/dev/null ||
		fail "fio $name: $(tail -n 20 "$DIR/fio.log")"
}
jobs=(
	"4k --bs=4k"
	"64k --bs=64k"
	"1m --bs=1m"
	"512 --bs=512 --io_size=8M"
	"odd --bs=5120"
	"mixed --bsrange=1k-128k"
)

make_pair 32 1024
mount_fs
for j in "${jobs[@]}"; do
	step "write and verify: $j"
	# shellcheck disable=SC2086 # a list of options
	job $j
done

step "several at a time, four files of the tier's size"
fio --name=par --directory="$MNT" --ioengine=psync --rw=randwrite --bs=8k --size=32M --numjobs=4 \
	--verify=crc32c --verify_fatal=1 --verify_state_save=0 --output="$DIR/fio.log" >/dev/null || fail "fio par: $(tail -n 20 "$DIR/fio.log")"

step "the ways to ask: a file each, of the tier's size"
engines=(sync vsync pvsync pvsync2 posixaio libaio io_uring splice)
! can_map_shared || engines+=(mmap)
asked=0
ask() { # ENGINE FILE [OPTION...]
	fio --name="$1" --filename="$2" --ioengine="$1" --iodepth=8 --rw=randwrite --bs=16k --size=32M --verify=crc32c --verify_fatal=1 \
		--verify_state_save=0 --end_fsync=1 --output="$DIR/fio.log" "${@:3}" >/dev/null
}
for engine in "${engines[@]}"; do
	if ! ask "$engine" "$DIR/other" --io_size=64k; then
		echo "$engine: this fio or kernel does not have it for any file system"
		continue
	fi
	ask "$engine" "$MNT/$engine" --io_size=8M || fail "fio $engine: $(tail -n 20 "$DIR/fio.log")"
	rm "$MNT/$engine"
	asked=$((asked + 1))
done
[ "$asked" -ge 6 ] || fail "only $asked engines of fio work"

step "everything once more after a remount"
remount
for j in "${jobs[@]}"; do
	# shellcheck disable=SC2086
	job $j --verify_only=1
done
[ "$(counter read_misses)" -gt 0 ] || fail "all of it was hits: the file is not larger than the tier"
unmount_fs
fsck_fs
