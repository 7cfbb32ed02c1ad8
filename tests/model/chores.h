// SPDX-License-Identifier: GPL-2.0-or-later
// The memory-only chores that a lane does for the store: reclaim, evict, the pass over dropped frames,
// admission.
#pragma once
#include "fetch.h"

enum Op { OP_TXN, OP_READ, OP_LOOKUP, OP_RECLAIM, OP_EVICT, OP_DROP_PASS };

// ---- table chores: one lane at a time, the lock is only ever tried -------------------------------

inline bool table_trylock(World &w, const Lane &me)
{
	if (w.table_lock >= 0)
		return false;
	w.table_lock = me.id;
	return true;
}

// The ring whose next record is the oldest one <= limit; parsed into me.reclaimed.
inline int reclaim_pick(const World &w, Lane &me)
{
	int best = -1;
	Record r;
	for (int ring = 0; ring < LANES; ring++) {
		if (!keeps(global_t) && ring != me.ring)
			continue;
		if (me.cursor[ring] < w.head[ring] &&
		    record_parse(w.tier, me.id, w.attach, ring, me.cursor[ring], &r) && r.lsn <= me.limit &&
		    (best < 0 || r.lsn < me.reclaimed.lsn)) {
			best = ring;
			me.reclaimed = r;
		}
	}
	return best;
}
inline void relog_if_newest(const World &w, Lane &me, const Item &it)
{
	const Version *v = overlay_newest(w, it.key, it.lsn);
	if (!v || !keeps(relog) || (keeps(relog_newest_only) && v->lsn != it.lsn))
		return;
	Item &copy = me.relog.it[me.relog.items++] = it;
	if (!keeps(relog_first_lsn))
		copy.lsn = me.relog.lsn;
}
inline void relog_append(World &w, Lane &me)
{
	if (me.relog.items == 0)
		return;
	u64 used = w.head[ITEM_RING] - w.durable_tail[ITEM_RING];
	if (used + me.relog.words() > ITEM_RING_WORDS) {
		harmed(w, "the item ring is full");
		return;
	}
	trace("lane%d: %d items logged again", me.id, me.relog.items);
	record_append(w.tier, me.id, w.attach, ITEM_RING, w.head[ITEM_RING], me.relog);
	w.head[ITEM_RING] += me.relog.words();
	me.relog.items = 0;
}

inline void relog_record(World &w, Lane &me)
{
	me.relog = {};
	me.relog.lsn = w.lsn++;
	for (int i = 0; i < me.reclaimed.items; i++)
		relog_if_newest(w, me, me.reclaimed.it[i]);
	relog_append(w, me);
}

// Up to where nothing is in flight.
inline Run reclaim_limit_step(World &w, Lane &me)
{
	BEGIN(me.part_pc)
	// S first: what takes its LSN later is above it
	me.limit = keeps(s_first) ? w.lsn : ~0ull;
	STEP(me.part_pc);
	for (me.i = 0; me.i < LANES; me.i++) {
		if (keeps(inflight) && w.lane[me.i].inflight && w.lane[me.i].inflight < me.limit)
			me.limit = w.lane[me.i].inflight;
		STEP(me.part_pc);
	}
	if (!keeps(s_first) && w.lsn < me.limit)
		me.limit = w.lsn;
	me.limit--;
	END(me.part_pc);
}

// The item ring has its own tail: half full, its oldest records go round again.
inline Run turn_item_ring_step(World &w, Lane &me)
{
	BEGIN(me.part_pc)
	for (me.slice = 0; me.slice < 4 && w.head[ITEM_RING] - me.cursor[ITEM_RING] > ITEM_RING_WORDS / 2; me.slice++) {
		if (!record_parse(w.tier, me.id, w.attach, ITEM_RING, me.cursor[ITEM_RING], &me.reclaimed)) {
			harmed(w, "a live record of the item ring cannot be read");
			break;
		}
		relog_record(w, me);
		me.cursor[ITEM_RING] += me.reclaimed.words();
		STEP(me.part_pc);
	}
	END(me.part_pc);
}

// Slots for what a record has switched, none for what it has replaced, and its items logged again.
inline Run reclaim_record_step(World &w, Lane &me)
{
	BEGIN(me.part_pc)
	me.new_t = me.reclaimed.lsn;
	trace("lane%d: reclaim record %llu of ring %d", me.id, (unsigned long long)me.reclaimed.lsn, me.i);
	for (me.j = 0; me.j < me.reclaimed.switches; me.j++) {
		{
			const Switch &s = me.reclaimed.sw[me.j];
			Frame &f = w.frame[s.frame];
			if (w.index[s.key].frame == s.frame)
				slot_store(w, me.id, s.frame, false);
			else if (f.kept && f.lsn == me.reclaimed.lsn)
				slot_store(w, me.id, s.frame, true);
		}
		STEP(me.part_pc);
	}
	for (int f = 0; f < FRAMES; f++)
		if (w.frame[f].place == Frame::LIMBO && w.frame[f].replaced_by == me.reclaimed.lsn) {
			slot_free_store(w, me.id, f);
			w.frame[f].slot_pending = true;
		}
	STEP(me.part_pc);
	relog_record(w, me);
	STEP(me.part_pc);
	END(me.part_pc);
}

