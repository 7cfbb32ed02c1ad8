// SPDX-License-Identifier: GPL-2.0-or-later
// Folding owns the making of a new tree from the old one: the only place where nodes are written.
//
//	caller's puts, deletes, extents --+
//	                                  +-- merge --> builders, one per level --> runs of new nodes
//	old tree, by a cursor ------------+     |
//	                                        +-----> released blocks
//
// The cursor stands before an item (level 0) or before a subtree not yet opened. A subtree that no
// key of the caller and no DROP concerns goes by reference into the builder of the level above; all
// else is opened, its node released, and its entries pass one by one. A builder holds up to two
// nodes' worth and writes a full node only beyond that, so that what is left when it must be flushed
// (before a subtree passes, at the end) fits one node or splits evenly into two.
//
// Invariants:
//  1. Everything that reaches a builder has a key above all before it: keys of the caller ascend,
//     those of the old tree are checked to, and the merge takes the lesser.
//  2. Before a subtree of level s passes, the builders 0..s are empty: what comes after it in key
//     order comes after it in the builder of level s + 1.
//  3. A separator is the first key of its child exactly.
//  4. A block of the old tree is released exactly once, when what refers to it is left out: a node
//     when it was opened, an extent's block when its page is replaced or dead by a DROP.
//  5. The old extent being merged (`old_extent`) has left the cursor and comes before all that the
//     cursor still has; its `alive` pages are the ones not yet put out, replaced or dead.
//  6. A root has more than one child, unless it is a leaf.
//
// Crash argument: new nodes go to blocks that are free in force, and nothing of the old tree is
// written. Until the superblock that names the new root is durable, the old tree is what recovery
// sees, whole; fold_written() must have been 0 and the device been flushed before that.
#include "fold.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

#define LEVELS_MAX 16u
#define ENTRIES_MAX 512u // more than two nodes' worth of the smallest, plus what a flush adds
#define VALUES_MAX (2 * NODE_BODY_BYTES + 2 * ITEM_VALUE_MAX)
#define UNDERFULL (NODE_BODY_BYTES / 3)
#define RUN_NODES 8u // blocks taken, and written, at a time

struct out_entry {
	struct item_key key;
	union {
		struct {
			uint32_t offset, bytes; // in values
		} value;
		struct node_ref ref;
	};
};
struct builder {
	unsigned count;
	size_t used; // body bytes
	struct out_entry entry[ENTRIES_MAX];
};
struct old_level { // an opened node of the old tree
	const struct node_disk *node;
	unsigned next;          // entry
	struct item_key limit; // first key behind it
};
struct drop_range {
	struct item_key first, last; // keys that it concerns
	struct item_key last_so_far; // greatest `last` up to here
	struct fold_drop drop;
};
struct old_extent {
	object_t object;
	page_t page;
	block_t block;
	lsn_t birth;
	unsigned pages, flags;
	uint64_t alive; // bit per page; 0: no extent here
	uint64_t sum[EXTENT_PAGES_MAX];
};
struct node_run { // contiguous new nodes, written with one I/O
	struct io io;
	struct iovec iov;
	struct fold *fold;
	uint8_t *data;
	block_t block;
	unsigned room, used;
};

struct fold {
	struct fold_config config;
	int error; // the first; everything after it is void
	struct item_key last_key; // of the caller
	bool any_key, opened;     // opened: the cursor has been put before the old root

	struct old_level old[LEVELS_MAX];
	unsigned at; // level of the cursor; root level + 1: at the end
	struct old_extent old_extent;
	object_t extent_object; // of the last old extent that passed, and the page behind it
	page_t extent_end;

	struct drop_range *drop; // by first key
	size_t drops, next_drop, next_whole;
	struct drop_range **active; // begun, not over, none made needless by another
	size_t actives;

	struct builder builder[LEVELS_MAX];
	uint8_t values[VALUES_MAX]; // of the leaf builder, in the order of its entries
	size_t value_bytes;

