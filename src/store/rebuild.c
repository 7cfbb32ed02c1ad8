// SPDX-License-Identifier: GPL-2.0-or-later
// The repair of a store: the check's pass, written down.
//
//	mark      which blocks the tree uses, and which of them more than once
//	write     all that passes goes to a fold of nothing: items; extents where they lie; dirty pages of the
//	          tier, and pages whose block is also another's, to new blocks
//	forget    overlay, DROPs and frames: the new tree has all of it
//	bitmaps   of what the new tree uses
//	switch    flush; the superblocks in force made equal; the tier told that the next are its last; superblock A, then B;
//	          the tier let go
//
// Invariants:
//  1. No block is written that the old tree uses, as far as it can be read, or that a readable bitmap in
//     force has as taken; no slot of space in force; no superblock before the switch.
//  2. A page goes on under the checksum that was taken when its user wrote it. A new one is taken of a page
//     that was verified and cut short, and of none else.
//
// Crash argument: by 1, the pair is as it was until superblock A is durable, with all that is in the tier alone; what
// A names is durable by the flush. With A the backing is CLEAN and has all, and the tier is LEAVING and one behind:
// it holds nothing. So no copy of what the repair has dropped outlives it there.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "check_impl.h"
#include "log.h"

struct rebuild {
	struct check check; // of the old tree, then of the new one
	struct store *s;
	struct fold *fold;
	lsn_t cut;
	block_t goal;
	frame_t frame[EXTENT_PAGES_MAX]; // dirty ones of consecutive pages, not written yet
	unsigned frames;
	uint8_t *data; // as many pages
};

static void used_of_group(const void *arg, uint64_t group, uint64_t *ret_bits)
{
	used_bits(arg, group, ret_bits);
}

// ---- pages ----------------------------------------------------------------------------------------

// Good: as it is to be written from now on.
static bool page_good(const struct rebuild *rb, object_t object, page_t page, uint8_t *data, uint64_t *sum)
{
	unsigned bytes = mended_bytes(rb->s, object, page);
	if (checksum_page(rb->s->seed, object, page, data) != *sum)
		return false;
	if (bytes < PAGE_BYTES) {
		memset(data + bytes, 0, PAGE_BYTES - bytes);
		*sum = checksum_page(rb->s->seed, object, page, data);
	}
	return true;
}

static int poison(struct rebuild *rb, object_t object, page_t page)
{
	return fold_extent(rb->fold, object, page, 1, 0, NULL, EXTENT_POISONED);
}

// Pages from `data`, to as many new runs of blocks as it takes.
static int write_pages(struct rebuild *rb, object_t object, page_t first, unsigned count, const uint64_t *sums)
{
	int r = 0;
	for (unsigned at = 0; !r && at < count;) {
		block_t block;
		uint64_t got;
		r = space_take(rb->s->space, count - at, rb->goal, &block, &got);
		if (!r)
			r = ioq_write(rb->s->ioq, block, rb->data + (size_t)at * PAGE_BYTES, got, false);
		if (!r)
			r = fold_extent(rb->fold, object, first + at, (unsigned)got, block, sums + at, 0);
		if (!r)
			rb->goal = block + got;
		at += (unsigned)got;
	}
	return r;
}

static int write_frames(struct rebuild *rb)
{
	const struct tier *t = rb->s->tier;
	uint64_t sum[EXTENT_PAGES_MAX];
	unsigned count = rb->frames;

	if (!count)
		return 0;
	const struct frame *first = &t->frame[rb->frame[0]];
	for (unsigned i = 0; i < count; i++) {
		uint8_t *data = rb->data + (size_t)i * PAGE_BYTES;
		sum[i] = t->frame[rb->frame[i]].sum;
		memcpy(data, tier_frame_data(t, rb->frame[i]), PAGE_BYTES);
		page_good(rb, first->object, first->page + i, data, &sum[i]); // known to be; it may be cut
	}
	rb->frames = 0;
	return write_pages(rb, first->object, first->page, count, sum);
}

