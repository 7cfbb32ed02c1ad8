// SPDX-License-Identifier: GPL-2.0-or-later
// What a lock protects changes while the lock is held, and at no other time. Each lock and unlock comes by
// here, where it is compared with what has changed since.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"
#include "store_world.h"

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_trylock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

static struct store *s;
static struct lane *lane;
static struct tier *t;
static struct overlay overlay;
static struct drops *drops;
static frame_t frame[INDEX_WAYS + 1];

// ---- the guard ------------------------------------------------------------------------------------------

typedef uint64_t (*look_fn)(void); // a hash of what the lock protects

static _Thread_local struct {
	pthread_mutex_t *lock;
	look_fn look;
	uint64_t seen; // when the lock was last let go of
	unsigned taken, held, most_held;
	bool stray; // it has changed meanwhile
} guard;

static int locked(pthread_mutex_t *mutex, int r)
{
	if (r || !guard.lock)
		return r;
	if (++guard.held > guard.most_held)
		guard.most_held = guard.held;
	if (mutex == guard.lock) {
		guard.taken++;
		guard.stray |= guard.look() != guard.seen;
	}
	return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	return locked(mutex, __real_pthread_mutex_lock(mutex));
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex)
{
	return locked(mutex, __real_pthread_mutex_trylock(mutex));
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
	if (guard.lock)
		guard.held--;
	if (mutex == guard.lock)
		guard.seen = guard.look();
	return __real_pthread_mutex_unlock(mutex);
}

static void guarded(pthread_mutex_t *lock, look_fn look, void (*act)(void), unsigned most_held)
{
	memset(&guard, 0, sizeof guard);
	guard.look = look;
	guard.seen = look();
	guard.lock = lock;
	act();
	guard.lock = NULL;
	assert_true(guard.taken > 0);
	assert_false(guard.stray);
	assert_int_equal(look(), guard.seen);
	assert_true(guard.most_held <= most_held);
}

// The lock is innermost.
static void changes(pthread_mutex_t *lock, look_fn look, void (*act)(void))
{
	uint64_t before = look();
	guarded(lock, look, act, 1);
	assert_true(look() != before);
}

static uint64_t mix(uint64_t hash, const void *p)
{
	return hash_mix(hash, (uint64_t)(uintptr_t)p);
}

static int setup(void **state)
{
	s = new_store();
	t = s->tier;
	drops = &s->drops;
	assert_int_equal(lane_new(s, &lane), 0);
	return 0;
}

static int teardown(void **state)
{
	end_store(s, lane);
	return 0;
}

// ---- frames ---------------------------------------------------------------------------------------------

static uint64_t look_at_pool(void)
{
	const struct frame_pool *p = &t->pool;
	uint64_t hash = hash_mix(hash_mix(p->free, p->free_count), hash_mix(p->retired_first, p->retired_last));
	return hash_mix(hash_mix(hash, p->sealed_last), hash_mix(p->batch_head, p->batch_tail));
}

static void claim(void) { assert_true(frames_claim(t, 2, 0, frame)); }
static void give_back(void) { frames_return(t, frame, 1); }
static void retire(void) { frames_retire(t, frame + 1, 1); }
static void poll(void) { assert_int_equal(frames_poll(t), 1); }

static void free_and_retired_frames(void **state)
{
	changes(&t->pool.lock, look_at_pool, claim);
	changes(&t->pool.lock, look_at_pool, give_back);
	changes(&t->pool.lock, look_at_pool, retire);
	changes(&t->pool.lock, look_at_pool, poll);
}

// ---- overflow buckets of the index ------------------------------------------------------------------------

static uint64_t look_at_overflow(void)
{
	return hash_mix(t->index.overflow_free, t->index.overflow_used);
}

static struct bucket *bucket;
static page_t page[INDEX_WAYS + 1]; // of object 5, all in that bucket

static void put_in(unsigned i)
{
	uint32_t version = index_lock(bucket);
	index_set(t, bucket, 5, page[i], frame[i]);
	index_unlock(bucket, version, true);
}

static void take_out(unsigned i)
{
	uint32_t version = index_lock(bucket);
	index_remove(t, bucket, 5, page[i]);
	index_unlock(bucket, version, true);
}

static void one_too_many(void) { put_in(INDEX_WAYS); }
static void one_less(void) { take_out(INDEX_WAYS); }

static void overflow_buckets(void **state)
{
	page_t at = 0;
	bucket = index_bucket(t, 5, 0);
	assert_true(frames_claim(t, INDEX_WAYS + 1, 0, frame));
	for (unsigned i = 0; i <= INDEX_WAYS; i++) {
		while (index_bucket(t, 5, at) != bucket)
			at++;
		page[i] = at++;
		t->frame[frame[i]].object = 5;
		t->frame[frame[i]].page = page[i];
		if (i < INDEX_WAYS)
			put_in(i);
	}
	changes(&t->index.overflow_lock, look_at_overflow, one_too_many);
	changes(&t->index.overflow_lock, look_at_overflow, one_less);
	for (unsigned i = 0; i < INDEX_WAYS; i++)
		take_out(i);
	frames_return(t, frame, INDEX_WAYS + 1);
}

