// SPDX-License-Identifier: GPL-2.0-or-later
// Reading items and pages. A lookup asks the overlay first and loads the root after; a page asks the
// index, then the DROPs, then the root loaded after both: so that what was folded or evicted in
// between is met on its new side.
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"
#include "walk.h"

// ---- nodes ----------------------------------------------------------------------------------------

// Not while it leaves: its state belongs to whoever takes it out.
static void frame_validated(struct frame *f)
{
	uint16_t state = frame_state(f);
	while (frame_place(state) == FRAME_INDEXED && !(state & FRAME_VALIDATED) &&
	       !atomic_compare_exchange_weak(&f->state, &state, (uint16_t)(state | FRAME_VALIDATED)))
		;
}

// A copy is only ever a copy: if it does not match what the parent says, it is a miss. Asked once per
// mount and frame; the tier is trusted to keep what it has, as for pages.
static bool node_frame_good(struct store *s, frame_t f, struct node_ref ref, unsigned level)
{
	struct frame *fr = &s->tier->frame[f];
	const struct node_disk *n = tier_frame_data(s->tier, f);
	uint16_t state = frame_state(fr);
	if (state & FRAME_POISONED)
		return false;
	if (state & FRAME_VALIDATED)
		return n->level == level;
	if (node_sum(n, s->seed) != ref.sum || !node_valid(n, (int)level, ref.block, ref.birth))
		return false;
	frame_validated(fr);
	return true;
}

int op_fetch_node(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node)
{
	struct fetch_context *context = arg;
	struct op *op = context->op;
	struct tier *t = op->store->tier;
	struct fetched what = { .block = ref.block, .birth = ref.birth, .sum = ref.sum, .object = OBJECT_STORE,
				.page = ref.block, .level = (int)level };
	frame_t f = index_look(t, OBJECT_STORE, ref.block, &what.bucket, &what.version);

	if (f != FRAME_NONE && t->frame[f].lsn == ref.birth && node_frame_good(op->store, f, ref, level)) {
		hit_frame(op->store, f);
		count_add(op->lane, COUNT_NODE_HITS, 1);
		*ret_node = tier_frame_data(t, f);
		return 0;
	}
	return context->cached ? -EAGAIN : op_fetch(op, context->root, &what, (const uint8_t **)ret_node);
}

// ---- items ----------------------------------------------------------------------------------------

// Ids are LSNs: an object born after the cut is not in the tree at all.
static bool tree_may_have(const struct root *root, object_t object)
{
	return root->tree.ref.block != 0 && (object < OBJECT_FIRST || object <= root->cut);
}

// A repair leaves out what cannot be read: to it, it is not there.
static bool left_out(const struct op *op, int r)
{
	return op->store->config.repair && (r == -EUCLEAN || r == -EIO);
}

int op_get(struct op *op, struct item_key key, void *value, size_t cap)
{
	struct store *s = op->store;
	const struct item *i = overlay_find(&s->overlay, key, LSN_MAX);
	struct node_item found;
	lsn_t dropped;

	if (drops_whole(&s->drops, key.object, &dropped))
		return -ENOENT;
	if (i) {
		if (i->deleted)
			return -ENOENT;
		memcpy(value, i->value, i->bytes < cap ? i->bytes : cap);
		return i->bytes;
	}
	const struct root *root = store_root(s);
	if (!tree_may_have(root, key.object))
		return -ENOENT;
	struct fetch_context context = { .op = op, .root = root };
	int r = tree_get(&root->tree, key, op_fetch_node, &context, &found);
	if (r)
		return left_out(op, r) ? -ENOENT : r;
	memcpy(value, found.value, found.bytes < cap ? found.bytes : cap);
	return (int)found.bytes;
}

// The tree's part of a scan.
struct tree_scan {
	struct fetch_context context;
	const struct node_disk *leaf;
	unsigned at, count;
	struct item_key next; // of the leaf behind; ITEM_KEY_MAX: there is none
};

// The first item in [from, last]; ITEM_KEY_MAX: none.
static int tree_scan_first(struct tree_scan *t, struct item_key from, struct item_key last, struct node_item *ret_item)
{
	struct op *op = t->context.op;

	while (t->at == t->count && item_key_compare(t->next, last) <= 0) {
		int r = tree_leaf(&t->context.root->tree, t->next, op_fetch_node, &t->context, &t->leaf, &t->next);
		if (r && !left_out(op, r))
			return r;
		t->at = t->leaf && !r ? node_lower_bound(t->leaf, from) : 0;
		t->count = t->leaf && !r ? node_count(t->leaf) : 0;
	}
	if (t->at == t->count || item_key_compare(node_key(t->leaf, t->at), last) > 0)
		ret_item->key = ITEM_KEY_MAX;
	else
		*ret_item = node_item(t->leaf, t->at);
	return 0;
}

