// SPDX-License-Identifier: GPL-2.0-or-later
// Lanes and the life of an operation: begin, park and wait, run again, end.
//
// An operation is a grace reader from op_begin() to op_end(), except while it waits: there it holds
// no pointer into the tier, no lock, and nothing but its claims. That is why waiting for space can
// not hold up what frees space.
#include "store_impl.h"
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

#define WAIT_STEP_MS 5
#define JOIN_MS 200
#define SPARES_MAX 300u
#define DEPTH 128u // of a lane's I/O

// ---- lanes --------------------------------------------------------------------------------------

static struct op *op_new(struct lane *lane)
{
	struct op *op = lane->idle;
	if (op) {
		lane->idle = op->next;
		lane->idles--;
		return op;
	}
	op = calloc(1, sizeof *op);
	if (op) {
		op->lane = lane;
		op->store = lane->store;
	}
	return op;
}

// One that has waited.
static void op_put_away(struct op *op)
{
	struct lane *lane = op->lane;
	if (lane->idles == IDLE_OPS_MAX) {
		free(op);
		return;
	}
	op->next = lane->idle;
	lane->idle = op;
	lane->idles++;
}

int lane_new(struct store *s, struct lane **ret_lane)
{
	struct lane *lane = aligned_alloc(64, (sizeof *lane + 63) & ~(size_t)63);
	if (!lane)
		return -ENOMEM;
	memset(lane, 0, sizeof *lane);
	lane->store = s;
	lane->op = op_new(lane);
	lane->reader = grace_register(&s->grace);
	lane->lender = grace_register(&s->media->lent);
	lane->record = aligned_alloc(64, RECORD_BYTES_MAX);
	lane->scratch = aligned_alloc(PAGE_BYTES, 4 * PAGE_BYTES);
	bool all = lane->op && lane->reader && lane->lender && lane->record && lane->scratch;
	int r = all ? ioq_new(s->backing, DEPTH, &lane->ioq) : -ENOMEM;
	if (r) {
		if (lane->reader)
			grace_unregister(lane->reader);
		if (lane->lender)
			grace_unregister(lane->lender);
		free(lane->op);
		free(lane->record);
		free(lane->scratch);
		free(lane);
		return r;
	}
	for (unsigned i = 0; i < GRACE_READERS_MAX; i++) {
		struct lane *none = NULL;
		if (atomic_compare_exchange_strong(&s->lane[i], &none, lane)) {
			lane->number = i;
			break;
		}
	}
	lane->ring = &s->tier->ring[lane->number % s->tier->geometry.rings];
	*ret_lane = lane;
	return 0;
}

static void items_free(struct item *list)
{
	for (struct item *next; list; list = next) {
		next = list->next;
		free(list);
	}
}

void lane_free(struct lane *lane)
{
	struct store *s = lane->store;
	atomic_store(&s->lane[lane->number], NULL);
	for (int c = 0; c < COUNTERS; c++)
		atomic_fetch_add(&s->count[c], lane->count[c]);
	grace_unregister(lane->reader);
	grace_unregister(lane->lender);
	ioq_free(lane->ioq);
	grace_wait(&s->grace, grace_start(&s->grace));
	items_free(lane->retired);
	items_free(lane->retired_waiting);
	for (struct fetched *f = lane->spare, *next; f; f = next) {
		next = f->next;
		free(f->data);
		free(f);
	}
	for (struct op *op = lane->idle, *next; op; op = next) {
		next = op->next;
		free(op);
	}
	free(lane->op);
	free(lane->record);
	free(lane->scratch);
	free(lane);
}

void lane_interrupt(struct lane *lane, bool interrupted)
{
	atomic_store(&lane->interrupted, interrupted);
}

void lane_be_impatient(struct lane *lane)
{
	lane->impatient = true;
}

void lane_retire_items(struct lane *lane, struct item *list)
{
	struct store *s = lane->store;
	for (struct item *next; list; list = next) {
		next = list->next;
		list->next = lane->retired;
		lane->retired = list;
		lane->retired_count++;
	}
	if (lane->retired_count < 64)
		return;
	if (lane->retired_waiting && !grace_over(&s->grace, lane->retired_target))
		return;
	items_free(lane->retired_waiting);
	lane->retired_waiting = lane->retired;
	lane->retired_target = grace_start(&s->grace);
	lane->retired = NULL;
	lane->retired_count = 0;
}