// ---- rings ------------------------------------------------------------------------------------------------

static uint64_t look_at_ring(void)
{
	return hash_mix(hash_mix(lane->ring->head, lane->ring->claimed), lane->ring->visible_head);
}

static void claim_ring(void) { assert_true(ring_claim(lane->ring, RECORD_ALIGN)); }
static void unclaim_ring(void) { ring_unclaim(lane->ring, RECORD_ALIGN); }
static void commit(void) { COMMIT(lane, txn_put(op, item_key(OBJECT_FIRST, ITEM_INODE, 0), "", 1)); }

static void log_ring(void **state)
{
	changes(&lane->ring->lock, look_at_ring, claim_ring);
	changes(&lane->ring->lock, look_at_ring, unclaim_ring);
	uint64_t head = lane->ring->head;
	guarded(&lane->ring->lock, look_at_ring, commit, 2); // inside the object's lock
	assert_true(lane->ring->head > head);
}

// ---- promised blocks ----------------------------------------------------------------------------------------

static uint64_t look_at_claims(void)
{
	return hash_mix(hash_mix(hash_mix(s->claims, s->claims_of[0]), hash_mix(s->returning_of[0], s->returning_of[1])),
			hash_mix(s->claims_of[1], s->claims_before * 2 + s->building));
}

static void promise(void) { assert_true(space_claim(s, 10, SPACE_GROWS)); }
static void take_back(void) { space_unclaim(s, 3); }
static void settle(void) { space_settle(s, 0, 7, true); }
static void expect(void) { space_expect(s, 5, true); }
static void unexpect(void) { space_unexpect(s, 2); }
static void fold(void) { claims_folded(s); }
static void abandon(void) { claims_abandoned(s); }

static void promised_blocks(void **state)
{
	void (*const end[])(void) = { abandon, fold };
	changes(&s->space_lock, look_at_claims, promise);
	changes(&s->space_lock, look_at_claims, take_back);
	s->building = true;
	changes(&s->space_lock, look_at_claims, settle);
	changes(&s->space_lock, look_at_claims, expect);
	changes(&s->space_lock, look_at_claims, unexpect);
	for (unsigned i = 0; i < 2; i++) { // what was of the later epoch is of this one, and folded
		s->building = true;
		changes(&s->space_lock, look_at_claims, end[i]);
		assert_false(s->building);
	}
	assert_int_equal(s->claims + s->returning_of[0] + s->returning_of[1], 0);
}

// ---- overlay and DROPs ----------------------------------------------------------------------------------------

static struct item *newest, *gone; // gone: a list

static uint64_t look_at_hash(void)
{
	uint64_t hash = 0;
	for (uint32_t i = 0; i < overlay.buckets; i++)
		for (struct item *it = overlay.hash[i].first; it; it = it->hash_next)
			hash = mix(mix(hash, it), it->hash_prev);
	return hash;
}

static uint64_t look_at_objects(void)
{
	uint64_t hash = 0;
	for (uint32_t i = 0; i < overlay.buckets; i++)
		for (struct item *it = overlay.object[i].lowest.first; it; it = it->object_next)
			hash = mix(hash, it);
	return hash;
}

static pthread_mutex_t *lock_of_hash(void)
{
	struct overlay_bucket *b = overlay.hash;
	while (!b->first)
		b++;
	return &b->lock;
}

static pthread_mutex_t *lock_of_object(void)
{
	struct overlay_list *l = overlay.object;
	while (!l->lowest.first)
		l++;
	return &l->lowest.lock;
}

static void put(bool beside)
{
	static lsn_t lsn;
	struct item *it = item_new(item_key(OBJECT_FIRST, ITEM_INODE, 0), "", 1, false);
	newest = it;
	it->lsn = ++lsn;
	overlay_put(&overlay, it, beside ? lsn - 1 : 0, &gone);
}

static void put_newer(void) { put(false); }
static void put_beside_a_frozen_one(void) { put(true); }

static void free_items(struct item *list)
{
	for (struct item *next; list; list = next) {
		next = list->next;
		free(list);
	}
}

static void drop_older(void)
{
	struct item *older;
	overlay_drop_superseded(&overlay, &older);
	free_items(older);
}

static void remove_newest(void)
{
	overlay_remove(&overlay, newest);
	newest->next = gone;
	gone = newest;
}

static void see(void *arg, struct item *it)
{
	assert_int_equal(guard.held, 1);
}

static void see_all(void)
{
	overlay_each(&overlay, see, NULL);
}

static void for_both(void (*prepare)(void), void (*act)(void))
{
	prepare();
	changes(lock_of_hash(), look_at_hash, act);
	prepare();
	changes(lock_of_object(), look_at_objects, act);
}

