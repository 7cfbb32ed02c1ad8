// SPDX-License-Identifier: GPL-2.0-or-later
// Bitmaps and tables: read and verified, kept in memory for the epoch, passed over when unreadable.
#include "space_impl.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"
#include "log.h"

#define SUM_LEVEL 0x73706163u // object of a part's checksum: this + level, never a tree node's or a file's

// ---- words and bits -------------------------------------------------------------------------

static uint64_t word_mask(unsigned from, unsigned to) // bits [from, to) of one word
{
	return (to - from == 64 ? ~UINT64_C(0) : (UINT64_C(1) << (to - from)) - 1) << from;
}

void bits_assign(uint64_t *bits, unsigned bit, uint64_t count, bool value)
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
unsigned bits_find(const uint64_t *bits, unsigned from, unsigned to, bool value)
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

uint64_t bits_clear_count(const uint64_t *bits)
{
	uint64_t taken = 0;
	for (unsigned i = 0; i < GROUP_WORDS; i++)
		taken += (unsigned)__builtin_popcountll(bits[i]);
	return SPACE_GROUP_BLOCKS - taken;
}

// ---- parts on media -------------------------------------------------------------------------

uint64_t part_sum(const struct space *s, unsigned level, uint64_t index, const void *data)
{
	return checksum_page(s->seed, SUM_LEVEL + level, index, data);
}

uint64_t part_entry_free(const struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e)
{
	return e->word & SPACE_WRITTEN ? e->word & SPACE_FREE_MASK : space_full(&s->layout, level, index);
}

bool part_entry_valid(const struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e)
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
		if (!part_entry_valid(s, level - 1, child, &t->entry[i]))
			return false;
		sum += part_entry_free(s, level - 1, child, &t->entry[i]);
	}
	return sum == free;
}

static struct cached *cache_slot(struct space *s, unsigned level, uint64_t index)
{
	return &s->cache[hash_mix(level, index) % CACHE_PAGES];
}

void part_cache(struct space *s, unsigned level, uint64_t index, uint64_t sum, const void *data)
{
	struct cached *c = cache_slot(s, level, index);
	c->level = level;
	c->index = index;
	c->sum = sum;
	c->used = true;
	memcpy(c->data, data, PAGE_BYTES);
}

// Passing over a bitmap costs the blocks that are released in it. So a passing error is asked again, and a
// device that cannot read a superblock either is at fault itself.
static int read_block(struct space *s, block_t block)
{
	int r = ioq_read(s->queue, block, s->page, 1);
	if (r == 0 || ioq_read(s->queue, block, s->page, 1) == 0)
		return 0;
	log_error("space: block %" PRIu64 " cannot be read: %s", block, strerror(-r));
	s->no_reads = ioq_read(s->queue, 0, s->page, 1) && ioq_read(s->queue, s->layout.blocks - 1, s->page, 1);
	return r;
}

// The content of a part as that entry names it.
int part_read(struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e, void *ret_data)
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
	int r = read_block(s, block);
	if (r < 0)
		return r;
	uint64_t sum = part_sum(s, level, index, s->page), free = e->word & SPACE_FREE_MASK;
	if (sum != e->sum) {
		log_error("space: block %" PRIu64 ": checksum expected %016" PRIx64 ", found %016" PRIx64, block, e->sum, sum);
		return -EUCLEAN;
	}
	if (!(level == 0 ? bitmap_valid(s, index, free, s->page) : table_valid(s, level, index, free, s->page))) {
		log_error("space: block %" PRIu64 ": content does not fit its count of %" PRIu64 " free blocks", block, free);
		return -EUCLEAN;
	}
	part_cache(s, level, index, sum, s->page);
	memcpy(ret_data, s->page, PAGE_BYTES);
	return 0;
}

// ---- parts in memory ------------------------------------------------------------------------

static struct part **bucket_of(struct space *s, unsigned level, uint64_t index)
{
	return &s->bucket[hash_mix(level, index) % BUCKETS];
}

struct part *part_find(struct space *s, unsigned level, uint64_t index)
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

