#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# rsync -aHAXS and tar there and back, compared by checksum: files of every size, links, holes, xattrs, ACLs.
. "$(dirname "$0")/lib.sh"
need rsync tar setfattr setfacl

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
	setfacl -m u:65534:r,g:65534:rx "$1/sizes/100" "$1/many"
	setfacl -d -m u:65534:rx "$1/many"
	chmod 4711 "$1/sizes/1"
	touch -d '1999-09-09 09:09:09.123456789' "$1/sizes/4096" "$1/empty"
	touch -h -d '1998-08-08 08:08:08.5' "$1/links/soft"
}
no_differences() { # FROM TO
	local list
	list=$(rsync -aHAXin --checksum --delete "$1/" "$2/")
	equal "$list" '' "differences between $1 and $2"
}

make_source "$DIR/source"
make_pair 32 512
mount_fs
step "there"
rsync -aHAXS --checksum "$DIR/source/" "$MNT/copy/"
no_differences "$DIR/source" "$MNT/copy"
step "and back, after a remount"
remount
no_differences "$DIR/source" "$MNT/copy"
rsync -aHAXS --checksum "$MNT/copy/" "$DIR/back/"
no_differences "$DIR/source" "$DIR/back"
step "tar, there and back"
pack() { tar -C "$1" --create --sparse --xattrs --xattrs-include='*' --acls .; }
unpack() { mkdir "$1" && tar -C "$1" --extract --xattrs --xattrs-include='*' --acls --preserve-permissions; }
pack "$DIR/source" | unpack "$MNT/tar"
no_differences "$DIR/source" "$MNT/tar"
pack "$MNT/tar" >"$DIR/tar"
[ "$(stat -c %s "$DIR/tar")" -lt 150000000 ] || fail "tar did not find the holes"
unpack "$DIR/untar" <"$DIR/tar"
no_differences "$DIR/source" "$DIR/untar"
for copy in "$MNT/copy" "$MNT/tar" "$DIR/untar"; do
	[ "$(stat -c %b "$copy/sizes/hole")" -lt 200 ] || fail "$copy/sizes/hole has become $(stat -c %b "$copy/sizes/hole") blocks"
done
step "nothing is copied twice"
equal "$(rsync -aHAXi "$DIR/source/" "$MNT/copy/")" '' "second rsync"
unmount_fs
fsck_fs
