// SPDX-License-Identifier: GPL-2.0-or-later
// Which tier belongs to which backing: crashes and modules that change places, the match of the
// two, attach, warm start and unmount. All of it may be cut at any step, and goes on from what
// lies on the media and from the options that the user repeats.
#pragma once
#include "epoch.h"

// ---- crashes ----------------------------------------------------------------------------------

inline void dram_lost(World &w)
{
	w.serving = w.unmounting = false;
	memset(w.index, 0, sizeof w.index);
	memset(w.bucket, 0, sizeof w.bucket);
	memset(w.frame, 0, sizeof w.frame);
	memset(w.lane, 0, sizeof w.lane);
	memset((void *)&w.ep, 0, sizeof w.ep);
	memset((void *)&w.rec, 0, sizeof w.rec);
	w.unmount_pc = 0;
	w.table_lock = -1;
	w.attach = w.cut = w.clean_cut = w.t = w.lsn = w.reclaim_to = w.drop_pass_to = 0;
	for (int k = 0; k < KEYS; k++)
		w.index[k].frame = -1, w.bucket[k].owner = -1;
	for (Version &v : w.overlay)
		v = { ~0u, 0, 0 };
	for (ObjectLock &l : w.lock)
		l = { -1, 0 };
	for (int l = 0; l < LANES; l++) {
		w.lane[l].id = l;
		w.lane[l].idle = true;
	}
}

inline void module_note(const World &w, Module *ret, bool copy)
{
	memcpy(ret->words, w.tier.durable, sizeof ret->words);
	memcpy(ret->cache, w.cache, sizeof ret->cache);
	ret->present = true;
	ret->lsn = copy ? w.lsn : w.user.copy_lsn;
	ret->copy = copy || w.user.copy;
	ret->begun = w.user.begun;
}
// What the tier's word says of the epoch, of a backing of that epoch.
inline bool epoch_fits(u64 word, u64 epoch)
{
	u64 noted = word & ~NEXT_ANNOUNCED;
	return noted == epoch || (noted + 1 == epoch && (word & NEXT_ANNOUNCED || !keeps(one_behind)));
}
// A stale copy of a tier, made in the epoch that is in force, or when its superblocks were on their way: none can know.
inline bool module_deceives(const World &w)
{
	const Module &m = w.shelf;
	for (int copy = 0; copy < 2; copy++) {
		Super s;
		u64 word = m.words[W_EPOCH];
		bool fits = super_decode(w.disk.now[copy * 2].w, &s) && m.words[W_ATTACH] == s.attach &&
			    ((word & ~NEXT_ANNOUNCED) == s.epoch || (word == (NEXT_ANNOUNCED | (s.epoch - 1)) && s.cut <= m.lsn));
		if (m.copy && !m.begun && fits)
			return true;
	}
	return false;
}
// Another module in place of this one: a blank one, or that of the shelf. False: it is blank.
inline bool module_exchange(World &w)
{
	Module out = {};
	int n = dice->below(4);
	bool used = n && w.shelf.present && !module_deceives(w);
	module_note(w, &out, false);
	memset((void *)&w.tier, 0, sizeof w.tier);
	memset(w.cache, 0, sizeof w.cache);
	w.user.copy = w.user.begun = false;
	if (used) {
		memcpy(w.tier.durable, w.shelf.words, sizeof w.tier.durable);
		memcpy(w.tier.visible, w.shelf.words, sizeof w.tier.visible);
		memcpy(w.cache, w.shelf.cache, sizeof w.cache);
		w.user.copy = w.shelf.copy, w.user.begun = w.shelf.begun, w.user.copy_lsn = w.shelf.lsn;
	}
	if (used || n & 1)
		w.shelf = out;
	trace("the module is exchanged for %s", used ? w.user.copy ? "a stale copy" : "that of the shelf" : "a blank one");
	return used;
}

enum Crash { POWER_CUT, TIER_LOST, KILL, UNMOUNTED };

