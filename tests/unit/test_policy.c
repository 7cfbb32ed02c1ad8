// SPDX-License-Identifier: GPL-2.0-or-later
// Which frame is given up: a cache of pages in the place of the tier.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "policy.h"

#define FRAMES 1000u
#define OBJECT 7u

static struct policy policy;
static struct frame frame[FRAMES];
static frame_t used, stuck; // frames below used were in use; the victim `stuck` cannot go
static unsigned misses;

static bool take(void *arg, frame_t f)
{
	return f != stuck;
}

static void begin(const struct policy_ops *ops)
{
	memset(frame, 0, sizeof frame);
	used = misses = 0;
	stuck = FRAME_NONE;
	assert_int_equal(policy_init(&policy, ops, frame, FRAMES, take, NULL), 0);
}

static void end(void)
{
	assert_true(policy_check(&policy));
	policy_fini(&policy);
}

static frame_t find(page_t page)
{
	for (frame_t f = 0; f < used; f++)
		if (frame[f].queue && frame[f].object == OBJECT && frame[f].page == page)
			return f;
	return FRAME_NONE;
}

static void look(page_t page)
{
	frame_t f = find(page);
	if (f != FRAME_NONE) {
		frame_warm(&frame[f]);
		if (policy.ops->hit)
			policy.ops->hit(&policy, f);
		return;
	}
	misses++;
	f = used < FRAMES ? used++ : policy_victim(&policy);
	assert_int_not_equal(f, FRAME_NONE);
	assert_int_equal(frame[f].queue, 0);
	frame[f].object = OBJECT;
	frame[f].page = page;
	policy_insert(&policy, f);
}

static void look_at(page_t from, page_t to)
{
	for (; from < to; from++)
		look(from);
}

static unsigned found(page_t from, page_t to)
{
	unsigned n = 0;
	for (; from < to; from++)
		n += find(from) != FRAME_NONE;
	return n;
}

// ---- all of them ------------------------------------------------------------------------------------

static const struct policy_ops *const all[] = { &policy_a2q, &policy_clock, &policy_lru };
#define FOR_EACH(ops) for (const struct policy_ops *const *ops = all; ops < all + sizeof all / sizeof *all; ops++)

static void queues_hold_what_was_inserted(void **unused)
{
	FOR_EACH(ops) {
		uint32_t rng = 1;
		begin(*ops);
		for (int i = 0; i < 30000; i++) {
			rng = rng * 1664525 + 1013904223;
			page_t page = (rng >> 8) % 3000;
			frame_t f = find(page);
			if (rng >> 28 == 0 && f != FRAME_NONE) { // dropped, and used by another page at once
				policy_remove(&policy, f);
				frame[f].page = 100000 + (page_t)i;
				policy_insert(&policy, f);
			} else {
				look(page);
			}
			if (i % 1000 == 0)
				assert_true(policy_check(&policy));
		}
		end();
	}
}

static void what_cannot_go_stays(void **unused)
{
	FOR_EACH(ops) {
		begin(*ops);
		look_at(0, FRAMES);
		stuck = find(3);
		look_at(5000, 5000 + 4 * FRAMES);
		assert_int_equal(find(3), stuck);
		end();
	}
}

static bool take_none(void *arg, frame_t f)
{
	return false;
}

static void there_may_be_no_victim(void **unused)
{
	FOR_EACH(ops) {
		begin(*ops);
		look_at(0, FRAMES);
		policy.take = take_none;
		for (int i = 0; i < 3; i++)
			assert_int_equal(policy_victim(&policy), FRAME_NONE);
		policy.take = take;
		for (unsigned i = 0; i < FRAMES; i++)
			assert_int_not_equal(policy_victim(&policy), FRAME_NONE);
		assert_int_equal(policy_victim(&policy), FRAME_NONE);
		end();
	}
}

static void a_new_version_takes_the_place_of_the_old(void **unused)
{
	FOR_EACH(ops) {
		begin(*ops);
		look_at(0, FRAMES - 1);
		frame_t old = find(0), f = used++;
		frame[f].object = OBJECT;
		frame[f].page = 0;
		policy_replace(&policy, old, f);
		assert_int_equal(frame[old].queue, 0);
		assert_true(policy_check(&policy));
		// It was the first, and is still: the first victim of those that are not used again.
		for (unsigned i = 1; i < FRAMES - 1; i++)
			look(i);
		if (*ops != &policy_a2q) // there, it is young
			assert_int_equal(policy_victim(&policy), f);
		end();
	}
}

// ---- each -------------------------------------------------------------------------------------------

static void clock_gives_a_second_chance(void **unused)
{
	begin(&policy_clock);
	look_at(0, FRAMES);
	look_at(0, 10);
	look_at(5000, 5990);
	assert_int_equal(found(0, 10), 10);
	assert_int_equal(found(10, FRAMES), 0);
	end();
}

static void lru_keeps_the_last_used(void **unused)
{
	begin(&policy_lru);
	look_at(0, FRAMES);
	look_at(100, 300);
	look_at(5000, 5800);
	assert_int_equal(found(100, 300), 200);
	assert_int_equal(found(300, FRAMES) + found(0, 100), 0);
	end();
}

