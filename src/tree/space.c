// SPDX-License-Identifier: GPL-2.0-or-later
// Space owns the bitmaps of the backing and the tables of counts above them. Each has two slots at a
// fixed place; which of them is in force, and its checksum, stand in the table above, at the top in
// the superblock.
//
// Invariants:
//  1. In memory there are two maps of a group: `force`, as the superblock in force has it, and `busy`
//     = force + what this epoch took. Blocks are taken from what is free in busy. What this epoch
//     releases is applied to neither: it is taken in force, so it may not be taken again (two maps).
//  2. avail of a child = free in busy below it; the avail of a table's children add up to that of the
//     table. A part that cannot be read has avail 0 and is on the list `lost`: it is passed over, and
//     what would be released below it stays taken.
//  3. The slot in force is never written: space_write() writes the other one. Entries change in
//     memory in space_write() alone, on the way up, when a child has been written.
//  4. Whatever is loaded was verified: checksum, fixed blocks taken, counts equal to the content.
//     The cache holds verified content under (level, index, checksum), so it needs no invalidation.
//
// Crash argument: until the superblock of the epoch is durable, every slot in force and every block
// taken in force is untouched by 1 and 3; once it is, all written slots are durable, since the caller
// flushes between. Abandoning an epoch is forgetting the memory: the next epoch writes the same slots
// again. There is no state on media that a crash could leave half done.
//
// An epoch: space_begin -> take/release/untake -> space_write -> space_commit, or space_abandon at any
// point. Memory is two bitmaps for each group taken from, the tables above, and runs released.
#include "space.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"
#include "log.h"
#include "space_layout.h"

#define GROUP_WORDS (SPACE_GROUP_BLOCKS / 64)
#define BUCKETS 1024u
#define CACHE_PAGES 64u
#define LEVELS_MAX 8u
#define SUM_LEVEL 0x73706163u // object of a part's checksum: this + level, never a tree node's or a file's
#define LONG_RUN 16u          // runs from here on go to wholly free groups
#define WORTH_A_VISIT 1024u   // free blocks that make a group the next one to fill
#define VISITS_MAX 64u        // tables looked at for a group that suits best, before any will do

struct part { // a bitmap or a table in memory
	struct part *next; // in its bucket
	unsigned level;
	uint64_t index;
	bool dirty; // table: an entry changed, to be written
};
struct group {
	struct part part;
	uint64_t force[GROUP_WORDS], busy[GROUP_WORDS];
};
struct table {
	struct part part;
	struct space_table_disk disk;
	uint64_t avail[SPACE_FANOUT], full[SPACE_FANOUT]; // full: when never written
};
struct run {
	block_t block;
	uint64_t count;
};
struct cached {
	unsigned level;
	uint64_t index, sum;
	bool used;
	uint8_t data[PAGE_BYTES];
};
struct lost {
	unsigned level;
	uint64_t index;
	uint64_t free;
};
struct cursor {
	uint64_t group;
	unsigned bit;
	bool valid;
};

struct space {
	struct backing *backing;
	struct ioq *queue;
	uint64_t seed;
	struct space_layout layout;
	struct space_root root, next; // in force; being built
	uint64_t avail;               // below the top
	_Atomic uint64_t published;
	struct part *bucket[BUCKETS];
	struct run *release;
	size_t releases, releases_room;
	struct cursor small, large;
	bool no_free_group; // as far as this epoch has looked
	struct lost *lost;
	size_t losts;
	int lost_error;
	unsigned in_flight;
	int write_error;
	struct cached *cache;
	void *page; // bounce buffer for reads
	struct group scratch;
};

// ---- words and bits -------------------------------------------------------------------------

static bool bit_get(const uint64_t *bits, unsigned i)
{
	return bits[i / 64] >> i % 64 & 1;
}

static uint64_t word_mask(unsigned from, unsigned to) // bits [from, to) of one word
{
	return (to - from == 64 ? ~UINT64_C(0) : (UINT64_C(1) << (to - from)) - 1) << from;
}

// Calls for each word that [bit, bit + count) touches: set or clear.
static void bits_assign(uint64_t *bits, unsigned bit, uint64_t count, bool value)
{
	for (unsigned end = bit + (unsigned)count; bit < end;) {
		unsigned stop = (bit / 64 + 1) * 64 < end ? (bit / 64 + 1) * 64 : end;
		uint64_t mask = word_mask(bit % 64, bit % 64 + (stop - bit));
		if (value)
			bits[bit / 64] |= mask;
		else
			bits[bit / 64] &= ~mask;
		bit = stop;
	}
}

