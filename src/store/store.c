// SPDX-License-Identifier: GPL-2.0-or-later
// Life cycle of the store, its counters and its space.
#include "store_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

#define RESERVE_MIN_BLOCKS 1536u // 6 MiB
// Overwriting every page of a full file system on its own makes extents of one page: 2.1 % in leaves, measured at random.
#define RESERVE_PART 24u
#define NO_TIER_BYTES (UINT64_C(2) << 20) // blank memory in the place of a tier

static void locks_init(struct store *s)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->space_lock, NULL);
	pthread_mutex_init(&s->wait_lock, NULL);
	pthread_mutex_init(&s->chores_lock, NULL);
	pthread_mutex_init(&s->epoch_lock, NULL);
	pthread_mutex_init(&s->drops.lock, NULL);
	pthread_mutex_init(&s->poison_lock, NULL);
	pthread_mutex_init(&s->scrub_lock, NULL);
	pthread_cond_init(&s->wait_cond, &monotonic);
	pthread_cond_init(&s->chores_cond, &monotonic);
	pthread_cond_init(&s->chores_done, &monotonic);
	pthread_cond_init(&s->epoch_cond, &monotonic);
	pthread_cond_init(&s->epoch_done, &monotonic);
	for (unsigned i = 0; s->lock && i < OBJECT_LOCKS; i++)
		pthread_mutex_init(&s->lock[i].lock, NULL);
}

static void tell_class(const struct store *s)
{
	const struct media *m = s->media;
	if (s->read_only)
		return;
	if (media_is_persistent(m))
		log_info("%s: tier on %s: what was written is durable when the call returns", m->path, media_class_name(m->class));
	else if (s->config.assume_persistent)
		log_info("%s: tier on %s, assumed persistent: fsync does nothing, and a power cut loses what is not on the backing",
			 m->path, media_class_name(m->class));
	else
		log_info("%s: tier on %s: a power cut loses it; fsync waits until the backing holds the data", m->path,
			 media_class_name(m->class));
}

void store_forget(struct store *s)
{
	if (s->overlay.hash)
		overlay_fini(&s->overlay);
	s->overlay.hash = NULL;
	drops_fini(&s->drops);
}

static void store_free(struct store *s)
{
	free(atomic_load(&s->root));
	if (s->space)
		space_free(s->space);
	policy_fini(&s->policy);
	tier_free(s->tier);
	if (s->ioq)
		ioq_free(s->ioq);
	store_forget(s);
	if (s->backing)
		backing_close(s->backing);
	if (s->media)
		media_close(s->media);
	free(s->slice);
	free(s->tails.tail);
	free(s->poisoned.range);
	free(s->lost.range);
	free(s->lost.drop);
	free(s->salvage);
	free(s->bad);
	free(s->lock);
	free(s);
}

// What the superblock in force says, in DRAM.
static int load_super(struct store *s)
{
	struct root *root = malloc(sizeof *root);
	if (!root)
		return -ENOMEM;
	*root = (struct root){ .tree = { { s->super.root_block, s->super.root_birth, s->super.root_sum }, s->super.root_level },
			       .cut = s->super.cut, .epoch = s->super.epoch };
	atomic_store(&s->root, root);
	s->blocks = s->super.blocks;
	s->seed = hash_bytes(s->super.fsid, sizeof s->super.fsid);
	atomic_store(&s->cut_wall_ns, s->super.written_ns);
	s->reserve = s->super.blocks / RESERVE_PART > RESERVE_MIN_BLOCKS ? s->super.blocks / RESERVE_PART : RESERVE_MIN_BLOCKS;
	atomic_store(&s->incompat, s->super.incompat);
	return space_new(s->backing, s->ioq, s->super.blocks, s->seed,
			 (struct space_root){ s->super.space, s->super.space_levels }, &s->space);
}

int store_policy_new(struct store *s)
{
	static const struct policy_ops *const policies[] = { &policy_a2q, &policy_clock, &policy_lru }; // as the enum
	policy_fini(&s->policy);
	return policy_init(&s->policy, policies[s->config.policy], s->tier->frame, s->tier->frames, evict_take, s);
}

static int recover_items(struct store *s)
{
	int r = overlay_init(&s->overlay, s->tier->geometry.item_ring_bytes * 7 / 16); // logged twice over it still fits
	if (!r)
		r = drops_init(&s->drops, s->overlay.buckets);
	if (!r)
		r = store_policy_new(s);
	return r ? r : recover(s);
}

