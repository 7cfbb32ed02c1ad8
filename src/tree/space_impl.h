// SPDX-License-Identifier: GPL-2.0-or-later
// Within space alone: space.c (epochs, releasing, writing, checks), space_part.c (bitmaps and tables,
// on media and in memory), space_take.c (where to take from), space_anew.c (a repair's epoch). The invariants stand in space.c.
#ifndef TREE_SPACE_IMPL_H
#define TREE_SPACE_IMPL_H

#include <errno.h>
#include "space.h"
#include "space_layout.h"

#define GROUP_WORDS (SPACE_GROUP_BLOCKS / 64)
#define BUCKETS 1024u
#define CACHE_PAGES 64u

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
	int error;
};
struct cursor {
	uint64_t group;
	unsigned bit;
	bool valid;
};

struct space {
	struct ioq *queue;
	uint64_t seed;
	struct space_layout layout;
	struct space_root root, next; // in force; being built
	uint64_t avail;               // below the top
	_Atomic uint64_t published;   // the count for other threads
	struct part *bucket[BUCKETS];
	struct run *release;
	size_t releases, releases_room;
	struct cursor small, large;
	bool no_free_group; // as far as this epoch has looked
	space_taken_fn taken; // of an epoch that believes no map; else NULL
	const void *taken_arg;
	struct lost *lost;
	size_t losts;
	int lost_error;
	bool no_reads; // the device reads nothing: the epoch cannot succeed
	unsigned in_flight;
	int write_error;
	struct cached *cache;
	void *page; // bounce buffer for reads
	struct group scratch;
};

// ---- bits of a bitmap -----------------------------------------------------------------------

static inline bool bit_get(const uint64_t *bits, unsigned i)
{
	return bits[i / 64] >> i % 64 & 1;
}
void bits_assign(uint64_t *bits, unsigned bit, uint64_t count, bool value);
// First bit of that value in [from, to); to if there is none.
unsigned bits_find(const uint64_t *bits, unsigned from, unsigned to, bool value);
uint64_t bits_clear_count(const uint64_t *bits);

// ---- parts ----------------------------------------------------------------------------------

// Free blocks below the part of that entry; is the entry one that may be?
uint64_t part_entry_free(const struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e);
bool part_entry_valid(const struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e);
uint64_t part_sum(const struct space *s, unsigned level, uint64_t index, const void *data);
// The content of a part as that entry names it, verified. -EIO, -EUCLEAN (reported), ...
int part_read(struct space *s, unsigned level, uint64_t index, const struct space_entry_disk *e, void *ret_data);
// Not an error of one part, which is passed over: the epoch fails, and nothing is given up for it.
static inline bool fails_epoch(const struct space *s, int r) { return r == -ENOMEM || (r < 0 && s->no_reads); }
void part_cache(struct space *s, unsigned level, uint64_t index, uint64_t sum, const void *data);

// In memory. part_entry() and part_avail*() need the tables above to be there: part_load_path().
struct part *part_find(struct space *s, unsigned level, uint64_t index); // or NULL
struct space_entry_disk *part_entry(struct space *s, unsigned level, uint64_t index);
void part_avail_add(struct space *s, unsigned level, uint64_t index, int64_t delta);
// What cannot be read is passed over from then on; each is reported once, its error returned.
int part_load_path(struct space *s, unsigned level, uint64_t index);
int group_load(struct space *s, uint64_t index, struct group *g); // into the caller's memory
int group_get(struct space *s, uint64_t index, struct group **ret_group);
bool part_is_lost(const struct space *s, unsigned level, uint64_t index);
void part_forget_all(struct space *s);
// Into the slot that is not in force; the entry above, whose table is in memory, changes there.
int part_write(struct space *s, unsigned level, uint64_t index, const void *data, uint64_t free);
int space_write_tables(struct space *s);

#endif
