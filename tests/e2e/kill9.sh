#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# kill -9 of the daemon under writers, again and again, on a plain file and on a slow disk with I/O under
# way: the same command mounts at once, everything that a call had returned for is there, fsck finds
# nothing. What was acknowledged is noted outside, after the call. Five rounds, or VEMS_E2E_ROUNDS.
. "$(dirname "$0")/lib.sh"
need python3

ROUNDS=${VEMS_E2E_ROUNDS:-5}

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
epochs() {
	while is_mounted && sync_fs; do sleep 0.1; done
}

# A writer of its own file, of more than the tier holds: runs of up to 32 pages at random, each page with
# its number and that of the write. The log says which write was begun and which one has returned.
cat >"$DIR/pages.py" <<'PY'
import os, random, struct, sys
what, path, log, seed = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]
PAGE, PAGES = 4096, 12288
def content(page, write):
    return struct.pack("<QQ", page, write) * (PAGE // 16)
def noted(): # last write of each page that has returned; the one that has not
    last, begun, count = [0] * PAGES, None, 0
    for line in open(log) if os.path.exists(log) else ():
        count, first, end, ended = map(int, line.split())
        if ended:
            last[first:end] = [count] * (end - first)
        begun = None if ended else (count, first, end)
    return last, begun, count
def write():
    count, rng = noted()[2], random.Random(seed)
    fd, notes = os.open(path, os.O_CREAT | os.O_WRONLY), open(log, "a", buffering=1)
    while True:
        count += 1
        first = rng.randrange(PAGES)
        end = min(PAGES, first + rng.choice((1, 1, 2, 32)))
        notes.write(f"{count} {first} {end} 0\n")
        try:
            os.pwrite(fd, b"".join(content(page, count) for page in range(first, end)), first * PAGE)
        except OSError:
            return
        notes.write(f"{count} {first} {end} 1\n")
def check():
    last, begun, _ = noted()
    fd, half = os.open(path, os.O_RDONLY), set()
    for at in range(0, PAGES, 256):
        data = os.pread(fd, 256 * PAGE, at * PAGE).ljust(256 * PAGE, b"\0")
        for page in range(at, at + 256):
            found = data[(page - at) * PAGE:(page - at + 1) * PAGE]
            is_new = begun and begun[1] <= page < begun[2] and found == content(page, begun[0])
            if begun and begun[1] <= page < begun[2]:
                half.add(bool(is_new))
            if not is_new and found != (content(page, last[page]) if last[page] else bytes(PAGE)):
                sys.exit(f"{path}: page {page} is not as write {last[page]} left it: {found[:16].hex()}")
    if len(half) > 1:
        sys.exit(f"{path}: write {begun[0]} is there by half")
    if begun: # it has happened, or it has not: from now on that is a fact
        with open(log, "a") as notes:
            notes.write(f"{begun[0]} {begun[1]} {begun[2] if True in half else begun[1]} 1\n")
write() if what == "write" else check()
PY
pages() { exec python3 "$DIR/pages.py" "$1" "$MNT/files/pages$2" "$DIR/acked-pages$2" "$3"; } # write|check NUMBER SEED
pages1() { pages write 1 "$1"; }
pages2() { pages write 2 "$1"; }

check() {
	(cd "$MNT/files" && xargs -r cat <"$DIR/acked-files") | cmp - "$DIR/acked-files" || fail "an acknowledged file is missing or wrong"
	(cd "$MNT/dirs" && sed 's|$|/number|' "$DIR/acked-dirs" | xargs -r cat) | cmp - <(sed 's/^.*\.//' "$DIR/acked-dirs") ||
		fail "an acknowledged directory is missing or wrong"
	equal "$(comm -12 <(find "$MNT/dirs" -name 'tmp.*' -printf '%P\n' | sort) <(sed 's/^/tmp./' "$DIR/acked-dirs" | sort))" '' "renamed, and still there"
	[ "$(tr -d ' ' <"$MNT/files/counter")" -ge "$(cat "$DIR/acked-count")" ] || fail "the counter went back"
	[ "$(stat -c %s "$MNT/files/counter")" = 4096 ] || fail "the counter's page is torn"
	(pages check 1 0) || fail "a page is wrong"
	(pages check 2 0) || fail "a page is wrong"
}

# The pair as the last round left it goes on; now and then most of it is deleted.
begin_anew() {
	local i
	rm -rf "$MNT/files" "$MNT/dirs" "$DIR"/acked-*
	mkdir "$MNT/files" "$MNT/dirs"
	: >"$DIR/acked-files"
	: >"$DIR/acked-dirs"
	echo 0 >"$DIR/acked-count"
	printf '%-4096d' 0 >"$MNT/files/counter"
	for i in 1 2; do truncate -s 48M "$MNT/files/pages$i"; done
}

pages_are_written() { [ "$(find "$DIR" -maxdepth 1 -name 'acked-pages?' -newer "$DIR/begin" | wc -l)" = 2 ]; }
round() { # NUMBER: of a pair that is mounted
	local writer before
	touch "$DIR/begin"
	for writer in write_files rename_dirs count_up pages1 pages2 epochs; do
		"$writer" "$1" 2>/dev/null &
		JOBS+=($!)
	done
	[ -z "$DISK" ] || disk delay 20
	until_true 30 pages_are_written || fail "no page was written"
	sleep "$((RANDOM % 2)).$((RANDOM % 10))"
	[ -z "$DISK" ] || until_true 20 disk_has in_flight 1 || fail "no I/O under way"
	before=$(date +%s%N)
	kill9
	mount_fs
	echo "$((($(date +%s%N) - before) / 1000000)) $(counter recovery_ms)" >>"$DIR/times"
	stop_jobs # some may not have noticed
	[ -z "$DISK" ] || disk good
	check
	kill9 # at rest: fsck looks at what recovery has made of it
	fsck_fs
	mount_fs
}
figures() { sort -n | awk '{ v[NR] = $1 } END { print "median " v[int((NR + 1) / 2)] " ms, max " v[NR] " ms" }'; }

rounds() { # COUNT
	local i
	: >"$DIR/times"
	mount_fs
	begin_anew
	for ((i = 1; i <= $1; i++)); do
		round "$i"
		[ $((i % 20)) != 0 ] || begin_anew
	done
	echo "$1 rounds; from the kill to the new mount: $(cut -d ' ' -f 1 "$DIR/times" | figures);" \
		"recovery of it: $(cut -d ' ' -f 2 "$DIR/times" | figures)"
	echo "acknowledged of late: $(wc -l <"$DIR/acked-files") files, $(wc -l <"$DIR/acked-dirs") renames, count" \
		"$(cat "$DIR/acked-count"), $(cat "$DIR"/acked-pages? | grep -c ' 1$') writes of pages"
	remount
	check
	unmount_fs
	fsck_fs
}

slow=$((ROUNDS / 4 > 1 ? ROUNDS / 4 : 2))
step "on a file"
make_pair 32 512
rounds $((ROUNDS - slow))
step "on a disk that takes 20 ms for each I/O, some of them under way"
make_fault_pair 32 512
rounds "$slow"
