// SPDX-License-Identifier: GPL-2.0-or-later
// Transactions: building, and the commit.
//
//	frames built, drained; claims held: frames, ring, overlay, blocks
//	lock object slots, ascending; check what was read, else unlock and start again
//	ring lock: inflight = lsn; L = fetch_add(lsn, 1); record {L, switches, items} -> ring; drain   # durable, atomic
//	sequences odd; switch the index; items into the overlay; sequences even
//	inflight = none; unlock; reply
//
// If power fails before the record's drain, the record is torn or absent and recovery sees nothing
// of the commit: its frames are free in the table. After it, recovery switches index and overlay as
// this does. Nobody has seen a version before it was durable.
#include "store_impl.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

void txn_reset(struct op *op)
{
	for (unsigned i = 0; i < op->item_count; i++)
		free(op->items[i].item);
	for (unsigned i = 0; i < op->drop_count; i++)
		free(op->drops[i]);
	op->item_count = op->drop_count = op->page_count = 0;
	op->gives_back = op->dead_retired = 0;
}

// ---- building -----------------------------------------------------------------------------------

// What a commit's pages add to the dirty ones. Fresh ones will have to be written. Held ones are dirty
// already, but the epoch being built holds the version that is there until it ends.
struct cost {
	uint64_t fresh, held;
};

static void cost_add(struct store *s, object_t object, page_t page, lsn_t cut, struct cost *cost)
{
	struct bucket *bucket;
	uint32_t version;
	frame_t f = index_look(s->tier, object, page, &bucket, &version);
	if (f == FRAME_NONE || !(frame_state(&s->tier->frame[f]) & FRAME_DIRTY))
		cost->fresh++;
	else if (s->tier->frame[f].lsn <= cut)
		cost->held++;
}

static int claim_frames(struct op *op, unsigned count, const struct cost *cost)
{
	struct store *s = op->store;

	op->frames_wanted = count;
	op->dirty_wanted = cost->fresh + cost->held;
	op->overwrites = cost->fresh == 0;
	if (cost->fresh && atomic_load(&s->degraded))
		return atomic_load(&s->degraded) == DEGRADED_READ_ONLY ? -EROFS : -EIO;
	// Before the frames: who waits for the device keeps none that others could go on with.
	if (!op_dirty_granted(op)) {
		op_frames_return(op); // of an earlier run
		return op_park(op, PARK_DIRTY);
	}
	if (op->frames_claimed < count) {
		unsigned more = count - op->frames_claimed;
		// Those who wait already come first.
		if (atomic_load(&s->waiters) || !frames_claim(s->tier, more, 0, op->frames + op->frames_claimed))
			return op_park(op, PARK_FRAMES);
		op->frames_claimed = count;
	}
	return 0;
}

int txn_claim(struct op *op, object_t object, page_t first, unsigned count)
{
	struct store *s = op->store;
	struct cost cost = { 0 };
	lsn_t cut = atomic_load(&s->cut);

	if (s->read_only)
		return -EROFS;
	if (count > OP_PAGES_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < count; i++)
		cost_add(s, object, first + i, cut, &cost);
	return claim_frames(op, count, &cost);
}

int txn_claim_two(struct op *op, object_t object, page_t one, page_t other)
{
	struct store *s = op->store;
	struct cost cost = { 0 };
	lsn_t cut = atomic_load(&s->cut);

	if (one == other)
		return txn_claim(op, object, one, 1);
	if (s->read_only)
		return -EROFS;
	cost_add(s, object, one, cut, &cost);
	cost_add(s, object, other, cut, &cost);
	return claim_frames(op, 2, &cost);
}

int txn_page(struct op *op, object_t object, page_t page, const void *data, const struct page_view *base)
{
	struct store *s = op->store;
	if (op->page_count == op->frames_claimed)
		return -EINVAL;
	struct txn_page *p = &op->pages[op->page_count];
	*p = (struct txn_page){ .object = object, .page = page, .frame = op->frames[op->page_count], .has_base = base != NULL };
	if (base)
		p->base = *base;
	// From the source, while it is hot: it travels unchanged to the extent.
	p->sum = checksum_page(s->seed, object, page, data);
	media_copy(s->media, tier_frame_data(s->tier, p->frame), data, PAGE_BYTES);
	op->page_count++;
	return 0;
}

