// SPDX-License-Identifier: GPL-2.0-or-later
// One pass over the tree in key order, merged with the overlay and the frames of the tier: whatever the
// store holds passes once, and is compared, marked as used, read, and handed to the visitor.
//
//	inner node -> children read in batches -> checked against what the parent says -> leaf -> items
//	    item: the overlay's version of the key, if there is one, goes to the visitor instead
//	    extent: its blocks are marked; clean frames of its pages compared; its data read in the
//	            background, checked when it comes, and given to the visitor if it is still current
//
// A node that cannot be had, or is not what its parent says, is reported and passed over with all that is
// below it. Levels fall with every step down, so damage of whatever kind cannot make the walk run on.
// What passes does so in strictly ascending order of keys, so that a repair can write it down (rebuild.c):
// then it goes to the sink, with the blocks and frames that have it, and not to the visitor.
#include "check_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "walk.h"

#define LEVELS_MAX 16u
#define BATCH 32u // nodes read at a time
#define RUNS 32u  // extents read at a time

struct sweep;

struct data_run { // an extent being read
	struct io io;
	struct iovec iov;
	struct sweep *sweep;
	struct data_run *next; // spare, or done
	object_t object;
	page_t first;
	block_t block;
	unsigned pages;
	uint64_t live; // bit per page: current
	uint64_t tag;
	uint64_t sum[EXTENT_PAGES_MAX];
	uint8_t *data;
};

struct sweep {
	struct check *check;
	struct store *s;
	const struct check_config *config;
	const struct check_visitor *visitor; // never NULL
	const struct check_sink *sink;       // instead of the visitor; may be NULL
	bool verify;
	struct ioq *nodes, *data;
	uint8_t *level[LEVELS_MAX]; // a batch of nodes each
	object_t extent_object; // of the last extent that passed, and the page behind it
	page_t extent_end;
	const struct item **item; // of the overlay, by key
	size_t items, next_item;
	frame_t *frame; // indexed ones of pages, by key
	size_t frames, next_frame;
	size_t next_poisoned; // of what was mended so
	page_t poisoned_page; // of it, to be next; 0: its first
	struct check_finding pages_lost; // a run of them, not reported yet; found 0: none
	struct data_run run[RUNS], *spare, *done;
};

static void report(struct sweep *w, const struct check_finding *finding)
{
	if (w->verify)
		check_report(w->config, w->check->result, finding);
}

// ---- blocks ---------------------------------------------------------------------------------------

bool check_block_usable(const struct check *c, block_t block)
{
	const struct space_layout *l = &c->used.layout;
	uint64_t blank[SPACE_GROUP_BLOCKS / 64];
	if (block >= l->blocks || block / SPACE_GROUP_BLOCKS >= l->groups)
		return false;
	// Only the first few and the last block of a group can be fixed.
	if (block % SPACE_GROUP_BLOCKS >= 64 && block + 1 != l->blocks)
		return true;
	space_blank_bitmap(l, block / SPACE_GROUP_BLOCKS, blank);
	return !(blank[block % SPACE_GROUP_BLOCKS / 64] >> block % 64 & 1);
}

// 0, or 1 if a block is not for this use (reported), or -ENOMEM.
static int mark(struct sweep *w, block_t block, unsigned count, object_t object)
{
	struct check_finding f = { .object = object, .place = PLACE_BLOCK };
	int result = 0;

	for (unsigned i = 0; i < count; i++) {
		bool range = check_block_usable(w->check, block + i);
		int r = range ? used_mark(&w->check->used, block + i) : 1;
		if (r > 0 && range)
			r = used_mark(&w->check->twice, block + i) < 0 ? -ENOMEM : 1;
		if (r < 0)
			return r;
		enum check_kind kind = range ? CHECK_BLOCK_TWICE : CHECK_BLOCK_RANGE;
		if (f.found && (!r || kind != f.kind)) {
			report(w, &f);
			f.found = 0;
		}
		if (!r)
			continue;
		if (!f.found) {
			f.kind = kind;
			f.at = block + i;
		}
		f.found++;
		result = 1;
	}
	if (f.found)
		report(w, &f);
	return result;
}