// ---- begin, restart, end --------------------------------------------------------------------------

static void run_reset(struct op *op)
{
	op->run++;
	op->watches = 0;
	op->park = PARK_NONE;
	op->pending = 0;
	txn_reset(op);
}

static void op_enter(struct op *op)
{
	if (!poison_is_met(op->store))
		poison_meet(op->store);
	op->poisoned = atomic_load(&op->store->poison_met);
	grace_enter(&op->store->grace, op->lane->reader);
	// After three lost races the locks come first: then nothing can change what is read.
	for (unsigned i = 0; i < op->wants; i++) {
		pthread_mutex_lock(&op->store->lock[op->want[i]].lock);
		op->held[op->helds++] = op->want[i];
	}
}

struct op *op_begin(struct lane *lane)
{
	struct op *op = lane->op;
	op->committed = op->keep = op->joined = false;
	op->space_waits = 0;
	op->conflicts = 0;
	op->wants = op->helds = 0;
	op->frames_claimed = op->frames_wanted = 0;
	op->dirty_claim = op->dirty_wanted = 0;
	run_reset(op);
	op_enter(op);
	return op;
}

void op_unlock(struct op *op)
{
	while (op->helds)
		pthread_mutex_unlock(&op->store->lock[op->held[--op->helds]].lock);
}

static void op_leave(struct op *op)
{
	op_unlock(op);
	grace_leave(op->lane->reader);
}

static _Atomic uint32_t *coming(struct op *op, const struct fetched *f)
{
	return &op->store->coming[hash_mix(f->object, f->page / EXTENT_PAGES_MAX) % COMING];
}

// Who misses it meanwhile waits for it, rather than read it twice.
static void announce(struct op *op, struct fetched *f)
{
	if (!op->keep || f->level >= 0 || f->announced)
		return;
	f->announced = true;
	atomic_fetch_add_explicit(coming(op, f), 1, memory_order_relaxed);
}

// Something that it misses is on its way.
static bool is_coming(struct op *op)
{
	for (unsigned b = 0; b < FETCH_BUCKETS; b++)
		for (struct fetched *f = op->fetched[b]; f; f = f->next)
			if (!f->ready && f->level < 0 && atomic_load_explicit(coming(op, f), memory_order_relaxed))
				return true;
	return false;
}

static void fetched_free(struct op *op)
{
	struct lane *lane = op->lane;
	bool announced = false;
	for (unsigned b = 0; op->fetches && b < FETCH_BUCKETS; b++)
		for (struct fetched *f; (f = op->fetched[b]);) {
			op->fetched[b] = f->next;
			op->fetches--;
			if (f->announced) // in the tier by now, or not to come
				atomic_fetch_sub_explicit(coming(op, f), 1, memory_order_release);
			announced |= f->announced;
			if (lane->spares < SPARES_MAX) {
				f->next = lane->spare;
				lane->spare = f;
				lane->spares++;
			} else {
				free(f->data);
				free(f);
			}
		}
	if (announced && atomic_load(&op->store->waiters))
		wake_waiters(op->store);
}

void op_frames_return(struct op *op)
{
	struct store *s = op->store;
	if (!op->frames_claimed)
		return;
	// What an unfinished build stored into them must not arrive later than their next content.
	media_drain(s->media);
	frames_return(s->tier, op->frames, op->frames_claimed);
	op->frames_claimed = 0;
	if (atomic_load(&s->waiters))
		wake_waiters(s);
}

static void claims_return(struct op *op)
{
	struct store *s = op->store;
	op_frames_return(op);
	if (op->dirty_claim) {
		atomic_fetch_sub(&s->dirty_claimed, op->dirty_claim);
		op->dirty_claim = 0;
	}
}

