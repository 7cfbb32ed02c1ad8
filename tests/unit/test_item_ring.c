// SPDX-License-Identifier: GPL-2.0-or-later
// The item ring after a crash between items logged again and the tail behind what they were logged from.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "log.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(3) << 20)
#define BACKING_BYTES (UINT64_C(32) << 20)
#define ITEMS 20u
#define VALUE_BYTES 960u // a record of its own has 1024

static int backing_fd;

static struct store *open_store(struct media *m)
{
	const struct store_config config = { .format_blank = true, .tiny = true, .assume_persistent = true, .interval_ms = 3600000 };
	struct backing *b;
	struct store *s;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", backing_fd);
	assert_int_equal(backing_open(path, false, &b), 0);
	assert_int_equal(store_open_on(&config, m, b, &s), 0);
	return s;
}

static int put(struct op *op, object_t object, const uint8_t *value)
{
	int r = txn_put(op, item_key(object, ITEM_INODE, 0), value, VALUE_BYTES);
	return r ? r : txn_commit(op, false);
}

static void put_item(struct lane *lane, object_t object, unsigned round)
{
	uint8_t value[VALUE_BYTES];
	struct op *op = op_begin(lane);
	int r;
	memset(value, (int)(object + round), sizeof value);
	do
		r = put(op, object, value);
	while (op_again(op, &r));
	op_end(op);
	assert_int_equal(r, 0);
}

static void test_ring_full_of_what_was_logged_again(void **state)
{
	struct media *m, *copy;
	struct lane *lane;
	object_t object[ITEMS];

	backing_fd = memfd_create("backing", MFD_CLOEXEC);
	assert_int_equal(ftruncate(backing_fd, (off_t)BACKING_BYTES), 0);
	assert_int_equal(media_open_dram(TIER_BYTES, &m), 0);
	assert_int_equal(media_open_dram(TIER_BYTES, &copy), 0);
	struct store *s = open_store(m);
	struct ring *r = tier_item_ring(s->tier);
	chores_stop(s); // reclaim is ours
	assert_int_equal(lane_new(s, &lane), 0);
	for (unsigned i = 0; i < ITEMS; i++)
		object[i] = store_new_object(s);
	// Items that stay, then others again and again, until those that stay have gone round.
	for (unsigned i = 0; r->head + 1024 <= r->bytes; i++) {
		put_item(lane, object[i < ITEMS ? i : i % 3], i);
		reclaim_slice(s, true);
	}
	assert_true(r->head <= r->bytes && r->tail > 1024 * ITEMS);
	memcpy(copy->base, m->base, TIER_BYTES);
	tier_word_store(copy, WORD_RING_TAIL + r->number, 0); // has not arrived
	media_drain(copy);
	lane_free(lane);
	store_abandon(s);

	s = open_store(copy);
	r = tier_item_ring(s->tier);
	assert_true(ring_used(r) + 1024 > r->bytes);
	assert_int_equal(lane_new(s, &lane), 0);
	put_item(lane, object[0], 0);
	assert_int_equal(store_sync(s), 0);
	lane_free(lane);
	assert_int_equal(store_close(s), 0);
	close(backing_fd);
}

int main(void)
{
	log_quiet(1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_ring_full_of_what_was_logged_again) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