inline void superblock_rots(World &w) // one copy, while the other is good
{
	Super a, b;
	if (!super_decode(w.disk.now[0].w, &a) || !super_decode(w.disk.now[2].w, &b) || !dice->chance(4))
		return;
	int copy = dice->below(2);
	trace("superblock %c rots", 'A' + copy);
	memset(&w.disk.now[copy * 2], 0x55, sizeof(Sector));
	w.disk.durable[copy * 2] = w.disk.now[copy * 2];
}

inline void crash(World &w, Crash kind, long subset = -1)
{
	static const char *const name[] = { "power cut", "power cut, tier lost", "kill -9", "unmounted" };
	trace("---- %s", name[kind]);
	bool served = w.serving;
	if (kind == KILL || kind == UNMOUNTED) {
		w.tier.settle();
	} else {
		w.tier.power_cut(subset);
		w.disk.power_cut();
		for (CachedNode &c : w.cache)
			if (dice->chance(3))
				c = {};
		superblock_rots(w);
	}
	if (kind == TIER_LOST) {
		w.user.insists = true;
		w.user.lost = w.user.lost || !w.user.unmounted;
		module_exchange(w);
	} else if (kind == UNMOUNTED) {
		w.user.unmounted = true;
		if (dice->chance(2))
			w.user.insists = module_exchange(w);
	} else if (served && dice->chance(8)) {
		module_note(w, &w.shelf, true);
	}
	dram_lost(w);
}

// ---- the match --------------------------------------------------------------------------------

enum Match { RECOVER, WARM, FINISH, ATTACH, REFUSE };

inline bool tier_is_own(const World &w, const Super &s)
{
	return w.tier.visible[W_ATTACH] && w.tier.visible[W_ATTACH] == s.attach;
}
inline Match media_match(const World &w, const Super &s)
{
	u64 state = w.tier.visible[W_STATE];
	bool own = tier_is_own(w, s), near = epoch_fits(w.tier.visible[W_EPOCH], s.epoch), good = false, zero = true;
	for (int i = keeps(header_cut_off) ? W_HEADER_END : W_HEADER; i < TIER_WORDS; i++)
		zero = zero && !w.tier.visible[i];
	for (int i = 0; i < 4; i += 2)
		good = good || (w.tier.visible[W_HEADER + i] == HEADER_MAGIC && w.tier.visible[W_HEADER + i + 1] == HEADER_SUM);
	if (!good && (state == TIER_ATTACHING ? !keeps(attaching_no_header) : state != TIER_BLANK || !zero))
		return REFUSE; // damaged, or the data of somebody else
	if (state == TIER_BLANK)
		return s.attached ? REFUSE : ATTACH;
	if (state == TIER_ATTACHING) {
		if (s.attached)
			return own && (near || !keeps(finish_epoch)) && keeps(attaching_finish) ? FINISH : REFUSE;
		return keeps(attaching_again) ? ATTACH : REFUSE;
	}
	if (!own || !near)
		return REFUSE;
	return s.attached ? RECOVER : WARM;
}
inline Match mount_match(World &w, const Super &s)
{
	Match m = media_match(w, s);
	bool stale = tier_is_own(w, s) && w.tier.visible[W_STATE] != TIER_ATTACHING;
	if (!s.attached && w.oracle.commits_since_attach && !w.user.lost)
		harmed(w, "commits were acknowledged on a backing that is not ATTACHED");
	if (m == REFUSE && !w.user.insists && !w.user.careless)
		harmed(w, stale ? "the tier is taken for a stale copy" : "a mount is refused that needs no option");
	if (m == REFUSE && stale && !w.user.copy && w.tier.visible[W_ATTACH] == w.oracle.attach)
		harmed(w, "the tier is taken for a stale copy");
	if (m == REFUSE || ((w.user.insists || w.user.careless) && !keeps(option_unneeded)))
		m = ATTACH; // --lose-tier, --discard-tier
	static const char *const name[] = { "recover", "warm start", "finish the attach", "attach", "" };
	trace("mount: %s (tier state %llu, attach %llu, epoch %llu; backing %s(%llu), epoch %llu)", name[m], (unsigned long long)w.tier.visible[W_STATE],
	      (unsigned long long)w.tier.visible[W_ATTACH], (unsigned long long)w.tier.visible[W_EPOCH], s.attached ? "ATTACHED" : "CLEAN",
	      (unsigned long long)s.attach, (unsigned long long)s.epoch);
	return m;
}

