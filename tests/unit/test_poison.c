// SPDX-License-Identifier: GPL-2.0-or-later
// Pages of a mapping that fail while it is in use, by themselves.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "media.h"
#include "poisoner.h"

#define PAGES 16u

static char path[] = "/dev/shm/test-poison-XXXXXX";
static struct media *m;

static void fill(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		memset(m->base + i * PAGE_BYTES, 1 + (int)i, PAGE_BYTES);
}

static int setup(void **state)
{
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, PAGES * PAGE_BYTES), 0);
	close(fd);
	assert_int_equal(media_open(path, false, &m), 0);
	assert_int_equal(media_allocate(m), 0);
	fill();
	return 0;
}

static int teardown(void **state)
{
	media_close(m);
	unlink(path);
	strcpy(path + strlen(path) - 6, "XXXXXX");
	return 0;
}

static uint8_t *page(unsigned i)
{
	return m->base + i * PAGE_BYTES;
}

static void expect_page(unsigned i, uint8_t byte)
{
	for (unsigned at = 0; at < PAGE_BYTES; at++)
		assert_int_equal(page(i)[at], byte);
}

static struct sigaction ours;

static void poison(unsigned i)
{
	sigaction(SIGBUS, &ours, NULL); // CMocka takes it for each test
	assert_true(poison_page(page(i)));
}

static void a_load_finds_zeroes_and_the_page_is_counted(void **state)
{
	poison(3);
	assert_int_equal(media_poisoned(m), 0);
	expect_page(3, 0);
	assert_int_equal(media_poisoned(m), 1);
	assert_int_equal(m->poison[0], 3 * PAGE_BYTES);
	assert_false(media_holds(m, page(3) + 100, 8));
	for (unsigned i = 0; i < PAGES; i++)
		if (i != 3) {
			expect_page(i, (uint8_t)(1 + i));
			assert_true(media_holds(m, page(i), PAGE_BYTES));
		}
}

static void a_store_goes_nowhere_and_is_found_not_to_be_held(void **state)
{
	uint8_t source[2 * PAGE_BYTES], found[PAGE_BYTES];
	int fd = open(path, O_RDONLY);

	memset(source, 99, sizeof source);
	poison(5);
	media_copy(m, page(4), source, sizeof source);
	media_drain(m);
	assert_false(media_holds(m, page(4), sizeof source));
	assert_true(media_holds(m, page(4), PAGE_BYTES));
	assert_int_equal(pread(fd, found, sizeof found, 5 * PAGE_BYTES), PAGE_BYTES);
	assert_int_equal(found[0], 6);
	assert_int_equal(pread(fd, found, sizeof found, 4 * PAGE_BYTES), PAGE_BYTES);
	assert_int_equal(found[0], 99);
	close(fd);
}

static void the_kernel_gets_an_error_and_zeroes_are_not_lent(void **state)
{
	struct grace_reader *reader = grace_register(&m->lent);
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	poison(2);
	assert_true(media_lend(m, reader, 0)); // nobody has met it
	assert_int_equal(write(fd[1], page(2), PAGE_BYTES), -1);
	assert_int_equal(errno, EFAULT);
	grace_leave(reader);
	expect_page(2, 0);
	assert_false(media_lend(m, reader, 0));
	assert_true(media_lend(m, reader, media_poisoned(m)));
	grace_leave(reader);
	grace_unregister(reader);
	close(fd[0]);
	close(fd[1]);
}

static _Atomic int touched;

static void *touch(void *arg)
{
	volatile uint8_t *at = arg;

	assert_int_equal(*at, 0);
	atomic_store(&touched, 1);
	return NULL;
}

static void who_meets_poison_waits_for_what_is_lent(void **state)
{
	struct grace_reader *reader = grace_register(&m->lent);
	pthread_t thread;

	poison(7);
	atomic_store(&touched, 0);
	assert_true(media_lend(m, reader, 0));
	assert_int_equal(pthread_create(&thread, NULL, touch, page(7)), 0);
	while (media_poisoned(m) == 0)
		usleep(1000);
	usleep(20000);
	assert_int_equal(atomic_load(&touched), 0);
	grace_leave(reader);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(atomic_load(&touched), 1);
	grace_unregister(reader);
}

#define RACERS 4
static void *sum_all(void *arg)
{
	unsigned long sum = 0;

	for (unsigned i = 0; i < PAGES * PAGE_BYTES; i += 64)
		sum += ((volatile uint8_t *)m->base)[i];
	return (void *)sum;
}

static void threads_that_meet_it_at_once_all_go_on(void **state)
{
	pthread_t thread[RACERS];
	void *sum[RACERS];

	for (unsigned i = 0; i < PAGES; i += 2)
		poison(i);
	for (unsigned i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, sum_all, NULL), 0);
	for (unsigned i = 0; i < RACERS; i++)
		assert_int_equal(pthread_join(thread[i], &sum[i]), 0);
	for (unsigned i = 0; i < RACERS; i++)
		assert_int_equal((unsigned long)sum[i], (2 + 4 + 6 + 8 + 10 + 12 + 14 + 16) * 64);
	assert_int_equal(media_poisoned(m), PAGES / 2);
}

// As on device-DAX.
static void of_a_larger_unit_the_other_pages_are_read_but_hold_nothing_new(void **state)
{
	m->unit_bytes = 8 * PAGE_BYTES;
	poison(9);
	poison(11);
	expect_page(9, 0);
	for (unsigned i = 0; i < PAGES; i++) {
		assert_int_equal(media_holds(m, page(i), PAGE_BYTES), i < 8);
		expect_page(i, i == 9 || i == 11 ? 0 : (uint8_t)(1 + i));
	}
	assert_int_equal(media_poisoned(m), 2);
	expect_page(11, 0);
}

static void sigbus_of_other_memory_ends_the_process(void **state)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		sigaction(SIGBUS, &ours, NULL);
		volatile uint8_t *beyond = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, m->fd, PAGES * PAGE_BYTES);

		_exit(*beyond); // past the end of the file
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_load_finds_zeroes_and_the_page_is_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(a_store_goes_nowhere_and_is_found_not_to_be_held, setup, teardown),
		cmocka_unit_test_setup_teardown(the_kernel_gets_an_error_and_zeroes_are_not_lent, setup, teardown),
		cmocka_unit_test_setup_teardown(who_meets_poison_waits_for_what_is_lent, setup, teardown),
		cmocka_unit_test_setup_teardown(threads_that_meet_it_at_once_all_go_on, setup, teardown),
		cmocka_unit_test_setup_teardown(of_a_larger_unit_the_other_pages_are_read_but_hold_nothing_new, setup, teardown),
		cmocka_unit_test_setup_teardown(sigbus_of_other_memory_ends_the_process, setup, teardown),
	};
	void *probe = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (!poison_page(probe))
		return 77; // Linux 6.6 and userfaultfd are needed
	setup(NULL);
	sigaction(SIGBUS, NULL, &ours);
	teardown(NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