int op_scan(struct op *op, struct item_key from, struct item_key last, op_scan_fn fn, void *arg)
{
	struct store *s = op->store;
	lsn_t dropped;
	int r;

	if (drops_whole(&s->drops, from.object, &dropped))
		return 0;
	const struct item *o = overlay_first(&s->overlay, from, last);
	const struct root *root = store_root(s); // after the overlay
	struct tree_scan tree = { .context = { .op = op, .root = root }, .next = tree_may_have(root, from.object) ? from : ITEM_KEY_MAX };
	for (;;) {
		struct node_item t;
		r = tree_scan_first(&tree, from, last, &t);
		if (r)
			return r;
		if (!o && item_key_equal(t.key, ITEM_KEY_MAX))
			return 0;
		int order = o ? item_key_compare(t.key, o->key) : -1;
		if (order < 0)
			r = fn(arg, t.key, t.value, t.bytes);
		else if (!o->deleted)
			r = fn(arg, o->key, o->value, o->bytes);
		if (r)
			return r;
		if (order <= 0)
			tree.at++;
		if (order >= 0)
			o = overlay_after(&s->overlay, o, last);
	}
}

// ---- pages ----------------------------------------------------------------------------------------

// Clean: the backing has it.
static int view_poisoned(struct op *op, frame_t f, uint16_t state)
{
	if (state & FRAME_DIRTY)
		return -EIO;
	evict_frame(op->store, f);
	return op_conflict(op);
}

// A page in the tier: dead by a DROP, poisoned, or its data.
static int view_frame(struct op *op, object_t object, page_t page, bool verify, struct page_view *v)
{
	struct store *s = op->store;
	struct frame *f = &s->tier->frame[v->frame];
	uint16_t state = frame_state(f);

	if (f->lsn < v->drop)
		return 0;
	if (state & FRAME_POISONED)
		return view_poisoned(op, v->frame, state);
	v->data = tier_frame_data(s->tier, v->frame);
	hit_frame(s, v->frame);
	// What an earlier mount left is looked at once: a warm start believes nothing.
	if (!verify && state & FRAME_VALIDATED)
		return 0;
	uint64_t found = checksum_page(s->seed, object, page, v->data);
	if (found == f->sum) {
		frame_validated(f);
		return 0;
	}
	if (op_is_poisoned(op))
		return op_conflict(op); // said there
	if (state & FRAME_DIRTY)
		frame_damaged(s, v->frame, found);
	return view_poisoned(op, v->frame, state);
}

// An extent as it was found, copied out of its node.
struct extent_view {
	page_t first;
	uint64_t pages, block, birth;
	uint32_t flags;
	const uint64_t *sum;
};

static int extent_parse(struct store *s, const struct node_item *item, struct extent_view *ret)
{
	if (!extent_valid(item, s->backing->blocks)) {
		log_error("%s: extent of object %llu at page %llu is malformed", s->backing->path,
			  (unsigned long long)item->key.object, (unsigned long long)item_key_rest(item->key));
		return -EUCLEAN;
	}
	const struct extent_disk *e = item->value;
	*ret = (struct extent_view){ item_key_rest(item->key), e->pages, e->block, e->birth, e->flags, e->sum };
	return 0;
}

// The extent that has `page`, or the first behind it up to last; pages 0: none.
static int extent_find_in(struct fetch_context *context, object_t object, page_t page, page_t last, struct extent_view *ret)
{
	const struct tree_root *tree = &context->root->tree;
	struct node_item item;
	page_t floor = page < EXTENT_PAGES_MAX ? 0 : page - EXTENT_PAGES_MAX + 1;

	int r = tree_floor(tree, item_key(object, ITEM_EXTENT, page), item_key(object, ITEM_EXTENT, floor), op_fetch_node,
			   context, &item);
	if (r == 0) {
		r = extent_parse(context->op->store, &item, ret);
		if (r || page < ret->first + ret->pages)
			return r;
	} else if (r != -ENOENT) {
		return r;
	}
	ret->pages = 0;
	if (page >= last)
		return 0;
	r = tree_next(tree, item_key(object, ITEM_EXTENT, page), item_key(object, ITEM_EXTENT, last), op_fetch_node, context,
		      &item);
	if (r == -ENOENT)
		return 0;
	return r ? r : extent_parse(context->op->store, &item, ret);
}