static int start(struct store *s)
{
	int r = load_super(s);
	if (!r)
		r = recover_items(s);
	if (r == -EUCLEAN && s->resumes) {
		store_forget(s);
		s->salvages = 0;
		r = pair_damaged(s);
		if (!r)
			r = recover_items(s);
	}
	if (r || s->read_only)
		return r;
	r = pair_resumed(s);
	if (!r)
		r = chores_start(s);
	return r ? r : epoch_start_thread(s);
}

int store_open_on(const struct store_config *config, struct media *m, struct backing *b, struct store **ret_store)
{
	struct store *s = aligned_alloc(64, (sizeof *s + 63) & ~(size_t)63);
	if (!s) {
		media_close(m);
		backing_close(b);
		return -ENOMEM;
	}
	memset(s, 0, sizeof *s);
	s->config = *config;
	s->read_only = config->read_only;
	s->media = m;
	s->backing = b;
	s->persistent = media_is_persistent(m) || config->assume_persistent;
	grace_init(&s->grace);
	s->lock = aligned_alloc(64, OBJECT_LOCKS * sizeof *s->lock);
	if (s->lock)
		memset(s->lock, 0, OBJECT_LOCKS * sizeof *s->lock);
	locks_init(s);
	int r = s->lock ? ioq_new(b, 128, &s->ioq) : -ENOMEM;
	if (!r)
		r = pair(s, m, b);
	if (!r)
		r = start(s);
	if (r) {
		chores_stop(s);
		store_free(s);
		return r;
	}
	tell_class(s);
	*ret_store = s;
	return 0;
}

int store_open(const struct store_config *config, struct store **ret_store)
{
	struct media *m;
	struct backing *b;
	bool writes = !config->read_only || config->repair;
	int r = config->tier_path || !config->read_only ? media_open(config->tier_path, !writes, &m)
							: media_open_dram(NO_TIER_BYTES, &m);
	if (r)
		return r;
	r = backing_open(config->backing_path, !writes, &b);
	if (r) {
		media_close(m);
		return r;
	}
	r = config->devices_open ? config->devices_open() : 0;
	if (r) {
		backing_close(b);
		media_close(m);
		return r;
	}
	return store_open_on(config, m, b, ret_store);
}

// CLEAN superblocks are an epoch of their own; the tier follows.
static int mark_clean(struct store *s)
{
	struct super_disk next = s->super;
	next.epoch++;
	next.state = SUPER_CLEAN;
	pair_announce(s);
	int r = super_write_both(s, &next);
	if (r)
		return r;
	s->super = next;
	pair_note(s);
	tier_word_store(s->media, WORD_STATE, TIER_CLEAN);
	media_drain(s->media); // what is unmounted stays CLEAN
	return 0;
}

int store_close(struct store *s)
{
	int r = 0;
	store_scrub_stop(s);
	if (!s->read_only) {
		r = epoch_last(s);
		chores_stop(s);
		if (!r && (frames_dirty_count(s->tier) || atomic_load(&s->overlay.items)))
			r = -EBUSY; // CLEAN would allow for another tier, and this one has data
		if (!r)
			r = mark_clean(s);
		if (r)
			log_error("%s: not everything could be written back (%s): it is in the tier %s; mount the pair again to recover",
				  s->backing->path, strerror(-r), s->media->path);
	}
	store_free(s);
	return r;
}

void store_abandon(struct store *s)
{
	store_scrub_stop(s);
	epoch_stop_thread(s);
	chores_stop(s);
	store_free(s);
}

uint64_t store_incompat(const struct store *s)
{
	return atomic_load(&s->incompat);
}

bool store_read_only(const struct store *s)
{
	return s->read_only;
}

bool store_is_persistent(const struct store *s)
{
	return s->persistent;
}

int store_sync(struct store *s)
{
	return s->read_only ? 0 : epoch_wait(s, NULL);
}

object_t store_new_object(struct store *s)
{
	return atomic_fetch_add(&s->lsn, 1);
}

// Of what may be taken. A leaf of the tree finds up to seven extents, 448 pages; found were 437 to a node. And what a commit
// claims at worst.
static uint64_t data_pages(uint64_t blocks)
{
	uint64_t others = blocks / 400 + 64;
	return blocks > others ? blocks - others : 0;
}