	struct node_run *run; // being filled
	block_t goal;
	unsigned in_flight;
	int write_error;
	block_t failed_block; // of the run that write_error is of
	unsigned failed_count;
	uint64_t nodes_written;
};

static int corrupt(const char *what, block_t block, struct item_key expected, struct item_key found)
{
	log_error("tree node in block %" PRIu64 ": %s: expected %" PRIu64 ":%" PRIx64 ", found %" PRIu64 ":%" PRIx64, block,
		  what, expected.object, expected.sub, found.object, found.sub);
	return -EUCLEAN;
}

// ---- writing nodes --------------------------------------------------------------------------

static void run_free(struct node_run *run)
{
	if (run == NULL)
		return;
	free(run->data);
	free(run);
}

static void run_written(struct io *io)
{
	struct node_run *run = io->arg;
	struct fold *f = run->fold;
	if (io->result < 0 && f->write_error == 0) {
		f->write_error = io->result;
		f->failed_block = run->block;
		f->failed_count = run->used;
	}
	f->in_flight--;
	run_free(run);
}

static void run_submit(struct fold *f)
{
	struct node_run *run = f->run;
	f->run = NULL;
	if (run == NULL || run->used == 0) {
		run_free(run);
		return;
	}
	run->iov = (struct iovec){ run->data, run->used * (size_t)PAGE_BYTES };
	run->io = (struct io){
		.kind = 'w', .block = run->block, .iov = &run->iov, .iovcnt = 1, .done = run_written, .arg = run
	};
	f->in_flight++;
	ioq_submit(f->config.queue, &run->io);
}

static int run_new(struct fold *f)
{
	uint64_t count;
	struct node_run *run = calloc(1, sizeof *run);
	if (run == NULL)
		return -ENOMEM;
	run->fold = f;
	int r = space_take(f->config.space, RUN_NODES, f->goal, &run->block, &count);
	if (r == 0) {
		run->room = (unsigned)count;
		run->data = aligned_alloc(PAGE_BYTES, count * PAGE_BYTES);
		r = run->data == NULL ? -ENOMEM : 0;
	}
	if (r < 0) {
		run_free(run);
		return r;
	}
	f->goal = run->block + count;
	f->run = run;
	return 0;
}

static int node_new(struct fold *f, unsigned level, struct node_disk **ret_node)
{
	if (f->run != NULL && f->run->used == f->run->room)
		run_submit(f);
	int r = f->run == NULL ? run_new(f) : 0;
	if (r < 0)
		return r;
	struct node_disk *n = (struct node_disk *)(f->run->data + f->run->used * (size_t)PAGE_BYTES);
	node_init(n, level, f->run->block + f->run->used, f->config.birth);
	f->run->used++;
	f->nodes_written++;
	*ret_node = n;
	return 0;
}

// ---- builders -------------------------------------------------------------------------------

static size_t entry_bytes(unsigned level, const struct out_entry *e)
{
	return level == 0 ? LEAF_ITEM_BYTES(e->value.bytes) : sizeof(struct inner_entry_disk);
}

// How many entries from the front take at most (up_to) or at least (!up_to) that many bytes.
static unsigned entries_for(const struct builder *b, unsigned level, size_t bytes, bool up_to)
{
	size_t sum = 0;
	unsigned i = 0;
	while (i < b->count && sum < bytes) {
		sum += entry_bytes(level, &b->entry[i]);
		if (up_to && sum > bytes)
			break;
		i++;
	}
	return i;
}

static void remove_front(struct fold *f, unsigned level, unsigned count)
{
	struct builder *b = &f->builder[level];
	for (unsigned i = 0; i < count; i++)
		b->used -= entry_bytes(level, &b->entry[i]);
	b->count -= count;
	memmove(b->entry, b->entry + count, b->count * sizeof b->entry[0]);
	if (level > 0)
		return;
	uint32_t gone = b->count > 0 ? b->entry[0].value.offset : (uint32_t)f->value_bytes;
	f->value_bytes -= gone;
	memmove(f->values, f->values + gone, f->value_bytes);
	for (unsigned i = 0; i < b->count; i++)
		b->entry[i].value.offset -= gone;
}

