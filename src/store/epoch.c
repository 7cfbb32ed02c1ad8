// SPDX-License-Identifier: GPL-2.0-or-later
// The epoch: one atomic step from one superblock to the next. It is write-back, checkpoint, fold and
// log cleaning in one thread of plain blocking code, at low priority.
//
//	cut      announce C ahead of the counter, jump past it; lanes reclaim to T >= C
//	build    frozen pages to new blocks in runs, nodes with their extents and the frozen items
//	switch   frames dead by a DROP <= C are out; flush; superblock A, then B; header epoch
//	publish  root; frozen frames are clean; a grace period later frozen items leave the overlay
//
// If power fails before superblock A is there, the old one is in force, nothing of its tree or data was
// touched, and the tier still has all that was frozen. After it, the newer copy is taken and B made
// equal. A failure before the superblocks abandons the epoch: its blocks are untaken and what was
// frozen is merely dirty. Superblock writes themselves are never abandoned: they may have arrived.
#include "store_impl.h"
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "log.h"

#define INTERVAL_MS_DEFAULT 30000u
#define IO_TIMEOUT_MS_DEFAULT 30000u
#define LEVELS_MAX 16u
#define COLLECT_FRAMES 4096u // looked at in one grace period

struct build;

struct run { // pages that are written together
	struct io io;
	struct iovec iov[EXTENT_PAGES_MAX];
	struct build *build;
	struct run *next; // spare
};

struct build {
	struct store *s;
	struct grace_reader *reader;
	lsn_t cut, birth;
	uint64_t cut_wall_ns;
	frame_t *frame; // frozen, by key; FRAME_NONE: done with
	size_t frames;
	struct item **item; // all versions <= cut, by key, newest first
	size_t items;
	struct fold_drop *drop;
	size_t drops;
	struct fold *fold;
	struct run *spare;
	uint64_t queued; // pages that the device was not told of yet
	block_t goal;
	int write_error;
	block_t failed_block; // of the run that write_error is of
	unsigned failed_count;
	bool have_space; // space_begin() was called
	unsigned poisoned; // pages of the tier, when it began
	uint8_t *node[LEVELS_MAX];
	struct new_node *fresh; // copies of new nodes, to be installed when they are published
	size_t freshes, fresh_room;
	struct tree_root root;
	struct space_root space_root;
};

// ---- cut -----------------------------------------------------------------------------------------

static void announce_cut(struct build *b)
{
	struct store *s = b->s;
	lsn_t old;

	atomic_store(&s->building, true); // before the cut: a commit past it is of the later account
	b->cut_wall_ns = wall_ns();
	do {
		b->cut = atomic_load(&s->lsn) + LSN_CUT_AHEAD;
		atomic_store(&s->cut, b->cut);
		old = atomic_fetch_add(&s->lsn, LSN_CUT_JUMP);
	} while (old >= b->cut);
}

// ---- what is frozen --------------------------------------------------------------------------------

static int frame_order(const void *a, const void *b, void *arg)
{
	const struct frame *x = (struct frame *)arg + *(const frame_t *)a, *y = (struct frame *)arg + *(const frame_t *)b;
	if (x->object != y->object)
		return x->object < y->object ? -1 : 1;
	if (x->page != y->page)
		return x->page < y->page ? -1 : 1;
	return x->lsn > y->lsn ? -1 : x->lsn < y->lsn;
}

static int collect_frame(struct build *b, frame_t f, size_t *room)
{
	const struct tier *t = b->s->tier;
	uint16_t state = frame_state(&t->frame[f]);
	bool here = frame_place(state) == FRAME_INDEXED || state & FRAME_KEPT;

	if (!here || !(state & FRAME_DIRTY) || t->frame[f].lsn > b->cut)
		return 0;
	if (b->frames == *room) {
		frame_t *more = realloc(b->frame, 2 * *room * sizeof *more);
		if (!more)
			return -ENOMEM;
		b->frame = more;
		*room *= 2;
	}
	b->frame[b->frames++] = f;
	return 0;
}

