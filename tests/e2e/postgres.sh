#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# PostgreSQL: its data larger than the tier; the daemon is killed under load; recovery finds what was
# committed, and amcheck no damage.
. "$(dirname "$0")/lib.sh"
need_root "run PostgreSQL as its own user"
BIN=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
[ -x "$BIN/initdb" ] || skip "postgresql is not installed"
id postgres >/dev/null 2>&1 || skip "there is no user postgres"
need setpriv

pg() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env PATH="$BIN:$PATH" PGHOST="$DIR/run" PGDATABASE=postgres "$@"); }
start() { pg pg_ctl -D "$MNT/pg" -l "$DIR/run/log" -w -t 120 -o "-k $DIR/run -c listen_addresses=" start >/dev/null; }
ask() { pg psql -Atqc "$1"; }
stop_hard() { # the daemon's death makes it panic, perhaps not at once
	pg pg_ctl -D "$MNT/pg" -m immediate -t 20 stop >/dev/null 2>&1 || :
	[ -z "$POSTMASTER" ] || wait_gone "$POSTMASTER" 20 || kill -9 "$POSTMASTER" || :
}
POSTMASTER=''
at_end() { stop_hard; }

make_pair 64 1024
mkdir "$DIR/run"
chown postgres "$DIR/run"
mount_fs -o allow_other
mkdir "$MNT/pg"
chown postgres "$MNT/pg"
step "initdb, pgbench -i"
pg initdb -D "$MNT/pg" -A trust --no-sync >"$DIR/initdb" 2>&1 || fail "initdb: $(tail -n 5 "$DIR/initdb")"
start
POSTMASTER=$(head -n 1 "$MNT/pg/postmaster.pid")
pg pgbench -i -s 10 -q >"$DIR/pgbench" 2>&1 || fail "pgbench -i: $(tail -n 5 "$DIR/pgbench")"

step "kill -9 of the daemon under load"
pg pgbench -c 4 -j 2 -T 60 --log --log-prefix="$DIR/run/tx" >"$DIR/pgbench" 2>&1 &
JOBS+=($!)
sleep 6
kill -9 "$PID"
wait_gone "$PID" 20
sleep 1
stop_jobs
kill -9 "$POSTMASTER" 2>/dev/null || :
for p in $(pgrep -P "$POSTMASTER" || :); do kill -9 "$p" 2>/dev/null || :; done
wait_gone "$POSTMASTER" 20 || fail "PostgreSQL does not end"
sleep 1
committed=$(cat "$DIR"/run/tx.* | wc -l)
fusermount3 -uz "$MNT"
mount_fs -o allow_other
step "recovery: at least $committed transactions"
rm -f "$MNT/pg/postmaster.pid"
start || fail "PostgreSQL does not start: $(tail -n 5 "$DIR/run/log")"
POSTMASTER=$(head -n 1 "$MNT/pg/postmaster.pid")
[ "$committed" -gt 0 ] || fail "no transaction ended in time"
[ "$(ask 'select count(*) from pgbench_history')" -ge "$committed" ] || fail "$(ask 'select count(*) from pgbench_history') transactions are there, $committed were committed"
sums=$(ask "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
	(select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history)")
[ "$(tr '|' '\n' <<<"$sums" | sort -u | wc -l)" = 1 ] || fail "balances differ: $sums"
ask 'create extension if not exists amcheck'
pg pg_amcheck --heapallindexed -d postgres >"$DIR/amcheck" 2>&1 || fail "amcheck: $(head -n 5 "$DIR/amcheck")"
pg pgbench -c 4 -j 2 -T 3 >"$DIR/pgbench" 2>&1 || fail "pgbench: $(tail -n 5 "$DIR/pgbench")"
pg pg_ctl -D "$MNT/pg" -m fast -w stop >/dev/null
POSTMASTER=''
unmount_fs
fsck_fs
