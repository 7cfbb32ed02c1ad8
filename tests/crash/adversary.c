// SPDX-License-Identifier: GPL-2.0-or-later
// Keeps `durable`, an image of what no power cut can undo, and two lists of what is on its way: stores
// by thread, block writes. A drain moves its thread's stores from the list to the image; a flush moves
// the writes that were complete.
#include "adversary.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "hash.h"
#include "pair_order.h"
#include "space.h"

#define THREADS_MAX 64u
#define SECTOR_BYTES 512u
#define LINE_BYTES 64u

const char *const order_name[ORDERS] = { "frames", "record", "relog", "slots", "reclaim", "tails", "evict", "base", "attach",
					 "flush", "fua" };

enum region { // of the tier; a set
	REGION_FRAME = 1, REGION_LANE_RING = 2, REGION_ITEM_RING = 4, REGION_SLOT_BODY = 8, REGION_SLOT_GOOD = 16,
	REGION_SLOT_FREE = 32, REGION_TAILS = 64, REGION_BASE = 128, REGION_OTHER = 256, REGION_START = 512
};

struct store_pending {
	struct store_pending *next;
	unsigned thread;
	uint64_t offset;
	uint32_t bytes;
	uint8_t data[];
};
struct write_pending {
	struct write_pending *next;
	uint64_t number; // of all block writes
	unsigned thread;
	block_t block;
	bool fua;
	uint8_t data[PAGE_BYTES];
};
struct thread {
	pid_t tid;
	unsigned stored;  // regions, since its last drain
	bool flushing;    // its next event says that the flush has ended
	uint64_t flushed; // writes below that number are durable then
	bool writing;     // likewise its W writes
};

struct adversary {
	pthread_mutex_t lock;
	struct media *media;
	struct backing *backing;
	struct media_recorder recorder;
	struct backing_hook hook;
	struct image *durable;
	struct tier_geometry geometry;
	block_t space_end, blocks; // the last bitmap or table is before space_end
	struct store_pending *store, **store_end;
	struct write_pending *write, **write_end;
	uint64_t writes_issued, number, changes;
	struct thread thread[THREADS_MAX];
	unsigned threads;
	bool broken[ORDERS];
	uint64_t breaks;
	lsn_t newest[TIER_RINGS_MAX + 1]; // record of each ring
	pthread_mutex_t *table_lock;       // NULL: not open yet
	unsigned fail_writes, fail_flushes;
	bool failed; // a write or flush has, for once
	bool based;  // an LSN base was stored
	const char *disorder;
	adversary_event_fn fn;
	void *arg;
};

static struct thread *thread_self(struct adversary *a)
{
	static _Thread_local pid_t tid;
	if (!tid)
		tid = gettid();
	for (unsigned i = 0; i < a->threads; i++)
		if (a->thread[i].tid == tid)
			return &a->thread[i];
	assert(a->threads < THREADS_MAX);
	a->thread[a->threads] = (struct thread){ .tid = tid };
	return &a->thread[a->threads++];
}

// ---- durable ------------------------------------------------------------------------------------

static void image_write(struct image *i, block_t block, const uint8_t *data)
{
	memcpy(i->backing + block * PAGE_BYTES, data, PAGE_BYTES);
	i->written[block / 8] |= (uint8_t)(1u << (block % 8));
}

static void image_write_sectors(struct image *i, const struct write_pending *w, uint8_t sectors)
{
	for (unsigned n = 0; n < PAGE_BYTES / SECTOR_BYTES; n++)
		if (sectors >> n & 1) {
			memcpy(i->backing + w->block * PAGE_BYTES + n * SECTOR_BYTES, w->data + n * SECTOR_BYTES, SECTOR_BYTES);
			i->written[w->block / 8] |= (uint8_t)(1u << (w->block % 8));
		}
}

static void writes_settle(struct adversary *a, unsigned thread, uint64_t below)
{
	for (struct write_pending **link = &a->write, *w; (w = *link);) {
		bool now = w->number < below || (w->fua && w->thread == thread && a->thread[thread].writing);
		if (!now) {
			link = &w->next;
			continue;
		}
		image_write(a->durable, w->block, w->data);
		*link = w->next;
		free(w);
	}
	for (a->write_end = &a->write; *a->write_end;)
		a->write_end = &(*a->write_end)->next;
}

