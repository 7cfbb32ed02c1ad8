// SPDX-License-Identifier: GPL-2.0-or-later
// What is done under the table lock: reclaiming the log, evicting, admitting what was fetched, and the
// pass over frames that a DROP has killed. All of it is memory only. Lanes do it when they are in
// need; a thread of normal priority does it ahead of need and for the epoch thread, which never takes
// the table lock itself (it may be preempted for long).
//
// Reclaim, and a power cut at any point of it:
//	slot bodies; drain; slot states, slots of replaced frames free, items logged again; drain
//	    before the drain: T is old, the records are replayed, slots say the same or are free
//	T; tails; drain
//	    before the drain: either of them may be old: slots and re-logged items are there for both
//	replaced frames -> grace -> free list; ring space reused
#include "store_impl.h"
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

#define SLICE_RECORDS 64u
#define SLICE_FRAMES 1024u
#define VICTIMS_MAX 64u
#define DEAD_STEPS 4096u // of the hand that looks for dead frames, at a time
#define PASS_FRAMES 256u // looked at by a DROP pass with the table lock held

// Of frames in the index. The states are the caller's to drain.
static void slots_store(struct store *s, const frame_t *frame, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		slot_store_body(s->tier, frame[i]);
	if (count)
		media_drain(s->media); // bodies before states: a slot is never seen torn
	for (unsigned i = 0; i < count; i++)
		slot_store_state(s->tier, frame[i]);
}

// ---- reclaim ------------------------------------------------------------------------------------

struct slice {
	struct store *s;
	lsn_t limit, done;
	uint64_t cursor[TIER_RINGS_MAX + 1];
	frame_t slot[SLICE_FRAMES]; // frames that are current: to get their slot
	unsigned slots;
	frame_t freed; // replaced frames: a list through frame.replaces
	unsigned freed_count;
	struct record_disk *relog;
	uint64_t relog_bytes, relog_max;
	int error;
	bool full; // the item ring: of what has to be logged again first
	_Alignas(64) uint8_t buffer[RECORD_BYTES_MAX], out[RECORD_BYTES_MAX], later[RECORD_BYTES_MAX];
};

// The ring whose next record is the oldest one <= limit; -1: none.
static int oldest_ring(const struct slice *sl)
{
	const struct tier *t = sl->s->tier;
	int best = -1;
	lsn_t oldest = 0;
	for (unsigned i = 0; i < t->geometry.rings; i++) {
		const struct ring *r = &t->ring[i];
		if (sl->cursor[i] >= atomic_load_explicit(&r->visible_head, memory_order_acquire))
			continue;
		lsn_t lsn = ((const struct record_disk *)(r->base + sl->cursor[i] % r->bytes))->lsn;
		if (lsn <= sl->limit && (best < 0 || lsn < oldest)) {
			best = (int)i;
			oldest = lsn;
		}
	}
	return best;
}

static void freed_add(struct slice *sl, frame_t f)
{
	sl->s->tier->frame[f].replaces = sl->freed;
	sl->freed = f;
	sl->freed_count++;
}

// Frames replaced by this one's record, and older ones left by a crash. One of them may have a place in the
// policy's queues: f takes it.
static void chain_freed(struct slice *sl, frame_t f)
{
	struct tier *t = sl->s->tier;
	frame_t old = t->frame[f].replaces;
	t->frame[f].replaces = FRAME_NONE;
	while (old != FRAME_NONE) {
		frame_t next = t->frame[old].replaces;
		if (t->frame[old].queue)
			policy_replace(&sl->s->policy, old, f);
		freed_add(sl, old);
		old = next;
	}
}

static void reclaim_switches(struct slice *sl, const struct record_disk *record)
{
	struct tier *t = sl->s->tier;
	const struct switch_disk *sw = record_switches(record);
	struct bucket *bucket;
	uint32_t version;

	for (unsigned i = 0; sw && i < record->switches; i++) {
		frame_t f = sw[i].frame;
		if (f >= t->frames || t->frame[f].lsn != record->lsn)
			continue; // gone already, by a drop pass
		chain_freed(sl, f);
		if (index_look(t, sw[i].object, sw[i].page, &bucket, &version) != f)
			continue;
		sl->slot[sl->slots++] = f;
		if (!t->frame[f].queue)
			policy_insert(&sl->s->policy, f);
	}
}

