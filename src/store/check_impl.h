// SPDX-License-Identifier: GPL-2.0-or-later
// Within the check alone: check.c (order of things, superblocks, tier), check_tree.c (one pass over the
// tree, merged with what is in the tier), check_used.c (which blocks are used), check_lost.c (what could not
// be read), check_text.c (words), rebuild.c (the repair).
#ifndef STORE_CHECK_IMPL_H
#define STORE_CHECK_IMPL_H

#include "check.h"
#include "space_layout.h"
#include "store_impl.h"

// ---- blocks used (check_used.c): a bitmap for each group that has some, none for a full one -------

struct used_group {
	uint64_t group; // + 1; 0: free slot of the table
	uint64_t *bits; // NULL: all are used
	unsigned count;
};
struct used {
	struct used_group *slot; // hash table
	size_t slots, groups;
	uint64_t blocks; // marked
	struct space_layout layout;
};

// 1: was used before; 0, -ENOMEM. The block is in a group of the layout.
int used_mark(struct used *u, block_t block);
void used_bits(const struct used *u, uint64_t group, uint64_t ret_bits[SPACE_GROUP_BLOCKS / 64]);
bool used_has(const struct used *u, block_t block); // of a group without any, fixed ones neither
void used_fini(struct used *u);

// ---- what could not be read (check_lost.c) -----------------------------------------------------------

// At the begin of a pass; then in order of keys.
int lost_begin(struct store *s);
int lost_add(struct store *s, struct item_key from, struct item_key limit);
bool lost_has(const struct store *s, object_t object, page_t page);

// ---- what is mended (mend.c) ---------------------------------------------------------------------------

// Of a page that is to be cut short, up to which byte it stays as it is; else PAGE_BYTES.
unsigned mended_bytes(const struct store *s, object_t object, page_t page);

// ---- what the tier has -------------------------------------------------------------------------------

bool frame_is_good(const struct store *s, frame_t f); // its content has its checksum
// A good frame of that page, clean and of that checksum: a copy of what the backing has or had. FRAME_NONE.
frame_t frame_copy_of(const struct store *s, object_t object, page_t page, uint64_t sum);

// ---- where a repair takes it all from -------------------------------------------------------------

struct check_sink { // nonzero ends the pass
	int (*item)(void *arg, struct item_key key, const void *value, size_t bytes);
	// Pages first + at, ... of the object, at, ... of the extent.
	int (*extent)(void *arg, object_t object, page_t first, const struct extent_disk *e, unsigned at, unsigned count);
	int (*frame)(void *arg, frame_t f); // a dirty page
	void *arg;
};

// ---- the check -----------------------------------------------------------------------------------

struct check {
	struct store *s;
	const struct check_config *config;
	struct check_result *result;
	struct used used, twice; // twice: used more than once
	uint64_t done, total; // blocks, for progress
	uint64_t next_progress;
};

static inline bool check_cancelled(const struct check_config *config)
{
	return config->cancelled && atomic_load_explicit(config->cancelled, memory_order_relaxed);
}
void check_progress(struct check *c, const char *what, uint64_t step);
// `verify`: marks, compares, reports, reads data; else only the items, for the visitor.
int check_tree(struct check *c, bool verify, const struct check_sink *sink);
bool check_block_usable(const struct check *c, block_t block); // for nodes and data
// Marks blocks alone, nodes being read.
int check_mark(struct check *c);

#endif