// The front moves on, and what lies behind it may be used again.
inline Run reclaim_front_step(World &w, Lane &me)
{
	BEGIN(me.part_pc)
	if (keeps(drain_slots))
		w.tier.drain(me.id);
	STEP(me.part_pc);
	w.tier.store(me.id, keeps(global_t) ? W_T : W_LANE_T + me.ring, me.new_t);
	STEP(me.part_pc);
	if (keeps(drain_t))
		w.tier.drain(me.id);
	w.t = me.new_t;
	STEP(me.part_pc);
	for (int r = 0; r < RINGS; r++)
		if (me.cursor[r] != w.tail[r])
			w.tier.store(me.id, W_TAIL + r, me.cursor[r]);
	memcpy(w.tail, me.cursor, sizeof w.tail);
	STEP(me.part_pc);
	if (keeps(drain_tails))
		w.tier.drain(me.id);
	memcpy(w.durable_tail, w.tail, sizeof w.tail);
	for (int f = 0; f < FRAMES; f++)
		if (w.frame[f].slot_pending) {
			w.frame[f].slot_pending = false;
			w.frame[f].slot_freed = true;
			frame_retire(w, f);
		}
	END(me.part_pc);
}

inline Run reclaim_step(World &w, Lane &me)
{
	BEGIN(me.table_pc)
	if (!table_trylock(w, me))
		FINISH(me.table_pc);
	STEP(me.table_pc);
	CALL(me.table_pc, me.part_pc, reclaim_limit_step(w, me));
	me.new_t = w.t;
	me.ring = dice->below(LANES); // only for the mutant with a T per lane
	memcpy(me.cursor, w.tail, sizeof me.cursor);
	for (me.i = 0; me.i < FRAMES; me.i++) // left over by a crash, replaced by nothing in the log
		if (w.frame[me.i].place == Frame::LIMBO && !w.frame[me.i].replaced_by && !w.frame[me.i].slot_freed) {
			slot_free_store(w, me.id, me.i);
			w.frame[me.i].slot_pending = true;
			STEP(me.table_pc);
		}
	CALL(me.table_pc, me.part_pc, turn_item_ring_step(w, me));
	for (me.slice = 0; me.slice < 3; me.slice++) {
		me.i = reclaim_pick(w, me);
		if (me.i < 0) {
			if (me.limit > me.new_t)
				me.new_t = me.limit; // nothing <= limit is left
			break;
		}
		me.cursor[me.i] += me.reclaimed.words();
		if (keeps(global_t) && me.reclaimed.lsn <= w.t)
			continue; // left by a crash between T and the tails
		CALL(me.table_pc, me.part_pc, reclaim_record_step(w, me));
	}
	CALL(me.table_pc, me.part_pc, reclaim_front_step(w, me));
	w.table_lock = -1;
	STEP(me.table_pc);
	END(me.table_pc);
}

// Evict clean frames, and dead ones as if they were; or, for the epoch, take out every frame that
// a DROP <= C has killed. First a look, for a DROP above all.
inline bool evict_looks(const World &w, Lane &me)
{
	const Frame &fr = w.frame[me.i];
	if (fr.place != Frame::INDEXED)
		return false;
	me.victim_lsn = fr.lsn;
	if (me.op == OP_DROP_PASS)
		return fr.lsn < overlay_drop_over(w, fr.key, w.drop_pass_to);
	me.dead = fr.lsn < overlay_drop_over(w, fr.key);
	return (frame_clean(w, fr) || me.dead) && dice->chance(2);
}
// Then, under the bucket's lock: is it still so, and not frozen? The cut is read after the DROP was
// found: what a later cut freezes is dead at that cut too.
inline bool evict_takes(const World &w, const Lane &me)
{
	const Frame &fr = w.frame[me.i];
	if (fr.place != Frame::INDEXED || fr.lsn != me.victim_lsn)
		return false;
	if (me.op == OP_DROP_PASS)
		return true;
	if (!fr.filled && fr.lsn > w.t && keeps(evict_behind_t))
		return false;
	u64 cut = keeps(dead_cut_late) ? w.cut : me.cut_seen;
	return frame_clean(w, fr) || (me.dead && (fr.lsn > cut || !keeps(dead_frozen)));
}
inline Run evict_step(World &w, Lane &me)
{
	BEGIN(me.table_pc)
	if (!table_trylock(w, me))
		FINISH(me.table_pc);
	me.victims = 0;
	me.cut_seen = w.cut;
	STEP(me.table_pc);
	for (me.i = 0; me.i < FRAMES; me.i++) {
		if (!evict_looks(w, me))
			continue;
		STEP(me.table_pc);
		if (!keeps(evict_owns)) { // frees the slot, then takes the entry, whosever it is
			slot_free_store(w, me.id, me.i);
			STEP(me.table_pc);
		}
		UNTIL(me.table_pc, bucket_of(w, w.frame[me.i].key).owner < 0);
		if (!evict_takes(w, me) && keeps(evict_owns))
			continue;
		trace("lane%d: evict frame %d (key %d, LSN %llu)%s", me.id, me.i, w.frame[me.i].key, (unsigned long long)w.frame[me.i].lsn,
		      frame_clean(w, w.frame[me.i]) ? "" : ", dead");
		w.index[w.frame[me.i].key].frame = -1;
		bucket_of(w, w.frame[me.i].key).version += keeps(bump_evict);
		w.frame[me.i].place = Frame::LEAVING;
		me.victim[me.victims++] = (int8_t)me.i;
		STEP(me.table_pc);
		slot_free_store(w, me.id, me.i);
		STEP(me.table_pc);
	}
	if (keeps(evict_drain))
		w.tier.drain(me.id);
	STEP(me.table_pc);
	for (int v = 0; v < me.victims; v++)
		frame_retire(w, me.victim[v]);
	if (me.op == OP_DROP_PASS)
		w.drop_pass_to = 0;
	w.table_lock = -1;
	STEP(me.table_pc);
	END(me.table_pc);
}