static void relog_flush(struct slice *sl)
{
	struct store *s = sl->s;
	struct ring *r = tier_item_ring(s->tier);
	struct record_disk *out = sl->relog;
	uint64_t bytes = (sl->relog_bytes + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);

	if (out->items == 0)
		return;
	memset((uint8_t *)out + sl->relog_bytes, 0, bytes - sl->relog_bytes);
	out->bytes = (uint32_t)bytes;
	if (!ring_claim(r, bytes)) {
		log_error("%s: the item ring is full: the log cannot be reclaimed", s->media->path);
		sl->error = -ENOSPC;
		atomic_store(&s->log_damaged, true); // another slice would not know what this one has seen replaced
		return;
	}
	out->lsn = atomic_fetch_add(&s->lsn, 1);
	ring_append(s->tier, r, out, bytes);
	// A drain per record: a torn one with an intact one behind it would look like rot.
	media_drain(s->media);
	ring_appended(r);
	out->items = 0;
	sl->relog_bytes = sizeof *out;
}

static bool item_is_live(const struct store *s, const struct item_disk *d)
{
	const struct item *newest = overlay_find(&s->overlay, (struct item_key){ d->object, d->sub }, LSN_MAX);
	return newest && newest->lsn == d->lsn;
}

// Items that are the newest of their key and not in the tree yet go to the item ring; they keep
// their first LSN.
static void relog_items(struct slice *sl, const struct record_disk *record)
{
	const struct item_disk *d = NULL;
	for (unsigned i = 0; i < record->items && !sl->error; i++) {
		d = record_item(record, d);
		if (!d)
			return;
		if (!item_is_live(sl->s, d))
			continue;
		uint64_t bytes = ITEM_RECORD_BYTES(d->bytes);
		if (sl->relog_bytes + bytes > sl->relog_max)
			relog_flush(sl);
		if (sl->error)
			return;
		memcpy((uint8_t *)sl->relog + sl->relog_bytes, d, bytes);
		sl->relog_bytes += bytes;
		sl->relog->items++;
	}
}

// Will the item ring take what waits to be logged again and all of such a record, and leave `spare`?
// What this slice lets go of there is room for the next one only.
static bool relog_room(struct slice *sl, uint64_t record_bytes, uint64_t spare)
{
	struct ring *r = tier_item_ring(sl->s->tier);
	uint64_t heads_and_ends = (record_bytes / sl->relog_max + 2) * 2 * RECORD_ALIGN;
	return ring_used(r) + sl->relog_bytes + record_bytes + heads_and_ends + spare <= r->bytes;
}

static bool slice_read(struct slice *sl, unsigned ring)
{
	struct store *s = sl->s;
	struct ring *r = &s->tier->ring[ring];
	if (ring_read(s->tier, r, sl->cursor[ring], sl->buffer) == 0)
		return true;
	log_error("%s: record at offset %llu of log ring %u is damaged: nothing more can be written; all that was acknowledged "
		  "before is served", s->media->path, (unsigned long long)sl->cursor[ring], ring);
	atomic_store(&s->log_damaged, true);
	sl->error = -EUCLEAN;
	return false;
}

static bool record_has(const struct record_disk *record, const struct item_disk *wanted)
{
	const struct item_disk *d = NULL;
	for (unsigned i = 0; i < record->items && (d = record_item(record, d)); i++)
		if (d->object == wanted->object && d->sub == wanted->sub && d->lsn == wanted->lsn)
			return true;
	return false;
}