static void stores_settle(struct adversary *a, unsigned thread)
{
	for (struct store_pending **link = &a->store, *s; (s = *link);) {
		if (s->thread != thread) {
			link = &s->next;
			continue;
		}
		memcpy(a->durable->media->base + s->offset, s->data, s->bytes);
		*link = s->next;
		free(s);
	}
	for (a->store_end = &a->store; *a->store_end;)
		a->store_end = &(*a->store_end)->next;
}

// Whatever this thread does next shows that its waited-for I/O is over.
static struct thread *arrive(struct adversary *a)
{
	struct thread *t = thread_self(a);
	if (t->flushing || t->writing)
		writes_settle(a, (unsigned)(t - a->thread), t->flushing ? t->flushed : 0);
	t->flushing = t->writing = false;
	return t;
}

// ---- the tier ---------------------------------------------------------------------------------------

static uint64_t word_in(const struct media *m, unsigned word)
{
	uint64_t raw;
	memcpy(&raw, m->base + TIER_WORDS_OFFSET + word * TIER_WORD_STRIDE, 8);
	return raw & LSN_MAX;
}

static uint64_t slot_free_check(const struct adversary *a, uint64_t f)
{
	return hash_mix(hash_mix(word_in(a->media, WORD_ATTACH), f), 0x46524545);
}

static unsigned region_of(struct adversary *a, uint64_t offset, const void *src, size_t bytes)
{
	const struct tier_geometry *g = &a->geometry;
	if (offset < TIER_WORDS_OFFSET)
		return REGION_OTHER | REGION_START;
	if (offset < TIER_RINGS_OFFSET) {
		unsigned word = (unsigned)((offset - TIER_WORDS_OFFSET) / TIER_WORD_STRIDE);
		if (word == WORD_LSN_BASE)
			return REGION_BASE;
		if (word == WORD_ATTACH)
			return REGION_OTHER | REGION_START;
		return word >= WORD_TAIL_LSN ? REGION_TAILS : REGION_OTHER;
	}
	if (offset >= g->frames_offset)
		return REGION_FRAME;
	if (offset >= g->table_offset) {
		uint64_t check;
		if (offset % sizeof(struct slot_disk))
			return REGION_SLOT_BODY;
		if (bytes > 8)
			return REGION_START; // attaching writes whole slots
		memcpy(&check, src, 8);
		frame_t f = (frame_t)((offset - g->table_offset) / sizeof(struct slot_disk));
		return check == slot_free_check(a, f) ? REGION_SLOT_FREE : REGION_SLOT_GOOD;
	}
	return offset >= TIER_RINGS_OFFSET + g->rings * g->ring_bytes ? REGION_ITEM_RING : REGION_LANE_RING;
}

static bool drain_is(unsigned stored, enum order order)
{
	switch (order) {
	case ORDER_FRAMES:
		return stored == REGION_FRAME;
	case ORDER_RECORD:
		return stored & REGION_LANE_RING;
	case ORDER_RELOG:
		return stored & REGION_ITEM_RING;
	case ORDER_SLOTS:
		return stored == REGION_SLOT_BODY;
	case ORDER_RECLAIM:
		return stored & (REGION_SLOT_GOOD | REGION_ITEM_RING);
	case ORDER_TAILS:
		return stored & REGION_TAILS && !(stored & REGION_START);
	case ORDER_EVICT:
		return stored == REGION_SLOT_FREE;
	case ORDER_BASE:
		return stored & REGION_BASE && !(stored & REGION_START);
	case ORDER_ATTACH:
		return stored & REGION_START;
	default:
		return false;
	}
}

// ---- orders that show without a crash ---------------------------------------------------------------
//
// Few of the crashes that a missing drain spoils are ever tried. So each store and superblock is asked
// whether all that it relies on is durable.

#define ANY_THREAD THREADS_MAX

static bool on_its_way(const struct adversary *a, unsigned but_of, uint64_t from, uint64_t bytes)
{
	for (const struct store_pending *s = a->store; s; s = s->next)
		if (s->thread != but_of && s->offset < from + bytes && from < s->offset + s->bytes)
			return true;
	return false;
}

static bool slot_is_free(const struct adversary *a, uint64_t f)
{
	uint64_t check;
	memcpy(&check, a->durable->media->base + a->geometry.table_offset + f * sizeof(struct slot_disk), 8);
	return check == slot_free_check(a, f);
}