static int collect_frames(struct build *b)
{
	struct tier *t = b->s->tier;
	size_t room = (size_t)frames_dirty_count(t) + 64;
	int r = 0;

	b->frame = malloc(room * sizeof *b->frame);
	if (!b->frame)
		return -ENOMEM;
	for (frame_t f = 0; !r && f < t->frames; f++) {
		if (f % COLLECT_FRAMES == 0) // no frame is used again while it is looked at; nor held up for long
			grace_enter(&b->s->grace, b->reader);
		r = collect_frame(b, f, &room);
	}
	grace_leave(b->reader);
	if (!r)
		qsort_r(b->frame, b->frames, sizeof *b->frame, frame_order, t->frame);
	return r;
}

static int item_order(const void *a, const void *b)
{
	const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
	int order = item_key_compare(x->key, y->key);
	return order ? order : x->lsn > y->lsn ? -1 : x->lsn < y->lsn;
}

struct item_collector {
	struct build *build;
	size_t room;
	bool failed;
};

static void collect_item(void *arg, struct item *item)
{
	struct item_collector *c = arg;
	struct build *b = c->build;
	if (item->lsn > b->cut || c->failed)
		return;
	if (b->items == c->room) {
		size_t room = c->room ? 2 * c->room : 1024;
		struct item **more = realloc(b->item, room * sizeof *more);
		if (!more) {
			c->failed = true;
			return;
		}
		b->item = more;
		c->room = room;
	}
	b->item[b->items++] = item;
}

static int collect_items(struct build *b)
{
	struct item_collector c = { .build = b };
	overlay_each(&b->s->overlay, collect_item, &c);
	if (c.failed)
		return -ENOMEM;
	if (b->items)
		qsort(b->item, b->items, sizeof *b->item, item_order);
	return drops_collect(&b->s->drops, b->cut, &b->drop, &b->drops);
}

// ---- old nodes --------------------------------------------------------------------------------------

// Copied out of the tier, or read; never parks.
static int build_fetch(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node)
{
	struct build *b = arg;
	struct store *s = b->s;
	struct bucket *bucket;
	uint32_t version;
	int r = 0;

	if (level >= LEVELS_MAX)
		return -EUCLEAN;
	if (!b->node[level] && !(b->node[level] = aligned_alloc(PAGE_BYTES, PAGE_BYTES)))
		return -ENOMEM;
	grace_enter(&s->grace, b->reader);
	frame_t f = index_look(s->tier, OBJECT_STORE, ref.block, &bucket, &version);
	bool have = f != FRAME_NONE && s->tier->frame[f].lsn == ref.birth;
	if (have)
		memcpy(b->node[level], tier_frame_data(s->tier, f), PAGE_BYTES);
	grace_leave(b->reader);
	const struct node_disk *n = (const void *)b->node[level];
	if (!have || node_sum(n, s->seed) != ref.sum) {
		r = ioq_read(s->ioq, ref.block, b->node[level], 1);
		if (r) {
			log_error("%s: cannot read tree node at block %llu: %s", s->backing->path, (unsigned long long)ref.block,
				  strerror(-r));
			return r;
		}
	}
	if (checksum_page(s->seed, OBJECT_STORE, ref.block, n) != ref.sum || !node_valid(n, (int)level, ref.block, ref.birth)) {
		log_error("%s: tree node at block %llu is damaged: expected checksum %016llx, found %016llx", s->backing->path,
			  (unsigned long long)ref.block, (unsigned long long)ref.sum,
			  (unsigned long long)checksum_page(s->seed, OBJECT_STORE, ref.block, n));
		return -EUCLEAN;
	}
	*ret_node = n;
	return 0;
}

// A copy of a new node, if a frame is free for it: the next walk looks there.
static void build_wrote(void *arg, struct node_ref ref, const struct node_disk *node)
{
	struct build *b = arg;
	struct store *s = b->s;
	frame_t f;

	if (b->freshes == b->fresh_room || !frames_claim(s->tier, 1, frames_low(s), &f))
		return;
	media_copy(s->media, tier_frame_data(s->tier, f), node, PAGE_BYTES);
	if (!tier_frame_holds(s->tier, f)) {
		frames_return(s->tier, &f, 1);
		return;
	}
	b->fresh[b->freshes++] = (struct new_node){ ref, f };
}

static void fresh_return(struct build *b)
{
	media_drain(b->s->media);
	for (size_t i = 0; i < b->freshes; i++)
		frames_return(b->s->tier, &b->fresh[i].frame, 1);
}