static int item_add(struct op *op, struct item_key key, const void *value, size_t bytes, bool deleted)
{
	if (op->item_count == OP_ITEMS_MAX)
		return -E2BIG;
	if (bytes > ITEM_VALUE_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < op->item_count; i++)
		assert(!item_key_equal(op->items[i].item->key, key)); // a record names a key once
	struct item *item = item_new(key, value, bytes, deleted);
	if (!item)
		return -ENOMEM;
	op->items[op->item_count++] = (struct txn_item){ .item = item };
	return 0;
}

int txn_put(struct op *op, struct item_key key, const void *value, size_t bytes)
{
	return item_add(op, key, value, bytes, false);
}

int txn_delete(struct op *op, struct item_key key)
{
	return item_add(op, key, NULL, 0, true);
}

int txn_update(struct op *op, struct item_key key, const void *seen, size_t bytes, txn_merge_fn merge, void *arg)
{
	int r = item_add(op, key, seen, bytes, false);
	if (r)
		return r;
	struct txn_item *t = &op->items[op->item_count - 1];
	t->merge = merge;
	t->merge_arg = arg;
	return 0;
}

static int add_drop(struct op *op, object_t object, page_t from, page_t to, bool whole)
{
	struct drop_disk value = { .from = from, .to = to, .flags = whole ? DROP_OBJECT : 0 };
	if (op->drop_count == OP_DROPS_MAX)
		return -E2BIG;
	struct drop *d = drop_new(object, from, to, whole);
	if (!d)
		return -ENOMEM;
	op->drops[op->drop_count++] = d;
	// Its LSN goes into the key when it is known.
	return item_add(op, item_key(object, ITEM_DROP, 0), &value, sizeof value, false);
}

int txn_drop(struct op *op, object_t object, page_t from, page_t to)
{
	return from < to ? add_drop(op, object, from, to, false) : 0;
}

int txn_drop_object(struct op *op, object_t object)
{
	return add_drop(op, object, 0, UINT64_MAX, true);
}

void txn_gives_back(struct op *op, uint64_t pages)
{
	op->gives_back += pages;
}

// ---- claims -------------------------------------------------------------------------------------

struct claims {
	uint64_t ring_bytes, overlay_bytes;
	uint64_t blocks, lean_blocks; // lean: a page costs nodes only if it begins a run
	enum space_use use;
};

static unsigned page_runs(const struct op *op)
{
	unsigned runs = 0, length = 0;
	for (unsigned i = 0; i < op->page_count; i++) {
		const struct txn_page *p = &op->pages[i];
		bool goes_on = i && p->object == p[-1].object && p->page == p[-1].page + 1 && length < EXTENT_PAGES_MAX;
		length = goes_on ? length + 1 : 1;
		runs += !goes_on;
	}
	return runs;
}

static bool deletes(const struct op *op)
{
	for (unsigned i = 0; i < op->item_count; i++)
		if (op->items[i].item->deleted || item_is_drop(op->items[i].item))
			return true;
	return false;
}

static struct claims claims_of(const struct op *op, bool may_use_reserve)
{
	uint64_t items = 0;
	for (unsigned i = 0; i < op->item_count; i++)
		items += item_cost(op->items[i].item);
	// A DROP cuts extents at both of its ends.
	uint64_t nodes = (op->item_count + 2 * op->drop_count) * BLOCKS_PER_ITEM;
	uint64_t record = sizeof(struct record_disk) + op->page_count * sizeof(struct switch_disk) + items;
	return (struct claims){ .ring_bytes = (record + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1),
				.overlay_bytes = items,
				.blocks = op->page_count * BLOCKS_PER_PAGE + nodes,
				.lean_blocks = op->page_count + page_runs(op) * (BLOCKS_PER_PAGE - 1) + nodes,
				.use = !may_use_reserve ? SPACE_GROWS : deletes(op) ? SPACE_DELETES : SPACE_OVERWRITES };
}

