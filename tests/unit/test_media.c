// SPDX-License-Identifier: GPL-2.0-or-later
// Files of the class MEDIA_FILE are made in the current directory, of MEDIA_TMPFS in /dev/shm.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "media.h"

#define FILE_BYTES (UINT64_C(64) * PAGE_BYTES)

static char path[64];

static void make_file(const char *directory, uint64_t bytes)
{
	int fd;

	snprintf(path, sizeof path, "%s/test-media-XXXXXX", directory);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
}

static int remove_file(void **state)
{
	if (path[0])
		unlink(path);
	path[0] = 0;
	return 0;
}

static struct media *open_file(const char *directory, uint64_t bytes)
{
	struct media *m;

	make_file(directory, bytes);
	assert_int_equal(media_open(path, false, &m), 0);
	return m;
}

static bool directory_is_durable(void)
{
	struct statfs fs;

	return !statfs(".", &fs) && fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC;
}

static void read_back(uint64_t offset, void *memory, size_t bytes)
{
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, memory, bytes, (off_t)offset), bytes);
	close(fd);
}

// ---- classes -----------------------------------------------------------------------------------

static void recognises_tmpfs_as_not_persistent(void **state)
{
	struct media *m = open_file("/dev/shm", FILE_BYTES);

	assert_int_equal(m->class, MEDIA_TMPFS);
	assert_false(media_is_persistent(m));
	assert_int_equal(m->size_bytes, FILE_BYTES);
	media_close(m);
}

static void recognises_ordinary_file_as_persistent(void **state)
{
	struct media *m;

	if (!directory_is_durable())
		skip();
	m = open_file(".", FILE_BYTES + 100);
	assert_true(m->class == MEDIA_FILE || m->class == MEDIA_FSDAX);
	assert_true(media_is_persistent(m));
	assert_int_equal(m->size_bytes, FILE_BYTES); // whole pages
	media_close(m);
}

static void refuses_what_is_no_memory(void **state)
{
	static const struct {
		const char *path;
		int err;
	} cases[] = {
		{ "/nonexistent/tier", -ENOENT },
		{ "/dev/null", -EINVAL },
		{ "/dev", -EISDIR },
	};
	struct media *m = NULL;

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_int_equal(media_open(cases[i].path, false, &m), cases[i].err);
	make_file("/dev/shm", 0);
	assert_int_equal(media_open(path, false, &m), -EINVAL);
	assert_null(m);
	assert_int_equal(media_open_dram(100, &m), -EINVAL);
	assert_null(m);
}

static void refuses_fifo_without_waiting(void **state)
{
	struct media *m;

	snprintf(path, sizeof path, "/dev/shm/test-media-fifo-%d", (int)getpid());
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(media_open(path, true, &m), -EINVAL);
}

// ---- stores ------------------------------------------------------------------------------------

static void stores_reach_the_file(void **state)
{
	static const char *const directories[] = { ".", "/dev/shm" };

	for (int d = 0; d < 2; d++) {
		struct media *m = open_file(directories[d], FILE_BYTES);
		uint64_t word;
		uint8_t page[PAGE_BYTES], got[PAGE_BYTES];

		memset(page, 0xa5, sizeof page);
		media_copy(m, m->base + 3 * PAGE_BYTES, page, PAGE_BYTES);
		media_store64(m, (uint64_t *)(void *)(m->base + FILE_BYTES - 8), UINT64_C(0x1122334455667788));
		media_drain(m);
		media_close(m);
		read_back(3 * PAGE_BYTES, got, sizeof got);
		assert_memory_equal(got, page, sizeof got);
		read_back(FILE_BYTES - 8, &word, sizeof word);
		assert_int_equal(word, UINT64_C(0x1122334455667788));
		remove_file(NULL);
	}
}

// Heads and tails that no cache line or vector register fits: exactly the range changes.
static void copies_and_zeroes_any_multiple_of_8(void **state)
{
	static const size_t lengths[] = { 0, 8, 16, 24, 56, 64, 72, 120, 128, 248, 256, 264, 1000, 4096, 4104, 8192 };
	struct media *m;
	uint8_t source[8192], expected[16384];

	assert_int_equal(media_open_dram(sizeof expected, &m), 0);
	for (size_t i = 0; i < sizeof source; i++)
		source[i] = (uint8_t)(i * 7 + 1);
	for (size_t offset = 0; offset <= 128; offset += 8)
		for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
			memset(expected, 0xee, sizeof expected);
			media_copy(m, m->base, expected, sizeof expected);
			media_copy(m, m->base + offset, source, lengths[i]);
			memcpy(expected + offset, source, lengths[i]);
			media_drain(m);
			assert_memory_equal(m->base, expected, sizeof expected);
			media_zero(m, m->base + offset + 8, lengths[i]);
			memset(expected + offset + 8, 0, lengths[i]);
			media_drain(m);
			assert_memory_equal(m->base, expected, sizeof expected);
		}
	media_close(m);
}