// A crash between the two leaves what was logged again, but not the tail behind what it was logged from:
// then the older copy needs no room. Is there a later one of all that the record at the cursor has?
static bool logged_later(struct slice *sl, const struct record_disk *record)
{
	struct ring *r = tier_item_ring(sl->s->tier);
	struct record_disk *later = (struct record_disk *)sl->later;
	const struct item_disk *d = NULL;
	for (unsigned i = 0; i < record->items && (d = record_item(record, d)); i++) {
		uint64_t at = sl->cursor[r->number] + record->bytes, head = atomic_load(&r->visible_head);
		bool found = !item_is_live(sl->s, d);
		for (; !found && at < head && ring_read(sl->s->tier, r, at, later) == 0; at += later->bytes)
			found = record_has(later, d);
		if (!found)
			return false;
	}
	return true;
}

// The item ring has a tail of its own: half full, its oldest records go round again.
static void turn_item_ring(struct slice *sl)
{
	struct tier *t = sl->s->tier;
	struct ring *r = tier_item_ring(t);
	for (unsigned n = 0; n < SLICE_RECORDS && !sl->error; n++) {
		uint64_t used = atomic_load(&r->visible_head) - sl->cursor[r->number];
		if (used <= r->bytes / 2 || !slice_read(sl, r->number))
			break;
		const struct record_disk *record = (const void *)sl->buffer;
		if (relog_room(sl, record->bytes, 0)) {
			relog_items(sl, record);
		} else if (!logged_later(sl, record)) {
			sl->full = true;
			break;
		}
		sl->cursor[r->number] += record->bytes;
	}
}

// A crash between T and the tails leaves records that were reclaimed already. Slots and the item ring have
// what they say, and their frames may have been given away since.
static void skip_reclaimed(struct slice *sl)
{
	const struct record_disk *record = (const void *)sl->buffer;
	lsn_t tail = atomic_load(&sl->s->tier->tail_lsn);
	for (int ring; (ring = oldest_ring(sl)) >= 0 && slice_read(sl, (unsigned)ring) && record->lsn <= tail;)
		sl->cursor[ring] += record->bytes;
}

static void slice_records(struct slice *sl)
{
	const struct record_disk *record = (const void *)sl->buffer;
	unsigned n = 0;
	skip_reclaimed(sl);
	if (sl->error)
		return;
	for (; n < SLICE_RECORDS && sl->slots + RECORD_SWITCHES_MAX <= SLICE_FRAMES; n++) {
		int ring = oldest_ring(sl);
		if (ring < 0) {
			if (sl->limit > sl->done)
				sl->done = sl->limit; // nothing <= limit is left: else T would never reach a cut
			return;
		}
		if (!slice_read(sl, (unsigned)ring))
			return;
		// A lane's items leave room for the item ring to be turned in.
		if (!relog_room(sl, record->bytes, 2 * sl->relog_max)) {
			sl->full = true;
			return;
		}
		reclaim_switches(sl, record);
		relog_items(sl, record);
		if (sl->error)
			return;
		sl->cursor[ring] += record->bytes;
		sl->done = record->lsn;
	}
}

// What is in flight when S is read has an inflight <= its LSN; what takes its LSN later is above S.
static lsn_t reclaim_limit(struct store *s)
{
	lsn_t limit = atomic_load(&s->lsn);
	for (unsigned i = 0; i < GRACE_READERS_MAX; i++) {
		const struct lane *lane = atomic_load_explicit(&s->lane[i], memory_order_acquire);
		lsn_t inflight = lane ? atomic_load(&lane->inflight) : 0;
		if (inflight && inflight < limit)
			limit = inflight;
	}
	return limit - 1;
}

static bool slice_moves(const struct slice *sl)
{
	const struct tier *t = sl->s->tier;
	bool moves = sl->done > atomic_load(&t->tail_lsn);
	for (unsigned i = 0; i <= t->geometry.rings; i++)
		moves |= sl->cursor[i] != t->ring[i].tail;
	return moves;
}

static void limbo_freed(struct slice *sl)
{
	struct store *s = sl->s;
	for (frame_t f = s->limbo, next; f != FRAME_NONE; f = next) {
		next = s->tier->frame[f].replaces;
		freed_add(sl, f);
	}
	s->limbo = FRAME_NONE;
	s->limbo_count = 0;
}

