// SPDX-License-Identifier: GPL-2.0-or-later
// What may leave the index and what may enter it, and whom the table lock keeps out.
#include <errno.h>
#include <sched.h>
#include <unistd.h>
#include "log.h"
#include "store_world.h"

#define MANY_PAGES 512u // more than a DROP pass looks at in one part

static struct store *s;
static struct lane *lane, *other;
static object_t object;

static int setup(void **state)
{
	s = new_store();
	assert_int_equal(lane_new(s, &lane), 0);
	assert_int_equal(lane_new(s, &other), 0);
	object = store_new_object(s);
	return 0;
}

static int teardown(void **state)
{
	lane_free(other);
	end_store(s, lane);
	return 0;
}

static void reclaim_all(void)
{
	while (reclaim_slice(s, true))
		;
}

// As a reader, like all who do it.
static unsigned evict(void)
{
	grace_enter(&s->grace, lane->reader);
	unsigned evicted = evict_some(s, UINT32_MAX, true);
	grace_leave(lane->reader);
	frames_poll(s->tier);
	return evicted;
}

// Pages 0 and 1, and the tree above them, are on the backing and nowhere else.
static void make_cold_pages(void)
{
	COMMIT(lane, write_page(op, object, 0, 1));
	COMMIT(lane, write_page(op, object, 1, 1));
	assert_int_equal(store_sync(s), 0);
	evict();
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
}

// ---- eviction ---------------------------------------------------------------------------------------

static void test_victim_outlives_its_readers(void **state)
{
	COMMIT(lane, write_page(op, object, 0, 1));
	assert_int_equal(store_sync(s), 0);
	frame_t f = frame_of(s, object, 0);
	grace_enter(&s->grace, other->reader);
	assert_true(evict() > 0);
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
	assert_int_equal(frame_place(frame_state(&s->tier->frame[f])), FRAME_GRACE);
	grace_leave(other->reader);
	frames_poll(s->tier);
	assert_int_equal(frame_place(frame_state(&s->tier->frame[f])), FRAME_FREE);
}

static void test_dead_page_stays_while_its_record_may_be_replayed(void **state)
{
	COMMIT(lane, write_page(op, object, 0, 1));
	COMMIT(lane, txn_drop(op, object, 0, 1));
	assert_int_equal(evict(), 0);
	reclaim_all();
	assert_int_equal(evict(), 1);
}

static void test_dead_page_stays_while_an_epoch_has_frozen_it(void **state)
{
	lsn_t clean = atomic_load(&s->clean_cut);
	COMMIT(lane, write_page(op, object, 0, 1));
	reclaim_all();
	atomic_store(&s->cut, atomic_load(&s->lsn));
	COMMIT(lane, txn_drop(op, object, 0, 1));
	assert_int_equal(evict(), 0);
	atomic_store(&s->cut, clean);
	assert_int_equal(evict(), 1);
}

static int drop_first(struct op *op)
{
	txn_gives_back(op, 1);
	return txn_drop(op, object, 0, 1);
}

static struct store_space space_now(void)
{
	struct store_space space;
	store_space(s, &space);
	return space;
}
static uint64_t free_soon(void) { return space_now().free_soon; }

// A dirty page takes a block, a dead one none, whether it is still in the tier or not.
static void test_a_dropped_page_is_free_once(void **state)
{
	for (page_t page = 1; page <= 8; page++) // never is more free than nothing would take
		COMMIT(lane, write_page(op, object, page, 1));
	assert_int_equal(store_sync(s), 0);
	uint64_t all = free_soon();
	COMMIT(lane, write_page(op, object, 0, 1));
	assert_int_equal(free_soon(), all - 1);
	COMMIT(lane, drop_first(op));
	assert_int_equal(free_soon(), all);
	COMMIT(lane, write_page(op, object, 0, 1)); // takes the place of the dead one
	assert_int_equal(free_soon(), all - 1);
	COMMIT(lane, drop_first(op));
	assert_int_equal(free_soon(), all);
	reclaim_all();
	evict();
	assert_int_equal(frames_dirty_count(s->tier), 0);
	assert_int_equal(free_soon(), all);

	COMMIT(lane, write_page(op, object, 0, 1));
	assert_int_equal(store_sync(s), 0);
	all = free_soon() + 1;
	COMMIT(lane, drop_first(op));
	assert_int_equal(free_soon(), all);
	evict(); // it is clean
	assert_int_equal(free_soon(), all);
	assert_int_equal(store_sync(s), 0);
	assert_int_equal(free_soon(), space_now().free);
	assert_true(free_soon() >= all);
}