// The kernel's count of dirty pages, or -1 where it does not tell (cachestat is of Linux 6.5).
static long dirty_pages(int fd)
{
	struct {
		uint64_t offset, bytes;
	} range = { 0, 0 };
	struct {
		uint64_t cached, dirty, writeback, evicted, recently_evicted;
	} stat = { 0 };

	if (syscall(451, fd, &range, &stat, 0))
		return -1;
	return (long)(stat.dirty + stat.writeback);
}

static void drain_syncs_ordinary_file(void **state)
{
	static const uint64_t offsets[] = { 5 * PAGE_BYTES, 0, FILE_BYTES - 8, 5 * PAGE_BYTES + 8, 9 * PAGE_BYTES };
	struct media *m;

	if (!directory_is_durable())
		skip();
	m = open_file(".", FILE_BYTES);
	if (m->class != MEDIA_FILE || dirty_pages(m->fd) < 0) {
		media_close(m);
		skip();
	}
	assert_int_equal(media_allocate(m), 0);
	for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
		media_store64(m, (uint64_t *)(void *)(m->base + offsets[i]), i + 1);
	assert_true(dirty_pages(m->fd) > 0);
	media_drain(m);
	assert_int_equal(dirty_pages(m->fd), 0);
	media_zero(m, m->base + PAGE_BYTES, 3 * PAGE_BYTES);
	media_drain(m);
	assert_int_equal(dirty_pages(m->fd), 0);
	media_close(m);
}

// More mappings than a thread keeps account of at once.
static void drain_syncs_each_of_many_files(void **state)
{
	enum { FILES = 20 };
	struct media *m[FILES];

	if (!directory_is_durable())
		skip();
	for (int i = 0; i < FILES; i++) {
		m[i] = open_file(".", FILE_BYTES);
		unlink(path);
		assert_int_equal(media_allocate(m[i]), 0);
	}
	for (uint64_t i = 0; i < FILES; i++)
		media_copy(m[i], m[i]->base + i * PAGE_BYTES, &i, sizeof i);
	for (int i = FILES - 1; i >= 0; i--) {
		media_drain(m[i]);
		assert_true(dirty_pages(m[i]->fd) <= 0);
	}
	for (uint64_t i = 0; i < FILES; i++) {
		assert_memory_equal(m[i]->base + i * PAGE_BYTES, &i, sizeof i);
		media_close(m[i]);
	}
}

static void *store_without_drain(void *arg)
{
	struct media *m = arg;

	media_store64(m, (uint64_t *)(void *)(m->base + FILE_BYTES - 8), 1);
	return NULL;
}

// What an earlier mapping at the same address left undrained must not upset a smaller one.
static void drain_survives_undrained_close(void **state)
{
	struct media *m = open_file(".", FILE_BYTES);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, store_without_drain, m), 0);
	pthread_join(thread, NULL);
	store_without_drain(m);
	media_close(m);
	assert_int_equal(truncate(path, PAGE_BYTES), 0);
	assert_int_equal(media_open(path, false, &m), 0);
	media_zero(m, m->base, 8);
	media_drain(m);
	media_close(m);
}

// A reader on another core sees the old or the new word, never a mixture.
static struct media *torn_media;
static _Atomic bool torn_stop;

static void *store_two_patterns(void *arg)
{
	while (!torn_stop)
		for (int i = 0; i < 2; i++) {
			media_store64(torn_media, (uint64_t *)(void *)torn_media->base, i ? UINT64_MAX : 0);
			media_drain(torn_media);
		}
	return NULL;
}

static void store64_is_never_torn(void **state)
{
	pthread_t thread;

	assert_int_equal(media_open_dram(PAGE_BYTES, &torn_media), 0);
	assert_int_equal(pthread_create(&thread, NULL, store_two_patterns, NULL), 0);
	for (int i = 0; i < 1000000; i++) {
		uint64_t word = __atomic_load_n((uint64_t *)(void *)torn_media->base, __ATOMIC_RELAXED);

		assert_true(word == 0 || word == UINT64_MAX);
	}
	torn_stop = true;
	pthread_join(thread, NULL);
	media_close(torn_media);
}

// ---- the recorder ------------------------------------------------------------------------------

struct record {
	const struct media *media;
	uint8_t image[4 * PAGE_BYTES];
	unsigned stores, drains;
	bool saw_before;
};

static void record_store(void *arg, uint64_t offset, const void *src, size_t bytes)
{
	struct record *r = arg;

	if (memcmp(r->image, r->media->base, sizeof r->image))
		r->saw_before = false;
	memcpy(r->image + offset, src, bytes);
	r->stores++;
}

static void record_drain(void *arg)
{
	((struct record *)arg)->drains++;
}

