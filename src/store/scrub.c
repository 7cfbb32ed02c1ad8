// SPDX-License-Identifier: GPL-2.0-or-later
// The scrub: a look at every checksum while the store serves. Frames of the tier; superblocks and space; tree nodes
// and extents, as they lie on the backing.
//
// 1. It holds nothing up: no lock but those of a commit that heals, no grace period but over 64 frames, and no frame
//    becomes hotter for it. After each look it sleeps three times as long as that took.
// 2. Blocks of an older root may be used again. So a mismatch is damage only if the root is still the one that the
//    look began with; else the walk begins again under the new one, at the key that it had reached.
// 3. Superblocks and space are the epoch thread's: it looks at them between two epochs.
//
// What is healed: a clean frame is dropped, since the backing has its page; a superblock is written again, and so is a tree
// node of which the tier has a copy, to its place; a page whose block is damaged, and of which the tier has the content, is
// written anew over itself, by a commit like any other, so that the next epoch gives it another block.
#include "store_impl.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "log.h"
#include "walk.h"

#define FRAMES_AT_ONCE 64u
#define REST_PER_WORK 3u
#define NAP_NS 20000000u // between looks whether to stop
#define LEVELS_MAX 16u

enum { SCRUB_NONE, SCRUB_RUNS, SCRUB_DONE, SCRUB_STOPPED };

struct scrub {
	struct store *s;
	pthread_t thread;
	_Atomic bool stop;
	struct grace_reader *reader;
	struct lane *lane; // to heal with
	struct ioq *queue;
	struct root root;
	struct item_key next; // of the walk
	uint8_t *node[LEVELS_MAX], *data;
	struct { block_t block; const uint8_t *content; } heal; // a node
	uint64_t began_ns; // of the work since the last rest
};

// -EINTR: to be stopped.
static int rest(struct scrub *sc)
{
	uint64_t left = (now_ns() - sc->began_ns) * REST_PER_WORK;
	while (left && !atomic_load(&sc->stop)) {
		uint64_t part = left < NAP_NS ? left : NAP_NS;
		nanosleep(&(struct timespec){ .tv_nsec = (long)part }, NULL);
		left -= part;
	}
	sc->began_ns = now_ns();
	return atomic_load(&sc->stop) ? -EINTR : 0;
}

static void count_error(struct store *s, bool healed)
{
	atomic_fetch_add(&s->scrub_errors, 1);
	if (healed)
		atomic_fetch_add(&s->scrub_healed, 1);
}

// ---- the tier -------------------------------------------------------------------------------------

// The caller is a grace reader: a frame that was in the index is not used again before it leaves.
static void scrub_frame(struct store *s, frame_t f)
{
	struct frame *fr = &s->tier->frame[f];
	uint16_t state = frame_state(fr);
	if (frame_place(state) != FRAME_INDEXED || state & FRAME_POISONED)
		return;
	uint64_t found = checksum_page(s->seed, fr->object, fr->page, tier_frame_data(s->tier, f));
	if (found == fr->sum || frame_place(frame_state(fr)) != FRAME_INDEXED)
		return;
	if (!poison_is_met(s))
		poison_meet(s); // says why
	if (state & FRAME_DIRTY) {
		frame_damaged(s, f, found);
		count_error(s, false);
		return;
	}
	log_error("%s: the copy of page %llu of object %llu in the tier is damaged (frame %u): expected checksum %016llx, found "
		  "%016llx; dropped", s->media->path, (unsigned long long)fr->page, (unsigned long long)fr->object, f,
		  (unsigned long long)fr->sum, (unsigned long long)found);
	atomic_fetch_or(&fr->state, FRAME_POISONED);
	evict_frame(s, f);
	count_error(s, true);
}

static int scrub_tier(struct scrub *sc)
{
	struct store *s = sc->s;
	int r = 0;
	for (frame_t f = 0; !r && f < s->tier->frames; r = rest(sc)) {
		grace_enter(&s->grace, sc->reader);
		for (unsigned i = 0; i < FRAMES_AT_ONCE && f < s->tier->frames; i++, f++)
			scrub_frame(s, f);
		grace_leave(sc->reader);
		atomic_store(&s->scrub_checked, f);
	}
	return r;
}

// ---- superblocks and space --------------------------------------------------------------------------

static int scrub_super(struct store *s, char copy)
{
	struct super_disk *found, expected = s->super;
	if (s->read_only && copy == s->super_inferior)
		return 0; // a power cut between the two, not to be made good here
	found = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	if (!found)
		return -ENOMEM;
	super_seal(&expected);
	int r = ioq_read(s->ioq, copy == 'A' ? 0 : s->blocks - 1, found, 1);
	if (!r && memcmp(found, &expected, sizeof expected) != 0) {
		bool healed = !s->read_only && super_write(s->backing, s->ioq, &expected, copy) == 0;
		log_error("%s: superblock %c is damaged: expected checksum %016llx, found %016llx%s", s->backing->path, copy,
			  (unsigned long long)expected.sum, (unsigned long long)found->sum, healed ? "; written again" : "");
		count_error(s, healed);
	} else if (r) {
		log_error("%s: cannot read superblock %c: %s", s->backing->path, copy, strerror(-r));
		count_error(s, false);
	}
	free(found);
	return 0;
}