static bool overlay_claim(struct overlay *o, uint64_t bytes)
{
	uint64_t claimed = atomic_fetch_add(&o->claimed, bytes) + bytes;
	if (atomic_load(&o->bytes) + claimed <= o->bytes_max)
		return true;
	atomic_fetch_sub(&o->claimed, bytes);
	return false;
}

static bool claim_blocks(struct op *op, struct claims *c)
{
	op->lean = !space_claim(op->store, c->blocks, c->use);
	if (!op->lean)
		return true;
	c->blocks = c->lean_blocks;
	return space_claim(op->store, c->blocks, c->use);
}

// An epoch refunds what was claimed at worst and not needed, and gives back what was dropped; what then is
// missing is not there.
static int no_space(struct op *op)
{
	return op->space_waits < 2 ? op_park(op, PARK_SPACE) : -ENOSPC;
}

int txn_room(struct op *op, uint64_t pages)
{
	struct store_space space;

	store_space(op->store, &space);
	if (pages <= space.available)
		return 0;
	return pages <= space.total ? no_space(op) : -ENOSPC;
}

int txn_needs_format(struct op *op, uint64_t incompat)
{
	struct store *s = op->store;

	if (s->read_only)
		return -EROFS;
	if (!(incompat & ~store_incompat(s)))
		return 0;
	atomic_fetch_or(&s->incompat_wanted, incompat);
	return op_park(op, PARK_FORMAT);
}

static int claim_all(struct op *op, struct claims *c)
{
	struct store *s = op->store;

	if (c->ring_bytes > RECORD_BYTES_MAX)
		return -E2BIG;
	op->ring_wanted = c->ring_bytes;
	op->overlay_wanted = c->overlay_bytes;
	if (atomic_load(&s->log_damaged))
		return -EIO;
	if (!claim_blocks(op, c))
		return no_space(op);
	if (!overlay_claim(&s->overlay, c->overlay_bytes)) {
		space_unclaim(s, c->blocks);
		return op_park(op, PARK_OVERLAY);
	}
	if (!ring_claim(op->lane->ring, c->ring_bytes)) {
		atomic_fetch_sub(&s->overlay.claimed, c->overlay_bytes);
		space_unclaim(s, c->blocks);
		return op_park(op, PARK_LOG);
	}
	return 0;
}

static void unclaim_all(struct op *op, const struct claims *c)
{
	struct store *s = op->store;
	ring_unclaim(op->lane->ring, c->ring_bytes);
	atomic_fetch_sub(&s->overlay.claimed, c->overlay_bytes);
	space_unclaim(s, c->blocks);
}

// ---- locks and checks ---------------------------------------------------------------------------

static unsigned slots_insert(uint16_t *slots, unsigned count, uint16_t slot)
{
	unsigned at = 0;
	while (at < count && slots[at] < slot)
		at++;
	if (at < count && slots[at] == slot)
		return count;
	memmove(&slots[at + 1], &slots[at], (count - at) * sizeof *slots);
	slots[at] = slot;
	return count + 1;
}

// The slots of what is written, and of all that was read or is written.
struct slots {
	uint16_t written[OP_WATCHES_MAX + OP_ITEMS_MAX], all[2 * OP_WATCHES_MAX + OP_ITEMS_MAX];
	unsigned writtens, alls;
};

static void slots_needed(const struct op *op, struct slots *s)
{
	object_t previous = UINT64_MAX;

	s->writtens = 0;
	for (unsigned i = 0; i < op->page_count; i++)
		if (op->pages[i].object != previous) {
			previous = op->pages[i].object;
			s->writtens = slots_insert(s->written, s->writtens, object_slot(previous));
		}
	for (unsigned i = 0; i < op->item_count; i++)
		s->writtens = slots_insert(s->written, s->writtens, object_slot(op->items[i].item->key.object));
	s->alls = s->writtens;
	memcpy(s->all, s->written, s->writtens * sizeof *s->all);
	for (unsigned i = 0; i < op->watches; i++)
		s->alls = slots_insert(s->all, s->alls, op->watch[i].slot);
}