// Replaying what it saw gives the media, and it saw each store before the media changed.
static void recorder_sees_everything_before_it_is_made(void **state)
{
	static struct record r;
	const struct media_recorder recorder = { record_store, record_drain, &r };
	struct media *m;
	uint8_t source[PAGE_BYTES];

	assert_int_equal(media_open_dram(sizeof r.image, &m), 0);
	r = (struct record){ .media = m, .saw_before = true };
	m->recorder = &recorder;
	for (size_t i = 0; i < sizeof source; i++)
		source[i] = (uint8_t)i;
	media_copy(m, m->base + 8, source, sizeof source);
	media_copy(m, m->base + 9000, source, 0);
	media_drain(m);
	media_store64(m, (uint64_t *)(void *)(m->base + 16), 99);
	media_zero(m, m->base + 512, 2 * PAGE_BYTES + 24);
	media_drain(m);
	assert_true(r.saw_before);
	assert_memory_equal(r.image, m->base, sizeof r.image);
	assert_int_equal(r.stores, 1 + 1 + 3);
	assert_int_equal(r.drains, 2);
	media_close(m);
}

// ---- locks -------------------------------------------------------------------------------------

// A child that has the file open until it is killed.
static pid_t hold_in_child(bool read_only)
{
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct media *m;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!media_open(path, read_only, &m) && write(ready[1], "", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void kill_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void second_opener_is_refused(void **state)
{
	struct media *m;
	pid_t pid;

	make_file("/dev/shm", FILE_BYTES);
	pid = hold_in_child(false);
	assert_int_equal(media_open(path, true, &m), -EBUSY);
	kill_child(pid);
	assert_int_equal(media_open(path, false, &m), 0);
	media_close(m);
}

static void *kill_later(void *arg)
{
	usleep(200000);
	kill_child(*(pid_t *)arg);
	return NULL;
}

static void successor_waits_for_killed_predecessor(void **state)
{
	pthread_t thread;
	struct media *m;
	pid_t pid;

	make_file("/dev/shm", FILE_BYTES);
	pid = hold_in_child(false);
	assert_int_equal(pthread_create(&thread, NULL, kill_later, &pid), 0);
	assert_int_equal(media_open(path, false, &m), 0);
	pthread_join(thread, NULL);
	media_close(m);
}

static void readers_share(void **state)
{
	struct media *m;
	pid_t pid;

	make_file("/dev/shm", FILE_BYTES);
	pid = hold_in_child(true);
	assert_int_equal(media_open(path, true, &m), 0);
	media_close(m);
	kill_child(pid);
}

// ---- the rest ----------------------------------------------------------------------------------

static void read_only_mapping_faults_on_a_store(void **state)
{
	struct media *m;
	int status;
	pid_t pid;

	make_file("/dev/shm", FILE_BYTES);
	assert_int_equal(chmod(path, 0400), 0);
	assert_int_equal(media_open(path, true, &m), 0);
	assert_int_equal(m->base[FILE_BYTES - 1], 0);
	assert_int_equal(media_allocate(m), -EROFS);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
		signal(SIGSEGV, SIG_DFL);
		media_store64(m, (uint64_t *)(void *)m->base, 1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	media_close(m);
}

// Not by SEEK_HOLE, to which blocks that are allocated and never written are holes too.
static void allocate_leaves_no_holes(void **state)
{
	static const char *const directories[] = { ".", "/dev/shm" };

	for (int d = 0; d < 2; d++) {
		struct media *m = open_file(directories[d], FILE_BYTES);
		uint64_t word = 7;
		struct stat st;

		media_copy(m, m->base + PAGE_BYTES, &word, sizeof word);
		media_drain(m);
		assert_int_equal(media_allocate(m), 0);
		assert_int_equal(stat(path, &st), 0);
		assert_true((uint64_t)st.st_blocks * 512 >= FILE_BYTES);
		assert_int_equal(st.st_size, FILE_BYTES);
		assert_memory_equal(m->base + PAGE_BYTES, &word, sizeof word);
		media_close(m);
		remove_file(NULL);
	}
}

static void allocate_reports_full_file_system(void **state)
{
	const uint64_t huge = UINT64_C(1) << 43;
	struct statvfs fs;
	struct media *m;

	if (statvfs("/dev/shm", &fs) || !fs.f_blocks || fs.f_blocks * fs.f_frsize >= huge)
		skip();
	m = open_file("/dev/shm", huge);
	assert_int_equal(media_allocate(m), -ENOSPC);
	media_close(m);
}

#define TEST(function) cmocka_unit_test_teardown(function, remove_file)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(recognises_tmpfs_as_not_persistent),
		TEST(recognises_ordinary_file_as_persistent),
		TEST(refuses_what_is_no_memory),
		TEST(refuses_fifo_without_waiting),
		TEST(stores_reach_the_file),
		TEST(copies_and_zeroes_any_multiple_of_8),
		TEST(drain_syncs_ordinary_file),
		TEST(drain_syncs_each_of_many_files),
		TEST(drain_survives_undrained_close),
		TEST(store64_is_never_torn),
		TEST(recorder_sees_everything_before_it_is_made),
		TEST(second_opener_is_refused),
		TEST(successor_waits_for_killed_predecessor),
		TEST(readers_share),
		TEST(read_only_mapping_faults_on_a_store),
		TEST(allocate_leaves_no_holes),
		TEST(allocate_reports_full_file_system),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