void store_space(struct store *s, struct store_space *ret_space)
{
	uint64_t fixed = space_fixed_blocks(s->blocks), free_blocks = space_free_blocks(s->space);
	pthread_mutex_lock(&s->space_lock);
	uint64_t claims = s->claims, returning = s->returning_of[0] + s->returning_of[1];
	pthread_mutex_unlock(&s->space_lock);
	// People are told what will be taken, not what might be at worst.
	uint64_t likely = frames_dirty_count(s->tier);
	uint64_t promised = claims < likely ? claims : likely;
	uint64_t unpromised = free_blocks > promised ? free_blocks - promised : 0;
	uint64_t total = s->blocks - fixed, taken = total - unpromised;
	uint64_t soon = unpromised + (returning < taken ? returning : taken);
	*ret_space = (struct store_space){ .total = total, .free = unpromised,
					   .available = unpromised > s->reserve ? unpromised - s->reserve : 0,
					   .free_soon = soon, .available_soon = data_pages(soon > s->reserve ? soon - s->reserve : 0) };
}

static uint64_t count_sum(const struct store *s, enum counter c)
{
	uint64_t sum = atomic_load(&s->count[c]);
	for (unsigned i = 0; i < GRACE_READERS_MAX; i++) {
		const struct lane *lane = atomic_load(&s->lane[i]);
		if (lane)
			sum += __atomic_load_n(&lane->count[c], __ATOMIC_RELAXED);
	}
	return sum;
}

static void count_frames(const struct store *s, struct vems_stats *st)
{
	st->frames_total = s->tier->frames;
	st->frames_free = frames_free_count(s->tier);
	for (frame_t f = 0; f < s->tier->frames; f++) {
		uint16_t state = frame_state(&s->tier->frame[f]);
		st->frames_dirty += (state & FRAME_DIRTY) != 0;
		st->frames_clean += frame_place(state) == FRAME_INDEXED && !(state & FRAME_DIRTY);
	}
}

void store_stats(struct store *s, struct vems_stats *st)
{
	struct store_space space;
	struct grace_reader *reader = grace_register(&s->grace); // lanes and the root come and go
	memset(st, 0, sizeof *st);
	if (!reader)
		return;
	grace_enter(&s->grace, reader);
	st->read_hits = count_sum(s, COUNT_READ_HITS);
	st->read_misses = count_sum(s, COUNT_READ_MISSES);
	st->read_holes = count_sum(s, COUNT_READ_HOLES);
	st->write_hits = count_sum(s, COUNT_WRITE_HITS);
	st->write_waits = count_sum(s, COUNT_WRITE_WAITS);
	st->node_hits = count_sum(s, COUNT_NODE_HITS);
	st->node_misses = count_sum(s, COUNT_NODE_MISSES);
	st->pages_filled = count_sum(s, COUNT_FILLED);
	st->pages_evicted = atomic_load(&s->evicted);
	st->pages_written_back = atomic_load(&s->written_back);
	st->pages_dropped = atomic_load(&s->dropped);
	st->backing_reads = atomic_load(&s->backing->reads);
	st->backing_writes = atomic_load(&s->backing->writes);
	st->backing_flushes = atomic_load(&s->backing->flushes);
	st->backing_read_bytes = atomic_load(&s->backing->read_bytes);
	st->backing_write_bytes = atomic_load(&s->backing->write_bytes);
	st->backing_errors = atomic_load(&s->backing->errors);
	count_frames(s, st);
	st->epochs = store_root(s)->epoch;
	bool nothing = atomic_load(&s->overlay.items) == 0 && frames_dirty_count(s->tier) == 0;
	uint64_t now = wall_ns(), cut = atomic_load(&s->cut_wall_ns);
	st->epoch_age_ms = nothing || now < cut ? 0 : (now - cut) / 1000000;
	st->epoch_running = atomic_load(&s->building);
	st->epoch_failures = atomic_load(&s->epoch_failures);
	for (unsigned i = 0; i <= s->tier->geometry.rings; i++) {
		st->log_bytes += ring_used(&s->tier->ring[i]);
		st->log_bytes_total += s->tier->ring[i].bytes;
	}
	st->overlay_items = atomic_load(&s->overlay.items);
	st->overlay_bytes = atomic_load(&s->overlay.bytes);
	st->overlay_bytes_max = s->overlay.bytes_max;
	st->commits = count_sum(s, COUNT_COMMITS);
	st->restarts = count_sum(s, COUNT_RESTARTS);
	grace_unregister(reader);
	store_space(s, &space);
	st->blocks_total = space.total;
	st->blocks_free = space.free;
	st->recovery_ms = s->recovery_ms;
	st->degraded = (uint64_t)atomic_load(&s->degraded);
	scrub_stats(s, st);
}