// ---- data -----------------------------------------------------------------------------------------

static void run_done(struct io *io)
{
	struct data_run *run = io->arg;
	run->next = run->sweep->done;
	run->sweep->done = run;
}

// Of a page that is damaged on the backing; a repair writes it anew, like one that has never been there.
static const uint8_t *take_copy(struct sweep *w, const struct data_run *run, unsigned i)
{
	frame_t f = frame_copy_of(w->s, run->object, run->first + i, run->sum[i]);
	if (f == FRAME_NONE)
		return NULL;
	if (w->s->config.repair)
		frame_set_dirty(w->s->tier, f);
	return tier_frame_data(w->s->tier, f);
}

// As it is mended so far: what is noted once need not be noted again.
static int emit_content(struct sweep *w, object_t object, page_t page, const void *data, uint64_t tag)
{
	uint8_t mended[PAGE_BYTES];
	unsigned bytes = mended_bytes(w->s, object, page);

	if (!w->visitor->content)
		return 0;
	if (bytes < PAGE_BYTES) {
		memset(mempcpy(mended, data, bytes), 0, PAGE_BYTES - bytes);
		data = mended;
	}
	return w->visitor->content(w->config->visitor_arg, object, page, data, tag);
}

static int check_page(struct sweep *w, const struct data_run *run, unsigned i, int error)
{
	struct check_finding f = { .kind = CHECK_DATA_UNREADABLE, .object = run->object, .place = PLACE_PAGE,
				   .at = run->first + i, .expected = run->block + i, .found = (uint64_t)-error };
	const uint8_t *data = run->data + (size_t)i * PAGE_BYTES;
	bool live = run->live >> i & 1;

	w->check->result->pages_read++;
	if (!error) {
		f.kind = CHECK_DATA_CONTENT;
		f.expected = run->sum[i];
		f.found = checksum_page(w->s->seed, run->object, run->first + i, data);
	}
	if (error || f.found != f.expected) {
		data = live ? take_copy(w, run, i) : NULL;
		f.copied = data;
		f.warning = !live; // the tier has a newer version, or a DROP
		report(w, &f);
	}
	return live && data ? emit_content(w, run->object, run->first + i, data, run->tag) : 0;
}

static int check_run(struct sweep *w, struct data_run *run)
{
	int r = 0;
	for (unsigned i = 0; !r && i < run->pages; i++) {
		int error = run->io.result;
		if (error) // which of them?
			error = ioq_read(w->nodes, run->block + i, run->data + (size_t)i * PAGE_BYTES, 1);
		r = check_page(w, run, i, error);
	}
	check_progress(w->check, "tree and data", run->pages);
	return r;
}

static int reap(struct sweep *w)
{
	int r = 0;
	while (w->done) {
		struct data_run *run = w->done;
		w->done = run->next;
		if (!r)
			r = check_run(w, run);
		run->next = w->spare;
		w->spare = run;
	}
	return r;
}

static int read_extent(struct sweep *w, object_t object, page_t first, const struct extent_disk *e, uint64_t live,
		       uint64_t tag)
{
	int r = 0;
	while (!r && !w->spare) {
		ioq_wait_some(w->data);
		r = reap(w);
	}
	if (r)
		return r;
	struct data_run *run = w->spare;
	w->spare = run->next;
	if (!run->data && !(run->data = aligned_alloc(PAGE_BYTES, (size_t)EXTENT_PAGES_MAX * PAGE_BYTES)))
		return -ENOMEM;
	run->sweep = w;
	run->object = object;
	run->first = first;
	run->block = e->block;
	run->pages = e->pages;
	run->live = live;
	run->tag = tag;
	memcpy(run->sum, e->sum, e->pages * sizeof e->sum[0]);
	run->iov = (struct iovec){ run->data, (size_t)e->pages * PAGE_BYTES };
	run->io = (struct io){ .kind = 'r', .block = e->block, .iov = &run->iov, .iovcnt = 1, .done = run_done, .arg = run };
	ioq_submit(w->data, &run->io);
	return 0;
}

