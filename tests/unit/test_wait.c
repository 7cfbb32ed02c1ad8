// SPDX-License-Identifier: GPL-2.0-or-later
// Operations that wait for blocks of the backing beside each other, in one thread.
#include <errno.h>
#include <poll.h>
#include <string.h>
#include "log.h"
#include "store_world.h"

#define READERS 8u

static struct store *s;
static struct lane *lane;
static object_t object;

static int setup(void **state)
{
	s = new_store();
	assert_int_equal(lane_new(s, &lane), 0);
	object = store_new_object(s);
	for (page_t page = 0; page < READERS; page++)
		COMMIT(lane, write_page(op, object, 3 * page, (uint8_t)(page + 1))); // no two of them in one I/O
	assert_int_equal(store_sync(s), 0);
	return 0;
}

static int teardown(void **state)
{
	end_store(s, lane);
	return 0;
}

static void make_cold(void)
{
	grace_enter(&s->grace, lane->reader);
	evict_some(s, UINT32_MAX, true);
	grace_leave(lane->reader);
	frames_poll(s->tier);
	assert_int_equal(frame_of(s, object, 0), FRAME_NONE);
}

static struct reader {
	struct op *op;
	page_t page;
	uint8_t byte;
	int result;
	bool done;
	unsigned waits;
} readers[READERS];
static unsigned waiting, most_waiting;

static int read_byte(struct op *op, page_t page, uint8_t *ret_byte)
{
	struct page_view view;
	int r = op_read(op, object, page, 1, false, &view);
	if (!r)
		*ret_byte = view.data ? *(const uint8_t *)view.data : 0;
	return r;
}

static void ready(void *arg);

static void run(struct reader *r)
{
	do
		r->result = read_byte(r->op, r->page, &r->byte);
	while (op_try(r->op, &r->result));
	if (r->result == -EAGAIN && op_wait(r->op, ready, r)) {
		r->waits++;
		if (++waiting > most_waiting)
			most_waiting = waiting;
		return;
	}
	r->done = true;
	op_end(r->op);
}

static void ready(void *arg)
{
	struct reader *r = arg;
	waiting--;
	op_resume(r->op);
	run(r);
}

static void begin(unsigned i)
{
	readers[i] = (struct reader){ .op = op_begin(lane), .page = 3 * i };
	run(&readers[i]);
}

static void begin_all(void)
{
	waiting = most_waiting = 0;
	for (unsigned i = 0; i < READERS; i++)
		begin(i);
}

static void end_all(void)
{
	struct pollfd pollfd = { .fd = lane_fd(lane), .events = POLLIN };
	for (lane_poll(lane); waiting; lane_poll(lane))
		assert_int_equal(poll(&pollfd, 1, 10000), 1); // what is there to be polled for is told
	for (unsigned i = 0; i < READERS; i++) {
		assert_true(readers[i].done);
		assert_int_equal(readers[i].result, 0);
		assert_int_equal(readers[i].byte, i + 1);
	}
}

static void skip_without_uring(void)
{
	if (lane_fd(lane) < 0)
		skip();
}

static void misses_of_one_lane_wait_together(void **state)
{
	skip_without_uring();
	make_cold();
	begin_all();
	assert_int_equal(most_waiting, READERS);
	end_all();
	assert_int_not_equal(frame_of(s, object, 0), FRAME_NONE); // admitted, as any miss
	begin_all();
	assert_int_equal(most_waiting, 0);
}

// It is no reader and holds no lock meanwhile: commits and epochs of others go on, and the lane runs what is a hit.
static void who_waits_holds_up_nobody(void **state)
{
	uint8_t byte = 0;
	skip_without_uring();
	make_cold();
	begin_all();
	object_t other = store_new_object(s);
	COMMIT(lane, write_page(op, other, 0, 9));
	assert_int_equal(OP_RUN(lane, read_byte(op, READERS * 3, &byte)), 0);
	COMMIT(lane, write_page(op, object, 0, 100)); // of what the first of them waits for
	assert_int_equal(store_sync(s), 0);
	for (struct pollfd pollfd = { .fd = lane_fd(lane), .events = POLLIN }; waiting; lane_poll(lane))
		poll(&pollfd, 1, 10);
	assert_int_equal(readers[0].byte, 100);
	for (unsigned i = 1; i < READERS; i++)
		assert_int_equal(readers[i].byte, i + 1);
}

static int fail_reads(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	return kind == 'r' ? -EIO : 0;
}