// First bit of that value in [from, to); to if there is none.
static unsigned bits_find(const uint64_t *bits, unsigned from, unsigned to, bool value)
{
	while (from < to) {
		uint64_t word = (value ? bits[from / 64] : ~bits[from / 64]) >> from % 64;
		if (word != 0) {
			from += (unsigned)__builtin_ctzll(word);
			return from < to ? from : to;
		}
		from = (from / 64 + 1) * 64;
	}
	return to;
}

static uint64_t bits_clear_count(const uint64_t *bits)
{
	uint64_t taken = 0;
	for (unsigned i = 0; i < GROUP_WORDS; i++)
		taken += (unsigned)__builtin_popcountll(bits[i]);
	return SPACE_GROUP_BLOCKS - taken;
}

// ---- parts on media -------------------------------------------------------------------------

static uint64_t part_sum(const struct space *s, unsigned level, uint64_t index, const void *data)
{
	return checksum_page(s->seed, SUM_LEVEL + level, index, data);
}

static uint64_t entry_free(const struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e)
{
	return e->word & SPACE_WRITTEN ? e->word & SPACE_FREE_MASK : space_full(&s->layout, level, index);
}

static bool entry_valid(const struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e)
{
	if ((e->word & SPACE_WRITTEN) == 0)
		return e->word == 0 && e->sum == 0;
	return (e->word & ~(SPACE_WRITTEN | SPACE_SLOT)) <= space_full(&s->layout, level, index) &&
	       index < space_parts(&s->layout, level);
}

static bool bitmap_valid(struct space *s, uint64_t group, uint64_t free, const uint64_t *bits)
{
	uint64_t blank[GROUP_WORDS];
	space_blank_bitmap(&s->layout, group, blank);
	for (unsigned i = 0; i < GROUP_WORDS; i++)
		if ((blank[i] & ~bits[i]) != 0)
			return false;
	return bits_clear_count(bits) == free;
}

static bool table_valid(struct space *s, unsigned level, uint64_t index, uint64_t free,
			const struct space_table_disk *t)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < SPACE_FANOUT; i++) {
		uint64_t child = index * SPACE_FANOUT + i;
		if (!entry_valid(s, level - 1, child, &t->entry[i]))
			return false;
		sum += entry_free(s, level - 1, child, &t->entry[i]);
	}
	return sum == free;
}

static struct cached *cache_slot(struct space *s, unsigned level, uint64_t index)
{
	return &s->cache[hash_mix(level, index) % CACHE_PAGES];
}

static void cache_put(struct space *s, unsigned level, uint64_t index, uint64_t sum, const void *data)
{
	struct cached *c = cache_slot(s, level, index);
	c->level = level;
	c->index = index;
	c->sum = sum;
	c->used = true;
	memcpy(c->data, data, PAGE_BYTES);
}

// The content of a part as that entry names it.
static int part_read(struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e, void *ret_data)
{
	if ((e->word & SPACE_WRITTEN) == 0) {
		if (level == 0)
			space_blank_bitmap(&s->layout, index, ret_data);
		else
			memset(ret_data, 0, PAGE_BYTES);
		return 0;
	}
	const struct cached *c = cache_slot(s, level, index);
	if (c->used && c->level == level && c->index == index && c->sum == e->sum) {
		memcpy(ret_data, c->data, PAGE_BYTES);
		return 0;
	}
	block_t block = space_slot(level, index, (e->word & SPACE_SLOT) != 0);
	int r = ioq_read(s->queue, block, s->page, 1);
	if (r < 0) {
		log_error("space: block %" PRIu64 " cannot be read: %s", block, strerror(-r));
		return r;
	}
	uint64_t sum = part_sum(s, level, index, s->page), free = e->word & SPACE_FREE_MASK;
	if (sum != e->sum) {
		log_error("space: block %" PRIu64 ": checksum expected %016" PRIx64 ", found %016" PRIx64, block, e->sum, sum);
		return -EUCLEAN;
	}
	if (!(level == 0 ? bitmap_valid(s, index, free, s->page) : table_valid(s, level, index, free, s->page))) {
		log_error("space: block %" PRIu64 ": content does not fit its count of %" PRIu64 " free blocks", block, free);
		return -EUCLEAN;
	}
	cache_put(s, level, index, sum, s->page);
	memcpy(ret_data, s->page, PAGE_BYTES);
	return 0;
}

// ---- parts in memory ------------------------------------------------------------------------

static struct part **bucket_of(struct space *s, unsigned level, uint64_t index)
{
	return &s->bucket[hash_mix(level, index) % BUCKETS];
}