// ---- what the tier adds ------------------------------------------------------------------------------

static bool object_dropped(const struct sweep *w, object_t object)
{
	lsn_t lsn;
	return drops_whole(&w->s->drops, object, &lsn);
}

static bool type_known(struct item_key key)
{
	enum item_type type = item_key_type(key);
	if (key.object == OBJECT_STORE)
		return type == ITEM_ORPHAN || type == ITEM_BAD;
	return (key.object == OBJECT_ROOT || key.object >= OBJECT_FIRST) && type <= ITEM_EXTENT;
}

// May there be such an item, of an object born up to `newest`? Nobody would look for any other.
static bool key_good(struct sweep *w, struct item_key key, lsn_t newest)
{
	struct check_finding f = { .kind = CHECK_ITEM_UNKNOWN, .object = key.object, .place = PLACE_KEY, .at = key.sub,
				   .found = item_key_type(key) };
	if (type_known(key)) {
		if (key.object <= newest)
			return true;
		f.kind = CHECK_ITEM_FUTURE;
		f.expected = newest;
		f.found = key.object;
	}
	report(w, &f);
	return false;
}

static int emit_item(struct sweep *w, struct item_key key, const void *value, size_t bytes)
{
	if (object_dropped(w, key.object))
		return 0;
	if (w->verify)
		w->check->result->items++;
	if (w->sink)
		return w->sink->item(w->sink->arg, key, value, bytes);
	return w->visitor->item ? w->visitor->item(w->config->visitor_arg, key, value, bytes) : 0;
}

static int emit_pages(struct sweep *w, object_t object, page_t first, unsigned count, uint64_t *ret_tag)
{
	return w->visitor->pages ? w->visitor->pages(w->config->visitor_arg, object, first, count, ret_tag) : 0;
}

// Pages [at, at + count) of an extent.
static int emit_extent(struct sweep *w, object_t object, page_t first, const struct extent_disk *e, unsigned at,
		       unsigned count, uint64_t *ret_tag)
{
	if (w->sink)
		return w->sink->extent(w->sink->arg, object, first, e, at, count);
	return e->flags == EXTENT_UNWRITTEN ? 0 : emit_pages(w, object, first + at, count, ret_tag);
}

// A clean copy of what cannot be read any more is all that there is of it.
static bool is_only_copy(const struct sweep *w, frame_t f)
{
	const struct frame *fr = &w->s->tier->frame[f];
	return lost_has(w->s, fr->object, fr->page) && frame_is_good(w->s, f);
}

// A frame of a page; sum: of its block in the tree, NULL: there is none.
static int emit_frame(struct sweep *w, frame_t f, const uint64_t *sum)
{
	const struct frame *fr = &w->s->tier->frame[f];
	uint16_t state = frame_state(fr);
	uint64_t tag = 0;

	if (fr->lsn < drops_newest(&w->s->drops, fr->object, fr->page, LSN_MAX))
		return 0;
	if (state & FRAME_DIRTY || (!sum && is_only_copy(w, f))) {
		if (!key_good(w, item_key(fr->object, ITEM_EXTENT, fr->page), atomic_load(&w->s->lsn)))
			return 0;
		if (w->sink)
			return w->sink->frame(w->sink->arg, f);
		int r = emit_pages(w, fr->object, fr->page, 1, &tag);
		return r || state & FRAME_POISONED ? r : emit_content(w, fr->object, fr->page, tier_frame_data(w->s->tier, f), tag);
	}
	if (sum ? *sum == fr->sum : w->check->result->nodes_lost)
		return 0;
	report(w, &(struct check_finding){ .kind = sum ? CHECK_FRAME_STALE : CHECK_FRAME_NOTHING, .object = fr->object,
					   .page = fr->page, .place = PLACE_FRAME, .at = f, .expected = sum ? *sum : fr->page, .found = fr->sum });
	return 0;
}

