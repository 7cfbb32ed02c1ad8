// SPDX-License-Identifier: GPL-2.0-or-later
// Nodes of the B+tree: layout, search, building. No I/O.
#ifndef TREE_NODE_H
#define TREE_NODE_H

#include "vems/format.h"

struct node_item { // a leaf's, as found; value points into the node
	struct item_key key;
	const void *value;
	size_t bytes;
};

// Is it a well-formed node of that level (any if < 0), block and birth, with ascending keys and
// all values inside? To be asked once after a checksum was verified; all below rely on it.
bool node_valid(const struct node_disk *n, int level, block_t block, lsn_t birth);

static inline unsigned node_count(const struct node_disk *n) { return n->count; }
struct node_item node_item(const struct node_disk *n, unsigned i); // leaf
struct item_key node_key(const struct node_disk *n, unsigned i);   // either
struct node_ref node_child(const struct node_disk *n, unsigned i); // inner
// First entry with a key >= key; count if none.
unsigned node_lower_bound(const struct node_disk *n, struct item_key key);
// Inner: the child that covers key: the last with a first key <= key, or the first.
unsigned node_child_for(const struct node_disk *n, struct item_key key);

size_t node_used_bytes(const struct node_disk *n); // of the body
#define NODE_BODY_BYTES (PAGE_BYTES - 32)
#define LEAF_ITEM_BYTES(value_bytes) (sizeof(struct leaf_entry_disk) + (((value_bytes) + 7) & ~(size_t)7))

// Building: init, add in ascending order, then the node is complete. False: no room.
void node_init(struct node_disk *n, unsigned level, block_t block, lsn_t birth);
bool node_add_item(struct node_disk *n, struct item_key key, const void *value, size_t bytes);
bool node_add_child(struct node_disk *n, struct item_key first, struct node_ref ref);
uint64_t node_sum(const struct node_disk *n, uint64_t seed); // checksum_page(seed, OBJECT_STORE, block, n)

#endif