static int taken(void *arg, block_t block, uint64_t count)
{
	return 0;
}

// Past what the epoch thread keeps of it in DRAM.
static int scrub_space(struct store *s)
{
	struct space *space;
	struct space_root root = { s->super.space, s->super.space_levels };
	int r = space_new(s->backing, s->ioq, s->blocks, s->seed, root, &space);
	if (r)
		return r;
	r = space_for_each_taken(space, taken, NULL);
	space_free(space);
	if (r && r != -ENOMEM) { // said there
		count_error(s, false);
		r = 0;
	}
	return r;
}

static int scrub_roots(void *arg)
{
	struct store *s = arg;
	int r = scrub_super(s, 'A');
	if (!r)
		r = scrub_super(s, 'B');
	return r ? r : scrub_space(s);
}

// ---- tree and data --------------------------------------------------------------------------------------

static void take_root(struct scrub *sc)
{
	grace_enter(&sc->s->grace, sc->reader);
	sc->root = *store_root(sc->s);
	grace_leave(sc->reader);
}

static bool root_moved(struct scrub *sc)
{
	grace_enter(&sc->s->grace, sc->reader);
	bool moved = store_root(sc->s)->epoch != sc->root.epoch;
	grace_leave(sc->reader);
	return moved;
}

// Then nobody will ask for it.
static bool is_dropped(struct scrub *sc, object_t object, page_t page, lsn_t birth)
{
	grace_enter(&sc->s->grace, sc->reader);
	bool dropped = birth < drops_newest(&sc->s->drops, object, page, LSN_MAX);
	grace_leave(sc->reader);
	return dropped;
}

// A page whose block is damaged: what the tier has of it, written anew. `sum`: of the content that it is to have.
static int rewrite_page(struct op *op, object_t object, page_t page, uint64_t sum)
{
	struct store *s = op->store;
	struct bucket *bucket;
	uint32_t version;
	struct page_view view;
	frame_t f = index_look(s->tier, object, page, &bucket, &version);
	if (f == FRAME_NONE)
		return -ENOENT;
	if (frame_state(&s->tier->frame[f]) & FRAME_DIRTY)
		return 0; // the next epoch writes it
	if (s->tier->frame[f].sum != sum)
		return -ENOENT;
	int r = txn_claim(op, object, page, 1);
	if (!r)
		r = op_read(op, object, page, 1, true, &view);
	if (!r && (view.frame != f || !view.data))
		r = -ENOENT;
	if (!r)
		r = txn_page(op, object, page, memcpy(op_scratch(op, 0), view.data, PAGE_BYTES), &view);
	return r ? r : txn_commit(op, true);
}

static bool heal_page(struct scrub *sc, object_t object, page_t page, uint64_t sum)
{
	struct op *op = op_begin(sc->lane);
	int r;
	do
		r = rewrite_page(op, object, page, sum);
	while (op_again(op, &r));
	op_end(op);
	return r == 0;
}

static void page_error(struct scrub *sc, object_t object, page_t page, block_t block, uint64_t sum, int error)
{
	struct store *s = sc->s;
	bool healed = heal_page(sc, object, page, sum);
	const char *end = healed ? "; the tier has it, and it is written anew" : "";
	uint64_t found = checksum_page(s->seed, object, page, sc->data);
	if (error)
		log_error("%s: cannot read block %llu (object %llu, page %llu): %s%s", s->backing->path, (unsigned long long)block,
			  (unsigned long long)object, (unsigned long long)page, strerror(-error), end);
	else
		log_error("%s: block %llu (object %llu, page %llu) is damaged: expected checksum %016llx, found %016llx%s",
			  s->backing->path, (unsigned long long)block, (unsigned long long)object, (unsigned long long)page,
			  (unsigned long long)sum, (unsigned long long)found, end);
	count_error(s, healed);
}

// By itself: one that is bad hides no others.
static int scrub_page(struct scrub *sc, object_t object, page_t page, block_t block, uint64_t sum, lsn_t birth)
{
	struct store *s = sc->s;
	int r = ioq_read(sc->queue, block, sc->data, 1);
	if (!r && checksum_page(s->seed, object, page, sc->data) == sum)
		return 0;
	if (root_moved(sc))
		return -ERESTART;
	if (!is_dropped(sc, object, page, birth))
		page_error(sc, object, page, block, sum, r);
	return 0;
}