static int lock_slots(struct op *op, const uint16_t *slots, unsigned count)
{
	if (op->helds == 0) {
		for (unsigned i = 0; i < count; i++) {
			pthread_mutex_lock(&op->store->lock[slots[i]].lock);
			op->held[op->helds++] = slots[i];
		}
		return 0;
	}
	// Held since the run began: is there one that is not?
	unsigned at = 0;
	for (unsigned i = 0; i < count; i++) {
		while (at < op->helds && op->held[at] < slots[i])
			at++;
		if (at == op->helds || op->held[at] != slots[i]) {
			memcpy(op->want, slots, count * sizeof *slots);
			op->wants = count;
			return op_conflict(op);
		}
	}
	return 0;
}

static bool base_holds(struct op *op, const struct txn_page *p)
{
	struct store *s = op->store;
	struct bucket *bucket;
	uint32_t version;
	frame_t f = index_look(s->tier, p->object, p->page, &bucket, &version);

	if (f != p->base.frame || (f == FRAME_NONE && version != p->base.version))
		return false;
	return drops_newest(&s->drops, p->object, p->page, LSN_MAX) == p->base.drop;
}

// The item as it is now, changed. What was put since it was seen is in the overlay: it leaves that a
// grace period after the fold, and this operation has been a reader since.
static int update_merge(struct op *op, struct txn_item *t)
{
	struct store *s = op->store;
	const struct item *now = overlay_find(&s->overlay, t->item->key, LSN_MAX);
	lsn_t dropped;

	if ((now && now->deleted) || drops_whole(&s->drops, t->item->key.object, &dropped))
		return -ESTALE;
	if (now) {
		if (now->bytes != t->item->bytes)
			return op_conflict(op);
		memcpy(t->item->value, now->value, now->bytes);
	}
	t->merge(t->item->value, t->merge_arg);
	return 0;
}

static int check_read(struct op *op)
{
	for (unsigned i = 0; i < op->watches; i++)
		if (atomic_load(&op->store->lock[op->watch[i].slot].sequence) != op->watch[i].sequence)
			return op_conflict(op);
	for (unsigned i = 0; i < op->page_count; i++)
		if (op->pages[i].has_base && !base_holds(op, &op->pages[i]))
			return op_conflict(op);
	for (unsigned i = 0; i < op->item_count; i++)
		if (op->items[i].merge) {
			int r = update_merge(op, &op->items[i]);
			if (r)
				return r;
		}
	// All of the tier that this was built on, or in, was there until now.
	return op_is_poisoned(op) ? op_conflict(op) : 0;
}

// ---- the record -----------------------------------------------------------------------------------

static void record_build(struct op *op, lsn_t lsn, uint64_t bytes)
{
	struct record_disk *r = op->lane->record;
	struct switch_disk *sw = (struct switch_disk *)(r + 1);

	memset(r, 0, bytes);
	r->lsn = lsn;
	r->bytes = (uint32_t)bytes;
	r->switches = (uint16_t)op->page_count;
	r->items = (uint16_t)op->item_count;
	for (unsigned i = 0; i < op->page_count; i++) {
		const struct txn_page *p = &op->pages[i];
		*sw++ = (struct switch_disk){ .object = p->object, .page = p->page, .sum = p->sum, .frame = p->frame };
	}
	uint8_t *at = (uint8_t *)sw;
	for (unsigned i = 0; i < op->item_count; i++) {
		struct item *item = op->items[i].item;
		if (item_is_drop(item))
			item->key = item_key(item->key.object, ITEM_DROP, lsn);
		item->lsn = lsn;
		struct item_disk *d = (struct item_disk *)at;
		*d = (struct item_disk){ .object = item->key.object, .sub = item->key.sub, .lsn = lsn, .bytes = item->bytes,
					 .flags = item->deleted ? ITEM_DELETED : 0 };
		memcpy(d + 1, item->value, item->bytes);
		at += item_cost(item);
	}
}

