#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# POSIX ACLs: who may what, what is inherited, mode and ACL in step; the same commands on another file
# system of the machine that has ACLs must leave the same behind. Extended attributes of all namespaces.
. "$(dirname "$0")/lib.sh"
need setfacl getfacl setpriv setfattr getfattr
need_root "act for another user"

as() { # UID GID[,GROUP...] COMMAND
	local uid=$1 gid=${2%%,*} groups=$2
	shift 2
	setpriv --reuid="$uid" --regid="$gid" --groups="$groups" "$@"
}
may() { "$@" 2>/dev/null || fail "should be allowed: $*"; }
may_not() { ! "$@" 2>/dev/null || fail "should be refused: $*"; }

# In an empty directory: what is left there is compared.
commands() {
	umask 022
	chmod 755 .
	mkdir dir plain
	echo text >file
	chmod 640 file
	setfacl -m u:1001:rw,g:2002:r file
	chmod g=r file
	setfacl -m d:u:1001:rwx,d:g:2002:rx,d:o:- dir
	(umask 077 && touch dir/file && mkdir dir/sub && touch dir/sub/deep && mkfifo dir/fifo && ln -s x dir/link)
	(umask 027 && touch plain/file && mkdir plain/sub)
	install -m 4755 /dev/null plain/suid
	setfacl -m u:1001:x plain/suid
	cp -a file copy
	setfacl -m m:r copy
	setfacl -b plain/suid
	touch minimal
	setfacl -m u::rwx,g::rx,o::x minimal
	mkdir both
	setfacl -m u:1001:rwx,d:u:1002:r both
	setfacl -k both
	touch both/new
	chmod 2775 both
	mkdir both/setgid
	setfacl -R -m u:1003:rX dir
	mv dir/file moved
	chown 1001:2002 moved
}
look() { # not: times, sizes of directories, the order of entries.
	find . -printf '%p %M %u:%g %n %l\n' | sort
	find . ! -type l | sort | xargs getfacl -n -p
}

make_pair 32 256
mount_fs -o allow_other
chmod 755 "$MNT"
mkdir "$MNT/a" "$DIR/reference"
if setfacl -m u:1:r "$DIR/reference" 2>/dev/null && setfacl -b "$DIR/reference"; then
	step "as on $(stat -f -c %T "$DIR")"
	(cd "$DIR/reference" && commands && look) >"$DIR/look.reference"
	(cd "$MNT/a" && commands && look) >"$DIR/look.vemsfuse"
	diff "$DIR/look.reference" "$DIR/look.vemsfuse" || fail "ACLs differ"
else
	echo "no ACLs on $DIR to compare with"
	(cd "$MNT/a" && commands)
fi

step "they are checked"
cd "$MNT"
echo secret >f
chmod 600 f
may_not as 1001 2001 cat f
setfacl -m u:1001:r f
may as 1001 2001 cat f >/dev/null
may_not as 1001 2001 sh -c 'echo x >>f'
may_not as 1002 2001 cat f
setfacl -m g:2002:rw f
may as 1002 2001,2002 sh -c 'echo x >>f'
may_not as 1003 2001 cat f
chmod g-w f # the mask
may_not as 1002 2001,2002 sh -c 'echo x >>f'
may as 1002 2001,2002 cat f >/dev/null
setfacl -m u:1004:- f
chmod o+r f
may_not as 1004 2001 cat f
may as 1005 2001 cat f >/dev/null
setfacl -b f
may as 1004 2001 cat f >/dev/null
mkdir -m 700 d
setfacl -m u:1001:rwx,d:u:1001:rwx d
may as 1001 2001 touch d/mine
may_not as 1002 2001 touch d/other
setfacl -x u:1001 d
may_not as 1001 2001 ls d
# one who is no member of the file's group cannot give an ACL and keep setgid
install -o 1001 -g 2002 -m 2755 /dev/null sgid
as 1001 2001 setfacl -m u:1:r sgid
equal "$(stat -c %a sgid)" 755 "mode of sgid after setfacl"
setfacl -m u:1:x sgid

step "attributes of all namespaces"
setfattr -n trusted.t -v 1 f
setfattr -n security.s -v 2 f
setfattr -n user.u -v 3 f
equal "$(getfattr -m - f | grep -c '^[tsu]')" 3 "attributes listed"
! as 1001 2001 getfattr -m - f | grep trusted || fail "others see trusted attributes"
may_not setfattr -n other.x -v 1 f
may_not setfattr -n system.x -v 1 f
may_not setfattr -n user. -v 1 f
head -c 65536 /dev/zero | tr '\0' v >"$DIR/large"
setfattr -n user.large -v "$(cat "$DIR/large")" f
getfattr --only-values -n user.large f | cmp - "$DIR/large"
for ((i = 0; i < 1000; i++)); do setfattr -n "user.many$i" -v "$i" f; done
equal "$(getfattr f | grep -c many)" 1000 "attributes in number"
cd /

step "all of it again after kill -9 and after an unmount"
state() { (cd "$MNT" && look && getfattr -d -m - f | sha256sum); }
before=$(state)
kill9
mount_fs -o allow_other
equal "$(state)" "$before" "after kill -9"
remount
equal "$(state)" "$before" "after an unmount"
rm -r "$MNT"/*
unmount_fs
fsck_fs