void part_forget_all(struct space *s)
{
	for (unsigned i = 0; i < BUCKETS; i++)
		while (s->bucket[i] != NULL) {
			struct part *p = s->bucket[i];
			s->bucket[i] = p->next;
			free(p);
		}
}

bool part_is_lost(const struct space *s, unsigned level, uint64_t index)
{
	for (size_t i = 0; i < s->losts; i++)
		if (s->lost[i].level == level && s->lost[i].index == index)
			return true;
	return false;
}

// What is available changed by delta below (level, index), whose tables are all in memory.
void part_avail_add(struct space *s, unsigned level, uint64_t index, int64_t delta)
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

struct space_entry_disk *part_entry(struct space *s, unsigned level, uint64_t index)
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
	s->lost[s->losts++] = (struct lost){ level, index, avail, error };
	s->lost_error = error;
	part_avail_add(s, level, index, -(int64_t)avail);
	return error;
}

// Returns what is available: less than the entry says when parts below were lost.
static uint64_t table_init(struct space *s, struct table *t)
{
	uint64_t avail = 0;
	for (unsigned i = 0; i < SPACE_FANOUT; i++) {
		uint64_t child = t->part.index * SPACE_FANOUT + i;
		t->full[i] = space_full(&s->layout, t->part.level - 1, child);
		t->avail[i] = part_entry_free(s, t->part.level - 1, child, &t->disk.entry[i]);
		if (part_is_lost(s, t->part.level - 1, child))
			t->avail[i] = 0;
		avail += t->avail[i];
	}
	return avail;
}

// A table is loaded while nothing below it was taken: taking loads the whole path first.
static int table_load(struct space *s, unsigned level, uint64_t index)
{
	if (part_is_lost(s, level, index))
		return s->lost_error;
	struct table *t = calloc(1, sizeof *t);
	if (t == NULL)
		return -ENOMEM;
	t->part.level = level;
	t->part.index = index;
	int r = part_read(s, level, index, part_entry(s, level, index), &t->disk);
	if (r < 0 && s->taken != NULL) {
		memset(&t->disk, 0, sizeof t->disk);
		t->part.dirty = true;
		r = 0;
	}
	if (r < 0) {
		free(t);
		return fails_epoch(s, r) ? r : lose(s, level, index, r);
	}
	part_insert(s, &t->part);
	uint64_t avail = table_init(s, t);
	part_avail_add(s, level, index, (int64_t)(avail - avail_of(s, level, index)));
	return 0;
}

// The tables above (level, index) are in memory after it.
int part_load_path(struct space *s, unsigned level, uint64_t index)
{
	for (unsigned l = s->layout.levels; l > level; l--) {
		uint64_t i = index >> 8 * (l - level);
		int r = part_find(s, l, i) != NULL ? 0 : table_load(s, l, i);
		if (r < 0)
			return r;
	}
	return 0;
}

// Whatever the media has, these blocks are not to be taken.
static void group_add_taken(struct space *s, struct group *g, int error)
{
	uint64_t bits[GROUP_WORDS];
	if (error < 0)
		memset(g->force, 0, sizeof g->force);
	s->taken(s->taken_arg, g->part.index, bits);
	for (unsigned i = 0; i < GROUP_WORDS; i++)
		g->force[i] |= bits[i];
	part_avail_add(s, 0, g->part.index, (int64_t)(bits_clear_count(g->force) - avail_of(s, 0, g->part.index)));
}

int group_load(struct space *s, uint64_t index, struct group *g)
{
	int r = part_load_path(s, 0, index);
	if (r < 0)
		return r;
	if (part_is_lost(s, 0, index))
		return s->lost_error;
	g->part = (struct part){ .level = 0, .index = index };
	r = part_read(s, 0, index, part_entry(s, 0, index), g->force);
	if (s->taken != NULL)
		group_add_taken(s, g, r);
	else if (r < 0)
		return fails_epoch(s, r) ? r : lose(s, 0, index, r);
	memcpy(g->busy, g->force, sizeof g->busy);
	return 0;
}

int group_get(struct space *s, uint64_t index, struct group **ret_group)
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
