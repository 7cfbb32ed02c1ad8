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
//     table. A part that cannot be read has avail 0 and is on the list `lost` (one that is damaged for
//     good, others until the next epoch): it is passed over, and what would be released below it
//     stays taken. Where the device reads nothing at all, no part is lost: the epoch fails.
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
#include "space_impl.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

#define LEVELS_MAX 8u

// ---- releasing ------------------------------------------------------------------------------

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

int part_write(struct space *s, unsigned level, uint64_t index, const void *data, uint64_t free)
{
	struct space_entry_disk *e = part_entry(s, level, index);
	bool slot = (e->word & SPACE_WRITTEN) && !(e->word & SPACE_SLOT);
	int r = write_page(s, space_slot(level, index, slot), data);
	if (r < 0)
		return r;
	e->word = SPACE_WRITTEN | (slot ? SPACE_SLOT : 0) | free;
	e->sum = part_sum(s, level, index, data);
	part_cache(s, level, index, e->sum, data);
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
		if (r < 0 && !fails_epoch(s, r)) {
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
		free += part_entry_free(s, t->part.level - 1, t->part.index * SPACE_FANOUT + i, &t->disk.entry[i]);
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

int space_write_tables(struct space *s)
{
	int r = 0;
	for (unsigned level = 1; level <= s->layout.levels && r == 0; level++)
		r = write_tables(s, level);
	return r;
}

int space_write(struct space *s, struct space_root *ret_root)
{
	int r = write_groups(s);
	if (r == 0)
		r = space_write_tables(s);
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
	part_forget_all(s);
	s->next = s->root;
	s->releases = 0;
	s->taken = NULL;
	s->no_free_group = s->no_reads = false;
	s->write_error = 0;
	uint64_t all = part_entry_free(s, s->layout.levels, 0, &s->root.entry);
	s->avail = part_is_lost(s, s->layout.levels, 0) ? 0 : all;
}

// Without what the epoch now in force could not read. One that is abandoned takes nothing off: its
// device may have failed as a whole, and nobody's overwrites are to end for that.
static void publish(struct space *s)
{
	uint64_t free = part_entry_free(s, s->layout.levels, 0, &s->root.entry), lost = 0;
	for (size_t i = 0; i < s->losts; i++)
		lost += s->lost[i].free;
	atomic_store(&s->published, free > lost ? free - lost : 0);
}

void space_begin(struct space *s)
{
	// What could not be read may be readable again; what is damaged stays so.
	size_t kept = 0;
	for (size_t i = 0; i < s->losts; i++)
		if (s->lost[i].error == -EUCLEAN)
			s->lost[kept++] = s->lost[i];
	s->losts = kept;
	reset(s);
}

void space_commit(struct space *s, struct space_root now_in_force)
{
	s->root = now_in_force;
	reset(s);
	publish(s);
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
	s->queue = q;
	s->seed = seed;
	s->layout = space_layout(blocks);
	s->root = in_force;
	s->cache = calloc(CACHE_PAGES, sizeof *s->cache);
	s->page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	int r = s->cache == NULL || s->page == NULL ? -ENOMEM : 0;
	if (r == 0 && (in_force.levels != s->layout.levels || !part_entry_valid(s, in_force.levels, 0, &in_force.entry))) {
		log_error("space: root of %u levels, word %016" PRIx64 " does not fit %" PRIu64 " blocks", in_force.levels,
			  in_force.entry.word, blocks);
		r = -EUCLEAN;
	}
	if (r < 0) {
		space_free(s);
		return r;
	}
	reset(s);
	publish(s);
	*ret_space = s;
	return 0;
}

void space_free(struct space *s)
{
	if (s == NULL)
		return;
	part_forget_all(s);
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
