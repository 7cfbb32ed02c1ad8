// SPDX-License-Identifier: GPL-2.0-or-later
// A commit, step by step: what it has shown, drained and locked whenever it stores or changes something, and
// what it leaves if it has lost a race or its record. And how long an operation keeps others from freeing what it
// looks at. Calls of the store come by here (unit_wrapped in meson.build), so no step depends on chance.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"
#include "store_world.h"

#define OBJECT OBJECT_FIRST

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
void __real_index_set(struct tier *t, struct bucket *b, object_t object, page_t page, frame_t f);
void __wrap_index_set(struct tier *t, struct bucket *b, object_t object, page_t page, frame_t f);
void __real_drops_add(struct drops *d, struct drop *drop);
void __wrap_drops_add(struct drops *d, struct drop *drop);
void __real_overlay_put(struct overlay *o, struct item *item, lsn_t cut, struct item **ret_replaced);
void __wrap_overlay_put(struct overlay *o, struct item *item, lsn_t cut, struct item **ret_replaced);
void __real_frames_return(struct tier *t, const frame_t *frames, unsigned count);
void __wrap_frames_return(struct tier *t, const frame_t *frames, unsigned count);
bool __real_ring_holds(const struct tier *t, const struct ring *r, uint64_t offset, uint64_t bytes);
bool __wrap_ring_holds(const struct tier *t, const struct ring *r, uint64_t offset, uint64_t bytes);

static struct store *s;
static struct lane *lane, *other;

// ---- what comes by ------------------------------------------------------------------------------------

static _Thread_local struct lane *watched; // its thread
static unsigned undrained, records, switches, returned, sleeps;
static void (*before_lock)(void); // of an object
static bool ring_fails;

static void on_store(void *arg, uint64_t offset, const void *src, size_t bytes)
{
	if (!watched)
		return;
	const struct ring *r = watched->ring;
	uint64_t ring = (uint64_t)(r->base - m->base);
	assert_true(watched->reader->seen != 0);
	if (offset >= ring && offset < ring + r->bytes && bytes >= sizeof(struct record_disk)) {
		const struct record_disk *record = src;
		assert_int_equal(undrained, 0); // frames
		assert_true(watched->inflight && watched->inflight <= record->lsn);
		records++;
	}
	undrained++;
}

static void on_drain(void *arg)
{
	if (watched)
		undrained = 0;
}

// The record is durable, T does not pass it, and readers wait.
static void expect_switching(void)
{
	assert_int_equal(undrained, 0);
	assert_true(watched->inflight != 0);
	assert_true(s->lock[object_slot(OBJECT)].sequence & 1);
	switches++;
}

void __wrap_index_set(struct tier *t, struct bucket *b, object_t object, page_t page, frame_t f)
{
	if (watched && watched->op->page_count) { // it is no admission
		expect_switching();
		assert_true(b->version & 1); // locked
	}
	__real_index_set(t, b, object, page, f);
}

void __wrap_drops_add(struct drops *d, struct drop *drop)
{
	if (watched)
		expect_switching();
	__real_drops_add(d, drop);
}

void __wrap_overlay_put(struct overlay *o, struct item *item, lsn_t cut, struct item **ret_replaced)
{
	if (watched)
		expect_switching();
	__real_overlay_put(o, item, cut, ret_replaced);
}

void __wrap_frames_return(struct tier *t, const frame_t *frames, unsigned count)
{
	if (watched) {
		assert_int_equal(undrained, 0);
		returned += count;
	}
	__real_frames_return(t, frames, count);
}

bool __wrap_ring_holds(const struct tier *t, const struct ring *r, uint64_t offset, uint64_t bytes)
{
	if (watched)
		assert_int_equal(undrained, 0);
	return !ring_fails && __real_ring_holds(t, r, offset, bytes);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	void (*fn)(void) = before_lock;
	if (watched && fn && mutex == &s->lock[object_slot(OBJECT)].lock) {
		before_lock = NULL;
		fn();
	}
	return __real_pthread_mutex_lock(mutex);
}

// Who waits for a grace period sleeps until the other lane has left.
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	if (!watched)
		return __real_nanosleep(time, left);
	sleeps++;
	grace_leave(other->reader);
	return 0;
}

static int setup(void **state)
{
	static const struct media_recorder recorder = { on_store, on_drain, NULL };
	s = new_store();
	assert_int_equal(lane_new(s, &lane), 0);
	assert_int_equal(lane_new(s, &other), 0);
	m->recorder = &recorder;
	undrained = records = switches = returned = sleeps = 0;
	before_lock = NULL;
	watched = lane;
	return 0;
}

static int teardown(void **state)
{
	watched = NULL;
	lane_free(other);
	end_store(s, lane);
	return 0;
}

static int put_inode(struct op *op)
{
	return txn_put(op, item_key(OBJECT, ITEM_INODE, 0), "", 1);
}

static void others_commit(void)
{
	struct lane *was = watched;
	watched = NULL;
	COMMIT(other, put_inode(op));
	watched = was;
}