static int extent_find(struct op *op, const struct root *root, object_t object, page_t page, page_t last, struct extent_view *ret)
{
	struct fetch_context context = { .op = op, .root = root };
	return extent_find_in(&context, object, page, last, ret);
}

static int view_block(struct op *op, const struct root *root, object_t object, page_t page, const struct extent_view *e,
		      struct page_view *v)
{
	if (e->birth < v->drop || e->flags & EXTENT_UNWRITTEN)
		return 0;
	if (e->flags & EXTENT_POISONED)
		return -EIO;
	struct fetched what = { .block = e->block + (page - e->first), .birth = e->birth, .sum = e->sum[page - e->first],
				.object = object, .page = page, .level = -1, .bucket = v->bucket, .version = v->version };
	return op_fetch(op, root, &what, (const uint8_t **)&v->data);
}

// Pages that are not in the tier, from the tree; asks for all that have to be read at once.
static int view_missing(struct op *op, object_t object, page_t first, unsigned count, struct page_view *views)
{
	const struct root *root = store_root(op->store); // after index and DROPs were asked
	struct extent_view e = { 0 };
	bool known = false;
	int parked = 0;

	if (!tree_may_have(root, object))
		return 0;
	for (unsigned i = 0; i < count; i++) {
		page_t page = first + i;
		if (views[i].frame != FRAME_NONE)
			continue;
		if (!known || (e.pages && page >= e.first + e.pages)) {
			int r = extent_find(op, root, object, page, first + count - 1, &e);
			if (r == -ERESTART && parked)
				return parked;
			if (r)
				return r;
			known = true;
		}
		if (e.pages == 0)
			break; // nothing up to the last page
		if (page < e.first)
			continue;
		int r = view_block(op, root, object, page, &e, &views[i]);
		if (r == -ERESTART)
			parked = r;
		else if (r)
			return r;
	}
	return parked;
}

int op_read(struct op *op, object_t object, page_t first, unsigned count, bool verify, struct page_view *ret_views)
{
	struct store *s = op->store;
	unsigned hits = 0;
	bool missing = false;

	for (unsigned i = 1; i < count; i++) // the first is looked at right away
		index_ahead(s->tier, object, first + i);
	for (unsigned i = 0; i < count; i++) {
		struct page_view *v = &ret_views[i];
		struct bucket *bucket;
		v->frame = index_look(s->tier, object, first + i, &bucket, &v->version);
		v->bucket = bucket;
		v->data = NULL;
		missing |= v->frame == FRAME_NONE;
	}
	for (unsigned i = 0; i < count; i++) {
		struct page_view *v = &ret_views[i];
		v->drop = drops_newest(&s->drops, object, first + i, LSN_MAX);
		if (v->frame == FRAME_NONE)
			continue;
		int r = view_frame(op, object, first + i, verify, v);
		if (r)
			return r;
		hits++;
	}
	if (missing) {
		int r = view_missing(op, object, first, count, ret_views);
		if (r)
			return r;
		unsigned holes = 0;
		for (unsigned i = 0; i < count; i++)
			holes += !ret_views[i].data && ret_views[i].frame == FRAME_NONE;
		count_add(op->lane, COUNT_READ_HOLES, holes);
	}
	count_add(op->lane, COUNT_READ_HITS, hits);
	return 0;
}

// Is the page there, without reading it? 1, 0 or an error.
static int page_present(struct op *op, object_t object, page_t page, bool cached)
{
	struct store *s = op->store;
	struct bucket *bucket;
	uint32_t version;
	struct extent_view e = { 0 };
	frame_t f = index_look(s->tier, object, page, &bucket, &version);
	lsn_t drop = drops_newest(&s->drops, object, page, LSN_MAX);
	struct fetch_context context = { .op = op, .root = store_root(s), .cached = cached };

	if (f != FRAME_NONE)
		return s->tier->frame[f].lsn >= drop;
	if (!tree_may_have(context.root, object))
		return 0;
	int r = extent_find_in(&context, object, page, page, &e);
	if (r)
		return r;
	return e.pages && e.birth >= drop && !(e.flags & EXTENT_UNWRITTEN);
}

int op_page_known(struct op *op, object_t object, page_t page)
{
	int r = page_present(op, object, page, true);
	return r < 0 ? -EAGAIN : r;
}