static void an_error_ends_all_that_wait(void **state)
{
	static const struct backing_hook failing = { .before = fail_reads };
	skip_without_uring();
	make_cold();
	s->backing->hook = &failing;
	begin_all();
	while (waiting)
		lane_poll(lane);
	s->backing->hook = NULL;
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(readers[i].result, -EIO);
	make_cold();
	begin_all(); // and nothing of it stays with the ops that are used again
	end_all();
}

// There is no end of waiting for that.
static void only_blocks_are_waited_for(void **state)
{
	struct op *op = op_begin(lane);
	int r = op_park(op, PARK_LOG);
	assert_false(op_try(op, &r));
	assert_int_equal(r, -EAGAIN);
	assert_false(op_wait(op, ready, NULL));
	op_end(op);
}

// More I/O than its queue takes: the rest is for those who may wait for the queue.
static void a_full_queue_takes_no_more(void **state)
{
	struct op *held[200];
	unsigned count = 0;
	int r;
	skip_without_uring();
	make_cold();
	waiting = 0;
	for (; count < 200; count++) {
		struct reader *reader = &readers[0];
		uint8_t byte;
		held[count] = op_begin(lane);
		do
			r = read_byte(held[count], 0, &byte);
		while (op_try(held[count], &r));
		assert_int_equal(r, -EAGAIN);
		*reader = (struct reader){ 0 };
		if (!op_wait(held[count], ready, reader))
			break;
	}
	assert_in_range(count, READERS, 199);
	op_end(held[count]);
	// Nobody resumes these: their I/O has to end before the ops do.
	for (unsigned i = 0; i < count; i++)
		held[i]->fetching.ready = NULL;
	ioq_wait_all(lane->ioq);
	for (unsigned i = 0; i < count; i++) {
		op_resume(held[i]);
		op_end(held[i]);
	}
	assert_int_equal(lane->idles, IDLE_OPS_MAX);
}

// ---- what others read into the tier ----------------------------------------------------------------------

static struct op *first;
static struct lane *other;
static uint8_t joined_byte;

static void *join_main(void *arg)
{
	return (void *)(intptr_t)OP_RUN(other, read_byte(op, 0, &joined_byte));
}

static bool sleeps(void)
{
	for (unsigned n = 0; !atomic_load(&s->waiters) && n < 5000; n++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return atomic_load(&s->waiters);
}

static void keep_first(bool keep)
{
	uint8_t byte;
	int r;
	make_cold();
	assert_int_equal(OP_RUN(lane, read_byte(op, 3, &byte)), 0); // nodes are there
	first = op_begin(lane);
	if (keep)
		assert_true(op_keep(first, 1));
	do
		r = read_byte(first, 0, &byte);
	while (op_try(first, &r));
	waiting = 1;
	assert_true(op_wait(first, ready, &readers[0]));
	readers[0] = (struct reader){ .op = first };
}

static void end_first(void)
{
	while (waiting)
		lane_poll(lane);
	assert_true(readers[0].done);
}

static void what_others_read_is_not_read_twice(void **state)
{
	pthread_t thread;
	void *result;
	skip_without_uring();
	assert_int_equal(lane_new(s, &other), 0);
	keep_first(true);
	uint64_t reads = atomic_load(&s->backing->reads);
	assert_int_equal(pthread_create(&thread, NULL, join_main, NULL), 0);
	assert_true(sleeps());
	end_first();
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_null(result);
	assert_int_equal(joined_byte, 1);
	assert_int_equal(atomic_load(&s->backing->reads), reads + 1);
	assert_int_equal(s->coming[hash_mix(object, 0) % COMING], 0);
	lane_free(other);
}

// It may never come.
static void others_are_not_waited_for_for_long(void **state)
{
	skip_without_uring();
	assert_int_equal(lane_new(s, &other), 0);
	keep_first(true);
	assert_null(join_main(NULL));
	assert_int_equal(joined_byte, 1);
	end_first();
	lane_free(other);
}

// What may not get into the tier is no use to others.
static void a_mere_miss_is_not_waited_for(void **state)
{
	skip_without_uring();
	assert_int_equal(lane_new(s, &other), 0);
	keep_first(false);
	assert_int_equal(s->coming[hash_mix(object, 0) % COMING], 0);
	assert_null(join_main(NULL));
	end_first();
	lane_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(misses_of_one_lane_wait_together, setup, teardown),
		cmocka_unit_test_setup_teardown(who_waits_holds_up_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(an_error_ends_all_that_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(only_blocks_are_waited_for, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_queue_takes_no_more, setup, teardown),
		cmocka_unit_test_setup_teardown(what_others_read_is_not_read_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(others_are_not_waited_for_for_long, setup, teardown),
		cmocka_unit_test_setup_teardown(a_mere_miss_is_not_waited_for, setup, teardown),
	};
	log_init("test_wait");
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