// ---- pages -------------------------------------------------------------------------------------------

static void run_done(struct io *io)
{
	struct run *run = io->arg;
	struct build *b = run->build;
	if (io->result && !b->write_error) {
		b->write_error = io->result;
		b->failed_block = io->block;
		b->failed_count = (unsigned)io->iovcnt;
	}
	atomic_fetch_add(&b->s->pace_done, (uint64_t)io->iovcnt);
	if (!io->result)
		atomic_fetch_add(&b->s->written_back, (uint64_t)io->iovcnt);
	run->next = b->spare;
	b->spare = run;
	if (atomic_load(&b->s->waiters))
		wake_waiters(b->s);
}

static struct run *run_new(struct build *b)
{
	struct run *run = b->spare;
	if (run)
		b->spare = run->next;
	else
		run = malloc(sizeof *run);
	if (run)
		run->build = b;
	return run;
}

// The epoch has no use for this frame. If a commit has replaced it, that was its last hold; else the
// commit that will must not keep it.
static void frame_pass(struct store *s, frame_t f)
{
	uint16_t state = atomic_load(&s->tier->frame[f].state);
	while (!(state & FRAME_KEPT))
		if (atomic_compare_exchange_weak(&s->tier->frame[f].state, &state, (uint16_t)(state | FRAME_PASSED)))
			return;
	frame_release(s->tier, f);
}

static bool frame_good(struct store *s, frame_t f)
{
	struct frame *fr = &s->tier->frame[f];
	if (frame_state(fr) & FRAME_POISONED)
		return false;
	uint64_t found = checksum_page(s->seed, fr->object, fr->page, tier_frame_data(s->tier, f));
	if (found == fr->sum)
		return true;
	if (!poison_is_met(s))
		poison_meet(s); // says why
	frame_damaged(s, f, found);
	return false;
}

// Writes frames [at, at + count) of consecutive pages to new blocks, in as few runs as there is room for.
static int write_run(struct build *b, size_t at, unsigned count)
{
	struct store *s = b->s;
	while (count) {
		block_t block;
		uint64_t got, sum[EXTENT_PAGES_MAX];
		int r = space_take(s->space, count, b->goal, &block, &got);
		if (r)
			return r;
		struct run *run = run_new(b);
		if (!run)
			return -ENOMEM;
		const struct frame *first = &s->tier->frame[b->frame[at]];
		for (unsigned i = 0; i < got; i++) {
			frame_t f = b->frame[at + i];
			sum[i] = s->tier->frame[f].sum; // as taken when the user wrote it
			run->iov[i] = (struct iovec){ tier_frame_data(s->tier, f), PAGE_BYTES };
		}
		run->io = (struct io){ .kind = 'w', .block = block, .iov = run->iov, .iovcnt = (int)got, .done = run_done, .arg = run };
		ioq_submit(s->ioq, &run->io);
		b->queued += got;
		r = fold_extent(b->fold, first->object, first->page, (unsigned)got, block, sum, 0);
		if (r)
			return r;
		b->goal = block + got;
		at += got;
		count -= (unsigned)got;
	}
	return 0;
}

static bool same_page(const struct frame *a, const struct frame *b)
{
	return a->object == b->object && a->page == b->page;
}

// The next run of pages from *at on; a poisoned one is folded as an extent without block.
static int build_pages(struct build *b, size_t *at)
{
	struct store *s = b->s;
	size_t first = *at;
	unsigned count = 0;

	while (*at < b->frames && count < EXTENT_PAGES_MAX) {
		const struct frame *fr = &s->tier->frame[b->frame[*at]], *before = fr;
		if (count)
			before = &s->tier->frame[b->frame[*at - 1]];
		if (count && (fr->object != before->object || fr->page != before->page + 1))
			break;
		bool good = frame_good(s, b->frame[*at]);
		if (!good && count)
			break;
		++*at;
		if (!good)
			return fold_extent(b->fold, fr->object, fr->page, 1, 0, NULL, EXTENT_POISONED);
		count++;
	}
	return write_run(b, first, count);
}