// The first page of the object in [from, limit) that the tier holds. The index has no order: this
// looks at every frame, once per call.
static page_t tier_next_page(struct store *s, object_t object, page_t from, page_t limit)
{
	for (frame_t f = 0; f < s->tier->frames; f++) {
		const struct frame *fr = &s->tier->frame[f];
		// The place first: what was in the index once is not reused before this reader leaves.
		if (frame_place(frame_state(fr)) != FRAME_INDEXED || fr->object != object || fr->page < from || fr->page >= limit)
			continue;
		if (fr->lsn >= drops_newest(&s->drops, object, fr->page, LSN_MAX))
			limit = fr->page;
	}
	return limit;
}

// The first page in [from, limit) of a live extent.
static int tree_next_page(struct op *op, object_t object, page_t from, page_t limit, page_t *ret_page)
{
	const struct root *root = store_root(op->store);
	struct extent_view e;

	*ret_page = limit;
	if (!tree_may_have(root, object))
		return 0;
	while (from < limit) {
		int r = extent_find(op, root, object, from, limit - 1, &e);
		if (r || e.pages == 0)
			return r;
		page_t page = from > e.first ? from : e.first;
		for (; page < e.first + e.pages && page < limit; page++)
			if (!(e.flags & EXTENT_UNWRITTEN) && e.birth >= drops_newest(&op->store->drops, object, page, LSN_MAX)) {
				*ret_page = page;
				return 0;
			}
		from = page;
	}
	return 0;
}

int op_seek(struct op *op, object_t object, page_t from, page_t limit, bool data, page_t *ret_page)
{
	if (data) {
		page_t page = tier_next_page(op->store, object, from, limit);
		return tree_next_page(op, object, from, page, ret_page);
	}
	for (; from < limit; from++) {
		int r = page_present(op, object, from, false);
		if (r < 0)
			return r;
		if (r == 0)
			break;
	}
	*ret_page = from;
	return 0;
}

// ---- counting -------------------------------------------------------------------------------------

#define COUNT_EXTENTS 2048u // looked at by one call

// Live pages of extents in [from, limit); *ret_next is where it stopped for having seen enough, or limit.
static int count_tree(struct op *op, const struct root *root, object_t object, page_t from, page_t limit,
		      uint64_t *ret_pages, page_t *ret_next)
{
	uint64_t pages = 0;
	struct extent_view e;

	for (unsigned seen = 0; from < limit && seen < COUNT_EXTENTS && tree_may_have(root, object); seen++) {
		int r = extent_find(op, root, object, from, limit - 1, &e);
		if (r)
			return r;
		if (e.pages == 0)
			from = limit;
		for (page_t page = from > e.first ? from : e.first; from < limit && page < e.first + e.pages && page < limit; page++)
			pages += !(e.flags & EXTENT_UNWRITTEN) &&
				 e.birth >= drops_newest(&op->store->drops, object, page, LSN_MAX);
		if (from < limit)
			from = e.first + e.pages < limit ? e.first + e.pages : limit;
	}
	*ret_pages = pages;
	*ret_next = tree_may_have(root, object) ? from : limit;
	return 0;
}

// Live pages of the tier in [from, limit) that no live extent has.
static int count_tier(struct op *op, const struct root *root, object_t object, page_t from, page_t limit, uint64_t *pages)
{
	struct store *s = op->store;

	for (frame_t f = 0; f < s->tier->frames; f++) {
		const struct frame *fr = &s->tier->frame[f];
		struct extent_view e = { 0 };
		if (frame_place(frame_state(fr)) != FRAME_INDEXED || fr->object != object || fr->page < from || fr->page >= limit)
			continue;
		lsn_t drop = drops_newest(&s->drops, object, fr->page, LSN_MAX);
		if (fr->lsn < drop)
			continue;
		int r = tree_may_have(root, object) ? extent_find(op, root, object, fr->page, fr->page, &e) : 0;
		if (r)
			return r;
		*pages += !e.pages || e.flags & EXTENT_UNWRITTEN || e.birth < drop;
	}
	return 0;
}

// What an epoch writes in between may leave the tier before it is looked for there: then once more.
int op_count(struct op *op, object_t object, page_t from, uint64_t *ret_pages, page_t *ret_next)
{
	const struct root *root = store_root(op->store);
	int r = count_tree(op, root, object, from, PAGE_MAX + 1, ret_pages, ret_next);

	if (!r)
		r = count_tier(op, root, object, from, *ret_next, ret_pages);
	return !r && store_root(op->store) != root ? op_conflict(op) : r;
}