void op_end(struct op *op)
{
	struct store *s = op->store;
	op_unlock(op);
	txn_reset(op);
	if (op->fetches)
		admit_fetched(op); // still a reader: the looks of this run hold
	grace_leave(op->lane->reader);
	fetched_free(op);
	claims_return(op);
	if (s->tier && frames_free_count(s->tier) < frames_low(s))
		chores_kick(s);
	if (op != op->lane->op)
		op_put_away(op);
}

bool op_missed(const struct op *op)
{
	return op->fetches != 0;
}

bool op_keep(struct op *op, unsigned pages)
{
	struct store *s = op->store;
	op->keep = frames_free_count(s->tier) >= frames_low(s) / 2 + pages;
	return op->keep;
}

unsigned store_keeps(const struct store *s)
{
	return s->read_only ? 0 : frames_low(s) / 2;
}

int op_conflict(struct op *op)
{
	op->conflicts++;
	return -ERESTART;
}

int op_park(struct op *op, enum park park)
{
	op->park = park;
	return -ERESTART;
}

// ---- watches ------------------------------------------------------------------------------------------

int op_watch(struct op *op, object_t object)
{
	uint16_t slot = object_slot(object);
	struct object_lock *lock = &op->store->lock[slot];
	uint32_t sequence;

	for (unsigned i = 0; i < op->watches; i++)
		if (op->watch[i].slot == slot)
			return 0;
	if (op->watches == OP_WATCHES_MAX)
		return -E2BIG;
	for (unsigned spins = 1; (sequence = atomic_load_explicit(&lock->sequence, memory_order_acquire)) & 1; spins++)
		if (spins % 32 == 0)
			sched_yield(); // a commit is between its record and its switch: memory only
	op->watch[op->watches++] = (struct watch){ slot, sequence };
	return 0;
}

static bool watches_hold(const struct op *op)
{
	atomic_thread_fence(memory_order_acquire);
	for (unsigned i = 0; i < op->watches; i++) {
		const struct watch *w = &op->watch[i];
		if (atomic_load_explicit(&op->store->lock[w->slot].sequence, memory_order_relaxed) != w->sequence)
			return false;
	}
	return true;
}

static void want_watched(struct op *op)
{
	for (unsigned i = 0; i < op->watches; i++) {
		unsigned at = 0;
		while (at < op->wants && op->want[at] < op->watch[i].slot)
			at++;
		if (at < op->wants && op->want[at] == op->watch[i].slot)
			continue;
		memmove(&op->want[at + 1], &op->want[at], (op->wants - at) * sizeof op->want[0]);
		op->want[at] = op->watch[i].slot;
		op->wants++;
	}
}

// ---- fetching ---------------------------------------------------------------------------------------

static struct fetched *fetched_new(struct op *op)
{
	struct lane *lane = op->lane;
	struct fetched *f = lane->spare;
	if (f) {
		lane->spare = f->next;
		lane->spares--;
		return f;
	}
	f = malloc(sizeof *f);
	if (!f)
		return NULL;
	f->data = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	if (!f->data) {
		free(f);
		return NULL;
	}
	return f;
}

int op_fetch(struct op *op, const struct root *root, const struct fetched *what, const uint8_t **ret_data)
{
	struct fetched **bucket = &op->fetched[hash_mix(what->block, 0) % FETCH_BUCKETS], *f;

	for (f = *bucket; f; f = f->next)
		if (f->block == what->block && f->birth == what->birth && f->object == what->object && f->page == what->page)
			break;
	if (!f) {
		f = fetched_new(op);
		if (!f)
			return -ENOMEM;
		uint8_t *data = f->data;
		*f = *what;
		f->data = data;
		f->error = 0;
		f->ready = f->announced = false;
		f->next = *bucket;
		*bucket = f;
		op->fetches++;
	}
	f->bucket = what->bucket;
	f->version = what->version;
	f->run = op->run;
	f->root_cut = root->cut;
	if (f->error)
		return f->error;
	if (!f->ready) {
		op->pending++;
		return -ERESTART;
	}
	*ret_data = f->data;
	return 0;
}