// Of a key's frozen versions only the newest is folded; older ones, left by a cut that had to be
// announced again, are only released. Dead ones are released too. What is left is in key order.
static void pass_superseded(struct build *b)
{
	struct store *s = b->s;
	const struct frame *frame = s->tier->frame;
	size_t kept = 0;

	for (size_t i = 0; i < b->frames; i++) {
		frame_t f = b->frame[i];
		bool older = kept && same_page(&frame[f], &frame[b->frame[kept - 1]]);
		bool dead = frame[f].lsn < drops_newest(&s->drops, frame[f].object, frame[f].page, b->cut);
		if (older || dead)
			frame_pass(s, f);
		else
			b->frame[kept++] = f;
	}
	b->frames = kept;
}

// ---- items -------------------------------------------------------------------------------------------

static bool item_folded(struct build *b, size_t i)
{
	const struct item *item = b->item[i];
	lsn_t dropped;
	if (item_is_drop(item) || (i && item_key_equal(item->key, b->item[i - 1]->key)))
		return false;
	return !drops_whole(&b->s->drops, item->key.object, &dropped) || dropped > b->cut || item->lsn > dropped;
}

// The device works beside what is still to be built, and who waits for frames hears of each part that is written.
static void device_goes_on(struct build *b)
{
	if (b->queued < EXTENT_PAGES_MAX)
		return;
	b->queued = 0;
	ioq_poll(b->s->ioq);
}

static int build_all(struct build *b)
{
	size_t page = 0, item = 0;
	bool bad_noted = false;
	while (page < b->frames || item < b->items) {
		int r;
		while (item < b->items && !item_folded(b, item))
			item++;
		const struct item *i = item < b->items ? b->item[item] : NULL;
		const struct frame *f = page < b->frames ? &b->s->tier->frame[b->frame[page]] : NULL;
		if (!i && !f)
			break;
		if (!bad_noted && (!i || i->key.object != OBJECT_STORE)) { // after all else of the store's own
			r = bad_blocks_fold(b->s, b->fold);
			if (r)
				return r;
			bad_noted = true;
		}
		if (!f || (i && item_key_compare(i->key, item_key(f->object, ITEM_EXTENT, f->page)) < 0)) {
			r = i->deleted ? fold_delete(b->fold, i->key) : fold_put(b->fold, i->key, i->value, i->bytes);
			item++;
		} else {
			r = build_pages(b, &page);
		}
		if (r)
			return r;
		device_goes_on(b);
		if (b->write_error)
			return b->write_error;
	}
	return bad_noted ? 0 : bad_blocks_fold(b->s, b->fold);
}

// ---- build -------------------------------------------------------------------------------------------

// The writes have ended, some of them badly.
static void find_bad(struct build *b)
{
	block_t block;
	unsigned count;
	if (b->write_error)
		bad_blocks_find(b->s, b->failed_block, b->failed_count);
	if (!b->fold)
		return;
	fold_failed_blocks(b->fold, &block, &count);
	bad_blocks_find(b->s, block, count);
}

static int build(struct build *b)
{
	struct store *s = b->s;
	int r = collect_frames(b);

	if (!r)
		r = collect_items(b);
	if (r)
		return r;
	pass_superseded(b);
	b->fresh_room = s->tier->frames / 16;
	b->fresh = malloc(b->fresh_room * sizeof *b->fresh);
	if (!b->fresh)
		b->fresh_room = 0;
	atomic_store(&s->pace_base, frames_dirty_count(s->tier));
	atomic_store(&s->pace_done, 0);
	atomic_store(&s->pace_total, b->frames);
	b->birth = atomic_fetch_add(&s->lsn, 1);
	b->poisoned = media_poisoned(s->media);
	space_begin(s->space);
	b->have_space = true;
	struct fold_config config = { .backing = s->backing, .queue = s->ioq, .space = s->space, .seed = s->seed,
				      .old = store_root(s)->tree, .birth = b->birth, .cut = b->cut, .fetch = build_fetch,
				      .fetch_arg = b, .wrote = build_wrote, .wrote_arg = b, .drops = b->drop, .drop_count = b->drops };
	r = bad_blocks_avoid(s);
	if (!r)
		r = fold_new(&config, &b->fold);
	if (!r)
		r = build_all(b);
	if (!r)
		r = fold_finish(b->fold, &b->root);
	if (!r)
		r = space_write(s->space, &b->space_root);
	ioq_wait_all(s->ioq);
	if (!r && !(r = b->write_error) && !(r = fold_written(b->fold)))
		r = space_written(s->space);
	if (!r && atomic_load(&s->log_damaged))
		r = -EUCLEAN;
	if (!r && media_poisoned(s->media) != b->poisoned)
		r = -EAGAIN; // zeroes may have been written in the place of a page
	if (r)
		find_bad(b);
	return r;
}