static void slice_store(struct slice *sl)
{
	struct store *s = sl->s;
	struct tier *t = s->tier;
	struct media *m = s->media;

	limbo_freed(sl);
	slots_store(s, sl->slot, sl->slots);
	for (frame_t f = sl->freed; f != FRAME_NONE; f = t->frame[f].replaces)
		slot_store_free(t, f);
	relog_flush(sl);
	media_drain(m); // slots and items before T lets go of their records
	if (sl->error || !poison_spares_front(s))
		return; // T stays; what was stored says nothing that the log does not
	tier_word_store(m, WORD_TAIL_LSN, sl->done);
	atomic_store(&t->tail_lsn, sl->done);
	for (unsigned i = 0; i <= t->geometry.rings; i++)
		if (sl->cursor[i] != t->ring[i].tail) {
			tier_word_store(m, WORD_RING_TAIL + i, sl->cursor[i]);
			t->ring[i].tail = sl->cursor[i];
		}
	media_drain(m); // tails before ring space is reused, slots of replaced frames before the frames are
	if (!poison_spares_front(s))
		return;
	for (unsigned i = 0; i <= t->geometry.rings; i++)
		atomic_store_explicit(&t->ring[i].durable_tail, t->ring[i].tail, memory_order_release);
	for (frame_t f = sl->freed, next; f != FRAME_NONE; f = next) {
		next = t->frame[f].replaces; // before it may be somebody else's
		t->frame[f].replaces = FRAME_NONE;
		frame_slot_freed(t, f);
	}
}

static bool table_lock(struct store *s, bool wait)
{
	if (wait)
		return pthread_mutex_lock(&s->tier->table_lock) == 0;
	return pthread_mutex_trylock(&s->tier->table_lock) == 0;
}

bool reclaim_slice(struct store *s, bool wait)
{
	struct tier *t = s->tier;
	if (atomic_load(&s->log_damaged) || !table_lock(s, wait))
		return false;
	struct slice *sl = s->slice;
	memset(sl, 0, offsetof(struct slice, buffer));
	sl->s = s;
	sl->freed = FRAME_NONE;
	sl->relog = (struct record_disk *)sl->out;
	memset(sl->relog, 0, sizeof *sl->relog);
	sl->relog_bytes = sizeof *sl->relog;
	uint64_t sixteenth = tier_item_ring(t)->bytes / 16;
	sl->relog_max = sixteenth < RECORD_BYTES_MAX ? sixteenth : RECORD_BYTES_MAX;
	sl->limit = reclaim_limit(s);
	sl->done = atomic_load(&t->tail_lsn);
	for (unsigned i = 0; i <= t->geometry.rings; i++)
		sl->cursor[i] = t->ring[i].tail;
	turn_item_ring(sl);
	if (!sl->error)
		slice_records(sl);
	bool progress = !sl->error && slice_moves(sl);
	if (!sl->error && (progress || s->limbo_count))
		slice_store(sl);
	else if (sl->freed_count) // an error in the middle: they stay in limbo
		log_warning("%u frames of the tier are out of use until the next mount", sl->freed_count);
	atomic_store(&s->item_ring_full, sl->full && !progress);
	pthread_mutex_unlock(&t->table_lock);
	return progress;
}

// ---- evict ---------------------------------------------------------------------------------------

// Takes the frame out of the index if it still is what it was, and clean; the taker owns it.
static bool take_out(struct store *s, frame_t f, bool dead)
{
	struct tier *t = s->tier;
	struct frame *fr = &t->frame[f];
	struct bucket *b = index_bucket(t, fr->object, fr->page);
	uint32_t version = index_lock(b);
	uint16_t state = frame_state(fr);
	bool taken = frame_place(state) == FRAME_INDEXED && (dead || !(state & FRAME_DIRTY)) &&
		     index_find(t, b, fr->object, fr->page) == f;
	if (taken) {
		assert(state & FRAME_FILLED || fr->lsn <= atomic_load(&t->tail_lsn));
		index_remove(t, b, fr->object, fr->page);
		atomic_store(&fr->state, FRAME_LEAVING);
		if (state & FRAME_DIRTY)
			atomic_fetch_sub_explicit(&t->pool.dirty_count, 1, memory_order_relaxed);
	}
	index_unlock(b, version, taken);
	if (taken && state & FRAME_DIRTY)
		space_unexpect(s, 1);
	return taken;
}