// -EIO: memory of the log has failed; the record is not there, and nothing may follow it.
static int record_commit(struct op *op, const struct claims *c, lsn_t *ret_lsn)
{
	struct store *s = op->store;
	struct lane *lane = op->lane;
	struct ring *ring = lane->ring;
	int r = -EIO;

	pthread_mutex_lock(&ring->lock); // rising LSNs in the ring; records whole in order
	if (!atomic_load(&s->log_damaged)) {
		atomic_store(&lane->inflight, atomic_load(&s->lsn)); // before the LSN is taken: T cannot pass it
		*ret_lsn = atomic_fetch_add(&s->lsn, 1);
		record_build(op, *ret_lsn, c->ring_bytes);
		ring_append(s->tier, ring, op->lane->record, c->ring_bytes);
		media_drain(s->media); // the commit is durable here
		if (ring_holds(s->tier, ring, ring->head - c->ring_bytes, c->ring_bytes)) {
			ring_appended(ring);
			r = 0;
		} else {
			atomic_store(&s->log_damaged, true);
			atomic_store(&lane->inflight, 0);
			ring->claimed += c->ring_bytes; // the caller's again, to give back
		}
	}
	pthread_mutex_unlock(&ring->lock);
	return r;
}

// ---- the switch -----------------------------------------------------------------------------------

// Returns the blocks that were claimed for the replaced page, if nothing will be written for it.
static unsigned retire_old(struct op *op, frame_t old, lsn_t lsn, lsn_t cut)
{
	struct tier *t = op->store->tier;
	struct frame *f = &t->frame[old];
	uint16_t state = atomic_load(&f->state), next;
	bool dirty, keep;

	do {
		assert(frame_place(state) == FRAME_INDEXED);
		dirty = state & FRAME_DIRTY;
		// Frozen by a cut: the epoch writes this version, whatever comes after.
		keep = dirty && f->lsn <= cut && cut < lsn && !(state & FRAME_PASSED);
		next = (uint16_t)((state & ~(FRAME_PLACE_MASK | FRAME_PASSED)) | FRAME_LIMBO);
		if (keep)
			next |= FRAME_KEPT;
		else
			next &= (uint16_t)~FRAME_DIRTY;
	} while (!atomic_compare_exchange_weak(&f->state, &state, next));
	if (dirty && !keep)
		atomic_fetch_sub_explicit(&t->pool.dirty_count, 1, memory_order_relaxed);
	if (!dirty || keep)
		return 0;
	op->dead_retired += f->lsn < drops_newest(&op->store->drops, f->object, f->page, LSN_MAX);
	return state & FRAME_LEAN ? 1 : BLOCKS_PER_PAGE;
}

static unsigned switch_page(struct op *op, const struct txn_page *p, lsn_t lsn)
{
	struct store *s = op->store;
	struct tier *t = s->tier;
	struct frame *f = &t->frame[p->frame];
	struct bucket *b = index_bucket(t, p->object, p->page);
	unsigned refund = 0;

	f->object = p->object;
	f->page = p->page;
	f->lsn = lsn;
	f->sum = p->sum;
	uint32_t version = index_lock(b);
	frame_t old = index_find(t, b, p->object, p->page);
	f->replaces = old;
	atomic_fetch_add_explicit(&t->pool.dirty_count, 1, memory_order_relaxed);
	frame_set_heat(f, old == FRAME_NONE ? 0 : frame_heat(&t->frame[old]));
	if (old != FRAME_NONE)
		frame_warm(f);
	atomic_store_explicit(&f->state, FRAME_INDEXED | FRAME_DIRTY | FRAME_VALIDATED | (op->lean ? FRAME_LEAN : 0),
			      memory_order_release);
	index_set(t, b, p->object, p->page, p->frame);
	if (old != FRAME_NONE)
		refund = retire_old(op, old, lsn, atomic_load(&s->cut)); // the cut, read after the LSN was taken
	index_unlock(b, version, true);
	return refund;
}