static int scrub_extent(struct scrub *sc, const struct node_item *item)
{
	struct store *s = sc->s;
	const struct extent_disk *e = item->value;
	object_t object = item->key.object;
	page_t first = item_key_rest(item->key);

	if (!extent_valid(item, s->backing->blocks)) {
		log_error("%s: extent of object %llu at page %llu is malformed", s->backing->path, (unsigned long long)object,
			  (unsigned long long)first);
		count_error(s, false);
		return 0;
	}
	if (e->flags)
		return 0;
	int r = ioq_read(sc->queue, e->block, sc->data, e->pages);
	bool bad = r != 0;
	for (unsigned i = 0; !bad && i < e->pages; i++)
		bad = checksum_page(s->seed, object, first + i, sc->data + i * PAGE_BYTES) != e->sum[i];
	r = 0;
	for (unsigned i = 0; bad && !r && i < e->pages; i++)
		r = scrub_page(sc, object, first + i, e->block + i, e->sum[i], e->birth);
	atomic_fetch_add(&s->scrub_checked, e->pages);
	return r ? r : rest(sc);
}

static bool node_is_good(const struct scrub *sc, struct node_ref ref, unsigned level)
{
	const struct node_disk *n = (const void *)sc->node[level];
	return checksum_page(sc->s->seed, OBJECT_STORE, ref.block, n) == ref.sum && node_valid(n, (int)level, ref.block, ref.birth);
}

// Into its place, from the tier.
static bool copy_node(struct scrub *sc, struct node_ref ref, unsigned level)
{
	struct store *s = sc->s;
	struct bucket *bucket;
	uint32_t version;
	grace_enter(&s->grace, sc->reader);
	frame_t f = index_look(s->tier, OBJECT_STORE, ref.block, &bucket, &version);
	if (f != FRAME_NONE)
		memcpy(sc->node[level], tier_frame_data(s->tier, f), PAGE_BYTES);
	grace_leave(sc->reader);
	return f != FRAME_NONE && node_is_good(sc, ref, level);
}

// Its blocks have what they are to have, or are as bad as they were.
static int write_node(void *arg)
{
	struct scrub *sc = arg;
	struct store *s = sc->s;
	if (store_root(s)->epoch != sc->root.epoch)
		return -ERESTART;
	return ioq_write(s->ioq, sc->heal.block, sc->heal.content, 1, false);
}

static int heal_node(struct scrub *sc, struct node_ref ref, unsigned level)
{
	if (sc->s->read_only)
		return -EROFS;
	sc->heal.block = ref.block;
	sc->heal.content = sc->node[level];
	return epoch_errand(sc->s, write_node, sc, &sc->stop);
}

// The tier's copy in its stead, or -EUCLEAN.
static int damaged_node(struct scrub *sc, struct node_ref ref, unsigned level, int error)
{
	struct store *s = sc->s;
	uint64_t found = error ? 0 : checksum_page(s->seed, OBJECT_STORE, ref.block, sc->node[level]);
	bool copied = copy_node(sc, ref, level);
	int r = copied ? heal_node(sc, ref, level) : -EUCLEAN;
	if (r == -ERESTART || r == -EINTR)
		return r;
	log_error("%s: tree node in block %llu is damaged: expected checksum %016llx, found %016llx%s%s%s", s->backing->path,
		  (unsigned long long)ref.block, (unsigned long long)ref.sum, (unsigned long long)found, error ? ": " : "",
		  error ? strerror(-error) : "", !copied ? "" : r ? "; the tier has a copy" : "; the tier has a copy, and it is written again");
	count_error(s, r == 0);
	return copied ? 0 : -EUCLEAN;
}

static int read_node(struct scrub *sc, struct node_ref ref, unsigned level, const struct node_disk **ret_node)
{
	if (!sc->node[level] && !(sc->node[level] = aligned_alloc(PAGE_BYTES, PAGE_BYTES)))
		return -ENOMEM;
	*ret_node = (const void *)sc->node[level];
	int r = ioq_read(sc->queue, ref.block, sc->node[level], 1);
	if (!r && node_is_good(sc, ref, level))
		return 0;
	return root_moved(sc) ? -ERESTART : damaged_node(sc, ref, level, r);
}

// Of a subtree, what has keys from sc->next on. A damaged node hides what is below it.
static int scrub_subtree(struct scrub *sc, struct node_ref ref, unsigned level)
{
	const struct node_disk *n;
	int r = read_node(sc, ref, level, &n);
	if (r)
		return r == -EUCLEAN ? 0 : r;
	atomic_fetch_add(&sc->s->scrub_checked, 1);
	r = rest(sc);
	for (unsigned i = level ? node_child_for(n, sc->next) : node_lower_bound(n, sc->next); !r && i < node_count(n); i++) {
		struct node_item item;
		if (level) {
			r = scrub_subtree(sc, node_child(n, i), level - 1);
			if (!r && i + 1 < node_count(n))
				sc->next = node_key(n, i + 1);
			continue;
		}
		item = node_item(n, i);
		if (item_key_type(item.key) == ITEM_EXTENT)
			r = scrub_extent(sc, &item);
		if (!r)
			sc->next = (struct item_key){ item.key.object + (item.key.sub == UINT64_MAX), item.key.sub + 1 };
	}
	return r;
}