static void victims_free(struct store *s, const frame_t *victim, unsigned count)
{
	if (count == 0)
		return;
	for (unsigned i = 0; i < count; i++)
		slot_store_free(s->tier, victim[i]);
	media_drain(s->media); // slots durably free before the frames are used again
	if (poison_spares_front(s))
		frames_retire(s->tier, victim, count);
}

// Dead by a DROP: may go at any time, but not while an epoch may be reading it, and not before its
// record is reclaimed (a replay would bind its key to a frame that holds another's bytes).
static bool is_dead(struct store *s, const struct frame *f)
{
	if (f->object == OBJECT_STORE || f->lsn >= drops_newest(&s->drops, f->object, f->page, LSN_MAX))
		return false;
	// The cut is read after the DROP was found: one that is announced later freezes what the DROP
	// has killed already, and does not read it.
	lsn_t cut = atomic_load(&s->cut), clean = atomic_load(&s->clean_cut);
	return f->lsn <= atomic_load(&s->tier->tail_lsn) && (cut == clean || f->lsn > cut);
}

bool evict_take(void *arg, frame_t f)
{
	struct store *s = arg;
	bool dead = drops_any(&s->drops) && is_dead(s, &s->tier->frame[f]);
	if (!take_out(s, f, dead))
		return false;
	atomic_fetch_add(dead ? &s->dropped : &s->evicted, 1);
	return true;
}

// The next dead frame, of those that the hand comes by in some steps.
static frame_t next_dead(struct store *s, unsigned *steps)
{
	struct tier *t = s->tier;
	for (; *steps; --*steps) {
		frame_t f = s->hand++;
		if (s->hand >= t->frames)
			s->hand = 0;
		if (frame_place(frame_state(&t->frame[f])) == FRAME_INDEXED && is_dead(s, &t->frame[f]) && evict_take(s, f)) {
			policy_remove(&s->policy, f);
			return f;
		}
	}
	return FRAME_NONE;
}

unsigned evict_some(struct store *s, unsigned want, bool wait)
{
	frame_t victim[VICTIMS_MAX], f;
	unsigned count = 0, total = 0;

	if (!table_lock(s, wait))
		return 0;
	unsigned steps = drops_any(&s->drops) ? DEAD_STEPS : 0;
	for (; total < want; total++) {
		f = next_dead(s, &steps);
		if (f == FRAME_NONE)
			f = policy_victim(&s->policy);
		if (f == FRAME_NONE)
			break;
		victim[count++] = f;
		if (count == VICTIMS_MAX) {
			victims_free(s, victim, count);
			count = 0;
		}
	}
	victims_free(s, victim, count);
	pthread_mutex_unlock(&s->tier->table_lock);
	return total;
}

void hit_frame(struct store *s, frame_t f)
{
	frame_warm(&s->tier->frame[f]);
	if (!s->policy.ops->hit || !table_lock(s, false))
		return;
	s->policy.ops->hit(&s->policy, f);
	pthread_mutex_unlock(&s->tier->table_lock);
}

void evict_frame(struct store *s, frame_t f)
{
	if (!table_lock(s, false))
		return;
	if (take_out(s, f, false)) {
		policy_remove(&s->policy, f);
		if (!s->read_only) // whose slots stay, and whose frames nobody wants
			victims_free(s, &f, 1);
	}
	pthread_mutex_unlock(&s->tier->table_lock);
}

// Of frames [from, to), takes out those that a DROP up to the cut has killed. A dead one cannot be admitted
// meanwhile: the DROP is in force until the epoch is.
static void drop_pass(struct store *s, lsn_t cut, frame_t from, frame_t to)
{
	struct tier *t = s->tier;
	frame_t victim[VICTIMS_MAX];
	unsigned count = 0;

	table_lock(s, true);
	for (frame_t f = from; f < to; f++) {
		struct frame *fr = &t->frame[f];
		if (frame_place(frame_state(fr)) != FRAME_INDEXED || fr->object == OBJECT_STORE ||
		    fr->lsn >= drops_newest(&s->drops, fr->object, fr->page, cut) || !take_out(s, f, true))
			continue;
		atomic_fetch_add(&s->dropped, 1);
		policy_remove(&s->policy, f);
		victim[count++] = f;
		if (count == VICTIMS_MAX) {
			victims_free(s, victim, count);
			count = 0;
		}
	}
	victims_free(s, victim, count);
	pthread_mutex_unlock(&t->table_lock);
}

