#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# kill -9 of the daemon under writers, again and again: the same command mounts, and everything
# that a call had returned for is there. What was acknowledged is noted outside, after the call.
. "$(dirname "$0")/lib.sh"

make_pair 32 512
mount_fs

# Each writer ends at the first call that fails: the daemon is dead. None writes to the root itself,
# which is an ordinary directory once the dead mount is cleared.
write_files() { # new files, each holding its own name
	local i
	for ((i = 0; ; i++)); do
		echo "$1.$i" >"$MNT/files/$1.$i" || return 0
		echo "$1.$i" >>"$DIR/acked-files"
	done
}
rename_dirs() { # a directory is made, filled, renamed: seen under its last name only
	local i
	for ((i = 0; ; i++)); do
		mkdir "$MNT/dirs/tmp.$1.$i" && echo "$i" >"$MNT/dirs/tmp.$1.$i/number" &&
			mv -T "$MNT/dirs/tmp.$1.$i" "$MNT/dirs/$1.$i" || return 0
		echo "$1.$i" >>"$DIR/acked-dirs"
	done
}
count_up() { # one page overwritten in place with a rising number
	local i
	for ((i = $1 * 1000000; ; i++)); do
		printf '%-4096d' "$i" 1<>"$MNT/files/counter" || return 0
		echo "$i" >"$DIR/acked-count.new"
		mv "$DIR/acked-count.new" "$DIR/acked-count"
	done
}
bulk() { # more than the tier holds, so that epochs and evictions are under way too
	local i
	for ((i = 0; ; i++)); do
		cp "$DIR/bulk" "$MNT/dirs/bulk.$((i % 3))" && cp "$MNT/dirs/bulk.$((i % 3))" "$DIR/bulk.back" || return 0
		cmp -s "$DIR/bulk" "$DIR/bulk.back" || echo "round $1" >>"$DIR/wrong"
	done
}
epochs() {
	while is_mounted && sync_fs; do sleep 0.1; done
}

check() { # of all rounds so far
	(cd "$MNT/files" && xargs -r cat <"$DIR/acked-files") | cmp - "$DIR/acked-files" || fail "an acknowledged file is missing or wrong"
	(cd "$MNT/dirs" && sed 's|$|/number|' "$DIR/acked-dirs" | xargs -r cat) | cmp - <(sed 's/^.*\.//' "$DIR/acked-dirs") ||
		fail "an acknowledged directory is missing or wrong"
	equal "$(comm -12 <(find "$MNT/dirs" -name 'tmp.*' -printf '%P\n' | sort) <(sed 's/^/tmp./' "$DIR/acked-dirs" | sort))" '' "renamed, and still there"
	[ "$(tr -d ' ' <"$MNT/files/counter")" -ge "$(cat "$DIR/acked-count")" ] || fail "the counter went back"
	[ "$(stat -c %s "$MNT/files/counter")" = 4096 ] || fail "the counter's page is torn"
	[ ! -e "$DIR/wrong" ] || fail "read back something else than was written: $(cat "$DIR/wrong")"
}

random_file "$DIR/bulk" 24
mkdir "$MNT/files" "$MNT/dirs"
for round in 1 2 3 4 5; do
	step "round $round"
	for writer in write_files rename_dirs count_up bulk epochs; do
		"$writer" "$round" 2>/dev/null &
		JOBS+=($!)
	done
	sleep "1.$((RANDOM % 10))"
	kill9
	wait "${JOBS[@]}" || :
	JOBS=()
	[ "$round" = 3 ] && fsck_fs # of a pair that was not unmounted
	mount_fs
	check
done
echo "$(wc -l <"$DIR/acked-files") files, $(wc -l <"$DIR/acked-dirs") renames, count $(cat "$DIR/acked-count")"
unmount_fs
fsck_fs
mount_fs
check
unmount_fs