// ---- switch ------------------------------------------------------------------------------------------

// It may have arrived: no other epoch can follow before that is known. Only who closes gives up, and the
// next mount looks.
static bool super_given_up(struct store *s, uint64_t since_ms)
{
	atomic_fetch_add(&s->epoch_failures, 1);
	atomic_fetch_add(&s->super_failures, 1);
	if (now_ms() - since_ms > s->config.io_timeout_ms)
		atomic_store(&s->degraded, DEGRADED_NO_DIRTY);
	wake_waiters(s);
	pthread_mutex_lock(&s->epoch_lock);
	bool stop = s->epoch_stop;
	pthread_mutex_unlock(&s->epoch_lock);
	return stop;
}

int super_write_both(struct store *s, struct super_disk *next)
{
	uint64_t since = now_ms();
	for (char copy = 'A'; copy <= 'B'; copy++) {
		int r;
		while ((r = super_write(s->backing, s->ioq, next, copy))) {
			log_error("%s: superblock %c cannot be written: %s; trying again", s->backing->path, copy, strerror(-r));
			if (super_given_up(s, since))
				return -EIO; // whatever it was: no other epoch may be tried
			struct timespec pause = { 0, 500000000 };
			nanosleep(&pause, NULL);
		}
	}
	return 0;
}

static int switch_super(struct build *b)
{
	struct store *s = b->s;
	struct super_disk next = s->super;

	next.epoch++;
	next.cut = b->cut;
	next.root_block = b->root.ref.block;
	next.root_birth = b->root.ref.birth;
	next.root_sum = b->root.ref.sum;
	next.root_level = b->root.level;
	next.space = b->space_root.entry;
	next.written_ns = b->cut_wall_ns;
	next.incompat |= atomic_load(&s->incompat_wanted);
	pair_announce(s);
	int r = super_write_both(s, &next);
	if (r)
		return r;
	s->super = next;
	atomic_store(&s->incompat, next.incompat); // what makes use of them comes after both copies
	pair_note(s);
	media_drain(s->media); // the note before the next is announced, copies of nodes before they are installed
	poison_spares_front(s); // the tier may be one behind, but no more
	return 0;
}

static void free_list(struct item *items, struct drop *drops)
{
	for (struct item *next; items; items = next) {
		next = items->next;
		free(items);
	}
	for (struct drop *next; drops; drops = next) {
		next = drops->taken_next;
		free(drops);
	}
}

static void publish(struct build *b, struct root *root)
{
	struct store *s = b->s;
	struct root *old = store_root(s);
	struct item *gone = NULL;

	*root = (struct root){ .tree = b->root, .cut = b->cut, .epoch = s->super.epoch };
	atomic_store_explicit(&s->root, root, memory_order_release);
	space_commit(s->space, b->space_root);
	bad_blocks_noted(s);
	// Clean only now that a miss finds them on the backing; and before clean_cut moves: until then
	// nobody takes out a frozen frame that a later DROP has killed, so none of these was used again.
	for (size_t i = 0; i < b->frames; i++)
		frame_set_clean(s->tier, b->frame[i]);
	atomic_store(&s->clean_cut, b->cut);
	atomic_store(&s->cut_wall_ns, b->cut_wall_ns);
	claims_folded(s);
	chores_install(s, b->fresh, b->freshes);
	wake_waiters(s);

	grace_wait(&s->grace, grace_start(&s->grace)); // readers under the old root still ask the overlay
	for (size_t i = 0; i < b->items; i++) {
		overlay_remove(&s->overlay, b->item[i]);
		b->item[i]->next = gone;
		gone = b->item[i];
	}
	struct drop *drops = drops_take_folded(&s->drops, b->cut);
	wake_waiters(s);
	grace_wait(&s->grace, grace_start(&s->grace));
	free_list(gone, drops);
	free(old);
}