// ---- admission --------------------------------------------------------------------------------------

static struct op *begin_read(page_t page, struct page_view *view)
{
	struct op *op = op_begin(lane);
	int r;
	while ((r = op_read(op, object, page, 1, false, view)) == -ERESTART)
		assert_true(op_again(op, &r));
	assert_int_equal(r, 0);
	return op;
}

static void end_read(struct op *op)
{
	int r = 0;
	assert_false(op_again(op, &r));
	op_end(op);
}

static void expect_byte(page_t page, uint8_t byte)
{
	struct page_view view;
	struct op *op = begin_read(page, &view);
	assert_int_equal(((const uint8_t *)view.data)[0], byte);
	end_read(op);
}

static void test_page_enters_with_its_slot(void **state)
{
	struct page_view view;
	struct slot_disk slot;
	make_cold_pages();
	end_read(begin_read(0, &view));
	frame_t f = frame_of(s, object, 0);
	assert_true(f != FRAME_NONE);
	assert_int_equal(slot_load(s->tier, f, &slot), SLOT_FOUND_GOOD);
	assert_int_equal(slot.object, object);
}

static void test_page_written_meanwhile_does_not_enter(void **state)
{
	struct page_view view;
	make_cold_pages();
	struct op *reading = begin_read(0, &view);
	COMMIT(other, write_page(op, object, 0, 2));
	end_read(reading);
	expect_byte(0, 2);
}

static void test_page_dropped_meanwhile_does_not_enter(void **state)
{
	struct page_view view;
	make_cold_pages();
	struct op *reading = begin_read(0, &view);
	COMMIT(other, txn_drop(op, object, 0, 1));
	end_read(reading);
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
}

static void test_page_of_an_earlier_run_does_not_enter(void **state)
{
	struct page_view view;
	make_cold_pages();
	struct op *op = op_begin(lane);
	int r;
	page_t page = 0;
	while ((r = op_read(op, object, page, 1, false, &view)) == -ERESTART || page == 0) {
		page = r == 0; // the next run asks for the other one
		r = -ERESTART;
		assert_true(op_again(op, &r));
	}
	end_read(op);
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
	assert_true(frame_of(s, object, 1) != FRAME_NONE);
}

// ---- the table lock ---------------------------------------------------------------------------------

static unsigned undrained;

static void on_store(void *arg, uint64_t offset, const void *src, size_t bytes)
{
	undrained++;
}

static void on_drain(void *arg)
{
	undrained = 0;
}

static void test_no_admission_while_the_table_is_locked(void **state)
{
	struct media_recorder recorder = { on_store, on_drain, NULL };
	struct page_view view;
	make_cold_pages();
	struct op *op = begin_read(0, &view);
	uint32_t free_frames = frames_free_count(s->tier);
	m->recorder = &recorder;
	pthread_mutex_lock(&s->tier->table_lock);
	end_read(op);
	pthread_mutex_unlock(&s->tier->table_lock);
	m->recorder = NULL;
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
	assert_int_equal(frames_free_count(s->tier), free_frames);
	assert_int_equal(undrained, 0); // the frames are somebody else's now
}