static bool super_on_its_way(const struct adversary *a)
{
	for (const struct write_pending *w = a->write; w; w = w->next)
		if (w->block == 0 || w->block == a->backing->blocks - 1)
			return true;
	return false;
}

#define REGIONS_TABLE_LOCK (REGION_ITEM_RING | REGION_SLOT_BODY | REGION_SLOT_GOOD | REGION_SLOT_FREE | REGION_TAILS)

// By any thread: by another one no rule can tell.
static bool table_is_locked(const struct adversary *a)
{
	if (a->table_lock && pthread_mutex_trylock(a->table_lock) == 0) {
		pthread_mutex_unlock(a->table_lock);
		return false;
	}
	return true;
}

// Who has the table lock drains what it has stored before it lets go.
static bool table_on_its_way(const struct adversary *a, unsigned but_of)
{
	const struct tier_geometry *g = &a->geometry;
	uint64_t item_ring = TIER_RINGS_OFFSET + g->rings * g->ring_bytes, tails = TIER_WORDS_OFFSET + WORD_TAIL_LSN * TIER_WORD_STRIDE;
	return a->table_lock && (on_its_way(a, but_of, item_ring, g->frames_offset - item_ring) ||
				 on_its_way(a, but_of, tails, TIER_RINGS_OFFSET - tails));
}

// A record is stored in one piece, or in two if it goes round the end of its ring.
static const char *record_relies(struct adversary *a, bool follows, uint64_t offset, const struct record_disk *record, uint64_t bytes)
{
	const struct tier_geometry *g = &a->geometry;
	uint64_t at = offset - TIER_RINGS_OFFSET, ring = at / g->ring_bytes, room = g->ring_bytes;
	if (ring >= g->rings) {
		ring = g->rings;
		room = g->item_ring_bytes;
	}
	at -= ring * g->ring_bytes;
	if (follows && at)
		return "a record before the last one is drained";
	if (!follows && record->lsn <= a->newest[ring])
		return "a record with an LSN that does not rise";
	if (!follows)
		a->newest[ring] = record->lsn;
	uint64_t tail = word_in(a->media, WORD_RING_TAIL + (unsigned)ring), durable = word_in(a->durable->media, WORD_RING_TAIL + (unsigned)ring);
	uint64_t head = tail + (at + room - tail % room) % room;
	return head + bytes > durable + room ? "a ring's space is used again before the tail behind it is durable" : NULL;
}

static uint64_t frame_offset(const struct adversary *a, uint64_t f)
{
	return a->geometry.frames_offset + f * PAGE_BYTES;
}

static uint64_t slot_offset(const struct adversary *a, uint64_t f)
{
	return a->geometry.table_offset + f * sizeof(struct slot_disk);
}

static struct pair_at pair_at(const struct adversary *a)
{
	return (struct pair_at){ a->media, a->durable, a->geometry };
}

// LSNs are handed out, by a store that serves.
static const char *serving_relies(const struct adversary *a)
{
	struct pair_at p = pair_at(a);
	if (!a->based || on_its_way(a, ANY_THREAD, TIER_WORDS_OFFSET + WORD_LSN_BASE * TIER_WORD_STRIDE, 8))
		return "a record before the LSN base is drained";
	return pair_use_relies(&p);
}

// The first record that the tail of a ring passes is one that T has passed.
static bool tail_passes_t(const struct adversary *a, uint64_t offset)
{
	unsigned word = (unsigned)((offset - TIER_WORDS_OFFSET) / TIER_WORD_STRIDE), ring = word - WORD_RING_TAIL;
	if (!a->table_lock || word == WORD_TAIL_LSN || ring >= a->geometry.rings)
		return false;
	uint64_t at = ring * a->geometry.ring_bytes + word_in(a->durable->media, word) % a->geometry.ring_bytes;
	const struct record_disk *record = (const void *)(a->durable->media->base + TIER_RINGS_OFFSET + at);
	return record->lsn > word_in(a->media, WORD_TAIL_LSN);
}

