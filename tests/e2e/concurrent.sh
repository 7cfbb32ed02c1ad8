#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Many processes at once: what each may rely on (concurrent.py), then every call at random from eight of them
# (fsstress.c), once to the end and once until the daemon is killed; the file system is clean after each.
#
#	VEMS_E2E_STRESS_SECONDS=600 VEMS_E2E_SEED=N concurrent.sh    for long; the load of seed N
. "$(dirname "$0")/lib.sh"
need python3
need_root "make nodes and trusted attributes"
[ -e "${FSSTRESS:-}" ] || fail "\$FSSTRESS is not built"
SECONDS_EACH=${VEMS_E2E_STRESS_SECONDS:-5}
SEED=${VEMS_E2E_SEED:-$RANDOM}

stress() { # SECONDS
	local status=0
	timeout $(($1 + 60)) "$FSSTRESS" "$MNT/stress" "$1" 8 "$SEED" >"$DIR/stress" 2>&1 || status=$?
	return "$status"
}

make_pair 32 512
mount_fs -o dev
step "appends, whole requests, names, a crowded directory"
mkdir "$MNT/rely"
timeout $((SECONDS_EACH * 4 + 60)) python3 "$TOP/tests/e2e/concurrent.py" "$MNT/rely" "$((SECONDS_EACH / 4)).5" ||
	fail "what a process relied on did not hold"

step "every call from eight processes: seed $SEED"
mkdir "$MNT/stress"
stress "$SECONDS_EACH" || fail "fsstress, seed $SEED: $(cat "$DIR/stress")"
unmount_fs
fsck_fs

step "and until the daemon is killed"
mount_fs -o dev
stress 60 &
load=$!
sleep "$SECONDS_EACH"
kill9
status=0
wait "$load" || status=$?
equal "$status" 2 "exit of fsstress, seed $SEED, $(cat "$DIR/stress")"
fsck_fs
mount_fs -o dev

step "nothing is left of it"
rm -rf "$MNT/stress" "$MNT/rely"
equal "$(ls -A "$MNT")" ''
unmount_fs
fsck_fs
equal "$(sed -n 's/.*clean: //p' "$DIR/fsck")" "1 directories, 0 files; 0 errors, 0 warnings"
