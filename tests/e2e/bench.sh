#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The bench runs, says what it has measured, and leaves nothing: not when it is done, and not when it is stopped. Never how fast.
source "$(dirname "$0")/lib.sh"
need fio jq python3
need_shm 600
BUILD=$(dirname "$VEMSFUSE")
[ -x "$BUILD/bench/bench-null" ] || skip "bench-null is not built"

bench() { # ARGUMENT...
	exec python3 "$TOP/bench/run" --quick --build "$BUILD" --disk "$DIR" --fast "$FAST" --seconds 0.1 --rounds 1 --subjects vems-dev,null-dev "$@"
}
nothing_is_left() {
	! grep "$DIR" /proc/self/mountinfo || fail "a mount is left"
	! ls -d "$DIR"/vems-bench.* "$FAST"/vems-bench.* 2>/dev/null || fail "files are left"
}

step "a table, and JSON of the same"
(bench --only data --output "$DIR/out") >"$DIR/table" 2>"$DIR/progress" || { cat "$DIR/progress"; fail "bench/run has failed"; }
grep -q '^4k read 1 job, pinned, /s .*[0-9]' "$DIR/table" || fail "no row in the table"
cmp "$DIR/table" "$DIR/out/table.txt"
jq -e '
	(.machine, .kernel, .commit, .options.only[0] | type == "string")
	and .options.rounds == 1 and .tier_bytes > 0
	and ([.results[].name] | length == 7)
	and ([.results[] | .group == "data" and (.unit | length > 0)] | all)
	and ([.results[] | .values["vems-dev", "null-dev"] | length == 1 and .[0] > 0] | all)
	and ([.results[] | .median["vems-dev"] == .values["vems-dev"][0]] | all)' "$DIR/out/results.json" >/dev/null || fail "the JSON has another shape: $(cat "$DIR/out/results.json")"
! grep ": without " "$DIR/progress" || fail "a row was left out"
nothing_is_left

step "stopped in the middle of a row"
(bench --only data --seconds 60) >"$DIR/table" 2>"$DIR/progress" &
JOBS+=($!)
for _ in $(seq 600); do ! grep -q '^round' "$DIR/progress" || break; sleep 0.1; done
kill -TERM "${JOBS[0]}"
wait "${JOBS[0]}" && fail "it says that all is well" || [ $? = 130 ] || fail "it ends with $?"
JOBS=()
nothing_is_left