static void others_write(void)
{
	struct lane *was = watched;
	watched = NULL;
	COMMIT(other, write_page(op, OBJECT, 0, 1));
	watched = was;
}

static void others_drop(void)
{
	struct lane *was = watched;
	watched = NULL;
	COMMIT(other, txn_drop(op, OBJECT, 0, 1));
	watched = was;
}

static bool locked(void)
{
	pthread_mutex_t *mutex = &s->lock[object_slot(OBJECT)].lock;
	bool taken = pthread_mutex_trylock(mutex) == 0;
	if (taken)
		pthread_mutex_unlock(mutex);
	return !taken;
}

static void expect_nothing_left(void)
{
	assert_int_equal(lane->inflight, 0);
	assert_int_equal(lane->ring->claimed, 0);
	assert_int_equal(s->overlay.claimed, 0);
	assert_false(locked());
}

// ---- the steps of a commit --------------------------------------------------------------------------------

static int write_drop_and_put(struct op *op)
{
	int r = write_page(op, OBJECT, 0, 1);
	if (!r)
		r = txn_drop(op, OBJECT, 1, 2);
	return r ? r : put_inode(op);
}

static void each_step_finds_the_one_before_done(void **state)
{
	uint32_t sequence = s->lock[object_slot(OBJECT)].sequence;
	struct op *op = op_begin(lane);
	assert_int_equal(write_drop_and_put(op), 0);
	assert_int_equal(txn_commit(op, true), 0);
	assert_int_equal(records, 1);
	assert_int_equal(switches, 4);
	assert_int_equal(s->lock[object_slot(OBJECT)].sequence, sequence + 2);
	expect_nothing_left(); // and the reply may wait for something else
	op_end(op);
}

static void frames_given_back_are_drained(void **state)
{
	struct op *op = op_begin(lane);
	assert_int_equal(write_page(op, OBJECT, 0, 1), 0);
	assert_true(undrained > 0);
	op_end(op);
	assert_int_equal(returned, 1);
}

// Until the epoch that has frozen it ends; the next version, which it has not, is not kept.
static void a_frozen_page_is_kept(void **state)
{
	COMMIT(lane, write_page(op, OBJECT, 0, 1));
	frame_t frozen = frame_of(s, OBJECT, 0);
	s->building = true;
	s->cut = s->lsn + LSN_CUT_AHEAD;
	s->lsn += LSN_CUT_JUMP;
	COMMIT(lane, write_page(op, OBJECT, 0, 2));
	frame_t next = frame_of(s, OBJECT, 0);
	COMMIT(lane, write_page(op, OBJECT, 0, 3));
	assert_int_equal(frame_state(&s->tier->frame[frozen]), FRAME_LIMBO | FRAME_DIRTY | FRAME_KEPT | FRAME_VALIDATED);
	assert_int_equal(frame_state(&s->tier->frame[next]), FRAME_LIMBO | FRAME_VALIDATED);
	assert_int_equal(frames_dirty_count(s->tier), 2);
	s->cut = atomic_load(&s->clean_cut); // abandoned
	s->building = false;
	frame_release(s->tier, frozen);
}

// ---- races that are lost ----------------------------------------------------------------------------------

static void expect_lost(struct op *op)
{
	uint64_t head = lane->ring->head;
	int r = txn_commit(op, true);
	assert_int_equal(r, -ERESTART);
	assert_int_equal(op->conflicts, 1);
	assert_int_equal(records, 0);
	assert_int_equal(switches, 0);
	assert_true(lane->ring == other->ring || lane->ring->head == head);
	expect_nothing_left();
	assert_true(op_again(op, &r));
	op_end(op);
}

static void what_was_watched_has_changed(void **state)
{
	for (unsigned late = 0; late < 2; late++) {
		struct op *op = op_begin(lane);
		assert_int_equal(op_watch(op, OBJECT), 0);
		assert_int_equal(put_inode(op), 0);
		if (late)
			before_lock = others_commit; // as late as can be
		else
			others_commit();
		expect_lost(op);
	}
}

static int write_on(struct op *op, const struct page_view *base)
{
	static const uint8_t data[PAGE_BYTES] = { 2 };
	int r = txn_claim(op, OBJECT, 0, 1);
	return r ? r : txn_page(op, OBJECT, 0, data, base);
}

// The object itself is not watched.
static void lose_a_page(void (*change)(void))
{
	struct page_view view;
	struct op *op = op_begin(lane);
	assert_int_equal(op_read(op, OBJECT, 0, 1, true, &view), 0);
	assert_int_equal(write_on(op, &view), 0);
	change();
	expect_lost(op);
}

static void bucket_changes(void)
{
	struct bucket *b = index_bucket(s->tier, OBJECT, 0);
	index_unlock(b, index_lock(b), true); // as if the page had come and gone
}