static struct item_key frame_key(const struct sweep *w, size_t i)
{
	const struct frame *fr = &w->s->tier->frame[w->frame[i]];
	return item_key(fr->object, ITEM_EXTENT, fr->page);
}

static int emit_overlay(struct sweep *w, const struct item *i)
{
	if (i->deleted || !key_good(w, i->key, atomic_load(&w->s->lsn)))
		return 0;
	return emit_item(w, i->key, i->value, i->bytes);
}

static struct item_key poisoned_key(const struct sweep *w)
{
	const struct poisoned *p = &w->s->poisoned.range[w->next_poisoned];
	return item_key(p->object, ITEM_EXTENT, w->poisoned_page ? w->poisoned_page : p->from);
}

static int emit_poisoned(struct sweep *w);

// All that the tier and mends have below that key.
static int emit_below(struct sweep *w, struct item_key key)
{
	int r = 0;
	while (!r) {
		struct item_key item = w->next_item < w->items ? w->item[w->next_item]->key : ITEM_KEY_MAX;
		struct item_key frame = w->next_frame < w->frames ? frame_key(w, w->next_frame) : ITEM_KEY_MAX;
		struct item_key poisoned = w->next_poisoned < w->s->poisoned.count ? poisoned_key(w) : ITEM_KEY_MAX;
		struct item_key least = item_key_compare(frame, poisoned) < 0 ? frame : poisoned;

		least = item_key_compare(item, least) < 0 ? item : least;
		if (item_key_compare(least, key) >= 0)
			break;
		if (item_key_equal(least, item))
			r = emit_overlay(w, w->item[w->next_item++]);
		else if (item_key_equal(least, poisoned))
			r = emit_poisoned(w);
		else
			r = emit_frame(w, w->frame[w->next_frame++], NULL);
	}
	return r;
}

// ---- items of the tree ---------------------------------------------------------------------------------

// Of an extent's pages those that neither a DROP has killed nor the extent before has already.
static uint64_t live_pages(const struct sweep *w, object_t object, page_t first, const struct extent_disk *e)
{
	page_t begin = object == w->extent_object && w->extent_end > first ? w->extent_end - first : 0;
	uint64_t live = 0;
	for (page_t i = begin; i < e->pages; i++)
		if (e->birth >= drops_newest(&w->s->drops, object, first + i, LSN_MAX))
			live |= UINT64_C(1) << i;
	return live;
}

// Frames of the extent's pages: a dirty one replaces the page, a clean one must be the same.
static int pass_frames(struct sweep *w, object_t object, page_t first, const struct extent_disk *e, uint64_t *live,
		       frame_t *ret_dirty)
{
	int r = 0;
	for (unsigned i = 0; i < e->pages; i++)
		ret_dirty[i] = FRAME_NONE;
	while (!r && w->next_frame < w->frames) {
		frame_t f = w->frame[w->next_frame];
		const struct frame *fr = &w->s->tier->frame[f];
		if (fr->object != object || fr->page >= first + e->pages)
			break;
		w->next_frame++;
		unsigned i = (unsigned)(fr->page - first);
		if (frame_state(fr) & FRAME_DIRTY) {
			*live &= ~(UINT64_C(1) << i);
			ret_dirty[i] = f;
		} else if (e->flags != EXTENT_POISONED) {
			r = emit_frame(w, f, e->flags == 0 ? &e->sum[i] : NULL);
		}
	}
	return r;
}

static void pages_lost_end(struct sweep *w)
{
	if (w->pages_lost.found)
		report(w, &w->pages_lost);
	w->pages_lost.found = 0;
}