static struct part *part_find(struct space *s, unsigned level, uint64_t index)
{
	struct part *p = *bucket_of(s, level, index);
	while (p != NULL && (p->level != level || p->index != index))
		p = p->next;
	return p;
}

static void part_insert(struct space *s, struct part *p)
{
	struct part **b = bucket_of(s, p->level, p->index);
	p->next = *b;
	*b = p;
}

static void forget_parts(struct space *s)
{
	for (unsigned i = 0; i < BUCKETS; i++)
		while (s->bucket[i] != NULL) {
			struct part *p = s->bucket[i];
			s->bucket[i] = p->next;
			free(p);
		}
}

static bool is_lost(const struct space *s, unsigned level, uint64_t index)
{
	for (size_t i = 0; i < s->losts; i++)
		if (s->lost[i].level == level && s->lost[i].index == index)
			return true;
	return false;
}

static uint64_t lost_blocks(const struct space *s)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < s->losts; i++)
		sum += s->lost[i].free;
	return sum;
}

static void publish(struct space *s)
{
	uint64_t all = entry_free(s, s->layout.levels, 0, &s->root.entry), lost = lost_blocks(s);
	atomic_store(&s->published, all > lost ? all - lost : 0);
}

// What is available changed by delta below (level, index), whose tables are all in memory.
static void avail_add(struct space *s, unsigned level, uint64_t index, int64_t delta)
{
	for (; level < s->layout.levels; level++, index /= SPACE_FANOUT) {
		struct table *t = (struct table *)part_find(s, level + 1, index / SPACE_FANOUT);
		t->avail[index % SPACE_FANOUT] += (uint64_t)delta;
	}
	s->avail += (uint64_t)delta;
}

static uint64_t avail_of(struct space *s, unsigned level, uint64_t index)
{
	if (level == s->layout.levels)
		return s->avail;
	return ((struct table *)part_find(s, level + 1, index / SPACE_FANOUT))->avail[index % SPACE_FANOUT];
}

static struct space_entry_disk *entry_of(struct space *s, unsigned level, uint64_t index)
{
	if (level == s->layout.levels)
		return &s->next.entry;
	return &((struct table *)part_find(s, level + 1, index / SPACE_FANOUT))->disk.entry[index % SPACE_FANOUT];
}

// A part that cannot be read is passed over from now on.
static int lose(struct space *s, unsigned level, uint64_t index, int error)
{
	struct lost *more = realloc(s->lost, (s->losts + 1) * sizeof *more);
	if (more == NULL)
		return -ENOMEM;
	uint64_t avail = avail_of(s, level, index);
	s->lost = more;
	s->lost[s->losts++] = (struct lost){ level, index, avail };
	s->lost_error = error;
	avail_add(s, level, index, -(int64_t)avail);
	publish(s);
	return error;
}

// Returns what is available: less than the entry says when parts below were lost.
static uint64_t table_init(struct space *s, struct table *t)
{
	uint64_t avail = 0;
	for (unsigned i = 0; i < SPACE_FANOUT; i++) {
		uint64_t child = t->part.index * SPACE_FANOUT + i;
		t->full[i] = space_full(&s->layout, t->part.level - 1, child);
		t->avail[i] = is_lost(s, t->part.level - 1, child) ?
				      0 :
				      entry_free(s, t->part.level - 1, child, &t->disk.entry[i]);
		avail += t->avail[i];
	}
	return avail;
}

// A table is loaded while nothing below it was taken: taking loads the whole path first.
static int table_load(struct space *s, unsigned level, uint64_t index)
{
	if (is_lost(s, level, index))
		return s->lost_error;
	struct table *t = calloc(1, sizeof *t);
	if (t == NULL)
		return -ENOMEM;
	t->part.level = level;
	t->part.index = index;
	int r = part_read(s, level, index, entry_of(s, level, index), &t->disk);
	if (r < 0) {
		free(t);
		return r == -ENOMEM ? r : lose(s, level, index, r);
	}
	part_insert(s, &t->part);
	uint64_t avail = table_init(s, t);
	avail_add(s, level, index, (int64_t)(avail - avail_of(s, level, index)));
	return 0;
}

// The tables above (level, index) are in memory after it.
static int load_path(struct space *s, unsigned level, uint64_t index)
{
	for (unsigned l = s->layout.levels; l > level; l--) {
		uint64_t i = index >> 8 * (l - level);
		int r = part_find(s, l, i) != NULL ? 0 : table_load(s, l, i);
		if (r < 0)
			return r;
	}
	return 0;
}

