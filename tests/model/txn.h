// SPDX-License-Identifier: GPL-2.0-or-later
// A commit, from what it reads to its reply.
#pragma once
#include "chores.h"

// ---- commit -----------------------------------------------------------------------------------

inline void change_add(Lane &me, int key, bool built_on)
{
	PageChange &c = me.change[me.changes++];
	c.key = (int8_t)key;
	c.frame = -1;
	c.built_on = built_on;
	if (built_on) {
		c.base = me.fetch;
		memcpy(c.half, me.fetch.half, sizeof c.half);
	}
}

inline void give_back_frames(World &w, Lane &me)
{
	for (int i = 0; i < me.changes; i++)
		if (me.change[i].frame >= 0) {
			frame_retire(w, me.change[i].frame);
			me.change[i].frame = -1;
		}
}

// Under the locks: is all that was read still so?
inline bool commit_check(World &w, const Lane &me)
{
	for (int i = 0; i < me.changes; i++) {
		const PageChange &c = me.change[i];
		const IndexEntry &x = w.index[c.key];
		if (!c.built_on)
			continue;
		if (keeps(check_pages)) {
			if (c.base.frame >= 0 && x.frame != c.base.frame)
				return false;
			if (c.base.frame < 0 && !me.locked_first &&
			    (x.frame >= 0 || (keeps(built_on_version) && bucket_of(w, c.key).version != c.base.version)))
				return false;
		}
		if (keeps(check_drop) && overlay_drop_over(w, c.key) != c.base.drop && overlay_drop_over(w, c.key) > c.base.lsn)
			return false;
	}
	if (keeps(check_items) && (me.effect.put >= 0 || me.effect.remove >= 0)) {
		int slot = lock_slot(w, DIRECTORY);
		if (w.lock[slot].sequence != me.sequence[slot])
			return false;
	}
	if (keeps(inode_under_lock))
		for (int o = 0; o < 2; o++) // in the overlay it is read now, else what was read must still hold
			if (me.effect.objects >> o & 1 && !overlay_newest(w, o) &&
			    w.lock[lock_slot(w, o)].sequence != me.sequence[lock_slot(w, o)])
				return false;
	return true;
}

inline void record_build(const World &w, Lane &me)
{
	Record &r = me.record;
	const Effect &e = me.effect;
	r = {};
	r.lsn = me.lsn;
	for (int i = 0; i < me.changes; i++)
		r.sw[r.switches++] = { me.change[i].key, me.change[i].frame, me.change[i].sum };
	for (int o = 0; o < 2; o++)
		if (e.objects >> o & 1) {
			const Version *v = overlay_newest(w, o);
			State s = {};
			s.inode[o] = v && keeps(inode_under_lock) ? v->value : me.inode_seen[o];
			effect_apply(s, e);
			r.it[r.items++] = { (u32)o, s.inode[o], me.lsn };
		}
	if (e.put >= 0)
		r.it[r.items++] = { (u32)(ITEM_DIRENT0 + e.put), e.stamp, me.lsn };
	if (e.remove >= 0)
		r.it[r.items++] = { (u32)(ITEM_DIRENT0 + e.remove), 0, me.lsn };
	if (e.punch_object >= 0)
		r.it[r.items++] = { drop_key(e.punch_object, e.punch_from, e.punch_to), 1, me.lsn };
	if (e.cut_object >= 0 && (e.cut_size + 1) / 2 < object_pages[e.cut_object])
		r.it[r.items++] = { drop_key(e.cut_object, (e.cut_size + 1) / 2, object_pages[e.cut_object]), 1, me.lsn };
}

inline void index_switch(World &w, Lane &me, const PageChange &c)
{
	IndexEntry &x = w.index[c.key];
	int old = x.frame;
	x.frame = c.frame;
	bucket_of(w, c.key).version += keeps(bump_switch);
	Frame &f = w.frame[c.frame];
	f = {};
	f.place = Frame::INDEXED;
	f.key = (uint8_t)c.key;
	f.lsn = me.lsn;
	f.sum = c.sum;
	trace("lane%d: key %d -> frame %d @%llu, replaces frame %d", me.id, c.key, c.frame, (unsigned long long)me.lsn, old);
	if (old < 0)
		return;
	Frame &o = w.frame[old];
	if (o.place != Frame::INDEXED)
		invariant(w, false, "a frame has two owners");
	u64 cut = keeps(cut_read_late) ? w.cut : me.cut_seen;
	bool keep = keeps(keep_frames) && o.lsn <= cut && cut < me.lsn && !frame_clean(w, o) && !o.written;
	o.place = Frame::LIMBO;
	o.replaced_by = me.lsn;
	o.kept = keep && keeps(keep_atomic);
	me.keep_late = keep && !keeps(keep_atomic);
	me.victim[0] = (int8_t)old;
	if (!keeps(limbo))
		frame_retire(w, old);
}

inline bool ring_has_room(const World &w, const Lane &me)
{
	return w.head[me.id] + MAX_RECORD_WORDS <= w.durable_tail[me.id] + LANE_RING_WORDS;
}

