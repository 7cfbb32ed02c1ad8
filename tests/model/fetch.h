// SPDX-License-Identifier: GPL-2.0-or-later
// What the operations of a lane are made of: walking the tree, fetching a page or an item, object locks.
#pragma once
#include "world.h"

#define FINISH(pc) do { (pc) = 0; return DONE; } while (0)

// ---- reading the tree -------------------------------------------------------------------------

inline bool node_cached(const World &w, const NodeRef &ref, u64 *ret)
{
	for (const CachedNode &c : w.cache)
		if (c.block && c.block == ref.block && (c.attach == w.attach || !keeps(attach_slots)) && (c.birth == ref.birth || !keeps(node_birth))) {
			memcpy(ret, c.node.w, sizeof c.node.w);
			return true; // a hit is not verified
		}
	return false;
}
inline void node_cache_add(World &w, const NodeRef &ref, const u64 *node)
{
	CachedNode &c = w.cache[w.cache_hand++ % NODE_CACHE];
	c.block = ref.block, c.birth = ref.birth, c.attach = w.attach;
	memcpy(c.node.w, node, sizeof c.node.w);
}

// Root and leaf of walk_object, sector by sector. The root is loaded here, unless it was before.
inline Run walk_step(World &w, Lane &me)
{
	BEGIN(me.walk_pc)
	if (keeps(overlay_first))
again:
		me.walk_root = w.root;
	STEP(me.walk_pc);
	me.ref = me.walk_root;
	trace("lane%d: root is block %llu birth %llu", me.id, (unsigned long long)me.ref.block, (unsigned long long)me.ref.birth);
	if (!node_cached(w, me.ref, me.root)) {
		memcpy(me.root, w.disk.now[me.ref.block * 2].w, sizeof(Sector));
		STEP(me.walk_pc);
		memcpy(me.root + SECTOR_WORDS, w.disk.now[me.ref.block * 2 + 1].w, sizeof(Sector));
		if (node_sum(me.root) != me.ref.sum)
			goto mismatch;
		node_cache_add(w, me.ref, me.root);
		STEP(me.walk_pc);
	}
	me.ref = root_child(me.root, me.walk_object);
	if (me.ref.block >= BLOCKS)
		goto mismatch;
	if (!node_cached(w, me.ref, me.leaf)) {
		memcpy(me.leaf, w.disk.now[me.ref.block * 2].w, sizeof(Sector));
		STEP(me.walk_pc);
		memcpy(me.leaf + SECTOR_WORDS, w.disk.now[me.ref.block * 2 + 1].w, sizeof(Sector));
		if (node_sum(me.leaf) != me.ref.sum)
			goto mismatch;
		node_cache_add(w, me.ref, me.leaf);
		STEP(me.walk_pc);
	}
	FINISH(me.walk_pc);
mismatch: // a late read of a block that was given away, if the root has moved on
	if (!(w.root == me.walk_root))
		goto again;
	harmed(w, "a node of the current tree cannot be read");
	END(me.walk_pc);
}

inline int leaf_item_word(u32 key)
{
	return key <= ITEM_INODE1 ? (int)LEAF_INODE : LEAF_DIRENT + (int)(key - ITEM_DIRENT0);
}
inline u32 leaf_item(const u64 *leaf, u32 key) { return (u32)leaf[leaf_item_word(key)]; }

inline Run lookup_step(World &w, Lane &me)
{
	BEGIN(me.lookup_pc)
	if (!keeps(overlay_first)) {
		me.walk_root = w.root;
		STEP(me.lookup_pc);
	}
	{
		const Version *v = overlay_newest(w, me.lookup_key);
		trace("lane%d: overlay of item %u: %s", me.id, me.lookup_key, v ? "found" : "nothing");
		if (v) {
			me.lookup_value = v->value;
			FINISH(me.lookup_pc);
		}
	}
	me.walk_object = item_object(me.lookup_key);
	STEP(me.lookup_pc);
	CALL(me.lookup_pc, me.walk_pc, walk_step(w, me));
	me.lookup_value = leaf_item(me.leaf, me.lookup_key);
	END(me.lookup_pc);
}