static void abandon(struct build *b)
{
	struct store *s = b->s;
	struct item *gone = NULL;

	if (b->have_space) // none of its blocks has a write in flight: the build has waited
		space_abandon(s->space);
	atomic_store(&s->cut, atomic_load(&s->clean_cut));
	claims_abandoned(s);
	grace_wait(&s->grace, grace_start(&s->grace)); // no commit keeps anything for this cut any more
	for (size_t i = 0; i < b->frames; i++)
		frame_release(s->tier, b->frame[i]);
	overlay_drop_superseded(&s->overlay, &gone);
	grace_wait(&s->grace, grace_start(&s->grace));
	free_list(gone, NULL);
	fresh_return(b);
	wake_waiters(s);
}

static void build_free(struct build *b)
{
	if (b->fold)
		fold_free(b->fold);
	for (struct run *run = b->spare, *next; run; run = next) {
		next = run->next;
		free(run);
	}
	for (unsigned i = 0; i < LEVELS_MAX; i++)
		free(b->node[i]);
	free(b->fresh);
	free(b->frame);
	free(b->item);
	free(b->drop);
}

static int try_epoch(struct store *s, struct grace_reader *reader)
{
	struct build b = { .s = s, .reader = reader };
	struct root *root;

	if (atomic_load(&s->overlay.items) == 0 && frames_dirty_count(s->tier) == 0 &&
	    !(atomic_load(&s->incompat_wanted) & ~s->super.incompat))
		return 0; // the superblock in force has it all
	root = malloc(sizeof *root);
	if (!root)
		return -ENOMEM;
	announce_cut(&b);
	chores_reclaim_to(s, b.cut); // every frozen frame is behind T when it becomes clean
	int r = build(&b);
	if (!r) {
		chores_drop_pass(s, b.cut);
		r = ioq_flush(s->ioq);
	}
	if (!r && !(r = switch_super(&b))) {
		publish(&b, root);
	} else {
		abandon(&b);
		free(root);
	}
	build_free(&b);
	return r;
}

static int run_epoch(struct store *s, struct grace_reader *reader)
{
	size_t bads;
	int r;
	do {
		bads = s->bads;
		r = try_epoch(s, reader);
	} while (r == -EAGAIN || (r && s->bads > bads)); // at once, without the blocks or frames that were found bad
	return r;
}

// ---- the thread --------------------------------------------------------------------------------------

static void note_result(struct store *s, int r)
{
	if (r == 0) {
		if (atomic_exchange(&s->epoch_failures, 0))
			log_info("%s: write-back works again", s->backing->path);
		atomic_store(&s->degraded, DEGRADED_NO);
		return;
	}
	if (atomic_fetch_add(&s->epoch_failures, 1) == 0) {
		s->failing_since_ms = now_ms();
		log_error("%s: write-back failed: %s; all of it is safe in the tier, trying again", s->backing->path, strerror(-r));
	}
	if (r == -EUCLEAN)
		atomic_store(&s->degraded, DEGRADED_READ_ONLY);
	else if (now_ms() - s->failing_since_ms >= s->config.io_timeout_ms)
		atomic_store(&s->degraded, DEGRADED_NO_DIRTY);
	wake_waiters(s);
}

struct errand {
	int (*run)(void *arg);
	void *arg;
	int result;
	bool begun, done;
};

static void errand_run(struct store *s)
{
	struct errand *e = s->errand;

	s->errand = NULL;
	e->begun = true;
	pthread_mutex_unlock(&s->epoch_lock);
	int r = e->run(e->arg);
	pthread_mutex_lock(&s->epoch_lock);
	e->result = r;
	e->done = true;
	pthread_cond_broadcast(&s->epoch_done);
}