static void test_lanes_do_nothing_while_the_table_is_locked(void **state)
{
	COMMIT(lane, write_page(op, object, 0, 1));
	assert_int_equal(store_sync(s), 0);
	frame_t f = frame_of(s, object, 0);
	COMMIT(lane, write_page(op, object, 1, 1));
	pthread_mutex_lock(&s->tier->table_lock);
	bool reclaimed = reclaim_slice(s, false);
	unsigned evicted = evict_some(s, 1, false);
	evict_frame(s, f);
	frame_t still = frame_of(s, object, 0);
	pthread_mutex_unlock(&s->tier->table_lock);
	assert_false(reclaimed);
	assert_int_equal(evicted, 0);
	assert_int_equal(still, f);
	evict_frame(s, f);
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
}

static void test_hit_while_the_table_is_locked_moves_nothing(void **state)
{
	for (page_t page = 0; page < 2; page++)
		COMMIT(lane, write_page(op, object, page, 1));
	reclaim_all();
	frame_t older = frame_of(s, object, 0), newer = frame_of(s, object, 1);
	const struct policy_queue *q = &s->policy.queue[s->tier->frame[older].queue];
	pthread_mutex_lock(&s->tier->table_lock);
	hit_frame(s, older);
	frame_t newest = q->newest;
	pthread_mutex_unlock(&s->tier->table_lock);
	assert_int_equal(newest, newer);
	hit_frame(s, older);
	assert_int_equal(q->newest, older);
}

static void evict_waiting(struct store *st)
{
	evict_some(st, 1, true);
}

static void reclaim_waiting(struct store *st)
{
	reclaim_slice(st, true);
}

static void test_the_chores_wait_for_the_table(void **state)
{
	assert_true(waits_for(&s->tier->table_lock, evict_waiting, s, NULL));
	assert_true(waits_for(&s->tier->table_lock, reclaim_waiting, s, NULL));
}

// ---- the chores thread --------------------------------------------------------------------------------

static unsigned unguarded;

static void expect_a_reader(struct store *st)
{
	unguarded += grace_over(&st->grace, grace_start(&st->grace));
}

static void reclaim_to_now(struct store *st)
{
	chores_reclaim_to(st, atomic_load(&st->lsn) - 1);
}

static void drop_all(struct store *st)
{
	chores_drop_pass(st, LSN_MAX);
}

static block_t node_block(const struct store *st)
{
	return st->blocks - 2; // in which there is none
}

static void expect_a_reader_and_no_node(struct store *st)
{
	expect_a_reader(st);
	unguarded += frame_of(st, OBJECT_STORE, node_block(st)) != FRAME_NONE;
}

static void install_one(struct store *st)
{
	struct new_node node = { .ref = { .block = node_block(st), .birth = 1 } };
	assert_true(frames_claim(st->tier, 1, 0, &node.frame));
	chores_install(st, &node, 1);
}

static void test_the_epoch_is_served_by_a_reader_under_the_lock(void **state)
{
	COMMIT(lane, txn_drop(op, object, 0, 1));
	assert_true(waits_for(&s->tier->table_lock, reclaim_to_now, s, expect_a_reader));
	assert_true(waits_for(&s->tier->table_lock, drop_all, s, expect_a_reader));
	assert_true(waits_for(&s->tier->table_lock, install_one, s, expect_a_reader_and_no_node));
	assert_int_equal(unguarded, 0);
	assert_int_equal(evict(), 1); // and no node has that place
}

// Of a frame in the last part of the tier, and of none before that part.
static struct bucket *bucket_of_the_end(frame_t part)
{
	for (frame_t f = s->tier->frames - 1; f >= part; f--) {
		const struct frame *fr = &s->tier->frame[f];
		struct bucket *b = index_bucket(s->tier, object, fr->page);
		bool alone = fr->object == object;
		for (frame_t i = 0; alone && i < part; i++)
			alone = index_bucket(s->tier, s->tier->frame[i].object, s->tier->frame[i].page) != b;
		if (alone)
			return b;
	}
	return NULL;
}

