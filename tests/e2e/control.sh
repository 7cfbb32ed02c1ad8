#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vemsctl: the counters as text and as JSON, sync, and for whom.
. "$(dirname "$0")/lib.sh"

make_pair 32 128
mount_fs

step "every counter, as text and as JSON"
names=$(sed -n 's/^[[:space:]]*X(\([a-z_0-9]*\),.*/\1/p' "$TOP/include/vems/stats.h")
[ "$(wc -w <<<"$names")" -ge 16 ] || fail "cannot find the counters' names"
"$VEMSCTL" stats "$MNT" >"$DIR/text"
"$VEMSCTL" stats --json "$MNT" >"$DIR/json"
jq -e 'type == "object" and all(.[]; type == "number")' "$DIR/json" >/dev/null || fail "not one flat object of numbers: $(cat "$DIR/json")"
for name in $names; do
	jq -e "has(\"$name\")" "$DIR/json" >/dev/null || fail "JSON lacks $name"
	grep -qw "$name" "$DIR/text" || fail "the text lacks $name"
done

step "they add up"
random_file "$DIR/data" 8
cp "$DIR/data" "$MNT/data"
[ "$(counter write_hits)" -ge 2048 ] || fail "8 MiB written, write_hits is $(counter write_hits)"
[ "$(counter frames_dirty)" -ge 1024 ] || fail "8 MiB written, frames_dirty is $(counter frames_dirty)"
[ "$(counter commits)" -gt 0 ] || fail "no commits"
[ "$(counter log_bytes)" -gt 0 ] || fail "nothing in the log"

step "sync: the backing alone holds everything written before"
before=$(counter epochs)
mkdir "$MNT/dir"
echo text >"$MNT/dir/file"
sync_fs
[ "$(counter epochs)" -gt "$before" ] || fail "no epoch ended"
equal "$(counter frames_dirty)" 0 "dirty frames after sync"
equal "$(counter overlay_items)" 0 "items in the overlay after sync"
cp --sparse=always "$BACKING" "$DIR/copy" # while it is mounted
live_tier=$TIER live_backing=$BACKING live_mnt=$MNT live_pid=$PID
make_pair 32 128
cp --sparse=always "$DIR/copy" "$BACKING"
mount_fs --lose-tier
diff -r "$live_mnt" "$MNT" || fail "the copy of the backing lacks something"
unmount_fs
fsck_fs
TIER=$live_tier BACKING=$live_backing MNT=$live_mnt PID=$live_pid

step "what is no mount of vemsfuse is refused"
! "$VEMSCTL" stats "$DIR" 2>"$DIR/said" || fail "counters of a plain directory"
[ -s "$DIR/said" ] || fail "refused without a word"
! "$VEMSCTL" sync "$MNT/nowhere" 2>/dev/null || fail "sync of a path that is not there"

if [ "$(id -u)" = 0 ]; then
	step "another user is refused"
	unmount_fs
	mount_fs -o allow_other
	chmod 755 "$MNT"
	as_nobody ls "$MNT" >/dev/null || fail "allow_other does not let others in"
	for command in stats sync scrub; do
		! as_nobody "$VEMSCTL" "$command" "$MNT" >/dev/null 2>&1 || fail "another user may $command"
	done
fi
unmount_fs
fsck_fs