static void pages_lost_add(struct sweep *w, object_t object, page_t first, unsigned pages)
{
	struct check_finding *f = &w->pages_lost;
	if (f->object != object || f->at + f->found != first)
		pages_lost_end(w);
	if (!f->found)
		*f = (struct check_finding){ .kind = CHECK_PAGE_LOST, .object = object, .place = PLACE_PAGE, .at = first };
	f->found += pages;
}

// Of an extent that cannot be believed: what it may have had.
static int lose_extent(struct sweep *w, struct item_key key)
{
	if (!w->verify)
		return 0;
	return lost_add(w->s, key, item_key(key.object, ITEM_EXTENT, item_key_rest(key) + EXTENT_PAGES_MAX));
}

static int check_extent(struct sweep *w, const struct node_disk *leaf, object_t object, page_t first,
			 const struct extent_disk *e)
{
	struct check_finding f = { .object = object, .place = PLACE_PAGE, .at = first };
	lsn_t cut = w->s->super.cut < leaf->birth ? w->s->super.cut : leaf->birth;
	int r = 0;

	if (e->birth > cut) {
		f.kind = CHECK_EXTENT_BIRTH;
		f.expected = cut;
		f.found = e->birth;
		report(w, &f);
	}
	if (object == w->extent_object && first < w->extent_end) {
		f.kind = CHECK_EXTENT_OVERLAP;
		f.expected = w->extent_end;
		f.found = first;
		report(w, &f);
		r = lose_extent(w, item_key(object, ITEM_EXTENT, first));
	}
	if (object != w->extent_object || first + e->pages > w->extent_end)
		w->extent_end = first + e->pages;
	w->extent_object = object;
	if (e->flags == EXTENT_POISONED)
		pages_lost_add(w, object, first, e->pages);
	return r;
}

// The pages of an extent as they are now, in order: its own, and the tier's in their place.
static int emit_merged(struct sweep *w, object_t object, page_t first, const struct extent_disk *e, uint64_t live,
		       const frame_t *dirty, uint64_t *ret_tag)
{
	int r = 0;
	for (unsigned i = 0, n; !r && i < e->pages; i += n) {
		n = 1;
		if (dirty[i] != FRAME_NONE) {
			r = emit_frame(w, dirty[i], NULL);
		} else if (live >> i & 1) {
			while (i + n < e->pages && live >> (i + n) & 1)
				n++;
			r = emit_extent(w, object, first, e, i, n, ret_tag);
		}
	}
	return r;
}

// The next of the range, as an extent of them would pass; at most as many as one has.
static int emit_poisoned(struct sweep *w)
{
	const struct poisoned *p = &w->s->poisoned.range[w->next_poisoned];
	page_t first = item_key_rest(poisoned_key(w)), left = p->to - first;
	struct extent_disk e = { .birth = p->lsn, .pages = left < EXTENT_PAGES_MAX ? (uint32_t)left : EXTENT_PAGES_MAX,
				 .flags = EXTENT_POISONED };
	frame_t dirty[EXTENT_PAGES_MAX];
	uint64_t live = live_pages(w, p->object, first, &e), tag = 0;

	if (check_cancelled(w->config))
		return -ECANCELED;
	w->poisoned_page = first + e.pages;
	if (w->poisoned_page == p->to) {
		w->next_poisoned++;
		w->poisoned_page = 0;
	}
	int r = pass_frames(w, p->object, first, &e, &live, dirty);
	return r ? r : emit_merged(w, p->object, first, &e, live, dirty, &tag);
}