// What the thread is about to store to that region relies on something that it has not drained, or on a lock
// that it does not have.
static const char *store_relies(struct adversary *a, const struct thread *t, unsigned region, uint64_t offset, const void *src, uint64_t bytes)
{
	unsigned self = (unsigned)(t - a->thread);
	uint64_t frame = (offset - a->geometry.frames_offset) / PAGE_BYTES;
	uint64_t slot = (offset - a->geometry.table_offset) / sizeof(struct slot_disk);
	if (region & REGIONS_TABLE_LOCK && !table_is_locked(a))
		return "a slot, a tail or a record of the item ring without the table lock";
	if (region & REGIONS_TABLE_LOCK && table_on_its_way(a, self))
		return "a slot, a tail or a record of the item ring before those of another thread are drained";
	switch (region) {
	case REGION_FRAME:
		if (!slot_is_free(a, frame))
			return "a frame is used again before its slot is durably free";
		return on_its_way(a, self, frame_offset(a, frame), PAGE_BYTES) ? "a frame is used again before what it held was drained" : NULL;
	case REGION_LANE_RING:
		if (t->stored & REGION_FRAME)
			return "a record before its frames are drained";
		if (serving_relies(a))
			return serving_relies(a);
		return record_relies(a, t->stored & REGION_LANE_RING, offset, src, bytes);
	case REGION_ITEM_RING:
		return record_relies(a, t->stored & REGION_ITEM_RING, offset, src, bytes);
	case REGION_SLOT_GOOD:
		if (on_its_way(a, ANY_THREAD, frame_offset(a, slot), PAGE_BYTES))
			return "a slot before the frame's content is drained";
		return on_its_way(a, ANY_THREAD, slot_offset(a, slot), sizeof(struct slot_disk)) ? "the state of a slot before its body is drained" : NULL;
	case REGION_TAILS:
		if (tail_passes_t(a, offset))
			return "a ring's tail passes a record that T has not passed";
		return t->stored & (REGION_SLOT_GOOD | REGION_SLOT_FREE | REGION_ITEM_RING) ? "T or a tail before slots and items are drained" : NULL;
	case REGION_OTHER:
		return super_on_its_way(a) ? "epoch or state of the tier before the superblocks are durable" : NULL;
	default:
		return NULL;
	}
}

// Of the headers and words of the tier, and of a new table.
static const char *pair_relies(const struct adversary *a, unsigned region, uint64_t offset, const void *src, uint64_t bytes)
{
	struct pair_at p = pair_at(a);
	uint64_t value;
	if (offset < TIER_WORDS_OFFSET)
		return pair_header_relies(&p, offset, src, bytes);
	if (offset >= TIER_RINGS_OFFSET && region != REGION_START)
		return NULL;
	if (region == REGION_START)
		return pair_table_relies(&p);
	memcpy(&value, src, sizeof value);
	return pair_word_relies(&p, (unsigned)((offset - TIER_WORDS_OFFSET) / TIER_WORD_STRIDE), value & LSN_MAX);
}

static const char *relies(struct adversary *a, const struct thread *t, unsigned region, uint64_t offset, const void *src,
			  uint64_t bytes)
{
	struct pair_at p = pair_at(a);
	if (pair_formats(&p))
		return NULL; // what is stored then counts for nothing
	const char *broken = pair_relies(a, region, offset, src, bytes);
	return broken ? broken : store_relies(a, t, region, offset, src, bytes);
}

static const char *super_relies(const struct adversary *a, const struct thread *t, block_t block, const struct super_disk *next)
{
	struct pair_at p = pair_at(a);
	if (t->stored & (REGION_OTHER | REGION_START | REGION_BASE | REGION_TAILS))
		return "a superblock before the words of the tier are drained";
	for (const struct write_pending *w = a->write; w && !a->failed; w = w->next)
		if (!w->fua)
			return "a superblock before the blocks are flushed";
	return super_on_its_way(a) ? "a superblock before the other one is durable" : pair_super_relies(&p, block, next);
}

static void note_disorder(struct adversary *a, const char *text)
{
	bool intended = !text;
	for (int o = 0; o < ORDERS; o++)
		intended |= a->broken[o];
	if (!a->disorder && !intended)
		a->disorder = text;
}

const char *adversary_disorder(const struct adversary *a)
{
	return a->disorder;
}

const char *adversary_unfinished(struct adversary *a)
{
	struct pair_at p = pair_at(a);
	arrive(a);
	return a->store ? "it has ended, and a store of it may still be lost" : pair_rest_relies(&p);
}