static void add_to_node(const struct fold *f, struct node_disk *n, const struct out_entry *e)
{
	bool fits = n->level == 0 ? node_add_item(n, e->key, f->values + e->value.offset, e->value.bytes) :
				    node_add_child(n, e->key, e->ref);
	(void)fits; // the builder has counted
}

// Copies a node of the old tree into a new one that is to hold more behind it.
static int add_old_node(const struct fold *f, struct node_disk *n, const struct node_disk *old)
{
	for (unsigned i = 0; i < node_count(old); i++) {
		if (old->level > 0) {
			node_add_child(n, node_key(old, i), node_child(old, i));
			continue;
		}
		struct node_item item = node_item(old, i);
		if (item_key_type(item.key) == ITEM_EXTENT && !extent_valid(&item, f->config.backing->blocks))
			return corrupt("damaged extent", old->block, item.key, item.key);
		node_add_item(n, item.key, item.value, item.bytes);
	}
	return 0;
}

// Makes a node of `before` (may be NULL) and the first `count` entries; its reference goes up.
static int build_node(struct fold *f, unsigned level, const struct node_disk *before, unsigned count)
{
	struct builder *b = &f->builder[level], *above = &f->builder[level + 1];
	struct node_disk *n;
	if (level + 1 >= LEVELS_MAX) {
		log_error("tree: more than %u levels", LEVELS_MAX);
		return -EUCLEAN;
	}
	int r = node_new(f, level, &n);
	if (r == 0 && before != NULL)
		r = add_old_node(f, n, before);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < count; i++)
		add_to_node(f, n, &b->entry[i]);
	remove_front(f, level, count);
	struct node_ref ref = { n->block, n->birth, node_sum(n, f->config.seed) };
	above->entry[above->count++] = (struct out_entry){ .key = node_key(n, 0), .ref = ref };
	above->used += sizeof(struct inner_entry_disk);
	if (f->config.wrote)
		f->config.wrote(f->config.wrote_arg, ref, n);
	return 0;
}

// Writes full nodes while a builder, from that level up, holds more than two nodes' worth.
static int write_full(struct fold *f, unsigned level)
{
	int r = 0;
	for (; r == 0 && level < LEVELS_MAX && f->builder[level].used > 2 * NODE_BODY_BYTES; level++)
		r = build_node(f, level, NULL, entries_for(&f->builder[level], level, NODE_BODY_BYTES, true));
	return r;
}

static int out_item(struct fold *f, struct item_key key, const void *value, size_t bytes)
{
	struct builder *b = &f->builder[0];
	b->entry[b->count++] = (struct out_entry){ .key = key, .value = { (uint32_t)f->value_bytes, (uint32_t)bytes } };
	if (bytes > 0)
		memcpy(f->values + f->value_bytes, value, bytes);
	f->value_bytes += bytes;
	b->used += LEAF_ITEM_BYTES(bytes);
	return write_full(f, 0);
}

static int out_child(struct fold *f, unsigned level, struct item_key first, struct node_ref ref)
{
	struct builder *b = &f->builder[level];
	b->entry[b->count++] = (struct out_entry){ .key = first, .ref = ref };
	b->used += sizeof(struct inner_entry_disk);
	return write_full(f, level);
}

// ---- old nodes ------------------------------------------------------------------------------

static int fetch_old(struct fold *f, struct node_ref ref, unsigned level, const struct item_key *first,
		     struct item_key limit, const struct node_disk **ret_node)
{
	const struct node_disk *n;
	int r = f->config.fetch(f->config.fetch_arg, ref, level, &n);
	if (r < 0)
		return r;
	if (first != NULL && !item_key_equal(node_key(n, 0), *first))
		return corrupt("first key", n->block, *first, node_key(n, 0));
	if (item_key_compare(node_key(n, node_count(n) - 1), limit) >= 0)
		return corrupt("last key not below the next node's", n->block, limit, node_key(n, node_count(n) - 1));
	*ret_node = n;
	return 0;
}

