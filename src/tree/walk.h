// SPDX-License-Identifier: GPL-2.0-or-later
// Reading the tree. The tree is immutable between two superblocks, so a walk needs no lock; how a
// node is had (from the tier, from a buffer, from the backing, or not yet) is the caller's affair.
#ifndef TREE_WALK_H
#define TREE_WALK_H

#include "node.h"

struct tree_root {
	struct node_ref ref; // block 0: empty tree
	unsigned level;
};

// Gives the valid node of that name and level (checked with node_valid), pointer good until the
// caller's own bound; or a negative errno, passed through (-ERESTART: not here yet).
typedef int (*node_fetch_fn)(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node);

// The leaf that covers key (NULL: empty tree) and the first key after all that it covers
// (ITEM_KEY_MAX at the end), which is also told of a leaf that cannot be had. An inner node with a child
// out of order is -EUCLEAN.
int tree_leaf(const struct tree_root *root, struct item_key key, node_fetch_fn fetch, void *arg,
	      const struct node_disk **ret_leaf, struct item_key *ret_next);
// The last item with a key <= key and >= floor: 0, or -ENOENT.
int tree_floor(const struct tree_root *root, struct item_key key, struct item_key floor, node_fetch_fn fetch, void *arg,
	       struct node_item *ret_item);
// The item with that key: 0, or -ENOENT.
int tree_get(const struct tree_root *root, struct item_key key, node_fetch_fn fetch, void *arg,
	     struct node_item *ret_item);
// The first item with a key in [from, last]: 0, or -ENOENT.
int tree_next(const struct tree_root *root, struct item_key from, struct item_key last, node_fetch_fn fetch, void *arg,
	      struct node_item *ret_item);

// Structural check of a whole extent item: sizes, pages 1..EXTENT_PAGES_MAX, block range.
bool extent_valid(const struct node_item *item, block_t blocks);

#endif