static void note_event(struct adversary *a, enum event event)
{
	uint64_t number = ++a->number;
	if (a->fn)
		a->fn(a->arg, event, number);
}

static void on_store(void *arg, uint64_t offset, const void *src, size_t bytes)
{
	struct adversary *a = arg;
	pthread_mutex_lock(&a->lock);
	struct thread *t = arrive(a);
	a->changes++;
	unsigned region = region_of(a, offset, src, bytes);
	note_disorder(a, relies(a, t, region, offset, src, bytes));
	a->based |= region == REGION_BASE;
	t->stored |= region;
	struct store_pending *s = malloc(sizeof *s + bytes);
	assert(s);
	s->next = NULL;
	s->thread = (unsigned)(t - a->thread);
	s->offset = offset;
	s->bytes = (uint32_t)bytes;
	memcpy(s->data, src, bytes);
	*a->store_end = s;
	a->store_end = &s->next;
	note_event(a, EVENT_STORE);
	pthread_mutex_unlock(&a->lock);
}

static void on_drain(void *arg)
{
	struct adversary *a = arg;
	bool ignored = false;
	pthread_mutex_lock(&a->lock);
	struct thread *t = arrive(a);
	if (t->stored & REGIONS_TABLE_LOCK && !table_is_locked(a))
		note_disorder(a, "the table lock is let go of before what was stored under it is drained");
	for (int o = 0; o < ORDERS; o++)
		ignored |= a->broken[o] && drain_is(t->stored, (enum order)o);
	if (ignored)
		a->breaks++;
	else if (t->stored || a->store)
		stores_settle(a, (unsigned)(t - a->thread));
	t->stored = 0;
	note_event(a, EVENT_DRAIN);
	pthread_mutex_unlock(&a->lock);
}

// ---- the backing --------------------------------------------------------------------------------------

static void add_writes(struct adversary *a, unsigned thread, bool fua, block_t block, const struct iovec *iov, int iovcnt)
{
	for (int i = 0; i < iovcnt; i++) {
		assert(iov[i].iov_len % PAGE_BYTES == 0);
		for (size_t at = 0; at < iov[i].iov_len; at += PAGE_BYTES) {
			struct write_pending *w = malloc(sizeof *w);
			assert(w);
			*w = (struct write_pending){ .number = a->writes_issued, .thread = thread, .block = block++, .fua = fua };
			memcpy(w->data, (const uint8_t *)iov[i].iov_base + at, PAGE_BYTES);
			*a->write_end = w;
			a->write_end = &w->next;
		}
	}
	a->writes_issued++;
}

static int on_write(struct adversary *a, struct thread *t, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (a->fail_writes && kind == 'w') {
		a->fail_writes--;
		a->failed = true;
		return -EIO;
	}
	bool fua = kind == 'W';
	if (block == 0 || block == a->backing->blocks - 1)
		note_disorder(a, super_relies(a, t, block, iov[0].iov_base));
	if (fua && a->broken[ORDER_FUA]) {
		a->breaks++;
		fua = false;
	}
	add_writes(a, (unsigned)(t - a->thread), fua, block, iov, iovcnt);
	t->writing |= fua;
	note_event(a, kind == 'W' ? EVENT_FUA : EVENT_WRITE);
	return 0;
}

static int on_flush(struct adversary *a, struct thread *t)
{
	if (a->fail_flushes) {
		a->fail_flushes--;
		a->failed = true;
		return -EIO;
	}
	if (a->broken[ORDER_FLUSH]) {
		a->breaks++;
	} else {
		// Those that have not been seen to complete are the last ones, at worst.
		uint64_t complete = atomic_load(&a->backing->writes);
		t->flushing = true;
		t->flushed = complete < a->writes_issued ? complete : a->writes_issued;
	}
	note_event(a, EVENT_FLUSH);
	return 0;
}

static int before_io(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	struct adversary *a = arg;
	int r = 0;
	if (kind == 'r')
		return 0;
	pthread_mutex_lock(&a->lock);
	struct thread *t = arrive(a);
	a->changes++;
	if (kind == 'f')
		r = on_flush(a, t);
	else
		r = on_write(a, t, kind, block, iov, iovcnt);
	pthread_mutex_unlock(&a->lock);
	return r;
}