// Of an operation that parks: the page is in its buffer, read between two runs, or asked for.
inline void buffer_ask(Lane &me)
{
	Fetched &f = me.fetch;
	Buffer &b = me.buffer[key_page[f.key]];
	if (!b.good || b.block != me.ref.block || b.page.lsn != f.lsn)
		b = { true, false, (u32)me.ref.block, 0, {}, f };
	b.run = me.run;
	b.root = me.walk_root;
	b.page.version = f.version;
	memcpy(f.half, b.page.half, sizeof f.half);
	f.source = b.good ? Fetched::EXTENT : Fetched::PARKED;
}

// The page me.fetch.key: index first (a miss notes the version), then DROPs, then the tree.
inline Run fetch_step(World &w, Lane &me)
{
	Fetched &f = me.fetch;
	BEGIN(me.fetch_pc)
	if (!keeps(overlay_first)) {
		me.walk_root = w.root;
		STEP(me.fetch_pc);
	}
	f.frame = w.index[f.key].frame;
	f.version = bucket_of(w, f.key).version;
	f.late = false;
	f.lsn = f.sum = 0;
	f.half[0] = f.half[1] = 0;
	if (f.frame >= 0) {
		f.lsn = w.frame[f.frame].lsn;
		f.sum = w.frame[f.frame].sum;
	} else if (!keeps(version_in_look)) {
		nap(w, me, 4);
		STEP(me.fetch_pc);
		f.version = bucket_of(w, f.key).version;
	}
	STEP(me.fetch_pc);
	f.drop = overlay_drop_over(w, f.key);
	STEP(me.fetch_pc);
	if (f.frame >= 0) {
		f.source = Fetched::HOLE;
		if (f.lsn < f.drop)
			FINISH(me.fetch_pc);
		f.half[0] = w.tier.load(me.id, frame_word(f.frame, 0));
		STEP(me.fetch_pc);
		f.half[1] = w.tier.load(me.id, frame_word(f.frame, 1));
		f.source = Fetched::FRAME;
		FINISH(me.fetch_pc);
	}
	me.walk_object = key_object[f.key];
	CALL(me.fetch_pc, me.walk_pc, walk_step(w, me));
	{
		Extent e = leaf_extent(me.leaf, key_page[f.key]);
		u64 drop = leaf_drop_over(me.leaf, key_page[f.key]);
		if (f.drop > drop)
			drop = f.drop;
		f.lsn = e.birth;
		f.sum = e.sum;
		f.source = Fetched::HOLE;
		if (!(e.block & EXTENT_EXISTS) || e.birth < drop)
			FINISH(me.fetch_pc);
		f.source = Fetched::BROKEN;
		if (e.block & EXTENT_POISONED)
			FINISH(me.fetch_pc);
		me.ref.block = (u32)e.block;
		if (me.parks) {
			buffer_ask(me);
			FINISH(me.fetch_pc);
		}
		f.half[0] = w.disk.now[me.ref.block * 2].w[0];
	}
	nap(w, me, 6);
	STEP(me.fetch_pc);
	f.half[1] = w.disk.now[me.ref.block * 2 + 1].w[0];
	if (page_sum(f.key, f.half) != f.sum) {
		if (w.root == me.walk_root)
			harmed(w, "a block of the current tree fails its checksum");
		else
			f.source = Fetched::HOLE, f.late = true; // its block was given away: start again
		FINISH(me.fetch_pc);
	}
	f.source = Fetched::EXTENT;
	END(me.fetch_pc);
}

// ---- locks ------------------------------------------------------------------------------------

inline bool wants_lock(const World &w, const Lane &me, int slot)
{
	for (int o = 0; o < OBJECTS; o++)
		if (me.effect.objects >> o & 1 && lock_slot(w, o) == slot)
			return true;
	return false;
}
inline Run lock_step(World &w, Lane &me)
{
	BEGIN(me.lock_pc)
	for (me.j = 0; me.j < LOCK_SLOTS; me.j++)
		if (wants_lock(w, me, me.j) && !me.locked[me.j]) {
			UNTIL(me.lock_pc, w.lock[me.j].owner < 0);
			w.lock[me.j].owner = me.id;
			me.locked[me.j] = true;
			STEP(me.lock_pc);
		}
	END(me.lock_pc);
}
inline void unlock_all(World &w, Lane &me)
{
	for (int s = 0; s < LOCK_SLOTS; s++)
		if (me.locked[s]) {
			if (w.lock[s].owner == me.id)
				w.lock[s].owner = -1;
			me.locked[s] = false;
		}
}