static int pass_extent(struct sweep *w, const struct node_disk *leaf, const struct node_item *item, bool known)
{
	const struct extent_disk *e = item->value;
	object_t object = item->key.object;
	page_t first = item_key_rest(item->key);
	frame_t dirty[EXTENT_PAGES_MAX];
	uint64_t tag = 0;

	if (!extent_valid(item, w->s->super.blocks)) {
		report(w, &(struct check_finding){ .kind = CHECK_EXTENT_MALFORMED, .object = object, .place = PLACE_PAGE,
						   .at = first });
		return lose_extent(w, item->key);
	}
	uint64_t live = live_pages(w, object, first, e);
	int r = check_extent(w, leaf, object, first, e);
	if (!r && w->verify && e->flags == 0)
		r = mark(w, e->block, e->pages, object);
	if (r < 0)
		return r;
	if (!known)
		return 0;
	r = pass_frames(w, object, first, e, &live, dirty);
	if (!r)
		r = emit_merged(w, object, first, e, live, dirty, &tag);
	if (!r && w->verify && e->flags == 0 && !w->config->quick)
		r = read_extent(w, object, first, e, live, tag);
	return r;
}

static int pass_item(struct sweep *w, const struct node_disk *leaf, const struct node_item *item)
{
	int r = emit_below(w, item->key);

	if (r)
		return r;
	bool known = key_good(w, item->key, w->s->super.cut);
	if (item_key_type(item->key) == ITEM_EXTENT)
		return w->verify || w->sink ? pass_extent(w, leaf, item, known) : 0;
	if (!known)
		return 0;
	if (w->verify && item_key_type(item->key) == ITEM_BAD) {
		r = mark(w, item_key_rest(item->key), 1, OBJECT_STORE);
		if (r < 0)
			return r;
	}
	const struct item *i = w->next_item < w->items ? w->item[w->next_item] : NULL;
	if (!i || !item_key_equal(i->key, item->key))
		return emit_item(w, item->key, item->value, item->bytes);
	w->next_item++;
	return i->deleted ? 0 : emit_item(w, i->key, i->value, i->bytes);
}

// ---- nodes -----------------------------------------------------------------------------------------------

struct expect { // what the parent says of a node
	struct node_ref ref;
	unsigned level;
	bool is_root; // then its first key may be any
	struct item_key from, limit;
};

// If not, why.
static bool node_is_good(const struct sweep *w, const struct expect *x, const struct node_disk *n, int error, struct check_finding *ret_fault)
{
	struct check_finding f = { .object = OBJECT_STORE, .place = PLACE_BLOCK, .at = x->ref.block };

	f.expected = x->ref.sum;
	f.found = error ? (uint64_t)-error : checksum_page(w->s->seed, OBJECT_STORE, x->ref.block, n);
	if (error || f.found != f.expected) {
		f.kind = error ? CHECK_NODE_UNREADABLE : CHECK_NODE_CONTENT;
	} else if (!node_valid(n, (int)x->level, x->ref.block, x->ref.birth)) {
		f.kind = CHECK_NODE_MALFORMED;
		f.expected = x->level;
		f.found = n->level;
	} else if (!x->is_root && !item_key_equal(node_key(n, 0), x->from)) {
		f.kind = CHECK_NODE_ORDER;
		f.expected = x->from.object;
		f.found = node_key(n, 0).object;
	} else if (item_key_compare(node_key(n, node_count(n) - 1), x->limit) >= 0) {
		f.kind = CHECK_NODE_ORDER;
		f.expected = x->limit.object;
		f.found = node_key(n, node_count(n) - 1).object;
	} else {
		return true;
	}
	*ret_fault = f;
	return false;
}

// The tier's copy in its place, if that is good.
static bool copy_node(const struct sweep *w, const struct expect *x, struct node_disk *n)
{
	struct check_finding fault;
	frame_t f = frame_copy_of(w->s, OBJECT_STORE, x->ref.block, x->ref.sum);
	if (f == FRAME_NONE)
		return false;
	memcpy(n, tier_frame_data(w->s->tier, f), PAGE_BYTES);
	return node_is_good(w, x, n, 0, &fault);
}