// ---- crash ------------------------------------------------------------------------------------------

enum policy {
	POLICY_NONE, POLICY_ALL, POLICY_EACH, POLICY_LINES, POLICY_WORDS, POLICY_ONE_LOST, POLICY_ONE_ARRIVED, POLICY_THREAD,
	POLICY_HOT, // content of pages as a whole or not at all; of all else any lines and sectors
	POLICIES
};
static const char *const policy_name[POLICIES] = { "none", "all", "each", "lines", "words", "one-lost", "one-arrived", "thread",
						   "hot" };

const char *crash_policy(uint64_t seed, char text[64])
{
	uint64_t rng = seed;
	enum policy tier = (enum policy)rng_below(&rng, POLICIES), backing = (enum policy)rng_below(&rng, POLICIES);
	snprintf(text, 64, "tier %s, backing %s", policy_name[tier], policy_name[backing]);
	return text;
}

// Lines of a thread that have lost a store: none behind it arrives.
struct closed {
	uint64_t *key;
	size_t room;
};

static bool closed_line(struct closed *c, uint64_t line, unsigned thread, bool close)
{
	uint64_t key = (line << 8 | thread) + 1;
	for (size_t at = hash_mix(key, 0) & (c->room - 1);; at = (at + 1) & (c->room - 1)) {
		if (c->key[at] == key)
			return true;
		if (c->key[at] == 0) {
			if (close)
				c->key[at] = key;
			return close;
		}
	}
}

static void store_words(struct image *i, const struct store_pending *s, enum policy p, struct closed *c, uint64_t *rng)
{
	uint8_t *to = i->media->base;
	uint32_t line_lost = 0;
	for (uint32_t at = 0; at < s->bytes; at += 8) {
		uint64_t offset = s->offset + at, line = offset / LINE_BYTES;
		if (at == 0 || offset % LINE_BYTES == 0)
			line_lost = rng_below(rng, 3); // 0: the line arrives, 1: a part of it, 2: none
		bool lost = p == POLICY_WORDS ? rng_below(rng, 2) : line_lost == 2 || (line_lost == 1 && rng_below(rng, 4) == 0);
		if (p == POLICY_LINES && closed_line(c, line, s->thread, lost))
			continue;
		if (!lost)
			memcpy(to + offset, s->data + at, 8);
	}
}

static void crash_tier(struct adversary *a, struct image *i, enum policy p, uint64_t *rng)
{
	struct closed c = { 0 };
	uint64_t count = 0, n = 0;
	size_t lines = 0;
	for (const struct store_pending *s = a->store; s; s = s->next) {
		count++;
		lines += s->bytes / LINE_BYTES + 2;
	}
	if (count == 0)
		return;
	for (c.room = 64; c.room < 2 * lines; c.room *= 2)
		;
	c.key = calloc(c.room, sizeof *c.key);
	assert(c.key);
	// Rather one of the last: what came first has had the time.
	uint64_t back = rng_below(rng, 2) ? count : count < 4 ? count : 4;
	uint64_t the_one = count - 1 - rng_below(rng, (uint32_t)back);
	unsigned the_thread = rng_below(rng, a->threads);
	bool dull_arrives = rng_below(rng, 2);
	for (const struct store_pending *s = a->store; s; s = s->next, n++) {
		bool whole = p == POLICY_ALL || (p == POLICY_EACH && rng_below(rng, 2)) || (p == POLICY_ONE_ARRIVED && n == the_one) ||
			     (p == POLICY_ONE_LOST && n != the_one) || (p == POLICY_THREAD && s->thread == the_thread);
		bool dull = p == POLICY_HOT && s->offset >= a->geometry.frames_offset;
		if (whole || (dull && dull_arrives))
			memcpy(i->media->base + s->offset, s->data, s->bytes);
		else if (p == POLICY_WORDS || p == POLICY_LINES || (p == POLICY_HOT && !dull) || (p == POLICY_ONE_LOST && rng_below(rng, 2)))
			store_words(i, s, p == POLICY_WORDS ? p : POLICY_LINES, &c, rng);
	}
	free(c.key);
}

// Neither a superblock, nor space, nor a node.
static bool write_is_dull(const struct adversary *a, const struct write_pending *w)
{
	uint32_t magic;
	memcpy(&magic, w->data, sizeof magic);
	return w->block >= a->space_end && w->block + 1 < a->blocks && magic != VEMS_NODE_MAGIC;
}