static int group_load(struct space *s, uint64_t index, struct group *g)
{
	int r = load_path(s, 0, index);
	if (r < 0)
		return r;
	if (is_lost(s, 0, index))
		return s->lost_error;
	g->part = (struct part){ .level = 0, .index = index };
	r = part_read(s, 0, index, entry_of(s, 0, index), g->force);
	if (r < 0)
		return lose(s, 0, index, r);
	memcpy(g->busy, g->force, sizeof g->busy);
	return 0;
}

static int group_get(struct space *s, uint64_t index, struct group **ret_group)
{
	struct group *g = (struct group *)part_find(s, 0, index);
	if (g == NULL) {
		g = malloc(sizeof *g);
		if (g == NULL)
			return -ENOMEM;
		int r = group_load(s, index, g);
		if (r < 0) {
			free(g);
			return r;
		}
		part_insert(s, &g->part);
	}
	*ret_group = g;
	return 0;
}

// ---- taking ---------------------------------------------------------------------------------

enum wanted { WHOLLY_FREE, PARTLY_FREE, ANY };

// Might there be such a group below? Exact for a group; for a table only ANY is.
static bool suits(enum wanted wanted, unsigned level, uint64_t avail, uint64_t full)
{
	if (wanted == ANY)
		return avail > 0;
	if (wanted == PARTLY_FREE)
		return avail >= WORTH_A_VISIT && avail < full;
	return avail > 0 && (level == 0 ? avail == full : avail >= SPACE_GROUP_BLOCKS / 2);
}

// One descent towards the first group >= *group that suits. 1: *group is it; 0: *group has moved on.
static int descend(struct space *s, enum wanted wanted, uint64_t *group, unsigned *visits)
{
	if (!suits(wanted, s->layout.levels, s->avail, space_full(&s->layout, s->layout.levels, 0))) {
		*group = UINT64_MAX;
		return 0;
	}
	for (unsigned level = s->layout.levels; level > 0; level--) {
		uint64_t index = *group / space_span(level);
		unsigned first = *group / space_span(level - 1) % SPACE_FANOUT, i = first;
		int r = load_path(s, level - 1, index * SPACE_FANOUT);
		if (r == -ENOMEM)
			return r;
		struct table *t = (struct table *)part_find(s, level, index);
		++*visits;
		while (t != NULL && i < SPACE_FANOUT && !suits(wanted, level - 1, t->avail[i], t->full[i]))
			i++;
		if (t == NULL || i == SPACE_FANOUT) {
			*group = (index + 1) * space_span(level);
			return 0;
		}
		if (i != first)
			*group = index * space_span(level) + i * space_span(level - 1);
	}
	return 1;
}

static int find_in(struct space *s, enum wanted wanted, uint64_t from, uint64_t to, uint64_t *ret_group)
{
	for (unsigned visits = 0; from < to && (wanted == ANY || visits < VISITS_MAX);) {
		int r = descend(s, wanted, &from, &visits);
		if (r < 0)
			return r;
		if (r == 1 && from < to && wanted == PARTLY_FREE && s->large.valid && from == s->large.group) {
			from++; // left to the long runs
		} else if (r == 1 && from < to) {
			*ret_group = from;
			return 0;
		}
	}
	return -ENOSPC;
}

// The next group that suits, going round from the one given.
static int find_group(struct space *s, enum wanted wanted, uint64_t from, uint64_t *ret_group)
{
	int r = find_in(s, wanted, from, s->layout.groups, ret_group);
	return r == -ENOSPC ? find_in(s, wanted, 0, from, ret_group) : r;
}

// The first free run of `want` blocks in [from, to), or the longest there.
static void best_run(const uint64_t *busy, unsigned from, unsigned to, uint64_t want, unsigned *bit, unsigned *count)
{
	while (*count < want) {
		unsigned start = bits_find(busy, from, to, false);
		if (start == to)
			return;
		uint64_t stop = start + want < to ? start + want : to;
		from = bits_find(busy, start, (unsigned)stop, true);
		if (from - start > *count) {
			*bit = start;
			*count = from - start;
		}
	}
}

static void take(struct space *s, struct group *g, unsigned bit, unsigned count, struct run *ret_run)
{
	bits_assign(g->busy, bit, count, true);
	avail_add(s, 0, g->part.index, -(int64_t)count);
	*ret_run = (struct run){ g->part.index * SPACE_GROUP_BLOCKS + bit, count };
}

