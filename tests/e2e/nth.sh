#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Each allocation of a serving daemon fails once, libfuse's too, and each I/O: calls get an error that says so, or
# succeed; the daemon goes on, loses nothing, and leaks nothing.
#
#	VEMS_E2E_STRIDE=1 nth.sh    every one of them; takes some ten minutes
. "$(dirname "$0")/lib.sh"
need python3
[ -e "${VEMS_NTH:-}" ] || fail "\$VEMS_NTH is not built"
make_pair 32 256
control=$FAST/control
truncate -s 4096 "$control"
export NTH_CONTROL=$control

loop() { # KIND STRIDE COUNT
	timeout 1000 python3 "$TOP/tests/e2e/nth.py" "$control" "$MNT" "$VEMSCTL" "$1" 1 "${VEMS_E2E_STRIDE:-$2}" "$3" ||
		fail "calls of kind $1"
	[ "$(daemon_pid)" = "$PID" ] || fail "the daemon has ended"
}
# In place of VEMSFUSE: only the daemon is to fail.
preloaded() { LD_PRELOAD=$VEMS_NTH "$real" "$@"; }
real=$VEMSFUSE VEMSFUSE=preloaded

mount_fs
VEMSFUSE=$real
step "allocations"
loop a 31 1
before=$(daemon_kib)
loop a 301 25
step "reads, writes and flushes of the backing"
loop r 3 1
loop w 5 1
loop f 1 1
loop a 400 1
after=$(daemon_kib)
[ $((after - before)) -lt 4096 ] || fail "the daemon has grown from $before KiB to $after KiB"
sum=$(sha256sum <"$MNT/cold")

step "it is all there, and clean"
unmount_fs
fsck_fs
mount_fs
equal "$(sha256sum <"$MNT/cold")" "$sum"
equal "$(ls "$MNT")" cold "what is left"
unmount_fs