static void crash_backing(struct adversary *a, struct image *i, enum policy p, uint64_t *rng)
{
	uint64_t count = 0, n = 0;
	for (const struct write_pending *w = a->write; w; w = w->next)
		count++;
	if (count == 0)
		return;
	uint64_t the_one = rng_below(rng, 2) ? rng_below(rng, (uint32_t)count) : count - 1;
	bool dull_arrives = rng_below(rng, 2);
	for (const struct write_pending *w = a->write; w; w = w->next, n++) {
		bool whole = p == POLICY_ALL || ((p == POLICY_EACH || p == POLICY_THREAD) && rng_below(rng, 2)) ||
			     (p == POLICY_ONE_ARRIVED && n == the_one) || (p == POLICY_ONE_LOST && n != the_one);
		if (p == POLICY_HOT && write_is_dull(a, w)) {
			if (dull_arrives)
				image_write(i, w->block, w->data);
			continue;
		}
		if (whole)
			image_write(i, w->block, w->data);
		else if (p == POLICY_LINES || p == POLICY_WORDS || p == POLICY_HOT)
			image_write_sectors(i, w, (uint8_t)rng_below(rng, 256));
	}
}

struct image *adversary_crash(struct adversary *a, enum crash_kind kind, uint64_t seed)
{
	struct image *i = image_copy(a->durable);
	uint64_t rng = seed;
	enum policy tier = (enum policy)rng_below(&rng, POLICIES), backing = (enum policy)rng_below(&rng, POLICIES);
	if (kind == CRASH_KILL)
		tier = backing = POLICY_ALL;
	crash_tier(a, i, tier, &rng);
	crash_backing(a, i, backing, &rng);
	return i;
}

// ---- every state --------------------------------------------------------------------------------------

#define UNITS_MAX 48u

enum grain { GRAIN_WORDS, GRAIN_LINES, GRAIN_STORES, GRAINS };

// What arrives by itself: of the first `take` of its words all do.
struct unit {
	uint64_t key; // line and thread, or which store
	uint32_t words, seen, take;
};
struct arrival {
	enum grain grain;
	struct unit unit[UNITS_MAX]; // of the tier
	unsigned units;
	uint64_t states; // 0: too many
};

static struct unit *unit_of(struct arrival *v, uint64_t key)
{
	for (unsigned i = 0; i < v->units; i++)
		if (v->unit[i].key == key)
			return &v->unit[i];
	if (v->units == UNITS_MAX)
		return NULL;
	v->unit[v->units] = (struct unit){ .key = key };
	return &v->unit[v->units++];
}

static uint64_t unit_key(const struct arrival *v, const struct store_pending *s, uint64_t number, uint32_t at)
{
	return v->grain == GRAIN_STORES ? number : (s->offset + at) / LINE_BYTES << 8 | s->thread;
}

static bool units_count(const struct adversary *a, struct arrival *v)
{
	uint64_t number = 0;
	for (const struct store_pending *s = a->store; s; s = s->next, number++)
		for (uint32_t at = 0; at < s->bytes; at += 8) {
			struct unit *u = unit_of(v, unit_key(v, s, number, at));
			if (!u)
				return false;
			u->words++;
		}
	return true;
}

// How many ways there are for one unit, and for one block.
static uint64_t unit_ways(const struct arrival *v, const struct unit *u)
{
	return v->grain == GRAIN_WORDS ? u->words + 1 : 2;
}

static uint64_t write_ways(const struct arrival *v)
{
	return v->grain == GRAIN_WORDS ? 1u << PAGE_BYTES / SECTOR_BYTES : 2;
}

static void arrival_at(const struct adversary *a, bool with_tier, uint64_t most, enum grain grain, struct arrival *v)
{
	*v = (struct arrival){ .grain = grain };
	if (with_tier && !units_count(a, v))
		return;
	uint64_t states = 1;
	for (unsigned i = 0; i < v->units && states <= most; i++)
		states *= unit_ways(v, &v->unit[i]);
	for (const struct write_pending *w = a->write; w && states <= most; w = w->next)
		states *= write_ways(v);
	v->states = states <= most ? states : 0;
}