// A node of the old tree that went by reference just before what the builder holds, if both fit one
// node: its content comes back to be written together.
static int flush_into_previous(struct fold *f, unsigned level, bool *ret_done)
{
	struct builder *b = &f->builder[level], *above = &f->builder[level + 1];
	const struct node_disk *n;
	if (b->used >= UNDERFULL || level + 1 >= LEVELS_MAX || above->count == 0)
		return 0;
	struct out_entry *last = &above->entry[above->count - 1];
	if (last->ref.birth == f->config.birth)
		return 0;
	int r = fetch_old(f, last->ref, level, &last->key, b->entry[0].key, &n);
	if (r < 0 || node_used_bytes(n) + b->used > NODE_BODY_BYTES)
		return r;
	r = space_release(f->config.space, last->ref.block, 1);
	if (r < 0)
		return r;
	above->count--;
	above->used -= sizeof(struct inner_entry_disk);
	*ret_done = true;
	return build_node(f, level, n, b->count);
}

// Writes all that a builder holds: one node, or as even a split as its entries allow.
static int flush(struct fold *f, unsigned level)
{
	struct builder *b = &f->builder[level];
	bool done = b->count == 0;
	int r = done ? 0 : flush_into_previous(f, level, &done);
	while (r == 0 && !done && b->count > 0) {
		unsigned count = b->count;
		if (b->used > NODE_BODY_BYTES) {
			unsigned most = entries_for(b, level, NODE_BODY_BYTES, true);
			count = entries_for(b, level, b->used / 2, false);
			count = count < most ? count : most;
		}
		r = build_node(f, level, NULL, count);
	}
	return r == 0 ? write_full(f, level + 1) : r;
}

// ---- drops ----------------------------------------------------------------------------------

static struct item_key extent_key(object_t object, page_t page)
{
	return item_key(object, ITEM_EXTENT, page < ITEM_REST_MAX ? page : ITEM_REST_MAX);
}

static int compare_drops(const void *a, const void *b)
{
	return item_key_compare(((const struct drop_range *)a)->first, ((const struct drop_range *)b)->first);
}

static int prepare_drops(struct fold *f)
{
	size_t count = f->config.drop_count;
	f->drop = calloc(count + 1, sizeof *f->drop);
	f->active = calloc(count + 1, sizeof(struct drop_range *));
	if (f->drop == NULL || f->active == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		const struct fold_drop *d = &f->config.drops[i];
		if (!d->whole && d->from >= d->to)
			continue;
		struct drop_range *range = &f->drop[f->drops++];
		range->drop = *d;
		range->first = d->whole ? (struct item_key){ d->object, 0 } : extent_key(d->object, d->from);
		range->last = d->whole ? (struct item_key){ d->object, UINT64_MAX } : extent_key(d->object, d->to - 1);
	}
	qsort(f->drop, f->drops, sizeof *f->drop, compare_drops);
	struct item_key last = ITEM_KEY_MIN;
	for (size_t i = 0; i < f->drops; i++) {
		if (item_key_compare(f->drop[i].last, last) > 0)
			last = f->drop[i].last;
		f->drop[i].last_so_far = last;
	}
	return 0;
}

