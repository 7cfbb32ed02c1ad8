#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# policy-sim: counts that can be told without it, for each policy.
set -euo pipefail
sim=$1

trace() { printf '%s\n' "$@"; }
equal() { [ "$1" = "$2" ] || { echo "FAILED: $3: $1, not $2" >&2; exit 1; }; }
play() { "$sim" --frames "$1" --policy "$2" | xargs; }
repeat() { for ((i = 0; i < $1; i++)); do trace "${@:2}"; done; }

for policy in a2q clock lru arc s3fifo clock2qplus; do
	equal "$(repeat 9 'r 1 0 100' | play 100 $policy)" 'accesses 900 misses 100 page writes 0' "$policy: all fit"
	equal "$(repeat 50 'w 1 0 20' 'd 1 0 20' | play 100 $policy)" 'accesses 1000 misses 1000 page writes 0' "$policy: dropped in time"
done
for policy in clock lru; do
	equal "$(trace 'w 1 0 1000' 'r 2 0 100' | play 100 $policy)" 'accesses 1100 misses 1100 page writes 1000' "$policy: all are written once"
	equal "$(trace 'w 3 5 30' 'w 4 5 30' "d 3 0 $((1 << 40))" 'r 5 0 500' | play 100 $policy)" 'accesses 560 misses 560 page writes 30' "$policy: one object dropped"
	equal "$(repeat 10 'r 1 0 101' | play 100 $policy)" 'accesses 1010 misses 1010 page writes 0' "$policy: a loop a page too long"
done
a2q=$(repeat 10 'r 1 0 120' | play 100 a2q | cut -d' ' -f4)
[ "$a2q" -lt 700 ] || { echo "FAILED: a2q in a loop: $a2q misses of 1200" >&2; exit 1; }

refused() { # STATUS ARGUMENT...
	local rc=0
	"$sim" "${@:2}" >/dev/null 2>&1 || rc=$?
	equal "$rc" "$1" "$*"
}
refused 2 --frames 100 --policy none /dev/null
refused 2 /dev/null
refused 1 --frames 100 /nowhere
refused 1 --frames 100 <(trace 'x 1 2 3')
refused 1 --frames 100 <(trace 'r 1 2')