static int take_at_goal(struct space *s, uint64_t want, block_t goal, struct run *ret_run)
{
	uint64_t index = goal / SPACE_GROUP_BLOCKS;
	unsigned bit = goal % SPACE_GROUP_BLOCKS;
	struct group *g;
	if (goal == 0 || index >= s->layout.groups)
		return -ENOSPC;
	int r = group_get(s, index, &g);
	if (r < 0)
		return r == -ENOMEM ? r : -ENOSPC;
	uint64_t stop = bit + want < SPACE_GROUP_BLOCKS ? bit + want : SPACE_GROUP_BLOCKS;
	unsigned end = bits_find(g->busy, bit, (unsigned)stop, true);
	if (end == bit)
		return -ENOSPC;
	take(s, g, bit, end - bit, ret_run);
	return 0;
}

// Long runs fill one wholly free group after another, each from its start.
static int take_long(struct space *s, uint64_t want, struct run *ret_run)
{
	while (!s->no_free_group || s->large.valid) {
		struct group *g;
		if (!s->large.valid) {
			int r = find_group(s, WHOLLY_FREE, s->large.group, &s->large.group);
			if (r < 0) {
				s->no_free_group = r == -ENOSPC;
				return r;
			}
			s->large.valid = true;
			s->large.bit = 0;
		}
		int r = group_get(s, s->large.group, &g);
		if (r == -ENOMEM)
			return r;
		unsigned bit = 0, count = 0;
		if (r == 0)
			best_run(g->busy, s->large.bit, SPACE_GROUP_BLOCKS, want, &bit, &count);
		if (count >= LONG_RUN) {
			take(s, g, bit, count, ret_run);
			s->large.bit = bit + count;
			return 0;
		}
		s->large.valid = false;
	}
	return -ENOSPC;
}

static int next_small_group(struct space *s)
{
	static const enum wanted order[] = { PARTLY_FREE, WHOLLY_FREE, ANY };
	int r = -ENOSPC;
	s->small.bit = 0;
	for (unsigned i = 0; i < 3 && r == -ENOSPC; i++)
		r = find_group(s, order[i], s->small.group, &s->small.group);
	return r;
}

// Short runs are packed: the first that fits from the cursor on, or the longest of the group.
static int take_short(struct space *s, uint64_t want, struct run *ret_run)
{
	for (bool moved = false;; moved = true) {
		struct group *g;
		unsigned bit = 0, count = 0;
		int r = moved || !s->small.valid ? next_small_group(s) : 0;
		if (r < 0)
			return r;
		s->small.valid = true;
		r = group_get(s, s->small.group, &g);
		if (r == -ENOMEM)
			return r;
		if (r < 0)
			continue; // its avail is 0 now
		best_run(g->busy, s->small.bit, SPACE_GROUP_BLOCKS, want, &bit, &count);
		best_run(g->busy, 0, s->small.bit, want, &bit, &count);
		if (count > 0) {
			take(s, g, bit, count, ret_run);
			s->small.bit = (bit + count) % SPACE_GROUP_BLOCKS;
			return 0;
		}
	}
}

int space_take(struct space *s, uint64_t want, block_t goal, block_t *ret_block, uint64_t *ret_count)
{
	struct run run;
	if (want == 0)
		return -EINVAL;
	if (want > SPACE_GROUP_BLOCKS)
		want = SPACE_GROUP_BLOCKS;
	int r = take_at_goal(s, want, goal, &run);
	if (r == -ENOSPC && want >= LONG_RUN)
		r = take_long(s, want, &run);
	if (r == -ENOSPC)
		r = take_short(s, want, &run);
	if (r < 0)
		return r == -ENOSPC && s->losts > 0 ? s->lost_error : r;
	*ret_block = run.block;
	*ret_count = run.count;
	return 0;
}

void space_untake(struct space *s, block_t block, uint64_t count)
{
	while (count > 0) {
		uint64_t index = block / SPACE_GROUP_BLOCKS;
		unsigned bit = block % SPACE_GROUP_BLOCKS;
		uint64_t n = count < SPACE_GROUP_BLOCKS - bit ? count : SPACE_GROUP_BLOCKS - bit;
		struct group *g = (struct group *)part_find(s, 0, index); // taken from, so it is there
		bits_assign(g->busy, bit, n, false);
		avail_add(s, 0, index, (int64_t)n);
		if (s->small.group == index && s->small.bit == bit + n)
			s->small.bit = bit;
		if (s->large.group == index && s->large.bit == bit + n)
			s->large.bit = bit;
		block += n;
		count -= n;
	}
}