static int take_frame(void *arg, frame_t f)
{
	struct rebuild *rb = arg;
	const struct tier *t = rb->s->tier;
	const struct frame *fr = &t->frame[f], *last = rb->frames ? &t->frame[rb->frame[rb->frames - 1]] : NULL;
	bool good = frame_is_good(rb->s, f);
	bool on = last && good && last->object == fr->object && last->page + 1 == fr->page && rb->frames < EXTENT_PAGES_MAX;
	int r = on ? 0 : write_frames(rb);

	if (!r && !good)
		return poison(rb, fr->object, fr->page);
	if (!r)
		rb->frame[rb->frames++] = f;
	return r;
}

// Its block is not its alone, or its content changes: the page moves, if it is good.
static bool has_to_move(const struct rebuild *rb, object_t object, page_t page, block_t block)
{
	return !check_block_usable(&rb->check, block) || used_has(&rb->check.twice, block) ||
	       mended_bytes(rb->s, object, page) < PAGE_BYTES;
}

static int move_page(struct rebuild *rb, object_t object, page_t page, block_t block, uint64_t sum)
{
	int r = ioq_read(rb->s->ioq, block, rb->data, 1);
	if (r) // no reason to give the page up: another time it may be read
		log_error("%s: block %llu cannot be read, and page %llu of object %llu in it has to move: try again, or make a hole of the "
			  "page with --drop-damaged", rb->s->backing->path, (unsigned long long)block, (unsigned long long)page,
			  (unsigned long long)object);
	if (r)
		return r;
	if (!page_good(rb, object, page, rb->data, &sum))
		return poison(rb, object, page);
	return write_pages(rb, object, page, 1, &sum);
}

static int take_extent(void *arg, object_t object, page_t first, const struct extent_disk *e, unsigned at, unsigned count)
{
	struct rebuild *rb = arg;
	int r = write_frames(rb);

	if (!r && e->flags)
		return fold_extent(rb->fold, object, first + at, count, 0, NULL, e->flags);
	for (unsigned end = at + count, n; !r && at < end; at += n) {
		for (n = 0; at + n < end && !has_to_move(rb, object, first + at + n, e->block + at + n);)
			n++;
		if (n) {
			r = fold_extent(rb->fold, object, first + at, n, e->block + at, e->sum + at, 0);
		} else {
			r = move_page(rb, object, first + at, e->block + at, e->sum[at]);
			n = 1;
		}
	}
	return r;
}

static int take_item(void *arg, struct item_key key, const void *value, size_t bytes)
{
	struct rebuild *rb = arg;
	int r = write_frames(rb);
	return r ? r : fold_put(rb->fold, key, value, bytes);
}

// ---- the new tree -------------------------------------------------------------------------------------

static int write_tree(struct rebuild *rb, struct tree_root *ret_root)
{
	struct store *s = rb->s;
	const struct check_sink sink = { take_item, take_extent, take_frame, rb };
	struct fold_config config = { .backing = s->backing, .queue = s->ioq, .space = s->space, .seed = s->seed,
				      .birth = rb->cut + 1, .cut = rb->cut };

	int r = fold_new(&config, &rb->fold);
	if (r)
		return r;
	r = check_tree(&rb->check, false, &sink);
	if (!r)
		r = write_frames(rb);
	if (!r)
		r = fold_finish(rb->fold, ret_root);
	ioq_wait_all(s->ioq);
	if (!r)
		r = fold_written(rb->fold);
	fold_free(rb->fold);
	return r;
}

static int forget_tier(struct store *s)
{
	struct tier *t;
	int r = tier_new(s->media, &s->grace, &s->tier->geometry, s->tier->attach, &t);
	if (r)
		return r;
	tier_free(s->tier);
	s->tier = t;
	r = store_policy_new(s);
	if (r)
		return r;
	s->limbo = FRAME_NONE;
	s->limbo_count = 0;
	for (frame_t f = 0; f < t->frames; f++)
		frames_return(t, &f, 1);
	store_forget(s);
	s->salvages = 0;
	s->tails.count = 0;
	s->poisoned.count = 0;
	return overlay_init(&s->overlay, t->geometry.item_ring_bytes);
}

