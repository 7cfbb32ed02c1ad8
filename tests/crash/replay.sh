#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# replay.sh TEST_FSCRASH: the name of a failing state leads to the same failure, and without what was broken to
# none.
set -euo pipefail
test=$1

failure() { sed -n 's/^FAILED: \([^:]*\):.*/\1/p'; } # what comes after has numbers drawn at random

for order in record:create,write-dirty attach:attach; do
	only=${order#*:} order=${order%:*}
	found=$("$test" --break "$order" --only "$only")
	name=$(sed -n 's/.*--replay \([^ ]*\) .*/\1/p' <<<"$found")
	[ -n "$name" ]
	again=$("$test" --replay "$name" --break "$order")
	[ "$(failure <<<"$found")" = "$(failure <<<"$again")" ] || { echo "$name: another failure: $again"; exit 1; }
	again=$("$test" --replay "$name")
	grep -q '^[1-9][0-9]* states' <<<"$again" || { echo "$name: not reached: $again"; exit 1; }
	echo "$order: $name"
done