static void *drop_all_aside(void *arg)
{
	drop_all(s);
	return NULL;
}

static void test_frames_come_free_while_a_drop_pass_goes_on(void **state)
{
	pthread_t thread;
	for (page_t page = 0; page < MANY_PAGES; page++)
		COMMIT(lane, write_page(op, object, page, 1));
	assert_int_equal(store_sync(s), 0);
	COMMIT(lane, txn_drop(op, object, 0, MANY_PAGES));
	unsigned before = frames_free_count(s->tier);
	struct bucket *stuck = bucket_of_the_end(MANY_PAGES);
	assert_non_null(stuck);
	uint32_t version = index_lock(stuck);
	assert_int_equal(pthread_create(&thread, NULL, drop_all_aside, NULL), 0);
	for (unsigned ms = 0; frames_free_count(s->tier) == before && ms < 60000; ms++)
		usleep(1000);
	bool freed = frames_free_count(s->tier) > before;
	index_unlock(stuck, version, false);
	pthread_join(thread, NULL);
	assert_true(freed);
	for (page_t page = 0; page < MANY_PAGES; page++) // where two parts meet, too
		assert_int_equal(index_look(s->tier, object, page, &stuck, &version), FRAME_NONE);
}

static void test_room_is_made_by_a_reader(void **state)
{
	static frame_t frame[TIER_BYTES / PAGE_BYTES];
	unsigned claimed = 0;
	pthread_mutex_lock(&s->tier->table_lock);
	for (; frames_free_count(s->tier) >= frames_low(s); claimed++)
		assert_true(frames_claim(s->tier, 1, 0, &frame[claimed]));
	chores_kick(s);
	while (!somebody_waits(&s->tier->table_lock))
		sched_yield();
	expect_a_reader(s);
	pthread_mutex_unlock(&s->tier->table_lock);
	assert_int_equal(unguarded, 0);
	frames_return(s->tier, frame, claimed);
}

static void kick(struct store *st)
{
	chores_kick(st);
}

static void test_a_kick_is_not_lost(void **state)
{
	chores_stop(s);
	s->chores_running = true;
	assert_true(waits_for(&s->chores_lock, kick, s, NULL));
	s->chores_running = s->chores_stop = false;
	assert_int_equal(chores_start(s), 0);
}

static int setup_lru(void **state)
{
	world_config.policy = STORE_POLICY_LRU;
	return setup(state);
}

static int setup_ahead_of_need(void **state)
{
	world_config.on_demand = false;
	return setup(state);
}

static int teardown_config(void **state)
{
	world_config.policy = STORE_POLICY_A2Q;
	world_config.on_demand = true;
	return teardown(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	log_quiet(1);
	const struct CMUnitTest tests[] = {
		TEST(test_victim_outlives_its_readers),
		TEST(test_dead_page_stays_while_its_record_may_be_replayed),
		TEST(test_dead_page_stays_while_an_epoch_has_frozen_it),
		TEST(test_a_dropped_page_is_free_once),
		TEST(test_page_enters_with_its_slot),
		TEST(test_page_written_meanwhile_does_not_enter),
		TEST(test_page_dropped_meanwhile_does_not_enter),
		TEST(test_page_of_an_earlier_run_does_not_enter),
		TEST(test_no_admission_while_the_table_is_locked),
		TEST(test_lanes_do_nothing_while_the_table_is_locked),
		cmocka_unit_test_setup_teardown(test_hit_while_the_table_is_locked_moves_nothing, setup_lru, teardown_config),
		TEST(test_the_chores_wait_for_the_table),
		TEST(test_the_epoch_is_served_by_a_reader_under_the_lock),
		TEST(test_frames_come_free_while_a_drop_pass_goes_on),
		cmocka_unit_test_setup_teardown(test_room_is_made_by_a_reader, setup_ahead_of_need, teardown_config),
		TEST(test_a_kick_is_not_lost),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
