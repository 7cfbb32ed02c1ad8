#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# All of it as an ordinary user: other scenarios run as nobody, with /dev/fuse opened for the while.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || skip "the other scenarios run as an ordinary user already"
need setpriv
as_nobody test -x "$VEMSFUSE" -a -r "$TOP/tests/e2e/lib.sh" || skip "$TOP is closed to other users"
[ -u "$(readlink -f "$(command -v fusermount3)")" ] || skip "fusermount3 is not set-uid"

mode=$(stat -c %a /dev/fuse)
at_end() { chmod "$mode" /dev/fuse; }
chmod 666 /dev/fuse

for scenario in mount.sh control.sh posix.sh; do
	step "as nobody: $scenario"
	rc=0
	# TMPDIR may be a private directory of root's.
	as_nobody TMPDIR=/var/tmp "$TOP/tests/e2e/$scenario" || rc=$?
	case $rc in
	0) ;;
	77) echo "$scenario was skipped" ;;
	*) fail "$scenario as an ordinary user" ;;
	esac
done