static bool fetched_good(struct op *op, const struct fetched *f)
{
	if (checksum_page(op->store->seed, f->object, f->page, f->data) != f->sum)
		return false;
	return f->level < 0 || node_valid((const struct node_disk *)f->data, f->level, f->block, f->birth);
}

// The read of f has ended. A mismatch is an error only if the root is still the one that the walk
// began with; else its block may have been given away, and the walk starts again. clean_cut moves after the
// root, and before any block of the one before is given away.
static void fetched_done(struct op *op, struct fetched *f, int result)
{
	if (result) {
		log_error("%s: cannot read block %llu: %s", op->store->backing->path, (unsigned long long)f->block, strerror(-result));
		f->error = -EIO;
	} else if (fetched_good(op, f)) {
		f->ready = true;
		count_add(op->lane, f->level < 0 ? COUNT_READ_MISSES : COUNT_NODE_MISSES, 1);
	} else if (atomic_load(&op->store->clean_cut) == f->root_cut) {
		uint64_t found = checksum_page(op->store->seed, f->object, f->page, f->data);
		if (found != f->sum)
			log_error("%s: block %llu (object %llu, page %llu) is damaged: expected checksum %016llx, found %016llx",
				  op->store->backing->path, (unsigned long long)f->block, (unsigned long long)f->object,
				  (unsigned long long)f->page, (unsigned long long)f->sum, (unsigned long long)found);
		else
			log_error("%s: block %llu: expected a tree node of level %d, born %llu; found a malformed one or another",
				  op->store->backing->path, (unsigned long long)f->block, f->level, (unsigned long long)f->birth);
		f->error = -EUCLEAN;
	}
}

static int block_order(const void *a, const void *b)
{
	const struct fetched *x = *(struct fetched *const *)a, *y = *(struct fetched *const *)b;
	return x->block < y->block ? -1 : x->block > y->block;
}

static void fetch_done(struct io *io)
{
	struct op *op = io->arg;
	struct fetching *g = &op->fetching;
	struct fetched **list = g->list + (io->iov - g->iov);
	for (int i = 0; i < io->iovcnt; i++)
		fetched_done(op, list[i], io->result);
	if (--g->left == 0 && g->ready)
		g->ready(g->arg);
}

// All that the run has asked for, contiguous blocks together. The number of I/Os.
static unsigned fetch_prepare(struct op *op)
{
	struct fetching *g = &op->fetching;
	unsigned count = 0, ios = 0;

	for (unsigned b = 0; b < FETCH_BUCKETS; b++)
		for (struct fetched *f = op->fetched[b]; f; f = f->next)
			if (!f->ready && !f->error && count < FETCHES_MAX)
				g->list[count++] = f;
	qsort(g->list, count, sizeof *g->list, block_order);
	for (unsigned i = 0; i < count; i++) {
		announce(op, g->list[i]);
		g->iov[i] = (struct iovec){ g->list[i]->data, PAGE_BYTES };
		struct io *last = ios ? &g->io[ios - 1] : NULL;
		if (last && g->list[i]->block == last->block + (unsigned)last->iovcnt && last->iovcnt < IO_IOV_MAX)
			last->iovcnt++;
		else
			g->io[ios++] = (struct io){ .kind = 'r', .block = g->list[i]->block, .iov = &g->iov[i], .iovcnt = 1,
						    .done = fetch_done, .arg = op };
	}
	return ios;
}

static void fetch_submit(struct op *op, unsigned ios, void (*ready)(void *arg), void *arg)
{
	struct fetching *g = &op->fetching;
	g->left = ios;
	g->ready = ready;
	g->arg = arg;
	for (unsigned i = 0; i < ios; i++)
		ioq_submit(op->lane->ioq, &g->io[i]);
}

static void fetch_pending(struct op *op)
{
	fetch_submit(op, fetch_prepare(op), NULL, NULL);
	while (op->fetching.left)
		ioq_wait_some(op->lane->ioq);
}

// ---- waiting for frames, log, overlay, space ------------------------------------------------------------