static void arrival_finest(const struct adversary *a, bool with_tier, uint64_t most, struct arrival *v)
{
	int grain = GRAIN_WORDS;
	do
		arrival_at(a, with_tier, most, (enum grain)grain, v);
	while (v->states == 0 && ++grain < GRAINS);
}

uint64_t adversary_states(const struct adversary *a, bool with_tier, uint64_t most)
{
	struct arrival v;
	arrival_finest(a, with_tier, most, &v);
	return v.states;
}

static void arrive_on_tier(const struct adversary *a, struct arrival *v, struct image *i, uint64_t *number)
{
	for (unsigned n = 0; n < v->units; n++) {
		struct unit *u = &v->unit[n];
		uint64_t ways = unit_ways(v, u), way = *number % ways;
		u->take = v->grain == GRAIN_WORDS ? (uint32_t)way : way ? u->words : 0;
		*number /= ways;
	}
	uint64_t which = 0;
	for (const struct store_pending *s = a->store; s && v->units; s = s->next, which++)
		for (uint32_t at = 0; at < s->bytes; at += 8) {
			struct unit *u = unit_of(v, unit_key(v, s, which, at));
			if (u->seen++ < u->take)
				memcpy(i->media->base + s->offset + at, s->data + at, 8);
		}
}

static void arrive_on_backing(const struct adversary *a, const struct arrival *v, struct image *i, uint64_t *number)
{
	for (const struct write_pending *w = a->write; w; w = w->next) {
		uint64_t ways = write_ways(v), sectors = *number % ways * (255 / (ways - 1));
		*number /= ways;
		image_write_sectors(i, w, (uint8_t)sectors);
	}
}

struct image *adversary_state(const struct adversary *a, bool with_tier, uint64_t most, uint64_t number)
{
	struct arrival v;
	struct image *i = image_copy(a->durable);
	arrival_finest(a, with_tier, most, &v);
	arrive_on_tier(a, &v, i, &number);
	arrive_on_backing(a, &v, i, &number);
	return i;
}

// ---- life -------------------------------------------------------------------------------------------

struct adversary *adversary_new(struct image *i, struct media *m, struct backing *b, adversary_event_fn fn, void *arg)
{
	struct adversary *a = calloc(1, sizeof *a);
	assert(a);
	pthread_mutex_init(&a->lock, NULL);
	a->media = m;
	a->backing = b;
	a->fn = fn;
	a->arg = arg;
	a->store_end = &a->store;
	a->write_end = &a->write;
	i->media = m; // for the copy alone
	a->durable = image_copy(i);
	i->media = NULL;
	int r = tier_geometry_for(m->size_bytes, 0, &a->geometry);
	assert(r == 0);
	a->blocks = b->blocks;
	a->space_end = space_fixed_blocks(b->blocks);
	a->recorder = (struct media_recorder){ on_store, on_drain, a };
	a->hook = (struct backing_hook){ before_io, a };
	m->recorder = &a->recorder;
	b->hook = &a->hook;
	return a;
}

void adversary_free(struct adversary *a)
{
	for (struct store_pending *s; (s = a->store);) {
		a->store = s->next;
		free(s);
	}
	for (struct write_pending *w; (w = a->write);) {
		a->write = w->next;
		free(w);
	}
	image_free(a->durable);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void adversary_lock(struct adversary *a)
{
	pthread_mutex_lock(&a->lock);
}

void adversary_unlock(struct adversary *a)
{
	pthread_mutex_unlock(&a->lock);
}

void adversary_opened(struct adversary *a, pthread_mutex_t *table_lock)
{
	pthread_mutex_lock(&a->lock);
	a->table_lock = table_lock;
	pthread_mutex_unlock(&a->lock);
}

void adversary_break(struct adversary *a, enum order order)
{
	a->broken[order] = true;
}

uint64_t adversary_broken(const struct adversary *a)
{
	return a->breaks;
}

uint64_t adversary_events(const struct adversary *a)
{
	return a->number;
}

uint64_t adversary_writes(const struct adversary *a)
{
	return a->changes;
}

void adversary_fail(struct adversary *a, char kind, unsigned count)
{
	pthread_mutex_lock(&a->lock);
	if (kind == 'f')
		a->fail_flushes = count;
	else
		a->fail_writes = count;
	pthread_mutex_unlock(&a->lock);
}
