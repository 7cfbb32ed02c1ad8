#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# SQLite in rollback and WAL modes: a database larger than the tier, integrity, and kill -9 amid
# transactions, each of which is there if sqlite had acknowledged it.
. "$(dirname "$0")/lib.sh"
need sqlite3

sql() { sqlite3 -bail -batch "$MNT/$1.db" ".timeout 10000" "$2"; }

setup() { # MODE
	# WAL's index is a shared mapping; without those, one process may still use WAL alone.
	prefix=
	[ "$1" = delete ] || can_map_shared || prefix='PRAGMA locking_mode=EXCLUSIVE;'
	equal "$(sql "$1" "${prefix}PRAGMA journal_mode=$1;" | tail -n 1)" "$1" "journal mode"
	sql "$1" "${prefix}PRAGMA synchronous=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);" >/dev/null
}
grow() { # past the tier's size, in transactions of 4 MiB
	local i
	for i in $(seq 12); do
		sql "$1" "${prefix}BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2048)
			INSERT INTO t(v) SELECT randomblob(2048) FROM n; COMMIT;" >/dev/null
	done
	sql "$1" "${prefix}UPDATE t SET v = randomblob(1500) WHERE id % 5 = 0;
		DELETE FROM t WHERE id % 7 = 0; CREATE INDEX iv ON t(substr(v, 1, 8));" >/dev/null
}
intact() {
	equal "$(sql "$1" "${prefix}PRAGMA integrity_check;" | tail -n 1)" ok "integrity check ($1)"
}
acknowledged() { # one transaction after another; its number is printed once it is committed
	local i
	sql "$1" "CREATE TABLE IF NOT EXISTS acks(n INTEGER);"
	{
		echo "${prefix}PRAGMA synchronous=FULL;"
		for ((i = 1; i <= 20000; i++)); do
			echo "BEGIN; INSERT INTO acks VALUES($i); UPDATE t SET v = randomblob(1000) WHERE id = $i * 131 % 20000; COMMIT; SELECT 'ack', $i;"
		done
	} >"$DIR/sql"
	stdbuf -oL sqlite3 -bail -batch "$MNT/$1.db" <"$DIR/sql" >"$DIR/acks" 2>/dev/null &
	JOBS=($!)
}

make_pair 32 512
mount_fs
for mode in delete wal; do
	step "$mode: a database larger than the tier"
	setup "$mode"
	grow "$mode"
	intact "$mode"
	for round in 1 2; do
		step "$mode: kill -9, round $round"
		acknowledged "$mode"
		sleep 1.5
		kill9
		wait "${JOBS[@]}" || :
		JOBS=()
		mount_fs
		intact "$mode"
		last=$(awk -F'|' '$1 == "ack" { n = $2 } END { print n + 0 }' "$DIR/acks")
		[ "$last" -gt 0 ] || fail "no transaction was committed in time"
		found=$(sql "$mode" "${prefix}SELECT max(n) FROM acks;" | tail -n 1)
		[ "$found" -ge "$last" ] || fail "transaction $last was acknowledged, $found is the last there"
		sql "$mode" "${prefix}DELETE FROM acks;" >/dev/null
	done
	remount
	intact "$mode"
done
unmount_fs
fsck_fs