static void a2q_keeps_a_working_set_through_a_stream(void **unused)
{
	begin(&policy_a2q);
	for (int round = 0; round < 20; round++) // looked at again and again, with other things between
		for (page_t page = 0; page < 600; page++) {
			look(page);
			look(100000 + (page_t)round * 600 + page);
		}
	assert_in_range(found(0, 600), 590, 600);
	look_at(200000, 200000 + 20 * FRAMES);
	assert_in_range(found(0, 600), 590, 600);
	end();
}

static void a2q_takes_two_uses_at_once_for_one(void **unused)
{
	begin(&policy_a2q);
	look_at(0, FRAMES);
	for (page_t page = 5000; page < 5000 + 20 * FRAMES; page++) {
		look(page);
		look(page);
	}
	assert_in_range(found(0, FRAMES), 850, FRAMES); // a stream, though each page was hit
	end();
}

static void a2q_remembers_what_it_gave_up_too_early(void **unused)
{
	begin(&policy_a2q);
	look_at(0, FRAMES);
	look_at(5000, 5300); // out of Small again, for the most part
	page_t gone = 5299;
	while (find(gone) != FRAME_NONE)
		gone--;
	double target = policy.target;
	look(gone);
	assert_true(policy.target > target);
	look_at(6000, 6000 + 2 * FRAMES);
	assert_int_not_equal(find(gone), FRAME_NONE);
	end();
}

static void a2q_gives_small_what_recency_needs(void **unused)
{
	// Uses come in pairs, 120 pages apart: with Small at a tenth all second uses miss.
	begin(&policy_a2q);
	for (page_t page = 120; page < 30000; page++) {
		if (page == 20000)
			misses = 0;
		look(page);
		look(page - 120);
	}
	assert_in_range(misses, 10000, 10500);
	end();
}

static void a2q_comes_near_lru_where_that_is_best(void **unused)
{
	unsigned of_lru = 0;
	begin(&policy_lru);
	for (int round = 0; round < 2; round++) { // up and down: what was used last is used first
		for (int n = 0; n < 13; n++)
			for (page_t page = 0; page < 4 * FRAMES; page++)
				look(page < 2 * FRAMES ? page : 4 * FRAMES - 1 - page);
		end();
		if (round == 0) {
			of_lru = misses;
			begin(&policy_a2q);
		}
	}
	assert_in_range(misses, of_lru, of_lru * 115 / 100);
}

static void a2q_lets_those_that_waited_go_first(void **unused)
{
	begin(&policy_a2q);
	look_at(0, FRAMES);
	frame_t first = find(0);
	stuck = first;
	look_at(5000, 5000 + FRAMES);
	assert_int_equal(find(0), first);
	stuck = FRAME_NONE;
	assert_int_equal(policy_victim(&policy), first);
	end();
}

// ---- ghosts -------------------------------------------------------------------------------------------

static void ghosts_are_found_once_and_have_an_age(void **unused)
{
	struct ghost g;
	uint64_t age;
	unsigned known = 0, wrong = 0;
	assert_int_equal(ghost_init(&g, 10000), 0);
	for (page_t page = 0; page < 25000; page++)
		ghost_add(&g, 1, page);
	for (page_t page = 0; page < 14000; page++)
		known += ghost_take(&g, 1, page, &age);
	assert_in_range(known, 0, 30); // too old; some by mistake
	known = 0;
	for (page_t page = 15200; page < 25000; page++) {
		if (!ghost_take(&g, 1, page, &age))
			continue;
		known++;
		wrong += age + 2 * g.step < 25000 - page || age > 25000 - page + 2 * g.step;
		wrong += ghost_take(&g, 1, page, &age);
	}
	assert_in_range(wrong, 0, 20); // fingerprints are short
	assert_in_range(known, 9000, 9800);
	known = 0;
	for (page_t page = 0; page < 100000; page++)
		known += ghost_take(&g, 2, page, &age);
	assert_in_range(known, 0, 100);
	ghost_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queues_hold_what_was_inserted),
		cmocka_unit_test(what_cannot_go_stays),
		cmocka_unit_test(there_may_be_no_victim),
		cmocka_unit_test(a_new_version_takes_the_place_of_the_old),
		cmocka_unit_test(clock_gives_a_second_chance),
		cmocka_unit_test(lru_keeps_the_last_used),
		cmocka_unit_test(a2q_keeps_a_working_set_through_a_stream),
		cmocka_unit_test(a2q_takes_two_uses_at_once_for_one),
		cmocka_unit_test(a2q_remembers_what_it_gave_up_too_early),
		cmocka_unit_test(a2q_gives_small_what_recency_needs),
		cmocka_unit_test(a2q_comes_near_lru_where_that_is_best),
		cmocka_unit_test(a2q_lets_those_that_waited_go_first),
		cmocka_unit_test(ghosts_are_found_once_and_have_an_age),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