// ---- admission -----------------------------------------------------------------------------------

#define ADMIT_MAX 64u

// Frames that enter the index from the backing, and those that have left it for them. Under the table lock.
struct admission {
	frame_t in[ADMIT_MAX], stale[ADMIT_MAX];
	unsigned ins, stales;
};

// Under the bucket's lock. Of a node, one of another birth may be there, which is never asked for again.
static void admit_frame(struct store *s, struct admission *a, struct bucket *b, frame_t f)
{
	struct tier *t = s->tier;
	struct frame *fr = &t->frame[f];
	frame_t stale = index_find(t, b, fr->object, fr->page);

	if (stale != FRAME_NONE) {
		policy_remove(&s->policy, stale);
		atomic_store(&t->frame[stale].state, FRAME_LEAVING);
		a->stale[a->stales++] = stale;
	}
	policy_insert(&s->policy, f);
	atomic_store_explicit(&fr->state, FRAME_INDEXED | FRAME_FILLED | FRAME_VALIDATED, memory_order_release);
	index_set(t, b, fr->object, fr->page, f);
	a->in[a->ins++] = f;
}

static void admission_store(struct store *s, const struct admission *a)
{
	slots_store(s, a->in, a->ins);
	media_drain(s->media); // states before another thread may free the slots
	victims_free(s, a->stale, a->stales);
}

// The look that missed must still hold: the bucket has not changed since.
static bool admit_one(struct store *s, struct admission *a, const struct fetched *what, frame_t f)
{
	struct frame *fr = &s->tier->frame[f];

	fr->object = what->object;
	fr->page = what->page;
	fr->lsn = what->birth;
	fr->sum = what->sum;
	uint32_t version = index_lock(what->bucket);
	bool holds = version == what->version && what->birth >= drops_newest(&s->drops, what->object, what->page, LSN_MAX);
	if (holds)
		admit_frame(s, a, what->bucket, f);
	index_unlock(what->bucket, version, holds);
	return holds;
}