// Is there a drop for keys in [first, limit)?
static bool dropped_in(const struct fold *f, struct item_key first, struct item_key limit)
{
	size_t low = 0, high = f->drops;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (item_key_compare(f->drop[middle].first, limit) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 && item_key_compare(f->drop[low - 1].last_so_far, first) >= 0;
}

static bool whole_dropped(struct fold *f, object_t object)
{
	while (f->next_whole < f->drops &&
	       (!f->drop[f->next_whole].drop.whole || f->drop[f->next_whole].drop.object < object))
		f->next_whole++;
	return f->next_whole < f->drops && f->drop[f->next_whole].drop.object == object;
}

// Does a outdo b for all that is still to come?
static bool outdoes(const struct drop_range *a, const struct drop_range *b)
{
	return a->drop.lsn >= b->drop.lsn && item_key_compare(a->last, b->last) >= 0;
}

// Drops that begin with keys up to `last` become active; those that ended before `first` and those
// outdone by another leave. Extents come in ascending order, so each drop comes and goes once.
static void advance_drops(struct fold *f, struct item_key first, struct item_key last)
{
	const struct drop_range *latest = f->actives > 0 ? f->active[f->actives - 1] : NULL;
	size_t kept = 0;
	for (size_t i = 0; i < f->actives; i++) {
		struct drop_range *d = f->active[i];
		bool outdone = d != latest && outdoes(latest, d) &&
			       item_key_compare(extent_key(latest->drop.object, latest->drop.from), first) <= 0;
		if (item_key_compare(d->last, first) >= 0 && !outdone)
			f->active[kept++] = d;
	}
	f->actives = kept;
	for (; f->next_drop < f->drops && item_key_compare(f->drop[f->next_drop].first, last) <= 0; f->next_drop++) {
		struct drop_range *d = &f->drop[f->next_drop];
		bool needless = d->drop.whole || item_key_compare(d->last, first) < 0;
		for (size_t i = 0; i < f->actives && !needless; i++)
			needless = outdoes(f->active[i], d) && f->active[i]->drop.from <= d->drop.from;
		if (!needless)
			f->active[f->actives++] = d;
	}
}

static uint64_t page_mask(const struct old_extent *e, page_t from, page_t to) // bits of pages [from, to)
{
	page_t end = e->page + e->pages;
	from = from > e->page ? from : e->page;
	to = to < end ? to : end;
	if (from >= to)
		return 0;
	uint64_t ones = to - from == 64 ? ~UINT64_C(0) : (UINT64_C(1) << (to - from)) - 1;
	return ones << (from - e->page);
}

static uint64_t dead_pages(struct fold *f, const struct old_extent *e)
{
	uint64_t dead = 0;
	if (whole_dropped(f, e->object))
		return ~UINT64_C(0);
	advance_drops(f, extent_key(e->object, e->page), extent_key(e->object, e->page + e->pages - 1));
	for (size_t i = 0; i < f->actives; i++)
		if (f->active[i]->drop.object == e->object && e->birth < f->active[i]->drop.lsn)
			dead |= page_mask(e, f->active[i]->drop.from, f->active[i]->drop.to);
	return dead;
}

// ---- the old extent being merged -------------------------------------------------------------

// The next run of set bits: from *start, returns its length; 0 at the end.
static unsigned bit_run(uint64_t bits, unsigned *start)
{
	if (*start >= 64 || bits >> *start == 0)
		return 0;
	*start += (unsigned)__builtin_ctzll(bits >> *start);
	uint64_t rest = ~(bits >> *start);
	return rest == 0 ? 64 : (unsigned)__builtin_ctzll(rest);
}

static int put_extent(struct fold *f, object_t object, page_t page, unsigned pages, block_t block, lsn_t birth,
		      const uint64_t *sums, unsigned flags)
{
	union {
		struct extent_disk disk;
		uint64_t room[sizeof(struct extent_disk) / 8 + EXTENT_PAGES_MAX];
	} value;
	size_t sum_bytes = flags == 0 ? pages * sizeof(uint64_t) : 0;
	value.disk = (struct extent_disk){ flags == 0 ? block : 0, birth, pages, flags };
	if (sum_bytes > 0)
		memcpy(value.disk.sum, sums, sum_bytes);
	return out_item(f, extent_key(object, page), &value, sizeof value.disk + sum_bytes);
}

// Pages of the old extent that are replaced or dead: their blocks are released.
static int bury(struct fold *f, uint64_t pages)
{
	struct old_extent *e = &f->old_extent;
	unsigned start = 0;
	pages &= e->alive;
	e->alive &= ~pages;
	if (e->flags != 0)
		return 0;
	for (unsigned n; (n = bit_run(pages, &start)) > 0; start += n) {
		int r = space_release(f->config.space, e->block + start, n);
		if (r < 0)
			return r;
	}
	return 0;
}

// The live pages below `limit` go out, in as few pieces as there are runs of them.
static int put_old_extent(struct fold *f, page_t limit)
{
	struct old_extent *e = &f->old_extent;
	uint64_t pages = e->alive & page_mask(e, 0, limit);
	unsigned start = 0;
	e->alive &= ~pages;
	for (unsigned n; (n = bit_run(pages, &start)) > 0; start += n) {
		int r = put_extent(f, e->object, e->page + start, n, e->block + start, e->birth, e->sum + start, e->flags);
		if (r < 0)
			return r;
	}
	return 0;
}

static int load_old_extent(struct fold *f, const struct node_item *item)
{
	const struct extent_disk *disk = item->value;
	struct old_extent *e = &f->old_extent;
	page_t page = item_key_rest(item->key);
	block_t leaf = f->old[0].node->block;
	if (!extent_valid(item, f->config.backing->blocks))
		return corrupt("damaged extent", leaf, item->key, item->key);
	if (f->extent_object == item->key.object && page < f->extent_end)
		return corrupt("extent overlaps the one before", leaf, extent_key(f->extent_object, f->extent_end), item->key);
	e->object = item->key.object;
	e->page = page;
	e->block = disk->block;
	e->birth = disk->birth;
	e->pages = disk->pages;
	e->flags = disk->flags;
	if (disk->flags == 0)
		memcpy(e->sum, disk->sum, disk->pages * sizeof e->sum[0]);
	e->alive = page_mask(e, page, page + disk->pages);
	f->extent_object = e->object;
	f->extent_end = page + disk->pages;
	return bury(f, dead_pages(f, e));
}

// ---- the cursor over the old tree -----------------------------------------------------------

static bool old_end(const struct fold *f)
{
	return f->at > f->config.old.level || f->config.old.ref.block == 0;
}

static int enter(struct fold *f, unsigned level, struct node_ref ref, const struct item_key *first,
		 struct item_key limit)
{
	const struct node_disk *n;
	int r = fetch_old(f, ref, level, first, limit, &n);
	if (r == 0)
		r = space_release(f->config.space, ref.block, 1);
	if (r < 0)
		return r;
	f->old[level] = (struct old_level){ n, 0, limit };
	f->at = level;
	return 0;
}

// Puts the cursor before an item or subtree, or at the end. The root is always opened.
static int settle(struct fold *f)
{
	if (!f->opened) {
		f->opened = true;
		f->at = f->config.old.level + 1;
		if (f->config.old.ref.block == 0)
			return 0;
		return enter(f, f->config.old.level, f->config.old.ref, NULL, ITEM_KEY_MAX);
	}
	while (!old_end(f) && f->old[f->at].next == node_count(f->old[f->at].node))
		f->at++;
	return 0;
}

static struct item_key old_key(const struct fold *f)
{
	return node_key(f->old[f->at].node, f->old[f->at].next);
}

// First key behind the subtree before which the cursor stands.
static struct item_key subtree_limit(const struct fold *f)
{
	const struct old_level *l = &f->old[f->at];
	return l->next + 1 < node_count(l->node) ? node_key(l->node, l->next + 1) : l->limit;
}

static int open_subtree(struct fold *f)
{
	struct old_level *l = &f->old[f->at];
	struct item_key first = old_key(f), limit = subtree_limit(f);
	struct node_ref ref = node_child(l->node, l->next);
	l->next++;
	return enter(f, f->at - 1, ref, &first, limit);
}

// By reference, unless what precedes it would make an underfull node and has room in it.
static int pass_subtree(struct fold *f)
{
	struct old_level *l = &f->old[f->at];
	unsigned level = f->at - 1;
	struct builder *b = &f->builder[level];
	struct item_key first = old_key(f), limit = subtree_limit(f);
	struct node_ref ref = node_child(l->node, l->next);
	const struct node_disk *n;
	int r = 0;
	for (unsigned below = 0; below < level && r == 0; below++)
		r = flush(f, below);
	if (r == 0 && b->count > 0 && b->used < UNDERFULL) {
		r = fetch_old(f, ref, level, &first, limit, &n);
		if (r == 0 && b->used + node_used_bytes(n) <= NODE_BODY_BYTES)
			return open_subtree(f);
	}
	if (r == 0)
		r = flush(f, level);
	if (r < 0)
		return r;
	l->next++;
	return out_child(f, level + 1, first, ref);
}

static int take_old_item(struct fold *f)
{
	struct old_level *l = &f->old[0];
	struct node_item item = node_item(l->node, l->next++);
	if (item_key_type(item.key) == ITEM_EXTENT)
		return load_old_extent(f, &item);
	if (whole_dropped(f, item.key.object))
		return 0;
	return out_item(f, item.key, item.value, item.bytes);
}

// Everything old below `key` goes out, subtrees that end there by reference. If key is an extent's, no
// page of it lies in what has passed: an extent that reached into it would have the next key, the
// subtree's end, behind it.
static int stream(struct fold *f, struct item_key key)
{
	for (;;) {
		struct old_extent *e = &f->old_extent;
		if (e->alive != 0) {
			bool same = key.object == e->object && item_key_type(key) == ITEM_EXTENT;
			int r = put_old_extent(f, same ? item_key_rest(key) : UINT64_MAX);
			if (r < 0 || e->alive != 0)
				return r;
		}
		int r = settle(f);
		if (r < 0 || old_end(f) || item_key_compare(old_key(f), key) >= 0)
			return r;
		if (f->at == 0)
			r = take_old_item(f);
		else if (item_key_compare(subtree_limit(f), key) <= 0 && !dropped_in(f, old_key(f), subtree_limit(f)))
			r = pass_subtree(f);
		else
			r = open_subtree(f);
		if (r < 0)
			return r;
	}
}

// The old item of that key, if there is one, is left out.
static int leave_out(struct fold *f, struct item_key key)
{
	for (;;) {
		int r = settle(f);
		if (r < 0 || old_end(f) || !item_key_equal(old_key(f), key))
			return r;
		if (f->at == 0) {
			f->old[0].next++;
			return 0;
		}
		r = open_subtree(f);
		if (r < 0)
			return r;
	}
}

// Old extents give way to pages [page, end): what they have there is buried.
static int give_way(struct fold *f, object_t object, page_t page, page_t end)
{
	for (;;) {
		struct old_extent *e = &f->old_extent;
		if (e->alive != 0) {
			int r = bury(f, page_mask(e, page, end));
			if (r < 0 || e->alive != 0)
				return r;
		}
		int r = settle(f);
		if (r < 0 || old_end(f) || item_key_compare(old_key(f), extent_key(object, end)) >= 0)
			return r;
		r = f->at == 0 ? take_old_item(f) : open_subtree(f);
		if (r < 0)
			return r;
	}
}

// ---- the caller's side ----------------------------------------------------------------------

// Keys ascend; `last` is the last key that the operation covers.
static int begin(struct fold *f, struct item_key key, struct item_key last)
{
	if (f->error < 0)
		return f->error;
	if ((f->any_key && item_key_compare(key, f->last_key) <= 0) || item_key_equal(last, ITEM_KEY_MAX))
		return -EINVAL;
	f->any_key = true;
	f->last_key = last;
	return 0;
}

static int end(struct fold *f, int r)
{
	if (r < 0 && f->error == 0)
		f->error = r;
	return f->error;
}

int fold_put(struct fold *f, struct item_key key, const void *value, size_t bytes)
{
	int r = bytes > ITEM_VALUE_MAX || item_key_type(key) == ITEM_EXTENT ? -EINVAL : begin(f, key, key);
	if (r == 0)
		r = stream(f, key);
	if (r == 0)
		r = leave_out(f, key);
	if (r == 0)
		r = out_item(f, key, value, bytes);
	return end(f, r);
}

int fold_delete(struct fold *f, struct item_key key)
{
	int r = item_key_type(key) == ITEM_EXTENT ? -EINVAL : begin(f, key, key);
	if (r == 0)
		r = stream(f, key);
	if (r == 0)
		r = leave_out(f, key);
	return end(f, r);
}

int fold_extent(struct fold *f, object_t object, page_t page, unsigned count, block_t block, const uint64_t *sums,
		unsigned flags)
{
	struct item_key key = extent_key(object, page);
	int r = -EINVAL;
	if (count > 0 && count <= EXTENT_PAGES_MAX && page <= PAGE_MAX + 1 - count && (flags != 0 || block != 0) &&
	    flags <= EXTENT_POISONED)
		r = begin(f, key, extent_key(object, page + count - 1));
	if (r == 0)
		r = stream(f, key);
	if (r == 0)
		r = give_way(f, object, page, page + count);
	if (r == 0)
		r = put_extent(f, object, page, count, block, f->config.cut, sums, flags);
	return end(f, r);
}

// An old inner node of one child is no root: the tree gets lower.
static int lower_root(struct fold *f, struct tree_root *root)
{
	while (root->level > 0 && root->ref.birth != f->config.birth) {
		const struct node_disk *n;
		int r = fetch_old(f, root->ref, root->level, NULL, ITEM_KEY_MAX, &n);
		if (r == 0 && node_count(n) > 1)
			return 0;
		struct node_ref child = r == 0 ? node_child(n, 0) : root->ref;
		if (r == 0)
			r = space_release(f->config.space, root->ref.block, 1);
		if (r < 0)
			return r;
		root->ref = child;
		root->level--;
	}
	return 0;
}

static unsigned top_level(const struct fold *f)
{
	unsigned top = LEVELS_MAX - 1;
	while (top > 0 && f->builder[top].count == 0)
		top--;
	return top;
}

static int finish_spine(struct fold *f, struct tree_root *ret_root)
{
	unsigned level = 0;
	int r = 0;
	for (; r == 0 && (level < top_level(f) || f->builder[level].used > NODE_BODY_BYTES); level++)
		r = flush(f, level);
	struct builder *b = &f->builder[level];
	*ret_root = (struct tree_root){ 0 };
	if (r < 0 || b->count == 0)
		return r;
	if (level == 0 || b->count > 1) {
		r = build_node(f, level, NULL, b->count);
		b = &f->builder[++level];
	}
	if (r < 0)
		return r;
	*ret_root = (struct tree_root){ b->entry[0].ref, level - 1 };
	return lower_root(f, ret_root);
}

// The run being filled: what was not used goes back.
static void end_run(struct fold *f)
{
	struct node_run *run = f->run;
	if (run == NULL)
		return;
	if (run->used < run->room)
		space_untake(f->config.space, run->block + run->used, run->room - run->used);
	run_submit(f);
}

int fold_finish(struct fold *f, struct tree_root *ret_root)
{
	struct tree_root root = f->config.old;
	int r = f->error;
	if (r == 0 && (f->opened || f->drops > 0)) {
		r = stream(f, ITEM_KEY_MAX);
		if (r == 0)
			r = finish_spine(f, &root);
	}
	if (r == 0) {
		end_run(f);
		*ret_root = root;
	}
	return end(f, r);
}

void fold_failed_blocks(const struct fold *f, block_t *ret_block, unsigned *ret_count)
{
	*ret_block = f->failed_block;
	*ret_count = f->write_error ? f->failed_count : 0;
}

int fold_written(const struct fold *f)
{
	return f->in_flight > 0 ? -EINPROGRESS : f->write_error;
}

uint64_t fold_nodes_written(const struct fold *f)
{
	return f->nodes_written;
}

int fold_new(const struct fold_config *config, struct fold **ret_fold)
{
	if (config->old.ref.block != 0 && config->old.level + 1 >= LEVELS_MAX)
		return -EUCLEAN;
	struct fold *f = calloc(1, sizeof *f);
	if (f == NULL)
		return -ENOMEM;
	f->config = *config;
	int r = prepare_drops(f);
	if (r < 0) {
		fold_free(f);
		return r;
	}
	*ret_fold = f;
	return 0;
}

void fold_free(struct fold *f)
{
	if (f == NULL)
		return;
	run_free(f->run);
	free(f->drop);
	free(f->active);
	free(f);
}