int space_release(struct space *s, block_t block, uint64_t count)
{
	if (block == 0 || count == 0 || block >= s->layout.blocks || count > s->layout.blocks - block) {
		log_error("space: released blocks %" PRIu64 "+%" PRIu64 " are not of this device", block, count);
		return -EUCLEAN;
	}
	struct run *last = s->releases > 0 ? &s->release[s->releases - 1] : NULL;
	if (last != NULL && last->block + last->count == block) {
		last->count += count;
		return 0;
	}
	if (s->releases == s->releases_room) {
		size_t room = s->releases_room ? 2 * s->releases_room : 256;
		struct run *more = realloc(s->release, room * sizeof *more);
		if (more == NULL)
			return -ENOMEM;
		s->release = more;
		s->releases_room = room;
	}
	s->release[s->releases++] = (struct run){ block, count };
	return 0;
}

// ---- writing --------------------------------------------------------------------------------

struct page_write {
	struct io io;
	struct iovec iov;
	struct space *space;
	void *data;
};

static void write_done(struct io *io)
{
	struct page_write *w = io->arg;
	if (io->result < 0 && w->space->write_error == 0)
		w->space->write_error = io->result;
	w->space->in_flight--;
	free(w->data);
	free(w);
}

static int write_page(struct space *s, block_t block, const void *data)
{
	struct page_write *w = calloc(1, sizeof *w);
	void *copy = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	if (w == NULL || copy == NULL) {
		free(w);
		free(copy);
		return -ENOMEM;
	}
	memcpy(copy, data, PAGE_BYTES);
	w->space = s;
	w->data = copy;
	w->iov = (struct iovec){ copy, PAGE_BYTES };
	w->io = (struct io){ .kind = 'w', .block = block, .iov = &w->iov, .iovcnt = 1, .done = write_done, .arg = w };
	s->in_flight++;
	ioq_submit(s->queue, &w->io);
	return 0;
}

// Into the slot that is not in force; the entry above changes in memory.
static int part_write(struct space *s, unsigned level, uint64_t index, const void *data, uint64_t free)
{
	struct space_entry_disk *e = entry_of(s, level, index);
	bool slot = (e->word & SPACE_WRITTEN) && !(e->word & SPACE_SLOT);
	int r = write_page(s, space_slot(level, index, slot), data);
	if (r < 0)
		return r;
	e->word = SPACE_WRITTEN | (slot ? SPACE_SLOT : 0) | free;
	e->sum = part_sum(s, level, index, data);
	cache_put(s, level, index, e->sum, data);
	if (level < s->layout.levels)
		part_find(s, level + 1, index / SPACE_FANOUT)->dirty = true;
	return 0;
}

// Takes [bit, bit + count) out of `next`, the map being built; all of it must be taken in force.
static int apply_release(const struct group *g, uint64_t *next, unsigned bit, unsigned count, const uint64_t *blank)
{
	for (unsigned i = bit; i < bit + count; i++) {
		if (!bit_get(g->force, i) || !bit_get(next, i) || bit_get(blank, i)) {
			log_error("space: block %" PRIu64 " released, but it is %s", g->part.index * SPACE_GROUP_BLOCKS + i,
				  bit_get(blank, i) ? "fixed" : bit_get(g->force, i) ? "released already" : "free");
			return -EUCLEAN;
		}
	}
	bits_assign(next, bit, count, false);
	return 0;
}

// The runs from *i on that begin in the group; one that goes on in the next group is cut there.
static int apply_releases(struct space *s, const struct group *g, uint64_t *next, size_t *i)
{
	uint64_t blank[GROUP_WORDS];
	block_t start = g->part.index * SPACE_GROUP_BLOCKS, end = start + SPACE_GROUP_BLOCKS;
	space_blank_bitmap(&s->layout, g->part.index, blank);
	while (*i < s->releases && s->release[*i].block < end) {
		struct run *run = &s->release[*i];
		uint64_t count = run->count < end - run->block ? run->count : end - run->block;
		int r = apply_release(g, next, (unsigned)(run->block - start), (unsigned)count, blank);
		if (r < 0)
			return r;
		run->block += count;
		run->count -= count;
		*i += run->count == 0;
	}
	return 0;
}

// What an unreadable bitmap covers stays taken.
static void skip_releases(struct space *s, uint64_t group, size_t *i)
{
	block_t end = (group + 1) * SPACE_GROUP_BLOCKS;
	uint64_t kept = 0;
	while (*i < s->releases && s->release[*i].block < end) {
		struct run *run = &s->release[*i];
		uint64_t count = run->count < end - run->block ? run->count : end - run->block;
		kept += count;
		run->block += count;
		run->count -= count;
		*i += run->count == 0;
	}
	log_error("space: %" PRIu64 " blocks of group %" PRIu64 " stay taken: its bitmap cannot be read", kept, group);
}