static int lose_node(struct sweep *w, const struct expect *x)
{
	report(w, &(struct check_finding){ .kind = CHECK_RANGE_LOST, .object = x->from.object, .place = PLACE_KEY,
					   .at = x->from.sub, .expected = x->limit.object, .found = x->limit.sub });
	w->check->result->nodes_lost += hash_mix(x->ref.block, x->ref.birth);
	return w->verify ? lost_add(w->s, x->from, x->limit) : 0;
}

// A cached copy is only ever a copy.
static void check_cached(struct sweep *w, struct node_ref ref)
{
	const struct tier *t = w->s->tier;
	frame_t f = index_find(t, index_bucket(t, OBJECT_STORE, ref.block), OBJECT_STORE, ref.block);
	if (f == FRAME_NONE || t->frame[f].lsn != ref.birth || t->frame[f].sum == ref.sum)
		return;
	report(w, &(struct check_finding){ .kind = CHECK_FRAME_STALE, .warning = true, .object = OBJECT_STORE,
					   .place = PLACE_FRAME, .at = f, .expected = ref.sum, .found = t->frame[f].sum });
}

static int pass_children(struct sweep *w, const struct node_disk *n, struct item_key limit);

// A node that has been read.
static int pass_node(struct sweep *w, const struct expect *x, struct node_disk *n, int error)
{
	struct check_finding fault;
	int r;

	if (check_cancelled(w->config))
		return -ECANCELED;
	if (w->verify) {
		r = mark(w, x->ref.block, 1, OBJECT_STORE);
		if (r < 0)
			return r; // one that is used twice is good for whom it is good for
		w->check->result->nodes++;
		check_progress(w->check, "tree and data", 1);
	}
	if (!node_is_good(w, x, n, error, &fault)) {
		fault.copied = copy_node(w, x, n);
		report(w, &fault);
		if (!fault.copied)
			return lose_node(w, x);
	}
	if (w->verify)
		check_cached(w, x->ref);
	if (n->level > 0)
		return pass_children(w, n, x->limit);
	r = 0;
	for (unsigned i = 0; !r && i < node_count(n); i++) {
		struct node_item item = node_item(n, i);
		r = pass_item(w, n, &item);
	}
	return r;
}

// What cannot be a block is not read.
static bool readable(const struct sweep *w, block_t block)
{
	return block < w->s->super.blocks;
}

static int pass_children(struct sweep *w, const struct node_disk *n, struct item_key limit)
{
	unsigned level = n->level - 1u, count = node_count(n);
	struct io io[BATCH];
	struct iovec iov[BATCH];
	int r = 0;

	if (!w->level[level] && !(w->level[level] = aligned_alloc(PAGE_BYTES, (size_t)BATCH * PAGE_BYTES)))
		return -ENOMEM;
	for (unsigned from = 0; !r && from < count; from += BATCH) {
		unsigned batch = count - from < BATCH ? count - from : BATCH;
		for (unsigned i = 0; i < batch; i++) {
			iov[i] = (struct iovec){ w->level[level] + (size_t)i * PAGE_BYTES, PAGE_BYTES };
			io[i] = (struct io){ .kind = 'r', .block = node_child(n, from + i).block, .iov = &iov[i], .iovcnt = 1 };
			if (readable(w, io[i].block))
				ioq_submit(w->nodes, &io[i]);
			else
				io[i].result = -ERANGE;
		}
		ioq_wait_all(w->nodes);
		for (unsigned i = 0; !r && i < batch; i++) {
			struct expect x = { node_child(n, from + i), level, false, node_key(n, from + i),
					    from + i + 1 < count ? node_key(n, from + i + 1) : limit };
			r = pass_node(w, &x, iov[i].iov_base, io[i].result);
		}
	}
	return r;
}

static int pass_root(struct sweep *w)
{
	const struct super_disk *super = &w->s->super;
	struct expect x = { { super->root_block, super->root_birth, super->root_sum }, super->root_level, true,
			    ITEM_KEY_MIN, ITEM_KEY_MAX };

	if (super->root_block == 0)
		return 0;
	void *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	if (!page)
		return -ENOMEM;
	int r = pass_node(w, &x, page, ioq_read(w->nodes, x.ref.block, page, 1));
	free(page);
	return r;
}