// ---- superblocks without a new root -----------------------------------------------------------

inline void super_next(World &w, bool attached) // the same root, the same C, an epoch of its own
{
	Super &s = w.rec.super;
	Oracle &o = w.oracle;
	s.epoch++;
	s.attach = w.attach;
	s.attached = attached;
	o.snapshot[s.epoch & 1] = o.snapshot[(s.epoch - 1) & 1];
	o.snapshot_epoch[s.epoch & 1] = s.epoch;
}
inline Run supers_step(World &w, bool in_use_between = false) // A, then B
{
	Recovery &rec = w.rec;
	BEGIN(rec.super_pc)
	for (rec.copy = 0; rec.copy < 2; rec.copy++) {
		{
			u64 words[SECTOR_WORDS];
			super_encode(rec.super, words);
			w.disk.submit_sector(rec.copy * 2, words, true);
		}
		STEP(rec.super_pc);
		UNTIL(rec.super_pc, w.disk.queued() == 0);
		if (rec.copy == 0 && in_use_between) {
			w.tier.store(LANE0, W_STATE, TIER_IN_USE);
			w.tier.drain(LANE0);
		}
		STEP(rec.super_pc);
	}
	END(rec.super_pc);
}

// ---- attach, warm start, unmount --------------------------------------------------------------

inline void tier_wipe(World &w)
{
	for (int f = 0; f < FRAMES && keeps(attach_slots); f++)
		w.tier.store(LANE0, slot_word(f, SLOT_STATE), 0);
	for (int r = 0; r < RINGS; r++)
		w.tier.store(LANE0, W_TAIL + r, 0);
	w.tier.store(LANE0, W_BASE, keeps(blank_base) ? w.rec.super.cut : 0);
	w.tier.store(LANE0, W_T, 0);
	// that of the superblocks to come, or that of the backing and that they come: either will do
	if (keeps(attach_epoch) && dice->chance(2))
		w.tier.store(LANE0, W_EPOCH, w.rec.super.epoch + 1);
	else
		epoch_announce(w, LANE0, w.rec.super.epoch);
}

inline Run headers_step(World &w) // one copy is whole at any time
{
	Recovery &rec = w.rec;
	BEGIN(rec.super_pc)
	for (rec.copy = 0; rec.copy < 2; rec.copy++) {
		w.tier.store(LANE0, W_HEADER + 2 * rec.copy, HEADER_MAGIC);
		w.tier.store(LANE0, W_HEADER + 2 * rec.copy + 1, HEADER_SUM);
		STEP(rec.super_pc);
		w.tier.drain(LANE0);
		STEP(rec.super_pc);
	}
	END(rec.super_pc);
}