static void *epoch_main(void *arg)
{
	struct store *s = arg;
	struct grace_reader *reader = grace_register(&s->grace);
	struct sched_param none = { 0 };
	struct timespec due;

	pthread_setname_np(pthread_self(), "vems-epoch");
	// Hits beside it keep their latency: it only ever gets what they leave.
	pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
	setpriority(PRIO_PROCESS, 0, 10);
	due = deadline_in_ms(s->config.interval_ms);
	pthread_mutex_lock(&s->epoch_lock);
	while (!s->epoch_stop) {
		if (s->errand) {
			errand_run(s);
			continue;
		}
		if (s->attempts_wanted <= s->attempts_started &&
		    pthread_cond_timedwait(&s->epoch_cond, &s->epoch_lock, &due) != ETIMEDOUT)
			continue;
		s->attempts_started++;
		pthread_mutex_unlock(&s->epoch_lock);
		int r = run_epoch(s, reader);
		note_result(s, r);
		due = deadline_in_ms(r ? 1000 : s->config.interval_ms);
		pthread_mutex_lock(&s->epoch_lock);
		s->attempt_result = r;
		s->attempts_finished = s->attempts_started;
		if (r && !s->epoch_stop) // whoever waits has been told; do not spin on a failing device
			s->attempts_wanted = s->attempts_wanted > s->attempts_started + 1 ? s->attempts_wanted : s->attempts_started;
		pthread_cond_broadcast(&s->epoch_done);
	}
	pthread_mutex_unlock(&s->epoch_lock);
	grace_unregister(reader);
	return NULL;
}

int epoch_errand(struct store *s, int (*run)(void *arg), void *arg, const atomic_bool *stop)
{
	struct errand e = { .run = run, .arg = arg };

	pthread_mutex_lock(&s->epoch_lock);
	s->errand = &e;
	pthread_cond_signal(&s->epoch_cond);
	while (!e.done && (e.begun || !(atomic_load(stop) || s->epoch_stop))) {
		struct timespec look_again = deadline_in_ms(100);
		pthread_cond_timedwait(&s->epoch_done, &s->epoch_lock, &look_again);
	}
	if (!e.begun)
		s->errand = NULL;
	pthread_mutex_unlock(&s->epoch_lock);
	return e.done ? e.result : -EINTR;
}

void epoch_request(struct store *s)
{
	if (atomic_load(&s->building) || atomic_load(&s->epoch_failures))
		return; // it will be looked at again when this one ends; a failing one is tried again by the clock
	pthread_mutex_lock(&s->epoch_lock);
	if (s->attempts_wanted <= s->attempts_started) {
		s->attempts_wanted = s->attempts_started + 1;
		pthread_cond_signal(&s->epoch_cond);
	}
	pthread_mutex_unlock(&s->epoch_lock);
}

int epoch_wait(struct store *s, const struct lane *lane)
{
	uint64_t super_failures = atomic_load(&s->super_failures);
	int r = 0;
	pthread_mutex_lock(&s->epoch_lock);
	// One that runs may have been cut before the call.
	uint64_t target = s->attempts_started + 1;
	if (s->attempts_wanted < target)
		s->attempts_wanted = target;
	pthread_cond_signal(&s->epoch_cond);
	while (r == 0 && s->attempts_finished < target) {
		struct timespec look_again;
		look_again = deadline_in_ms(100);
		pthread_cond_timedwait(&s->epoch_done, &s->epoch_lock, &look_again);
		if (lane && atomic_load(&lane->interrupted))
			r = -EINTR;
		else if (s->epoch_stop || atomic_load(&s->super_failures) != super_failures)
			r = -EIO;
	}
	if (s->attempts_finished >= target)
		r = s->attempt_result;
	pthread_mutex_unlock(&s->epoch_lock);
	return r;
}

int epoch_last(struct store *s)
{
	int r = epoch_wait(s, NULL);
	epoch_stop_thread(s);
	return r;
}

// Who is about to wait may miss it, and looks again after a step.
void wake_waiters(struct store *s)
{
	pthread_cond_broadcast(&s->wait_cond);
}

int epoch_start_thread(struct store *s)
{
	if (s->config.interval_ms == 0)
		s->config.interval_ms = INTERVAL_MS_DEFAULT;
	if (s->config.io_timeout_ms == 0)
		s->config.io_timeout_ms = IO_TIMEOUT_MS_DEFAULT;
	int r = pthread_create(&s->epoch_thread, NULL, epoch_main, s);
	s->epoch_running = r == 0;
	return -r;
}

void epoch_stop_thread(struct store *s)
{
	if (!s->epoch_running)
		return;
	pthread_mutex_lock(&s->epoch_lock);
	s->epoch_stop = true;
	pthread_cond_signal(&s->epoch_cond);
	pthread_mutex_unlock(&s->epoch_lock);
	pthread_join(s->epoch_thread, NULL);
	s->epoch_running = false;
}