static void admit_batch(struct op *op, struct fetched **list, const frame_t *frames, unsigned count)
{
	struct store *s = op->store;
	struct tier *t = s->tier;
	struct admission a = { 0 };
	frame_t out[ADMIT_MAX];
	unsigned outs = 0;

	for (unsigned i = 0; i < count; i++)
		media_copy(s->media, tier_frame_data(t, frames[i]), list[i]->data, PAGE_BYTES);
	media_drain(s->media); // others may see them from then on; nor may they arrive later than what the frames hold next
	if (!table_lock(s, op->keep)) {
		frames_return(t, frames, count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		if (!tier_frame_holds(t, frames[i]) || !admit_one(s, &a, list[i], frames[i]))
			out[outs++] = frames[i];
	admission_store(s, &a);
	pthread_mutex_unlock(&t->table_lock);
	frames_return(t, out, outs);
	count_add(op->lane, COUNT_FILLED, a.ins);
}

void admit_fetched(struct op *op)
{
	struct store *s = op->store;
	struct fetched *list[ADMIT_MAX];
	frame_t frames[ADMIT_MAX];
	unsigned count = 0;

	if (s->read_only)
		return;
	for (unsigned b = 0; b <= FETCH_BUCKETS; b++) {
		struct fetched *f = b < FETCH_BUCKETS ? op->fetched[b] : NULL;
		for (; f; f = f->next) {
			// Only what this run has looked for: a DROP over it may have come and gone between two runs, and
			// leaves no trace in the bucket. Only frames that are free now: nothing is evicted for it here.
			if (!f->ready || f->run != op->run || !frames_claim(s->tier, 1, frames_low(s) / 2, &frames[count]))
				continue;
			list[count++] = f;
			if (count == ADMIT_MAX) {
				admit_batch(op, list, frames, count);
				count = 0;
			}
		}
	}
	if (count)
		admit_batch(op, list, frames, count);
}

// Nodes that the epoch has built: whoever looked at the old ones will look at these.
static void install_nodes(struct store *s, const struct new_node *node, unsigned count)
{
	struct tier *t = s->tier;
	struct admission a = { 0 };

	table_lock(s, true);
	for (unsigned i = 0; i < count; i++) {
		struct frame *fr = &t->frame[node[i].frame];
		struct bucket *b = index_bucket(t, OBJECT_STORE, node[i].ref.block);
		fr->object = OBJECT_STORE;
		fr->page = node[i].ref.block;
		fr->lsn = node[i].ref.birth;
		fr->sum = node[i].ref.sum;
		uint32_t version = index_lock(b);
		admit_frame(s, &a, b, node[i].frame);
		index_unlock(b, version, true);
	}
	admission_store(s, &a);
	pthread_mutex_unlock(&t->table_lock);
}

// ---- the thread ------------------------------------------------------------------------------------

unsigned frames_low(const struct store *s)
{
	unsigned low = s->tier->frames / 32;
	return low < 16 ? s->tier->frames / 8 : low > 8192 ? 8192 : low;
}

void chores_kick(struct store *s)
{
	if (!s->chores_running || atomic_exchange(&s->chores_kicked, true))
		return;
	pthread_mutex_lock(&s->chores_lock);
	pthread_cond_signal(&s->chores_cond);
	pthread_mutex_unlock(&s->chores_lock);
}

// Lanes ask at half; what is reclaimed at a time is worth the wake-up.
static bool rings_need_room(struct store *s)
{
	for (unsigned i = 0; i < s->tier->geometry.rings; i++)
		if (ring_used(&s->tier->ring[i]) > s->tier->ring[i].bytes / 4)
			return true;
	return false;
}

static bool epoch_waits(struct store *s)
{
	pthread_mutex_lock(&s->chores_lock);
	bool asked = s->asked;
	pthread_mutex_unlock(&s->chores_lock);
	return asked;
}

static bool needs_tending(struct store *s)
{
	return !s->config.on_demand && (rings_need_room(s) || frames_free_count(s->tier) < frames_low(s));
}

// Between two steps, when this thread is no reader: what has waited for that comes free.
static void step_ends(struct store *s)
{
	if (frames_poll(s->tier) && atomic_load(&s->waiters))
		wake_waiters(s);
}

static bool tend_step(struct store *s, struct grace_reader *reader)
{
	grace_enter(&s->grace, reader);
	bool progress = reclaim_slice(s, true);
	if (frames_free_count(s->tier) < frames_low(s))
		progress |= evict_some(s, frames_low(s), true) > 0;
	grace_leave(reader);
	step_ends(s);
	return progress;
}

// Ahead of need: room in the log, free frames. Under a load that outruns it there is no end of that, so
// the epoch thread comes first.
static void tend(struct store *s, struct grace_reader *reader)
{
	while (!epoch_waits(s) && needs_tending(s) && tend_step(s, reader))
		;
}

// Only an epoch takes items out of the overlay, and it waits for the log: no room can come of itself.
static bool item_ring_stuck(struct store *s)
{
	if (!atomic_load(&s->item_ring_full))
		return false;
	log_error("%s: the item ring is full of items that are logged nowhere else: nothing more can be written; all that was "
		  "acknowledged before is served", s->media->path);
	atomic_store(&s->log_damaged, true);
	return true;
}

static void serve_reclaim(struct store *s, struct grace_reader *reader, lsn_t to)
{
	while (atomic_load(&s->tier->tail_lsn) < to && !atomic_load(&s->log_damaged)) {
		grace_enter(&s->grace, reader);
		bool progress = reclaim_slice(s, true);
		grace_leave(reader);
		if (!progress && !item_ring_stuck(s))
			sched_yield(); // a commit <= the cut is still in flight: memory only
		step_ends(s);
	}
}

// However large the tier is, nobody waits longer for the table lock, frames or log space than for one part.
static void serve_drop(struct store *s, struct grace_reader *reader, lsn_t cut)
{
	uint64_t frames = s->tier->frames;

	for (uint64_t f = 0; f < frames; f += PASS_FRAMES) {
		grace_enter(&s->grace, reader);
		drop_pass(s, cut, (frame_t)f, (frame_t)(frames - f < PASS_FRAMES ? frames : f + PASS_FRAMES));
		grace_leave(reader);
		step_ends(s);
		if (needs_tending(s))
			tend_step(s, reader);
	}
}

static void serve_install(struct store *s, struct grace_reader *reader, const struct new_node *node, size_t count)
{
	for (size_t at = 0; at < count; at += ADMIT_MAX) {
		grace_enter(&s->grace, reader);
		install_nodes(s, node + at, count - at < ADMIT_MAX ? (unsigned)(count - at) : ADMIT_MAX);
		grace_leave(reader);
	}
}

static void serve(struct store *s, struct grace_reader *reader, const struct request *r)
{
	if (r->reclaim_to)
		serve_reclaim(s, reader, r->reclaim_to);
	if (r->drop_to)
		serve_drop(s, reader, r->drop_to);
	if (r->install_count)
		serve_install(s, reader, r->install, r->install_count);
	frames_poll(s->tier);
	wake_waiters(s);
}

static void *chores_main(void *arg)
{
	struct store *s = arg;
	struct grace_reader *reader = grace_register(&s->grace);

	pthread_setname_np(pthread_self(), "vems-chores");
	pthread_mutex_lock(&s->chores_lock);
	while (!s->chores_stop) {
		struct request request = s->request;
		bool asked = s->asked;
		pthread_mutex_unlock(&s->chores_lock);
		atomic_store(&s->chores_kicked, false);
		if (asked)
			serve(s, reader, &request);
		else
			tend(s, reader);
		frames_poll(s->tier);
		pthread_mutex_lock(&s->chores_lock);
		if (asked) { // and round again, to what serve() has left undone
			s->asked = false;
			pthread_cond_broadcast(&s->chores_done);
		} else if (!s->chores_stop && !s->asked && !atomic_load(&s->chores_kicked)) {
			struct timespec until = deadline_in_ms(1000);
			pthread_cond_timedwait(&s->chores_cond, &s->chores_lock, &until);
		}
	}
	pthread_mutex_unlock(&s->chores_lock);
	grace_unregister(reader);
	return NULL;
}

static void ask(struct store *s, const struct request *request)
{
	pthread_mutex_lock(&s->chores_lock);
	s->request = *request;
	s->asked = true;
	pthread_cond_signal(&s->chores_cond);
	while (s->asked)
		pthread_cond_wait(&s->chores_done, &s->chores_lock);
	pthread_mutex_unlock(&s->chores_lock);
}

void chores_reclaim_to(struct store *s, lsn_t lsn)
{
	ask(s, &(struct request){ .reclaim_to = lsn });
}

void chores_drop_pass(struct store *s, lsn_t cut)
{
	if (drops_any(&s->drops))
		ask(s, &(struct request){ .drop_to = cut });
}

void chores_install(struct store *s, const struct new_node *nodes, size_t count)
{
	if (count)
		ask(s, &(struct request){ .install = nodes, .install_count = count });
}

int chores_start(struct store *s)
{
	if (!s->slice) // tests stop the thread and start it again
		s->slice = aligned_alloc(64, sizeof *s->slice);
	if (!s->slice)
		return -ENOMEM;
	int r = pthread_create(&s->chores_thread, NULL, chores_main, s);
	s->chores_running = r == 0;
	return -r;
}

void chores_stop(struct store *s)
{
	if (!s->chores_running)
		return;
	pthread_mutex_lock(&s->chores_lock);
	s->chores_stop = true;
	pthread_cond_signal(&s->chores_cond);
	pthread_mutex_unlock(&s->chores_lock);
	pthread_join(s->chores_thread, NULL);
	s->chores_running = false;
}
