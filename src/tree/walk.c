// SPDX-License-Identifier: GPL-2.0-or-later
// A walk goes from the root to one leaf, never back: a separator is the first key of its child
// exactly, so the leaf that covers a key also holds the last item before it, if there is one, and
// the next leaf begins with the first key after it.
//
// A node's content is vouched for by the checksum in its parent; what is checked on the way is what
// no single node can tell: that a child begins with its separator and ends below the next one.
#include "walk.h"
#include <errno.h>
#include <inttypes.h>
#include "log.h"

#define WALK_LEVELS_MAX 16u

static int check_child(const struct node_disk *n, const struct item_key *first, struct item_key limit)
{
	unsigned count = node_count(n);
	if (count == 0) // it was valid: its memory has failed since, and whoever walks will find out
		return -EUCLEAN;
	struct item_key begin = node_key(n, 0), end = node_key(n, count - 1);
	if (first != NULL && !item_key_equal(begin, *first)) {
		log_error("tree node in block %" PRIu64 ": out of order: first key expected %" PRIu64 ":%" PRIx64
			  ", found %" PRIu64 ":%" PRIx64, n->block, first->object, first->sub, begin.object, begin.sub);
		return -EUCLEAN;
	}
	if (item_key_compare(end, limit) >= 0) {
		log_error("tree node in block %" PRIu64 ": out of order: last key expected below %" PRIu64 ":%" PRIx64
			  ", found %" PRIu64 ":%" PRIx64, n->block, limit.object, limit.sub, end.object, end.sub);
		return -EUCLEAN;
	}
	return 0;
}

int tree_leaf(const struct tree_root *root, struct item_key key, node_fetch_fn fetch, void *arg,
	      const struct node_disk **ret_leaf, struct item_key *ret_next)
{
	struct node_ref ref = root->ref;
	struct item_key limit = ITEM_KEY_MAX, first = ITEM_KEY_MIN;
	const struct node_disk *n = NULL;
	*ret_next = limit;
	if (root->level >= WALK_LEVELS_MAX) {
		log_error("tree root in block %" PRIu64 ": level expected below %u, found %u", ref.block,
			  WALK_LEVELS_MAX, root->level);
		return -EUCLEAN;
	}
	if (ref.block != 0) {
		for (unsigned level = root->level;; level--) {
			int r = fetch(arg, ref, level, &n);
			if (r == 0)
				r = check_child(n, level == root->level ? NULL : &first, limit);
			if (r < 0)
				return r;
			if (level == 0)
				break;
			unsigned i = node_child_for(n, key);
			first = node_key(n, i);
			ref = node_child(n, i);
			if (i + 1 < node_count(n))
				*ret_next = limit = node_key(n, i + 1);
		}
	}
	*ret_leaf = n;
	return 0;
}

int tree_floor(const struct tree_root *root, struct item_key key, struct item_key floor, node_fetch_fn fetch, void *arg,
	       struct node_item *ret_item)
{
	const struct node_disk *leaf;
	struct item_key next;
	int r = tree_leaf(root, key, fetch, arg, &leaf, &next);
	if (r < 0)
		return r;
	if (leaf == NULL)
		return -ENOENT;
	unsigned i = node_lower_bound(leaf, key);
	if (i == node_count(leaf) || !item_key_equal(node_key(leaf, i), key)) {
		if (i == 0) // before the first item of the tree
			return -ENOENT;
		i--;
	}
	if (item_key_compare(node_key(leaf, i), floor) < 0)
		return -ENOENT;
	*ret_item = node_item(leaf, i);
	return 0;
}

int tree_get(const struct tree_root *root, struct item_key key, node_fetch_fn fetch, void *arg,
	     struct node_item *ret_item)
{
	return tree_floor(root, key, key, fetch, arg, ret_item);
}

int tree_next(const struct tree_root *root, struct item_key from, struct item_key last, node_fetch_fn fetch, void *arg,
	      struct node_item *ret_item)
{
	const struct node_disk *leaf;
	struct item_key next;
	int r = tree_leaf(root, from, fetch, arg, &leaf, &next);
	if (r < 0)
		return r;
	if (leaf == NULL)
		return -ENOENT;
	unsigned i = node_lower_bound(leaf, from);
	if (i == node_count(leaf)) {
		if (item_key_equal(next, ITEM_KEY_MAX) || item_key_compare(next, last) > 0)
			return -ENOENT;
		r = tree_leaf(root, next, fetch, arg, &leaf, &next);
		if (r < 0)
			return r;
		i = 0; // its separator is its first key
	}
	if (item_key_compare(node_key(leaf, i), last) > 0)
		return -ENOENT;
	*ret_item = node_item(leaf, i);
	return 0;
}

bool extent_valid(const struct node_item *item, block_t blocks)
{
	const struct extent_disk *e = item->value;
	if (item_key_type(item->key) != ITEM_EXTENT || item->bytes < sizeof *e)
		return false;
	if (e->pages == 0 || e->pages > EXTENT_PAGES_MAX || item_key_rest(item->key) > PAGE_MAX + 1 - e->pages)
		return false;
	if (e->birth > LSN_MAX)
		return false;
	if (e->flags != 0)
		return (e->flags == EXTENT_UNWRITTEN || e->flags == EXTENT_POISONED) && e->block == 0 &&
		       item->bytes == sizeof *e;
	return e->block != 0 && e->block < blocks && e->pages <= blocks - e->block &&
	       item->bytes == sizeof *e + e->pages * sizeof e->sum[0];
}