static int write_group(struct space *s, uint64_t index, size_t *i)
{
	uint64_t next[GROUP_WORDS];
	const struct group *g = (struct group *)part_find(s, 0, index);
	int r = 0;
	if (g == NULL) {
		g = &s->scratch;
		r = group_load(s, index, &s->scratch);
		if (r < 0 && r != -ENOMEM) {
			skip_releases(s, index, i);
			return 0;
		}
	}
	if (r == 0) {
		memcpy(next, g->busy, sizeof next);
		r = apply_releases(s, g, next, i);
	}
	if (r < 0 || memcmp(next, g->force, sizeof next) == 0)
		return r;
	return part_write(s, 0, index, next, bits_clear_count(next));
}

static int compare_runs(const void *a, const void *b)
{
	const struct run *x = a, *y = b;
	return x->block < y->block ? -1 : x->block > y->block;
}

static int compare_indices(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

// Indices of all parts of a level in memory, ascending. The caller frees.
static int list_parts(struct space *s, unsigned level, uint64_t **ret_indices, size_t *ret_count)
{
	size_t count = 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (const struct part *p = s->bucket[i]; p != NULL; p = p->next)
			count += p->level == level;
	uint64_t *indices = malloc((count + 1) * sizeof *indices);
	if (indices == NULL)
		return -ENOMEM;
	count = 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (const struct part *p = s->bucket[i]; p != NULL; p = p->next)
			if (p->level == level)
				indices[count++] = p->index;
	qsort(indices, count, sizeof *indices, compare_indices);
	*ret_indices = indices;
	*ret_count = count;
	return 0;
}

static int sort_releases(struct space *s)
{
	if (s->releases > 1)
		qsort(s->release, s->releases, sizeof *s->release, compare_runs);
	for (size_t i = 1; i < s->releases; i++) {
		if (s->release[i].block < s->release[i - 1].block + s->release[i - 1].count) {
			log_error("space: block %" PRIu64 " released twice", s->release[i].block);
			return -EUCLEAN;
		}
	}
	return 0;
}

// Groups taken from and groups released into, merged, in ascending order.
static int write_groups(struct space *s)
{
	uint64_t *taken;
	size_t count, t = 0, i = 0;
	int r = list_parts(s, 0, &taken, &count);
	if (r < 0)
		return r;
	r = sort_releases(s);
	while (r == 0 && (t < count || i < s->releases)) {
		uint64_t index = i < s->releases ? s->release[i].block / SPACE_GROUP_BLOCKS : UINT64_MAX;
		if (t < count && taken[t] <= index)
			index = taken[t++];
		if (index >= s->layout.groups) {
			log_error("space: block %" PRIu64 " released, but it is never used", s->release[i].block);
			r = -EUCLEAN;
		} else {
			r = write_group(s, index, &i);
		}
	}
	free(taken);
	return r;
}

static int write_table(struct space *s, struct table *t)
{
	uint64_t free = 0;
	for (unsigned i = 0; i < SPACE_FANOUT; i++)
		free += entry_free(s, t->part.level - 1, t->part.index * SPACE_FANOUT + i, &t->disk.entry[i]);
	t->part.dirty = false;
	return part_write(s, t->part.level, t->part.index, &t->disk, free);
}

static int write_tables(struct space *s, unsigned level)
{
	uint64_t *indices;
	size_t count;
	int r = list_parts(s, level, &indices, &count);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count && r == 0; i++) {
		struct part *p = part_find(s, level, indices[i]);
		if (p->dirty)
			r = write_table(s, (struct table *)p);
	}
	free(indices);
	return r;
}

int space_write(struct space *s, struct space_root *ret_root)
{
	int r = write_groups(s);
	for (unsigned level = 1; level <= s->layout.levels && r == 0; level++)
		r = write_tables(s, level);
	if (r == 0)
		*ret_root = s->next;
	return r;
}

int space_written(const struct space *s)
{
	return s->in_flight > 0 ? -EINPROGRESS : s->write_error;
}

// ---- epochs ---------------------------------------------------------------------------------

static void reset(struct space *s)
{
	forget_parts(s);
	s->next = s->root;
	s->releases = 0;
	s->no_free_group = false;
	s->write_error = 0;
	uint64_t all = entry_free(s, s->layout.levels, 0, &s->root.entry);
	s->avail = is_lost(s, s->layout.levels, 0) ? 0 : all;
	publish(s);
}

void space_begin(struct space *s)
{
	reset(s);
}

