#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# rsync -aHX there and back, compared by checksum: files of every size, links, holes, xattrs.
. "$(dirname "$0")/lib.sh"
need rsync setfattr

make_source() {
	local i
	mkdir -p "$1/sizes" "$1/links" "$1/empty"
	for i in 0 1 100 4095 4096 4097 65536 100000 1048576 1048577 20000000; do
		head -c "$i" /dev/urandom >"$1/sizes/$i"
	done
	mkdir "$1/many"
	(cd "$1/many" && head -c 40M /dev/urandom | split -b 10000 -a 4)
	cp -a /usr/include/linux "$1/include"
	truncate -s 128M "$1/sizes/hole"
	echo middle | dd of="$1/sizes/hole" bs=1M seek=64 conv=notrunc status=none
	truncate -s 128M "$1/sizes/hole"
	ln "$1/sizes/100" "$1/links/hard"
	ln -s ../sizes/100 "$1/links/soft"
	ln -s nowhere "$1/links/dangling"
	mkfifo "$1/links/fifo"
	setfattr -n user.name -v value "$1/sizes/100" || skip "no user xattrs on $DIR"
	setfattr -n user.large -v "$(printf '%03000d' 5)" "$1/many"
	chmod 4711 "$1/sizes/1"
	touch -d '1999-09-09 09:09:09.123456789' "$1/sizes/4096" "$1/empty"
	touch -h -d '1998-08-08 08:08:08.5' "$1/links/soft"
}
no_differences() { # FROM TO
	local list
	list=$(rsync -aHXin --checksum --delete "$1/" "$2/")
	equal "$list" '' "differences between $1 and $2"
}

make_source "$DIR/source"
make_pair 32 512
mount_fs
step "there"
rsync -aHXS --checksum "$DIR/source/" "$MNT/copy/"
no_differences "$DIR/source" "$MNT/copy"
step "and back, after a remount"
remount
no_differences "$DIR/source" "$MNT/copy"
rsync -aHXS --checksum "$MNT/copy/" "$DIR/back/"
no_differences "$DIR/source" "$DIR/back"
step "nothing is copied twice"
equal "$(rsync -aHXi "$DIR/source/" "$MNT/copy/")" '' "second rsync"
unmount_fs
fsck_fs