static int scrub_tree(struct scrub *sc)
{
	int r;
	do {
		take_root(sc);
		r = sc->root.tree.ref.block ? scrub_subtree(sc, sc->root.tree.ref, sc->root.tree.level) : 0;
	} while (r == -ERESTART);
	return r;
}

// ---- the thread -------------------------------------------------------------------------------------------

static void *scrub_main(void *arg)
{
	struct scrub *sc = arg;
	struct store *s = sc->s;
	struct sched_param none = { 0 };

	pthread_setname_np(pthread_self(), "vems-scrub");
	// It takes the table lock: at a lower priority lanes would wait for it.
	pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
	sc->began_ns = now_ns();
	int r = scrub_tier(sc);
	if (!r)
		r = s->read_only ? scrub_roots(s) /* there is no epoch thread */ : epoch_errand(s, scrub_roots, s, &sc->stop);
	if (!r)
		r = scrub_tree(sc);
	if (r && r != -EINTR)
		log_error("%s: scrub given up: %s", s->backing->path, strerror(-r));
	atomic_store(&s->scrub_end_ns, wall_ns());
	atomic_store(&s->scrub_state, r ? SCRUB_STOPPED : SCRUB_DONE);
	return NULL;
}

static void scrub_free(struct scrub *sc)
{
	for (unsigned i = 0; i < LEVELS_MAX; i++)
		free(sc->node[i]);
	free(sc->data);
	if (sc->reader)
		grace_unregister(sc->reader);
	if (sc->lane)
		lane_free(sc->lane);
	if (sc->queue)
		ioq_free(sc->queue);
	free(sc);
}

static int scrub_new(struct store *s, struct scrub **ret_scrub)
{
	struct scrub *sc = calloc(1, sizeof *sc);
	if (!sc)
		return -ENOMEM;
	sc->s = s;
	sc->reader = grace_register(&s->grace);
	sc->data = aligned_alloc(PAGE_BYTES, EXTENT_PAGES_MAX * PAGE_BYTES);
	int r = sc->reader && sc->data ? lane_new(s, &sc->lane) : -ENOMEM;
	if (!r)
		r = ioq_new(s->backing, 4, &sc->queue);
	if (r)
		scrub_free(sc);
	else
		*ret_scrub = sc;
	return r;
}

static void join_locked(struct store *s)
{
	if (!s->scrub)
		return;
	atomic_store(&s->scrub->stop, true);
	lane_interrupt(s->scrub->lane, true); // it may wait for room, to heal
	pthread_join(s->scrub->thread, NULL);
	scrub_free(s->scrub);
	s->scrub = NULL;
}

int store_scrub(struct store *s)
{
	struct store_space space;
	int r = -EBUSY;

	store_space(s, &space);
	pthread_mutex_lock(&s->scrub_lock);
	if (atomic_load(&s->scrub_state) != SCRUB_RUNS) {
		join_locked(s); // it has ended
		r = scrub_new(s, &s->scrub);
	}
	if (!r) {
		atomic_store(&s->scrub_checked, 0);
		atomic_store(&s->scrub_errors, 0);
		atomic_store(&s->scrub_healed, 0);
		atomic_store(&s->scrub_total, s->tier->frames + space.total - space.free);
		atomic_store(&s->scrub_state, SCRUB_RUNS);
		r = -pthread_create(&s->scrub->thread, NULL, scrub_main, s->scrub);
		if (r) {
			scrub_free(s->scrub);
			s->scrub = NULL;
			atomic_store(&s->scrub_state, SCRUB_STOPPED);
		}
	}
	pthread_mutex_unlock(&s->scrub_lock);
	return r;
}

void store_scrub_stop(struct store *s)
{
	pthread_mutex_lock(&s->scrub_lock);
	join_locked(s);
	pthread_mutex_unlock(&s->scrub_lock);
}

void scrub_stats(struct store *s, struct vems_stats *st)
{
	st->scrub_state = atomic_load(&s->scrub_state);
	st->scrub_end = atomic_load(&s->scrub_end_ns) / 1000000000;
	st->scrub_checked = atomic_load(&s->scrub_checked);
	st->scrub_total = atomic_load(&s->scrub_total);
	st->scrub_errors = atomic_load(&s->scrub_errors);
	st->scrub_healed = atomic_load(&s->scrub_healed);
}
