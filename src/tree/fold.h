// SPDX-License-Identifier: GPL-2.0-or-later
// Folding: one pass over the tree in key order that merges frozen items, extents and DROPs into new
// copy-on-write nodes. Subtrees that nothing concerns pass by reference. Nodes are written as they
// fill, to blocks from space_take(); nothing of the old tree is touched, its replaced nodes and
// blocks are released to space (free once the new superblock is in force).
// For the epoch thread alone. After any error the fold is void and every further call returns it:
// ioq_wait_all(), fold_free(), space_abandon().
#ifndef TREE_FOLD_H
#define TREE_FOLD_H

#include "backing.h"
#include "space.h"
#include "walk.h"

struct fold_drop { // dead: extents of pages [from, to) with birth < lsn; whole: all extents and items of the object
	object_t object;
	page_t from, to;
	lsn_t lsn;
	bool whole;
};

struct fold_config {
	struct backing *backing;
	struct ioq *queue; // writes are submitted here; the caller waits for them
	struct space *space;
	uint64_t seed;
	struct tree_root old;
	lsn_t birth; // B, of new nodes
	lsn_t cut;   // C, birth of new extents
	// Of old nodes; blocking, never -ERESTART; the node is good until the next fetch of the same level.
	node_fetch_fn fetch;
	void *fetch_arg;
	// A new node is complete and on its way to its block (NULL: nobody asks). Good during the call.
	void (*wrote)(void *arg, struct node_ref ref, const struct node_disk *node);
	void *wrote_arg;
	const struct fold_drop *drops; // sorted by object, then from; all are worked off completely
	size_t drop_count;
};

struct fold;
int fold_new(const struct fold_config *config, struct fold **ret_fold);

// Keys must ascend over all calls (an extent's key is that of its first page) and be below
// ITEM_KEY_MAX; extents come by fold_extent() alone. -EINVAL. value is copied. Deleting what is not
// there is no error.
int fold_put(struct fold *f, struct item_key key, const void *value, size_t bytes);
int fold_delete(struct fold *f, struct item_key key);
// Pages [page, page + count) of object are now at block, block + 1, ... with those checksums;
// count <= EXTENT_PAGES_MAX; flags (EXTENT_POISONED, EXTENT_UNWRITTEN): no block, no sums. Old extents under it are
// trimmed, their blocks released.
int fold_extent(struct fold *f, object_t object, page_t page, unsigned count, block_t block, const uint64_t *sums,
		unsigned flags);
// Streams the rest (drops included) and completes the spine. ret_root->ref.block 0: empty tree.
int fold_finish(struct fold *f, struct tree_root *ret_root);
// All writes of the fold have completed (ioq_wait_all): 0 or the first error.
int fold_written(const struct fold *f);
// Blocks of the first write that failed.
void fold_failed_blocks(const struct fold *f, block_t *ret_block, unsigned *ret_count);
void fold_free(struct fold *f); // after the queue is idle
uint64_t fold_nodes_written(const struct fold *f);

#endif