inline bool admissible(World &w, const Fetched &f)
{
	if (keeps(admit_version) && bucket_of(w, f.key).version != f.version)
		return false;
	return !keeps(admit_drop) || overlay_drop_over(w, f.key) <= f.lsn;
}
inline void frame_admit(World &w, Lane &me)
{
	const Fetched &f = me.fetch;
	Frame &fr = w.frame[me.i];
	fr.place = Frame::INDEXED;
	fr.key = (uint8_t)f.key;
	fr.filled = true;
	fr.lsn = keeps(fill_birth) ? f.lsn : w.lsn++;
	fr.sum = f.sum;
	w.index[f.key].frame = (int8_t)me.i;
	bucket_of(w, f.key).version += keeps(bump_admit);
	trace("lane%d: admit key %d into frame %d (birth %llu)", me.id, f.key, me.i, (unsigned long long)f.lsn);
}
// Copy what a read miss brought into a free frame, if the bucket is as it was and no DROP came.
// DROPs are put without the bucket's lock, but leave the overlay only a grace period after the root
// that has them was published, and the reader is not quiescent. The table's lock is held from before
// the check: the drop pass looks at frames, and would not see one that is checked but not yet entered.
inline Run admit_step(World &w, Lane &me)
{
	Fetched &f = me.fetch;
	BEGIN(me.table_pc)
	me.i = frame_take(w);
	if (me.i < 0)
		FINISH(me.table_pc);
	nap(w, me, 4);
	STEP(me.table_pc);
	w.tier.store(me.id, frame_word(me.i, 0), f.half[0]);
	w.tier.store(me.id, frame_word(me.i, 1), f.half[1]);
	STEP(me.table_pc);
	w.tier.drain(me.id);
	me.quiescent += !keeps(admit_no_quiescent);
	STEP(me.table_pc);
	if (keeps(admit_in_table) && !table_trylock(w, me)) {
		frame_retire(w, me.i);
		FINISH(me.table_pc);
	}
	STEP(me.table_pc);
	me.fit = admissible(w, f);
	if (!keeps(admit_in_lock)) {
		nap(w, me, 2);
		STEP(me.table_pc);
	}
	UNTIL(me.table_pc, bucket_of(w, f.key).owner < 0);
	bucket_of(w, f.key).owner = (int8_t)me.id;
	STEP(me.table_pc);
	if (keeps(admit_in_lock))
		me.fit = admissible(w, f);
	if (!keeps(admit_in_table))
		nap(w, me, 4);
	STEP(me.table_pc);
	bucket_of(w, f.key).owner = -1; // together with what it does
	if (w.index[f.key].frame >= 0 || !me.fit) {
		frame_retire(w, me.i);
		w.table_lock = keeps(admit_in_table) ? -1 : w.table_lock;
		FINISH(me.table_pc);
	}
	frame_admit(w, me);
	if (keeps(admit_in_table) && !keeps(fill_slot_checked))
		w.table_lock = -1;
	STEP(me.table_pc);
	if (!keeps(admit_in_table) && keeps(fill_slot_checked) && !table_trylock(w, me))
		FINISH(me.table_pc); // a frame without a slot: a crash forgets it
	STEP(me.table_pc);
	me.fit = w.index[f.key].frame == me.i || !keeps(fill_slot_checked);
	STEP(me.table_pc);
	if (me.fit)
		slot_store(w, me.id, me.i, false);
	STEP(me.table_pc);
	w.tier.drain(me.id);
	if (keeps(fill_slot_checked))
		w.table_lock = -1;
	STEP(me.table_pc);
	END(me.table_pc);
}