inline void sequence_bump(World &w, const Lane &me, u32 by)
{
	for (int s = 0; s < LOCK_SLOTS; s++)
		w.lock[s].sequence += me.locked[s] ? by : 0;
}

// Ends a part of a commit, and says what becomes of the whole.
#define STOP(what) do { me.verdict = Lane::what; FINISH(me.part_pc); } while (0)

// Reads the pages that are built on, and builds the new ones in DRAM.
inline Run gather_pages_step(World &w, Lane &me)
{
	const Effect &e = me.effect;
	BEGIN(me.part_pc)
	me.verdict = Lane::GOES_ON;
	for (me.i = 0; me.i < e.writes; me.i++) {
		if (e.write_halves[me.i] != 3) {
			me.fetch.key = e.write_key[me.i];
			CALL(me.part_pc, me.fetch_pc, fetch_step(w, me));
			if (me.fetch.late)
				STOP(AGAIN);
			if (me.fetch.source == Fetched::BROKEN)
				STOP(GIVES_UP); // EIO until overwritten
			if (me.fetch.source == Fetched::FRAME && keeps(verify_base) && page_sum(me.fetch.key, me.fetch.half) != me.fetch.sum) {
				if (!((me.fetch.half[0] | me.fetch.half[1]) & ROTTEN) && w.index[me.fetch.key].frame == me.fetch.frame && w.frame[me.fetch.frame].lsn == me.fetch.lsn)
					harmed(w, "a frame does not match its checksum");
				STOP(GIVES_UP);
			}
		}
		change_add(me, e.write_key[me.i], e.write_halves[me.i] != 3);
		for (int h = 0; h < 2; h++)
			if (e.write_halves[me.i] >> h & 1)
				me.change[me.changes - 1].half[h] = half_value(e.write_key[me.i], e.stamp);
		STEP(me.part_pc);
	}
	if (e.cut_object >= 0 && e.cut_size & 1 && keeps(tail_in_record)) {
		me.fetch.key = (int8_t)(object_first_key[e.cut_object] + e.cut_size / 2);
		CALL(me.part_pc, me.fetch_pc, fetch_step(w, me));
		if (me.fetch.late)
			STOP(AGAIN);
		if (me.fetch.source == Fetched::BROKEN ||
		    (me.fetch.source == Fetched::FRAME && page_sum(me.fetch.key, me.fetch.half) != me.fetch.sum))
			STOP(GIVES_UP);
		change_add(me, me.fetch.key, true);
		me.change[0].half[1] = 0;
		STEP(me.part_pc);
	}
	END(me.part_pc);
}

inline Run gather_items_step(World &w, Lane &me)
{
	const Effect &e = me.effect;
	BEGIN(me.part_pc)
	me.verdict = Lane::GOES_ON;
	for (me.i = 0; me.i < 2; me.i++)
		if (e.objects >> me.i & 1) {
			me.lookup_key = (u32)me.i;
			CALL(me.part_pc, me.lookup_pc, lookup_step(w, me));
			me.inode_seen[me.i] = me.lookup_value;
		}
	for (me.i = 0; me.i < DIRENTS; me.i++)
		if (e.put == me.i || e.remove == me.i) {
			me.lookup_key = (u32)(ITEM_DIRENT0 + me.i);
			CALL(me.part_pc, me.lookup_pc, lookup_step(w, me));
			if ((me.lookup_value != 0) == (e.put == me.i))
				STOP(GIVES_UP); // EEXIST, ENOENT
		}
	END(me.part_pc);
}

inline Run build_frames_step(World &w, Lane &me)
{
	BEGIN(me.part_pc)
	for (me.i = 0; me.i < me.changes; me.i++) {
		for (me.j = 0; me.j < 2; me.j++) {
			w.tier.store(me.id, frame_word(me.change[me.i].frame, me.j), me.change[me.i].half[me.j]);
			STEP(me.part_pc);
		}
		me.change[me.i].sum = page_sum(me.change[me.i].key, me.change[me.i].half);
	}
	END(me.part_pc);
}

// The record: durable and atomic.
inline Run log_step(World &w, Lane &me)
{
	const Effect &e = me.effect;
	BEGIN(me.part_pc)
	me.verdict = Lane::GOES_ON;
	me.counter = w.lsn;
	me.cut_seen = w.cut;
	STEP(me.part_pc);
	if (keeps(inflight_first)) {
		me.inflight = me.counter;
		STEP(me.part_pc);
	}
	me.lsn = w.lsn++;
	STEP(me.part_pc);
	me.inflight = keeps(inflight_first) ? me.counter : me.lsn;
	if (!keeps(locks_before_lsn)) {
		CALL(me.part_pc, me.lock_pc, lock_step(w, me));
		if (!commit_check(w, me)) {
			me.inflight = 0;
			STOP(AGAIN);
		}
	}
	record_build(w, me);
	trace("lane%d: append record %llu, %d switches, %d items (stamp %u, objects %x)", me.id, (unsigned long long)me.lsn, me.record.switches, me.record.items, e.stamp, e.objects);
	record_append(w.tier, me.id, w.attach, me.id, w.head[me.id], me.record);
	w.head[me.id] += me.record.words();
	w.oracle.appended[me.id] = { true, e, me.lsn };
	STEP(me.part_pc);
	if (keeps(drain_record))
		w.tier.drain(me.id);
	oracle_durable(w, me); // here, and all at once
	if (!keeps(inflight_until_switch))
		me.inflight = 0;
	for (int s = 0; s < LOCK_SLOTS && !keeps(locks_until_switch); s++)
		if (me.locked[s])
			w.lock[s].owner = -1;
	STEP(me.part_pc);
	END(me.part_pc);
}