// ---- the sweep ----------------------------------------------------------------------------------------------

static int item_order(const void *a, const void *b)
{
	const struct item *x = *(const struct item *const *)a, *y = *(const struct item *const *)b;
	return item_key_compare(x->key, y->key);
}

static void collect_item(void *arg, struct item *item)
{
	struct sweep *w = arg;
	if (!item_is_drop(item))
		w->item[w->items++] = item;
}

static int frame_order(const void *a, const void *b, void *arg)
{
	const struct frame *x = (struct frame *)arg + *(const frame_t *)a, *y = (struct frame *)arg + *(const frame_t *)b;
	if (x->object != y->object)
		return x->object < y->object ? -1 : 1;
	return x->page < y->page ? -1 : x->page > y->page;
}

static int poisoned_order(const void *a, const void *b)
{
	const struct poisoned *x = a, *y = b;
	if (x->object != y->object)
		return x->object < y->object ? -1 : 1;
	return x->from < y->from ? -1 : x->from > y->from;
}

static int collect(struct sweep *w)
{
	struct tier *t = w->s->tier;

	w->next_poisoned = w->s->poisoned.count;
	w->item = malloc((atomic_load(&w->s->overlay.items) + 1) * sizeof *w->item);
	if (!w->item)
		return -ENOMEM;
	overlay_each(&w->s->overlay, collect_item, w);
	qsort(w->item, w->items, sizeof *w->item, item_order);
	if (!w->verify && !w->sink)
		return 0;
	w->frame = malloc(((size_t)t->frames + 1) * sizeof *w->frame);
	if (!w->frame)
		return -ENOMEM;
	for (frame_t f = 0; f < t->frames; f++)
		if (frame_place(frame_state(&t->frame[f])) == FRAME_INDEXED && t->frame[f].object != OBJECT_STORE)
			w->frame[w->frames++] = f;
	qsort_r(w->frame, w->frames, sizeof *w->frame, frame_order, t->frame);
	if (w->next_poisoned)
		qsort(w->s->poisoned.range, w->s->poisoned.count, sizeof *w->s->poisoned.range, poisoned_order);
	w->next_poisoned = 0;
	return 0;
}

static int sweep(struct sweep *w)
{
	int r = ioq_new(w->s->backing, BATCH, &w->nodes);
	if (!r)
		r = ioq_new(w->s->backing, RUNS, &w->data);
	if (!r && w->verify)
		r = lost_begin(w->s);
	if (!r)
		r = collect(w);
	for (unsigned i = 0; i < RUNS; i++) {
		w->run[i].next = w->spare;
		w->spare = &w->run[i];
	}
	if (!r)
		r = pass_root(w);
	if (!r)
		r = emit_below(w, ITEM_KEY_MAX);
	pages_lost_end(w);
	if (w->data)
		ioq_wait_all(w->data);
	return r ? r : reap(w);
}

int check_tree(struct check *c, bool verify, const struct check_sink *sink)
{
	static const struct check_visitor nobody;
	struct sweep *w = calloc(1, sizeof *w);

	if (!w)
		return -ENOMEM;
	w->check = c;
	w->s = c->s;
	w->config = c->config;
	w->visitor = c->config->visitor ? c->config->visitor : &nobody;
	w->verify = verify;
	w->sink = sink;
	int r = sweep(w);
	if (w->nodes)
		ioq_free(w->nodes);
	if (w->data)
		ioq_free(w->data);
	for (unsigned i = 0; i < RUNS; i++)
		free(w->run[i].data);
	for (unsigned i = 0; i < LEVELS_MAX; i++)
		free(w->level[i]);
	free(w->item);
	free(w->frame);
	free(w);
	return r;
}