static uint64_t switch_all(struct op *op, lsn_t lsn)
{
	struct store *s = op->store;
	struct item *replaced = NULL;
	uint64_t refund = 0;

	for (unsigned i = 0; i < op->page_count; i++)
		refund += switch_page(op, &op->pages[i], lsn);
	// DROPs are there before their items are, and leave after them.
	for (unsigned i = 0; i < op->drop_count; i++) {
		op->drops[i]->lsn = lsn;
		drops_add(&s->drops, op->drops[i]);
	}
	for (unsigned i = 0; i < op->item_count; i++)
		overlay_put(&s->overlay, op->items[i].item, atomic_load(&s->cut), &replaced);
	for (const struct item *i = replaced; i; i = i->next)
		refund += BLOCKS_PER_ITEM;
	lane_retire_items(op->lane, replaced);
	op->item_count = op->drop_count = 0; // they belong to the overlay now
	return refund;
}

static void sequences_add(struct op *op, const uint16_t *slots, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		_Atomic uint32_t *sequence = &op->store->lock[slots[i]].sequence;
		atomic_store_explicit(sequence, atomic_load_explicit(sequence, memory_order_relaxed) + 1, memory_order_release);
	}
	atomic_thread_fence(memory_order_seq_cst);
}

static void claims_settle(struct op *op, const struct claims *c, uint64_t refund, lsn_t lsn)
{
	struct store *s = op->store;
	bool after_cut = atomic_load(&s->building) && lsn > atomic_load(&s->cut);

	atomic_fetch_sub(&s->overlay.claimed, c->overlay_bytes);
	space_settle(s, refund, c->blocks, after_cut);
	if (op->gives_back)
		space_expect(s, op->gives_back, after_cut);
	if (op->dead_retired)
		space_unexpect(s, op->dead_retired);
	atomic_fetch_sub(&s->dirty_claimed, op->dirty_claim);
	op->dirty_claim = 0;
}

int txn_commit(struct op *op, bool may_use_reserve)
{
	struct store *s = op->store;
	struct slots slots;

	if (s->read_only || atomic_load(&s->degraded) == DEGRADED_READ_ONLY)
		return -EROFS;
	struct claims c = claims_of(op, may_use_reserve);
	int r = claim_all(op, &c);
	if (r)
		return r;
	if (op->page_count)
		media_drain(s->media); // frames before the record that names them
	slots_needed(op, &slots);
	lsn_t lsn;
	r = lock_slots(op, slots.all, slots.alls);
	if (!r)
		r = check_read(op);
	if (!r)
		r = record_commit(op, &c, &lsn);
	if (r) {
		op_unlock(op);
		unclaim_all(op, &c);
		return r;
	}
	sequences_add(op, slots.written, slots.writtens); // odd
	uint64_t refund = switch_all(op, lsn);
	sequences_add(op, slots.written, slots.writtens); // even
	assert(lsn > atomic_load(&s->tier->tail_lsn)); // T has not passed what was in flight
	atomic_store(&op->lane->inflight, 0);
	op_unlock(op);

	unsigned used = op->page_count;
	memmove(op->frames, op->frames + used, (op->frames_claimed - used) * sizeof op->frames[0]);
	op->frames_claimed -= used;
	claims_settle(op, &c, refund, lsn);
	count_add(op->lane, COUNT_COMMITS, 1);
	count_add(op->lane, COUNT_WRITE_HITS, used);
	op->page_count = 0;
	op->committed = true;
	if (ring_used(op->lane->ring) > op->lane->ring->bytes / 2)
		chores_kick(s);
	if (frames_dirty_count(s->tier) > (uint64_t)s->tier->frames * 3 / 8 ||
	    atomic_load(&s->overlay.bytes) > s->overlay.bytes_max / 2)
		epoch_request(s);
	return 0;
}
