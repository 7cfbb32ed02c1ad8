// SPDX-License-Identifier: GPL-2.0-or-later
// Reclaim after a crash between what it has let go of and the tail behind it, and beside a commit.
#include <stdlib.h>
#include <string.h>
#include "log.h"
#include "store_world.h"

#define ITEMS 20u
#define MANY 48u // of them a slice, and more than RECORD_BYTES_MAX
#define SLICE_RECORDS 64u // of reclaim
#define VALUE_BYTES 960u // a record of its own has 1024

// A crash before the tail of that ring has arrived.
static struct store *crash(struct store *s, struct lane *lane, unsigned ring, uint64_t tail)
{
	struct media *copy;
	assert_int_equal(media_open_dram(TIER_BYTES, &copy), 0);
	memcpy(copy->base, m->base, TIER_BYTES);
	tier_word_store(copy, WORD_RING_TAIL + ring, tail);
	media_drain(copy);
	lane_free(lane);
	store_abandon(s);
	m = copy;
	return open_store();
}

static void put_item(struct lane *lane, object_t object, unsigned round)
{
	uint8_t value[VALUE_BYTES];
	memset(value, (int)(object + round), sizeof value);
	COMMIT(lane, txn_put(op, item_key(object, ITEM_INODE, 0), value, sizeof value));
}

static void test_ring_full_of_what_was_logged_again(void **state)
{
	struct lane *lane;
	object_t object[ITEMS];
	struct store *s = new_store();
	struct ring *r = tier_item_ring(s->tier);

	assert_int_equal(lane_new(s, &lane), 0);
	for (unsigned i = 0; i < ITEMS; i++)
		object[i] = store_new_object(s);
	// Items that stay, then others again and again, until those that stay have gone round.
	for (unsigned i = 0; r->head + 1024 <= r->bytes; i++) {
		put_item(lane, object[i < ITEMS ? i : i % 3], i);
		reclaim_slice(s, true);
	}
	assert_true(r->head <= r->bytes && r->tail > 1024 * ITEMS);
	s = crash(s, lane, r->number, 0);
	r = tier_item_ring(s->tier);
	assert_true(ring_used(r) + 1024 > r->bytes);
	assert_int_equal(lane_new(s, &lane), 0);
	put_item(lane, object[0], 0);
	end_store(s, lane);
}

// Every frame that is free is so once.
static void check_free_list(struct tier *t)
{
	uint32_t count = frames_free_count(t);
	frame_t *frame = calloc(count, sizeof *frame);
	uint8_t *seen = calloc(t->frames, 1);
	assert_true(frames_claim(t, count, 0, frame));
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(seen[frame[i]]++, 0);
	frames_return(t, frame, count);
	free(frame);
	free(seen);
}

static void test_frame_given_away_before_its_record_is_met_again(void **state)
{
	struct lane *lane;
	struct store *s = new_store();
	object_t object = store_new_object(s);

	assert_int_equal(lane_new(s, &lane), 0);
	COMMIT(lane, write_page(op, object, 0, 1));
	assert_true(reclaim_slice(s, true));
	s = crash(s, lane, 0, 0);
	assert_int_equal(lane_new(s, &lane), 0);
	COMMIT(lane, txn_drop(op, object, 0, 1));
	assert_int_equal(evict_some(s, 1, true), 1);
	frames_poll(s->tier);
	assert_true(reclaim_slice(s, true));
	frames_poll(s->tier);
	check_free_list(s->tier);
	end_store(s, lane);
}

static void test_slice_full_of_what_was_reclaimed(void **state)
{
	struct lane *lane;
	struct store *s = new_store();
	object_t object = store_new_object(s);

	assert_int_equal(lane_new(s, &lane), 0);
	for (unsigned i = 0; i < SLICE_RECORDS; i++)
		put_item(lane, object, i);
	assert_true(reclaim_slice(s, true));
	uint64_t tail = s->tier->ring[0].tail;
	s = crash(s, lane, 0, 0);
	assert_int_equal(lane_new(s, &lane), 0);
	put_item(lane, object, 0);
	lsn_t before = s->tier->tail_lsn;
	assert_true(reclaim_slice(s, true));
	assert_true(s->tier->tail_lsn > before && s->tier->ring[0].tail > tail);
	end_store(s, lane);
}

static void test_more_items_in_a_slice_than_a_record_takes(void **state)
{
	struct lane *lane;
	object_t object[MANY];
	uint8_t value[VALUE_BYTES];
	struct store *s = new_store();

	assert_int_equal(lane_new(s, &lane), 0);
	s->overlay.bytes_max *= 2; // or an epoch would be asked for
	for (unsigned i = 0; i < MANY; i++) {
		object[i] = store_new_object(s);
		put_item(lane, object[i], 0);
	}
	assert_true(reclaim_slice(s, true));
	assert_int_equal(s->tier->ring[0].tail, s->tier->ring[0].head);
	s = crash(s, lane, 0, s->tier->ring[0].tail);
	assert_int_equal(lane_new(s, &lane), 0);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(OP_RUN(lane, op_get(op, item_key(object[i], ITEM_INODE, 0), value, sizeof value)), VALUE_BYTES);
		assert_int_equal(value[0], (uint8_t)object[i]);
	}
	end_store(s, lane);
}

static struct store *store;
static struct lane *committing;
static lsn_t in_flight;

static void begin_commit(void)
{
	atomic_store(&committing->inflight, atomic_load(&store->lsn));
	in_flight = atomic_fetch_add(&store->lsn, 1);
}

static void test_t_stays_behind_a_commit_that_begins_meanwhile(void **state)
{
	struct lane *lane;
	store = new_store();
	assert_int_equal(lane_new(store, &committing), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	assert_true(committing->number < lane->number); // so that reclaim has asked it already, when it comes to the other
	struct lane *copy = trap_page(lane, sizeof *lane);
	traps[0] = (struct trap){ copy, begin_commit, 0 };
	atomic_store(&store->lane[lane->number], copy);
	traps_begin();
	reclaim_slice(store, true);
	assert_int_equal(traps[0].accesses, 1);
	traps_end();
	assert_true(atomic_load(&store->tier->tail_lsn) < in_flight);
	atomic_store(&committing->inflight, 0);
	atomic_store(&store->lane[lane->number], lane);
	free(copy);
	lane_free(committing);
	end_store(store, lane);
}

int main(void)
{
	log_quiet(1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_ring_full_of_what_was_logged_again),
					    cmocka_unit_test(test_frame_given_away_before_its_record_is_met_again),
					    cmocka_unit_test(test_slice_full_of_what_was_reclaimed),
					    cmocka_unit_test(test_more_items_in_a_slice_than_a_record_takes),
					    cmocka_unit_test(test_t_stays_behind_a_commit_that_begins_meanwhile) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