inline Run attach_step(World &w)
{
	Recovery &rec = w.rec;
	BEGIN(rec.sub_pc)
	w.user.begun = true;
	if (w.tier.visible[W_STATE] == TIER_BLANK && dice->chance(2)) // its headers first, or only after: either will do
		CALL(rec.sub_pc, rec.super_pc, headers_step(w));
	if (keeps(attaching_first))
		w.tier.store(LANE0, W_STATE, TIER_ATTACHING);
	if (keeps(attach_id_zero))
		w.tier.store(LANE0, W_ATTACH, 0);
	STEP(rec.sub_pc);
	w.tier.drain(LANE0);
	if (!rec.super.attached)
		w.user.insists = false; // from here on no option is needed to go on
	STEP(rec.sub_pc);
	CALL(rec.sub_pc, rec.super_pc, headers_step(w));
	tier_wipe(w);
	STEP(rec.sub_pc);
	if (keeps(attach_wipe_drain))
		w.tier.drain(LANE0);
	STEP(rec.sub_pc);
	w.attach = ++w.oracle.attach_ids;
	w.tier.store(LANE0, W_ATTACH, w.attach);
	if (!keeps(attaching_first))
		w.tier.store(LANE0, W_STATE, TIER_ATTACHING);
	STEP(rec.sub_pc);
	if (keeps(attach_id_drain))
		w.tier.drain(LANE0);
	STEP(rec.sub_pc);
	super_next(w, true);
	if (!keeps(attach_epoch)) {
		rec.super.epoch--;
		w.oracle.snapshot_epoch[(rec.super.epoch + 1) & 1] = 0;
	}
	if (keeps(attached_first))
		CALL(rec.sub_pc, rec.super_pc, supers_step(w, !keeps(in_use_last)));
	w.tier.store(LANE0, W_STATE, TIER_IN_USE);
	STEP(rec.sub_pc);
	w.tier.drain(LANE0);
	STEP(rec.sub_pc);
	END(rec.sub_pc);
}

// The tier is told first: two epochs of superblocks without a word to it, and it is two behind.
inline Run warm_step(World &w)
{
	BEGIN(w.rec.sub_pc)
	if (keeps(warm_note))
		epoch_announce(w, LANE0, w.rec.super.epoch);
	w.tier.store(LANE0, W_STATE, TIER_IN_USE); // while it is CLEAN, no superblock is being written
	STEP(w.rec.sub_pc);
	w.tier.drain(LANE0);
	STEP(w.rec.sub_pc);
	super_next(w, true);
	if (keeps(warm_attached))
		CALL(w.rec.sub_pc, w.rec.super_pc, supers_step(w));
	else
		w.rec.super.epoch--;
	w.tier.store(LANE0, W_EPOCH, w.rec.super.epoch);
	STEP(w.rec.sub_pc);
	w.tier.drain(LANE0);
	STEP(w.rec.sub_pc);
	END(w.rec.sub_pc);
}

inline bool nothing_dirty(const World &w)
{
	for (const Frame &f : w.frame)
		if (f.kept || (f.place == Frame::INDEXED && !frame_clean(w, f)))
			return false;
	return overlay_free(w) == OVERLAY;
}
inline bool lanes_idle(const World &w)
{
	for (const Lane &l : w.lane)
		if (!l.idle)
			return false;
	return true;
}

// After the last epoch; no request is left.
inline Run unmount_step(World &w)
{
	BEGIN(w.unmount_pc)
	w.rec.super = { w.epoch, w.clean_cut, w.attach, w.root, true };
	epoch_announce(w, EPOCH, w.epoch);
	STEP(w.unmount_pc);
	w.tier.drain(EPOCH);
	STEP(w.unmount_pc);
	super_next(w, false);
	w.oracle.commits_since_attach = false;
	if (!keeps(clean_header_last)) {
		w.tier.store(EPOCH, W_EPOCH, w.rec.super.epoch);
		w.tier.store(EPOCH, W_STATE, TIER_CLEAN);
		w.tier.drain(EPOCH);
	}
	STEP(w.unmount_pc);
	CALL(w.unmount_pc, w.rec.super_pc, supers_step(w));
	w.tier.store(EPOCH, W_EPOCH, w.rec.super.epoch);
	w.tier.store(EPOCH, W_STATE, TIER_CLEAN);
	STEP(w.unmount_pc);
	w.tier.drain(EPOCH);
	STEP(w.unmount_pc);
	crash(w, UNMOUNTED);
	return RUNNING;
	END(w.unmount_pc);
}
