// SPDX-License-Identifier: GPL-2.0-or-later
// DROPs by object and page: what a list of them would say, and at once however many there are.
#include <stdlib.h>
#include <time.h>
#include "store_world.h"

#define DROPS 3000u
#define PAGES 4096u
#define MANY 50000u

static struct drops drops;

static int setup(void **state)
{
	pthread_mutex_init(&drops.lock, NULL);
	return drops_init(&drops, 1024);
}

static int teardown(void **state)
{
	drops_fini(&drops);
	return 0;
}

static struct drop *add(object_t object, page_t from, page_t to, lsn_t lsn)
{
	struct drop *d = drop_new(object, from, to, false);
	assert_non_null(d);
	d->lsn = lsn;
	drops_add(&drops, d);
	return d;
}

static lsn_t newest_of_all(struct drop *const *list, object_t object, page_t page, lsn_t not_above)
{
	lsn_t newest = 0;
	for (unsigned i = 0; i < DROPS; i++)
		if (list[i]->object == object && page >= list[i]->from && page < list[i]->to && list[i]->lsn <= not_above &&
		    list[i]->lsn > newest)
			newest = list[i]->lsn;
	return newest;
}

static void test_small_and_wide_ones_say_what_a_list_says(void **state)
{
	struct drop *list[DROPS];
	srandom(1);
	for (unsigned i = 0; i < DROPS; i++) {
		page_t from = (page_t)random() % PAGES;
		list[i] = add(1 + i % 3, from, from + 1 + (page_t)random() % (i % 10 ? 8 : 1000), 1 + i);
	}
	for (page_t page = 0; page < PAGES; page++)
		for (object_t object = 1; object <= 3; object++) {
			lsn_t not_above = page % 2 ? LSN_MAX : DROPS / 2;
			assert_int_equal(drops_newest(&drops, object, page, not_above), newest_of_all(list, object, page, not_above));
		}
}

static void test_a_file_of_many_small_holes_is_no_list(void **state)
{
	struct timespec used;
	for (page_t i = 0; i < MANY; i++)
		add(1, 2 * i, 2 * i + 1, 1 + i);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	time_t before = used.tv_sec;
	for (page_t i = 0; i < 2 * MANY; i++)
		assert_int_equal(drops_newest(&drops, 1, i, LSN_MAX), i % 2 ? 0 : 1 + i / 2);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	assert_in_range(used.tv_sec - before, 0, 1); // a walk over all for each takes several
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_small_and_wide_ones_say_what_a_list_says),
		TEST(test_a_file_of_many_small_holes_is_no_list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