uint64_t dirty_limit(struct store *s)
{
	uint64_t hard = (uint64_t)s->tier->frames * 7 / 8;
	if (!atomic_load(&s->building))
		return hard;
	// New dirty frames are granted at the rate at which frozen pages reach the device.
	uint64_t base = atomic_load(&s->pace_base), total = atomic_load(&s->pace_total), done = atomic_load(&s->pace_done);
	if (base >= hard || total == 0 || done >= total)
		return hard;
	uint64_t floor = base + s->tier->frames / 16, paced = base + (uint64_t)((double)(hard - base) * (double)done / (double)total);
	uint64_t limit = paced > floor ? paced : floor;
	return limit < hard ? limit : hard;
}

bool op_dirty_granted(struct op *op)
{
	struct store *s = op->store;
	uint64_t more = op->dirty_wanted > op->dirty_claim ? op->dirty_wanted - op->dirty_claim : 0;
	if (more == 0)
		return true;
	uint64_t claimed = atomic_fetch_add(&s->dirty_claimed, more) + more;
	if (frames_dirty_count(s->tier) + claimed > dirty_limit(s)) {
		atomic_fetch_sub(&s->dirty_claimed, more);
		return false;
	}
	op->dirty_claim += more;
	return true;
}

static bool frames_granted(struct op *op)
{
	unsigned more = op->frames_wanted > op->frames_claimed ? op->frames_wanted - op->frames_claimed : 0;
	if (more == 0 || frames_claim(op->store->tier, more, 0, op->frames + op->frames_claimed)) {
		op->frames_claimed += more;
		return true;
	}
	return false;
}

static bool resource_there(struct op *op)
{
	struct store *s = op->store;
	switch (op->park) {
	case PARK_FRAMES:
		return frames_granted(op);
	case PARK_DIRTY:
		// What no epoch holds any more is replaced without adding to the dirty ones.
		return (op->overwrites && !atomic_load(&s->building)) || op_dirty_granted(op);
	case PARK_LOG:
		return ring_used(op->lane->ring) + op->ring_wanted + RECORD_BYTES_MAX / 2 <= op->lane->ring->bytes;
	case PARK_OVERLAY:
		return atomic_load(&s->overlay.bytes) + atomic_load(&s->overlay.claimed) + op->overlay_wanted <= s->overlay.bytes_max;
	default:
		return true;
	}
}

// Who waits for space helps itself first: reclaims the log, evicts, and starts an epoch if need be.
static void help(struct op *op)
{
	struct store *s = op->store;
	grace_enter(&s->grace, op->lane->reader);
	reclaim_slice(s, false);
	if (op->park == PARK_FRAMES)
		evict_some(s, op->frames_wanted + 64, false);
	grace_leave(op->lane->reader);
	if (frames_poll(s->tier))
		wake_waiters(s);
	if (op->park != PARK_LOG && (op->park != PARK_FRAMES || frames_dirty_count(s->tier) > s->tier->frames / 4))
		epoch_request(s);
}

// What is not given before the device has taken something.
static bool waits_for_device(const struct op *op)
{
	bool pages = op->park == PARK_FRAMES || op->park == PARK_DIRTY;
	return op->park != PARK_LOG && !(pages && op->overwrites);
}

static void wait_woken(struct store *s)
{
	struct timespec until = deadline_in_ms(WAIT_STEP_MS);
	pthread_mutex_lock(&s->wait_lock);
	pthread_cond_timedwait(&s->wait_cond, &s->wait_lock, &until);
	pthread_mutex_unlock(&s->wait_lock);
}

static int wait_step(struct op *op)
{
	struct store *s = op->store;
	if (atomic_load(&op->lane->interrupted))
		return -EINTR;
	if (op->lane->impatient && atomic_load(&s->epoch_failures) && waits_for_device(op))
		return -EIO;
	if (atomic_load(&s->degraded) && waits_for_device(op))
		return atomic_load(&s->degraded) == DEGRADED_READ_ONLY ? -EROFS : -EIO;
	if (atomic_load(&s->log_damaged))
		return -EIO;
	wait_woken(s);
	return 0;
}