static void overlay_chains(void **state)
{
	assert_int_equal(overlay_init(&overlay, 8192), 0);
	put_newer();
	changes(lock_of_hash(), look_at_hash, put_newer);
	changes(lock_of_object(), look_at_objects, put_newer);
	for_both(put_beside_a_frozen_one, drop_older);
	for_both(put_beside_a_frozen_one, remove_newest);
	guarded(lock_of_hash(), look_at_hash, see_all, 1);
	overlay_fini(&overlay);
	free_items(gone);
	gone = NULL;
}

// ---- readers, who take no lock --------------------------------------------------------------------------------

static unsigned looks, not_found;

static struct item_key one_of_two(unsigned n) // in one chain
{
	return item_key(OBJECT_FIRST, ITEM_DIRENT, n);
}

static void look_for_both(int sig)
{
	struct item_key last = item_key(OBJECT_FIRST, ITEM_DIRENT, ITEM_REST_MAX);
	const struct item *listed = overlay_first(&overlay, one_of_two(0), last);

	for (unsigned n = 0; n < 2; n++) {
		not_found += !overlay_find(&overlay, one_of_two(n), LSN_MAX);
		not_found += !listed || !item_key_equal(listed->key, one_of_two(n));
		listed = listed ? overlay_after(&overlay, listed, last) : NULL;
	}
	looks++;
}

static void put_one(unsigned n, lsn_t lsn)
{
	struct item *it = item_new(one_of_two(n), "", 1, false);
	it->lsn = lsn;
	overlay_put(&overlay, it, 0, &gone);
}

#ifdef __x86_64__
#define TRAPS(set) __asm__ volatile("lea -128(%%rsp), %%rsp; pushf; andl $~0x100, (%%rsp); orl %0, (%%rsp); popf; lea 128(%%rsp), %%rsp" \
				    : : "i"((set) ? 0x100 : 0) : "cc", "memory")
#else
#define TRAPS(set) skip()
#endif

// A reader looks after each instruction of the writer.
static void a_key_is_there_while_its_version_changes(void **state)
{
	struct sigaction look = { .sa_handler = look_for_both }, was;
	assert_int_equal(overlay_init(&overlay, 8192), 0);
	put_one(0, 1);
	put_one(1, 2);
	sigaction(SIGTRAP, &look, &was);
	TRAPS(true);
	put_one(0, 3);
	TRAPS(false);
	sigaction(SIGTRAP, &was, NULL);
	assert_true(looks > 20);
	assert_int_equal(not_found, 0);
	overlay_fini(&overlay);
	free_items(gone);
}

static struct drop *fresh, *taken;

static uint64_t look_at_drops(void)
{
	uint64_t hash = mix(drops->count, fresh->next);
	for (uint32_t b = 0; b < drops->buckets; b++)
		for (struct drop *d = drops->bucket[b]; d; d = d->next)
			hash = mix(hash, d);
	return hash;
}

static void add_drop(void) { drops_add(drops, fresh); }
static void take_drops(void) { taken = drops_take_folded(drops, 5); }

static void collect_drops(void)
{
	struct fold_drop *list;
	size_t count;
	assert_int_equal(drops_collect(drops, 5, &list, &count), 0);
	free(list);
}

static void drops_in_force(void **state)
{
	fresh = drop_new(OBJECT_FIRST, 0, 1, false);
	add_drop();
	fresh = drop_new(OBJECT_FIRST, 0, 1, false);
	changes(&drops->lock, look_at_drops, add_drop);
	guarded(&drops->lock, look_at_drops, collect_drops, 1);
	changes(&drops->lock, look_at_drops, take_drops);
	free(taken->taken_next);
	free(taken);
}

// ---- who waits for room -----------------------------------------------------------------------------------------

static uint64_t wait_no_longer(void)
{
	lane_interrupt(lane, guard.taken > 0);
	return 0;
}

static void wait_for_log(void)
{
	struct op *op = op_begin(lane);
	int r;
	do
		r = op_park(op, PARK_LOG);
	while (op_again(op, &r));
	op_end(op);
	assert_int_equal(r, -EINTR);
}

static void waiters_for_room(void **state)
{
	struct ring *ring = lane->ring;
	lane->op->ring_wanted = ring->bytes;
	guarded(&s->wait_lock, wait_no_longer, wait_for_log, 1);
	lane_interrupt(lane, false);
}

int main(void)
{
	log_quiet(1);
	setenv("CMOCKA_TEST_ABORT", "1", 1); // what a failure leaves cannot be closed
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(free_and_retired_frames, setup, teardown),
		cmocka_unit_test_setup_teardown(overflow_buckets, setup, teardown),
		cmocka_unit_test_setup_teardown(log_ring, setup, teardown),
		cmocka_unit_test_setup_teardown(promised_blocks, setup, teardown),
		cmocka_unit_test_setup_teardown(overlay_chains, setup, teardown),
		cmocka_unit_test(a_key_is_there_while_its_version_changes),
		cmocka_unit_test_setup_teardown(drops_in_force, setup, teardown),
		cmocka_unit_test_setup_teardown(waiters_for_room, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