// What the record says, in the index and in the overlay.
inline Run switch_step(World &w, Lane &me)
{
	BEGIN(me.part_pc)
	if (keeps(seq_odd))
		sequence_bump(w, me, 1);
	STEP(me.part_pc);
	for (me.i = 0; me.i < me.changes; me.i++) {
		UNTIL(me.part_pc, bucket_of(w, me.change[me.i].key).owner < 0);
		index_switch(w, me, me.change[me.i]);
		STEP(me.part_pc);
		if (me.keep_late) { // mutant: kept, but one step late
			w.frame[me.victim[0]].kept = true;
			me.keep_late = false;
		}
	}
	for (me.i = 0; me.i < me.record.items; me.i++) {
		overlay_put(w, me.record.it[me.i].key, me.record.it[me.i].value, me.lsn, keeps(cut_read_late) ? w.cut : me.cut_seen);
		STEP(me.part_pc);
	}
	sequence_bump(w, me, keeps(seq_odd) ? 1 : 2);
	STEP(me.part_pc);
	me.inflight = 0;
	STEP(me.part_pc);
	unlock_all(w, me);
	STEP(me.part_pc);
	END(me.part_pc);
}

inline Run txn_step(World &w, Lane &me)
{
	BEGIN(me.txn_pc)
	me.restarts = 0;
restart:
	me.changes = 0;
	me.locked_first = me.restarts > w.patience; // nobody else then switches or drops what is built on
	if (me.locked_first)
		CALL(me.txn_pc, me.lock_pc, lock_step(w, me));

	for (int s = 0; s < LOCK_SLOTS; s++)
		me.sequence[s] = w.lock[s].sequence;
	STEP(me.txn_pc);
	for (int s = 0; s < LOCK_SLOTS; s++)
		if (wants_lock(w, me, s) && me.sequence[s] & 1 && !me.locked[s])
			goto changed;
	CALL(me.txn_pc, me.part_pc, gather_pages_step(w, me));
	if (me.verdict == Lane::AGAIN)
		goto changed;
	if (me.verdict == Lane::GIVES_UP)
		goto fail;
	CALL(me.txn_pc, me.part_pc, gather_items_step(w, me));
	if (me.verdict == Lane::GIVES_UP)
		goto fail;

	if (!keeps(no_quiescent))
		me.quiescent++;
	// build the frames
	for (me.i = 0; me.i < me.changes; me.i++) {
		me.change[me.i].frame = (int8_t)frame_take(w);
		if (me.change[me.i].frame < 0)
			goto no_space;
	}
	CALL(me.txn_pc, me.part_pc, build_frames_step(w, me));
	if (me.changes && dice->chance(30)) { // interrupted before it commits
		if (keeps(abort_drain))
			w.tier.drain(me.id);
		goto fail;
	}
	if (keeps(drain_frames))
		w.tier.drain(me.id);
	STEP(me.txn_pc);

	// claims, before the locks
	if (!ring_has_room(w, me) || overlay_free(w) < LANES * MAX_ITEMS)
		goto no_space;
	if (keeps(locks_before_lsn))
		CALL(me.txn_pc, me.lock_pc, lock_step(w, me));
	if (keeps(locks_before_lsn) && !commit_check(w, me)) {
changed:
		trace("lane%d: restart", me.id);
		unlock_all(w, me);
		give_back_frames(w, me);
		me.restarts++;
		STEP(me.txn_pc);
		if (me.restarts < 8)
			goto restart;
		goto fail;
	}
	STEP(me.txn_pc);

	CALL(me.txn_pc, me.part_pc, log_step(w, me));
	if (me.verdict == Lane::AGAIN)
		goto changed;
	CALL(me.txn_pc, me.part_pc, switch_step(w, me));
	oracle_reply(w, me);
	w.lane[1 - me.id].hunted |= me.hunts;
	FINISH(me.txn_pc);

no_space: // the operation parks; here it helps itself and gives up
	unlock_all(w, me);
	give_back_frames(w, me);
	CALL(me.txn_pc, me.table_pc, reclaim_step(w, me));
	CALL(me.txn_pc, me.table_pc, evict_step(w, me));
	FINISH(me.txn_pc);
fail:
	unlock_all(w, me);
	give_back_frames(w, me);
	END(me.txn_pc);
}