static void the_page_built_on_has_changed(void **state)
{
	lose_a_page(bucket_changes); // absent
	lose_a_page(others_write);
	lose_a_page(others_write);
	lose_a_page(others_drop);
}

static void what_a_reader_watched_has_changed(void **state)
{
	struct op *op = op_begin(lane);
	int r = op_watch(op, OBJECT);
	others_commit();
	assert_true(op_again(op, &r));
	r = op_watch(op, OBJECT);
	assert_false(op_again(op, &r));
	assert_int_equal(r, 0);
	op_end(op);
}

static void after_many_the_locks_come_first(void **state)
{
	struct op *op = op_begin(lane);
	int r;
	for (unsigned n = 0; n < 4; n++) {
		assert_false(locked());
		assert_int_equal(op_watch(op, OBJECT), 0);
		r = op_conflict(op);
		assert_true(op_again(op, &r));
	}
	assert_true(locked());
	r = op_conflict(op);
	assert_true(op_again(op, &r));
	assert_int_equal(op->helds, 1);
	op_end(op);
	assert_false(locked());
}

static void a_record_that_failed_leaves_nothing_in_flight(void **state)
{
	struct op *op = op_begin(lane);
	int r = put_inode(op);
	ring_fails = true;
	assert_int_equal(r = txn_commit(op, true), -EIO);
	ring_fails = false;
	assert_int_equal(switches, 0);
	expect_nothing_left();
	assert_false(op_again(op, &r));
	op_end(op);
	s->log_damaged = false; // the test's own
}

// ---- readers ------------------------------------------------------------------------------------------------

static void an_operation_is_a_reader_to_its_end(void **state)
{
	struct op *op = op_begin(lane);
	assert_true(lane->reader->seen != 0);
	int r = op_conflict(op);
	assert_true(op_again(op, &r));
	assert_true(lane->reader->seen != 0);
	op_end(op);
	assert_int_equal(lane->reader->seen, 0);
}

// on_store() asks whether it is one.
static void who_reclaims_for_itself_is_a_reader(void **state)
{
	uint8_t value[900] = { 0 };
	lsn_t tail = s->tier->tail_lsn;
	for (uint64_t bytes = 0; bytes < 2 * lane->ring->bytes; bytes += sizeof value)
		COMMIT(lane, txn_put(op, item_key(OBJECT, ITEM_INODE, 0), value, sizeof value));
	assert_true(s->tier->tail_lsn > tail);
}

static void who_admits_is_a_reader(void **state)
{
	struct page_view view;
	int r;
	COMMIT(lane, write_page(op, OBJECT, 0, 1));
	watched = NULL;
	assert_int_equal(store_sync(s), 0);
	assert_true(evict_some(s, s->tier->frames, true) > 0);
	frames_poll(s->tier);
	watched = lane;
	uint64_t filled = lane->count[COUNT_FILLED];
	struct op *op = op_begin(lane);
	do
		r = op_read(op, OBJECT, 0, 1, false, &view);
	while (op_again(op, &r));
	op_end(op);
	assert_int_equal(r, 0);
	assert_true(lane->count[COUNT_FILLED] > filled);
}

static struct item *some_items(void)
{
	struct item *list = NULL;
	for (unsigned i = 0; i < 64; i++) {
		struct item *item = item_new(item_key(OBJECT, ITEM_INODE, 0), "", 1, false);
		item->next = list;
		list = item;
	}
	return list;
}

static void replaced_items_outlive_their_readers(void **state)
{
	struct item *first = some_items(), *last = first;
	while (last->next)
		last = last->next;
	lane_retire_items(lane, first);
	assert_ptr_equal(lane->retired_waiting, last); // a list turned round
	grace_enter(&s->grace, other->reader); // it may have seen the next
	lane_retire_items(lane, some_items());
	struct item *second = lane->retired_waiting;
	assert_ptr_not_equal(second, last);
	lane_retire_items(lane, some_items());
	assert_ptr_equal(lane->retired_waiting, second);
	lane_free(lane);
	watched = lane = NULL;
	assert_int_equal(sleeps, 1);
}

int main(void)
{
	log_quiet(1);
	setenv("CMOCKA_TEST_ABORT", "1", 1); // what a failure leaves cannot be closed
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_step_finds_the_one_before_done, setup, teardown),
		cmocka_unit_test_setup_teardown(frames_given_back_are_drained, setup, teardown),
		cmocka_unit_test_setup_teardown(a_frozen_page_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_watched_has_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(the_page_built_on_has_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(what_a_reader_watched_has_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(after_many_the_locks_come_first, setup, teardown),
		cmocka_unit_test_setup_teardown(a_record_that_failed_leaves_nothing_in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(an_operation_is_a_reader_to_its_end, setup, teardown),
		cmocka_unit_test_setup_teardown(who_reclaims_for_itself_is_a_reader, setup, teardown),
		cmocka_unit_test_setup_teardown(who_admits_is_a_reader, setup, teardown),
		cmocka_unit_test_setup_teardown(replaced_items_outlive_their_readers, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