// From here on the store is the new tree; what is in force is not.
static int adopt(struct rebuild *rb, const struct tree_root *tree)
{
	struct store *s = rb->s;
	struct super_disk *super = &s->super;
	struct root *root = store_root(s);

	s->super_before = *super;
	super->epoch++;
	super->state = SUPER_CLEAN;
	super->attach = s->resumes ? super->attach : 0; // without its tier: that one must not come back
	super->cut = rb->cut;
	super->written_ns = wall_ns();
	super->root_block = tree->ref.block;
	super->root_birth = tree->ref.birth;
	super->root_sum = tree->ref.sum;
	super->root_level = tree->level;
	*root = (struct root){ .tree = *tree, .cut = rb->cut, .epoch = super->epoch };
	atomic_store(&s->clean_cut, rb->cut); // as of the root: a failed fetch is compared with it
	s->rebuilt = true;
	return forget_tier(s);
}

static int write_space(struct rebuild *rb)
{
	struct store *s = rb->s;
	struct space_root space;

	int r = space_write_anew(s->space, used_of_group, &rb->check.used, &space);
	ioq_wait_all(s->ioq);
	if (!r)
		r = space_written(s->space);
	if (r)
		return r;
	space_commit(s->space, space);
	s->super.space = space.entry;
	return 0;
}

static void check_renew(struct rebuild *rb, const struct check_config *config, struct check_result *result)
{
	used_fini(&rb->check.used);
	used_fini(&rb->check.twice);
	*result = (struct check_result){ 0 };
	rb->check = (struct check){ .s = rb->s, .config = config, .result = result,
				    .used.layout = space_layout(rb->s->super.blocks),
				    .twice.layout = space_layout(rb->s->super.blocks) };
}

// A node that cannot be read only now would be left out without a word.
static int none_lost_since(const struct rebuild *rb, uint64_t nodes_lost)
{
	return rb->check.result->nodes_lost != nodes_lost ? -EIO : 0;
}

static int rebuild(struct rebuild *rb, const struct check_config *config, uint64_t nodes_lost)
{
	struct check_result old, new;
	struct tree_root root;

	check_renew(rb, config, &old);
	int r = check_mark(&rb->check);
	if (!r)
		r = none_lost_since(rb, nodes_lost);
	if (r)
		return r;
	space_begin_anew(rb->s->space, used_of_group, &rb->check.used);
	old.nodes_lost = 0; // the pass that writes counts anew
	r = write_tree(rb, &root);
	if (!r)
		r = none_lost_since(rb, nodes_lost);
	if (!r)
		r = adopt(rb, &root);
	if (r)
		return r;
	check_renew(rb, config, &new);
	r = check_mark(&rb->check);
	if (!r)
		r = none_lost_since(rb, 0);
	return r ? r : write_space(rb);
}

int store_rebuild(struct store *s, const struct check_config *config, uint64_t nodes_lost)
{
	struct rebuild rb = { .s = s, .cut = atomic_load(&s->lsn) };

	if (s->config.lose_tier || s->salvages)
		rb.cut += LSN_LOST_JUMP; // LSNs above those that were seen may have been in use
	if (rb.cut > LSN_LIMIT - LSN_LOST_JUMP) {
		log_error("%s: log sequence numbers are used up", s->backing->path);
		return -EUCLEAN;
	}
	rb.data = aligned_alloc(PAGE_BYTES, (size_t)EXTENT_PAGES_MAX * PAGE_BYTES);
	if (!rb.data)
		return -ENOMEM;
	int r = rebuild(&rb, config, nodes_lost);
	used_fini(&rb.check.used);
	used_fini(&rb.check.twice);
	free(rb.data);
	return r;
}

// ---- switch ----------------------------------------------------------------------------------------------

int store_put_in_force(struct store *s)
{
	struct super_disk next = s->super;

	int r = ioq_flush(s->ioq);
	s->super = s->super_before;
	if (!r)
		r = equalise_supers(s);
	if (!r && s->resumes)
		r = pair_skip_announced(s);
	if (!r && s->resumes)
		pair_announce_last(s);
	next.epoch = s->super.epoch + 1;
	s->super = next;
	if (!r)
		r = super_write(s->backing, s->ioq, &next, 'A');
	if (!r)
		r = super_write(s->backing, s->ioq, &next, 'B');
	if (!r)
		pair_release_tier(s);
	else
		log_error("%s: the repair cannot be put in force: %s", s->backing->path, strerror(-r));
	return r;
}