void space_commit(struct space *s, struct space_root now_in_force)
{
	s->root = now_in_force;
	reset(s);
}

void space_abandon(struct space *s)
{
	reset(s);
}

uint64_t space_free_blocks(const struct space *s)
{
	return atomic_load(&s->published);
}

int space_new(struct backing *b, struct ioq *q, uint64_t blocks, uint64_t seed, struct space_root in_force,
	      struct space **ret_space)
{
	if (blocks < SPACE_BLOCKS_MIN || blocks > b->blocks || space_levels(blocks) >= LEVELS_MAX)
		return -EINVAL;
	struct space *s = calloc(1, sizeof *s);
	if (s == NULL)
		return -ENOMEM;
	s->backing = b;
	s->queue = q;
	s->seed = seed;
	s->layout = space_layout(blocks);
	s->root = in_force;
	s->cache = calloc(CACHE_PAGES, sizeof *s->cache);
	s->page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	int r = s->cache == NULL || s->page == NULL ? -ENOMEM : 0;
	if (r == 0 && (in_force.levels != s->layout.levels || !entry_valid(s, in_force.levels, 0, &in_force.entry))) {
		log_error("space: root of %u levels, word %016" PRIx64 " does not fit %" PRIu64 " blocks", in_force.levels,
			  in_force.entry.word, blocks);
		r = -EUCLEAN;
	}
	if (r < 0) {
		space_free(s);
		return r;
	}
	reset(s);
	*ret_space = s;
	return 0;
}

void space_free(struct space *s)
{
	if (s == NULL)
		return;
	forget_parts(s);
	free(s->release);
	free(s->lost);
	free(s->cache);
	free(s->page);
	free(s);
}

// ---- checks ---------------------------------------------------------------------------------

struct sweep { // over all groups in force, with one table of each level at a time
	struct space *space;
	struct space_table_disk table[LEVELS_MAX];
	uint64_t index[LEVELS_MAX];
	bool loaded[LEVELS_MAX];
	struct run run; // taken, not yet reported
	int (*fn)(void *arg, block_t block, uint64_t count);
	void *arg;
};

static const struct space_entry_disk *sweep_entry(struct sweep *w, unsigned level, uint64_t index)
{
	if (level == w->space->layout.levels)
		return &w->space->root.entry;
	return &w->table[level + 1].entry[index % SPACE_FANOUT];
}

static int sweep_bitmap(struct sweep *w, uint64_t group, uint64_t *bits)
{
	for (unsigned level = w->space->layout.levels; level > 0; level--) {
		uint64_t index = group / space_span(level);
		if (w->loaded[level] && w->index[level] == index)
			continue;
		int r = part_read(w->space, level, index, sweep_entry(w, level, index), &w->table[level]);
		if (r < 0)
			return r;
		w->index[level] = index;
		w->loaded[level] = true;
	}
	return part_read(w->space, 0, group, sweep_entry(w, 0, group), bits);
}

static int sweep_taken(struct sweep *w, block_t block, uint64_t count)
{
	int r = 0;
	if (w->run.count > 0 && w->run.block + w->run.count == block) {
		w->run.count += count;
		return 0;
	}
	if (w->run.count > 0)
		r = w->fn(w->arg, w->run.block, w->run.count);
	w->run = (struct run){ block, count };
	return r;
}

int space_for_each_taken(struct space *s, int (*fn)(void *arg, block_t block, uint64_t count), void *arg)
{
	struct sweep *w = calloc(1, sizeof *w);
	if (w == NULL)
		return -ENOMEM;
	*w = (struct sweep){ .space = s, .fn = fn, .arg = arg };
	int r = 0;
	for (uint64_t g = 0; g < s->layout.groups && r == 0; g++) {
		uint64_t bits[GROUP_WORDS], left = s->layout.blocks - g * SPACE_GROUP_BLOCKS;
		unsigned end = left < SPACE_GROUP_BLOCKS ? (unsigned)left : SPACE_GROUP_BLOCKS;
		r = sweep_bitmap(w, g, bits);
		for (unsigned i = 0; r == 0 && (i = bits_find(bits, i, end, true)) < end;) {
			unsigned stop = bits_find(bits, i, end, false);
			r = sweep_taken(w, g * SPACE_GROUP_BLOCKS + i, stop - i);
			i = stop;
		}
	}
	uint64_t used = s->layout.groups * SPACE_GROUP_BLOCKS;
	if (r == 0 && used < s->layout.blocks)
		r = sweep_taken(w, used, s->layout.blocks - used);
	if (r == 0)
		r = fn(arg, w->run.block, w->run.count);
	free(w);
	return r;
}