static int wait_resource(struct op *op)
{
	struct store *s = op->store;
	int r = 0;

	count_add(op->lane, COUNT_WRITE_WAITS, 1);
	if (op->park == PARK_SPACE || op->park == PARK_FORMAT) {
		op->space_waits += op->park == PARK_SPACE;
		return epoch_wait(s, op->lane);
	}
	atomic_fetch_add(&s->waiters, 1);
	while (!resource_there(op) && !r) {
		help(op);
		if (!resource_there(op))
			r = wait_step(op);
	}
	atomic_fetch_sub(&s->waiters, 1);
	return r;
}

// ---- again? ---------------------------------------------------------------------------------------------

static bool is_final(const struct op *op, int result)
{
	return op->committed || (result != -ERESTART && watches_hold(op) && !op_is_poisoned(op));
}

bool op_try(struct op *op, int *result)
{
	if (is_final(op, *result))
		return false;
	if (op->pending || op->park != PARK_NONE) {
		*result = -EAGAIN;
		return false;
	}
	return op_again(op, result);
}

// What comes may be another of the same hash, or may not get in: it is waited for once, and not for long.
static bool joins(struct op *op)
{
	return op->pending && !op->keep && !op->joined && is_coming(op);
}

static void join(struct op *op)
{
	struct store *s = op->store;
	uint64_t until = now_ms() + JOIN_MS;
	op->joined = true;
	atomic_fetch_add(&s->waiters, 1);
	while (is_coming(op) && now_ms() < until && !atomic_load(&op->lane->interrupted))
		wait_woken(s);
	atomic_fetch_sub(&s->waiters, 1);
}

static void note_restart(struct op *op, int result)
{
	if (result != -ERESTART)
		op->conflicts++;
	count_add(op->lane, COUNT_RESTARTS, 1);
	if (op->conflicts > 3)
		want_watched(op);
}

bool op_wait(struct op *op, void (*ready)(void *arg), void *arg)
{
	struct lane *lane = op->lane;
	struct op *other = NULL;

	if (!op->pending || op->park != PARK_NONE || op_is_poisoned(op) || joins(op) || ioq_fd(lane->ioq) < 0)
		return false;
	unsigned ios = fetch_prepare(op);
	if (ios > ioq_room(lane->ioq) || (op == lane->op && !(other = op_new(lane))))
		return false;
	if (other)
		lane->op = other;
	note_restart(op, -ERESTART);
	op_leave(op);
	fetch_submit(op, ios, ready, arg);
	return true;
}

void op_resume(struct op *op)
{
	run_reset(op);
	op_enter(op);
}

void lane_poll(struct lane *lane)
{
	ioq_poll(lane->ioq);
}

int lane_fd(const struct lane *lane)
{
	return ioq_fd(lane->ioq);
}

// The run may have followed zeroes to blocks that do not exist, or built in frames that hold nothing.
static void forget_poisoned(struct op *op)
{
	unsigned kept = 0;

	fetched_free(op);
	for (unsigned i = 0; i < op->frames_claimed; i++)
		if (tier_frame_holds(op->store->tier, op->frames[i]))
			op->frames[kept++] = op->frames[i];
		else
			frames_return(op->store->tier, &op->frames[i], 1);
	op->frames_claimed = kept;
}

bool op_again(struct op *op, int *result)
{
	int r = 0;
	if (is_final(op, *result))
		return false;
	note_restart(op, *result);
	op_leave(op);
	if (op_is_poisoned(op))
		forget_poisoned(op);
	else if (joins(op))
		join(op);
	else if (op->pending)
		fetch_pending(op);
	else if (op->park != PARK_NONE)
		r = wait_resource(op);
	run_reset(op);
	if (r == 0 && atomic_load(&op->lane->interrupted) && op->conflicts == 0 && *result == -ERESTART)
		r = -EINTR;
	op_enter(op);
	if (r) {
		*result = r;
		return false;
	}
	return true;
}

bool op_lend(struct op *op)
{
	return media_lend(op->store->media, op->lane->lender, op->poisoned);
}

void op_lend_end(struct op *op)
{
	grace_leave(op->lane->lender);
}

void *op_scratch(struct op *op, unsigned i)
{
	assert(i < 4);
	return memset(op->lane->scratch + i * PAGE_BYTES, 0, PAGE_BYTES);
}
