// SPDX-License-Identifier: GPL-2.0-or-later
// Backing files are made in the current directory, so that O_DIRECT is met where there is any.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "backing.h"

#define BLOCKS 256u
#define FILE_BYTES ((size_t)BLOCKS * PAGE_BYTES)

static char path[64];
static uint8_t *memory; // of FILE_BYTES, at an odd multiple of 512 bytes
static uint8_t *memory_start;

static void make_file(uint64_t bytes)
{
	int fd;

	strcpy(path, "./test-backing-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
}

static struct backing *open_file(uint64_t bytes)
{
	struct backing *b;

	make_file(bytes);
	assert_int_equal(backing_open(path, false, &b), 0);
	return b;
}

// Behind the back of whoever has it open; all backings here are opened again after it or made so.
static void put_bytes(uint64_t offset, const void *bytes, size_t count)
{
	int fd = open(path, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, count, (off_t)offset), count);
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static int set_up(void **state)
{
	memory_start = aligned_alloc(PAGE_BYTES, FILE_BYTES + PAGE_BYTES);
	memory = memory_start + 512;
	return memory_start ? 0 : -1;
}

static int tear_down(void **state)
{
	free(memory_start);
	if (path[0])
		unlink(path);
	path[0] = 0;
	return 0;
}

// ---- opening -----------------------------------------------------------------------------------

static void size_is_rounded_down_to_blocks(void **state)
{
	struct backing *b = open_file(10 * PAGE_BYTES + 4095);

	assert_int_equal(b->blocks, 10);
	assert_int_equal(b->size_bytes, 10 * PAGE_BYTES);
	assert_false(b->is_device);
	backing_close(b);
}

static void refuses_what_is_no_device(void **state)
{
	static const struct {
		const char *path;
		int err;
	} cases[] = {
		{ "/nonexistent/backing", -ENOENT },
		{ "/dev/null", -EINVAL },
		{ "/dev", -EISDIR },
	};
	struct backing *b = NULL;

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_int_equal(backing_open(cases[i].path, false, &b), cases[i].err);
	make_file(PAGE_BYTES - 1);
	assert_int_equal(backing_open(path, false, &b), -EINVAL);
	assert_null(b);
}

// A child that has the backing open, and a write in flight or done, until it is killed.
static pid_t hold_in_child(bool read_only)
{
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct iovec iov = { memory, 64 * PAGE_BYTES };
		struct io io = { .kind = read_only ? 'r' : 'w', .iov = &iov, .iovcnt = 1 };
		struct backing *b;
		struct ioq *q;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (backing_open(path, read_only, &b) || ioq_new(b, 1, &q))
			_exit(1);
		ioq_submit(q, &io);
		if (write(ready[1], "", 1) == 1)
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

static void second_opener_is_refused_until_the_first_is_killed(void **state)
{
	struct backing *b;
	pid_t pid;

	make_file(FILE_BYTES);
	pid = hold_in_child(false);
	assert_int_equal(backing_open(path, true, &b), -EBUSY);
	kill_child(pid);
	assert_int_equal(backing_open(path, false, &b), 0);
	backing_close(b);
}

static void readers_share_and_cannot_write(void **state)
{
	struct backing *b;
	struct ioq *q;
	pid_t pid;

	make_file(FILE_BYTES);
	assert_int_equal(chmod(path, 0400), 0);
	pid = hold_in_child(true);
	assert_int_equal(backing_open(path, true, &b), 0);
	assert_int_equal(ioq_new(b, 4, &q), 0);
	assert_int_equal(ioq_read(q, 0, memory, 1), 0);
	assert_int_equal(ioq_write(q, 0, memory, 1, false), -EROFS);
	ioq_free(q);
	backing_close(b);
	kill_child(pid);
}

static bool run_command(const char *command, char *ret_line, size_t line_bytes)
{
	FILE *pipe_in = popen(command, "r");
	bool ok;

	if (!pipe_in)
		return false;
	ok = fgets(ret_line, (int)line_bytes, pipe_in) != NULL;
	ret_line[ok ? strcspn(ret_line, "\n") : 0] = 0;
	return !pclose(pipe_in) && ok;
}

static void block_device_is_taken_exclusively(void **state)
{
	char command[128], device[64];
	struct backing *b;
	struct ioq *q;
	int fd;

	make_file(FILE_BYTES);
	snprintf(command, sizeof command, "/sbin/losetup --find --show %s 2>/dev/null", path);
	if (geteuid() || !run_command(command, device, sizeof device))
		skip(); // needs root and a free loop device
	assert_int_equal(backing_open(device, false, &b), 0);
	assert_true(b->is_device);
	assert_int_equal(b->blocks, BLOCKS);
	assert_true(open(device, O_RDONLY | O_EXCL) < 0 && errno == EBUSY);
	assert_int_equal(ioq_new(b, 4, &q), 0);
	memset(memory, 7, PAGE_BYTES);
	assert_int_equal(ioq_write(q, BLOCKS - 1, memory, 1, true), 0);
	assert_int_equal(ioq_flush(q), 0);
	memset(memory, 0, PAGE_BYTES);
	assert_int_equal(ioq_read(q, BLOCKS - 1, memory, 1), 0);
	assert_int_equal(memory[PAGE_BYTES - 1], 7);
	ioq_free(q);
	backing_close(b);

	fd = open(device, O_RDONLY | O_EXCL); // as a mount would
	assert_true(fd >= 0);
	assert_int_equal(backing_open(device, false, &b), -EBUSY);
	assert_int_equal(backing_open(device, true, &b), 0);
	backing_close(b);
	close(fd);
	snprintf(command, sizeof command, "/sbin/losetup --detach %s", device);
	assert_int_equal(system(command), 0);
}

// ---- what is there already ---------------------------------------------------------------------

static void blank_is_zero_at_both_ends(void **state)
{
	static const struct {
		uint64_t offset;
		int blank;
	} cases[] = {
		{ 0, 0 }, { (1 << 20) - 1, 0 }, { 1 << 20, 1 }, { (2 << 20) - 1, 1 }, { 2 << 20, 0 },
		{ (3 << 20) - 1, 0 },
		{ 3 << 20, 1 }, // behind the last whole block
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct backing *b;

		make_file((3 << 20) + 100);
		put_bytes(cases[i].offset, "x", 1);
		assert_int_equal(backing_open(path, false, &b), 0);
		assert_int_equal(backing_is_blank(b), cases[i].blank);
		backing_close(b);
		unlink(path);
	}
}

static void blank_file_smaller_than_the_ends(void **state)
{
	struct backing *b = open_file(PAGE_BYTES);

	assert_int_equal(backing_is_blank(b), 1);
	backing_close(b);
}

static int probe(char *ret_name, size_t name_bytes)
{
	struct backing *b;
	int result;

	assert_int_equal(backing_open(path, false, &b), 0);
	result = backing_probe_foreign(b->fd, ret_name, name_bytes);
	backing_close(b);
	return result;
}

static void probe_finds_nothing_on_blank(void **state)
{
	char name[32] = "untouched";

	make_file(8 << 20);
	assert_int_equal(probe(name, sizeof name), 0);
	assert_string_equal(name, "untouched");
}

static void probe_finds_partition_table(void **state)
{
	// One Linux partition from sector 2048, 2048 sectors long.
	static const uint8_t entry[16] = { 0, 0, 2, 0, 0x83, 0, 2, 0, 0, 8, 0, 0, 0, 8, 0, 0 };
	char name[32];

	make_file(8 << 20);
	put_bytes(446, entry, sizeof entry);
	put_bytes(510, "\x55\xaa", 2);
	assert_int_equal(probe(name, sizeof name), 1);
	assert_string_equal(name, "dos partition table");
}

static void probe_finds_file_system_and_a_second_one(void **state)
{
	char command[128], name[64];

	make_file(8 << 20);
	snprintf(command, sizeof command, "/sbin/mke2fs -q -F -t ext4 %s 2>&1", path);
	if (system(command))
		skip(); // no mke2fs
	assert_int_equal(probe(name, sizeof name), 1);
	assert_string_equal(name, "ext4");
	put_bytes((64 << 10) + 0x40, "_BHRfS_M", 8); // btrfs
	assert_int_equal(probe(name, sizeof name), 1);
	assert_string_equal(name, "several signatures");
}

static void probe_says_nothing_of_character_devices(void **state)
{
	char name[32];
	int fd = open("/dev/null", O_RDONLY);

	assert_int_equal(backing_probe_foreign(fd, name, sizeof name), 0);
	close(fd);
}

static void probe_leaves_the_descriptor_as_it_was(void **state)
{
	struct backing *b = open_file(8 << 20);
	int flags = fcntl(b->fd, F_GETFL);
	char name[32];

	assert_int_equal(backing_probe_foreign(b->fd, name, sizeof name), 0);
	assert_int_equal(fcntl(b->fd, F_GETFL), flags);
	backing_close(b);
}

// ---- queues ------------------------------------------------------------------------------------

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)((random_state >> 33) % limit);
}

static uint8_t shadow[FILE_BYTES];
static uint8_t zero_page[PAGE_BYTES];

// Covers the device with I/Os of 1 to 8 blocks in 1 to 3 iovecs, each at its own place in memory.
// Writes change the shadow too. The number of them.
static unsigned make_random_ios(struct io *ios, struct iovec (*iovs)[3])
{
	unsigned n = 0;

	for (block_t block = 0; block < BLOCKS; n++) {
		uint32_t blocks = 1 + random_below(8), bytes;
		struct io *io = &ios[n];

		if (blocks > BLOCKS - block)
			blocks = (uint32_t)(BLOCKS - block);
		*io = (struct io){ .kind = "rwW"[random_below(3)], .block = block, .iov = iovs[n], .result = 1 };
		bytes = blocks * PAGE_BYTES;
		for (uint32_t from = 0; from < bytes; io->iovcnt++) {
			// 512-byte pieces are not for every device; whole blocks are.
			uint32_t part = io->iovcnt == 2 ? bytes - from : (1 + random_below(blocks)) * PAGE_BYTES;

			if (part > bytes - from)
				part = bytes - from;
			iovs[n][io->iovcnt] = (struct iovec){ memory + block * PAGE_BYTES + from, part };
			from += part;
		}
		if (io->kind != 'r') {
			for (uint32_t i = 0; i < bytes; i++)
				memory[block * PAGE_BYTES + i] = (uint8_t)(block + i * 31 + random_state);
			memcpy(shadow + block * PAGE_BYTES, memory + block * PAGE_BYTES, bytes);
		}
		block += blocks;
	}
	return n;
}

// 0, or the line of what went wrong: it runs in a child too, where cmocka cannot.
static int random_io(bool expect_uring)
{
	static struct iovec iovs[BLOCKS][3];
	static struct io ios[BLOCKS];
	struct backing *b;
	struct ioq *q;
	int fd;

	memset(shadow, 0, sizeof shadow);
	if (backing_open(path, false, &b) || ioq_new(b, 8, &q))
		return __LINE__;
	if (ioq_uses_uring(q) != expect_uring)
		return __LINE__;
	for (unsigned round = 0; round < 12; round++) {
		unsigned n, start;

		memset(memory, 0xee, FILE_BYTES);
		n = make_random_ios(ios, iovs);
		start = random_below(n);
		for (unsigned i = 0; i < n; i++) // more than the depth of the queue
			ioq_submit(q, &ios[(start + i) % n]);
		if (ioq_in_flight(q) != n)
			return __LINE__;
		ioq_wait_all(q);
		for (unsigned i = 0; i < n; i++)
			if (ios[i].result)
				return __LINE__;
		if (ioq_in_flight(q) || memcmp(memory, shadow, FILE_BYTES))
			return __LINE__;
		if (ioq_flush(q))
			return __LINE__;
	}
	if (b->errors || b->flushes != 12 || b->read_bytes + b->write_bytes != 12 * FILE_BYTES)
		return __LINE__;
	ioq_free(q);
	backing_close(b);
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, memory, FILE_BYTES) != (ssize_t)FILE_BYTES || memcmp(memory, shadow, FILE_BYTES))
		return __LINE__;
	close(fd);
	return 0;
}

static bool have_uring(void)
{
	struct backing *b = open_file(PAGE_BYTES);
	bool have;
	struct ioq *q;

	assert_int_equal(ioq_new(b, 1, &q), 0);
	have = ioq_uses_uring(q);
	ioq_free(q);
	backing_close(b);
	unlink(path);
	return have;
}

static void random_io_equals_a_plain_file(void **state)
{
	if (!have_uring())
		skip();
	random_state = 1;
	make_file(FILE_BYTES);
	assert_int_equal(random_io(true), 0);
}

// io_uring_setup() fails with EPERM from now on, as it does in many containers.
static int forbid_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void random_io_without_uring(void **state)
{
	int status;
	pid_t pid;

	random_state = 2;
	make_file(FILE_BYTES);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		int line;

		if (forbid_uring())
			_exit(77);
		line = random_io(false);
		if (line)
			fprintf(stderr, "random_io failed in line %d\n", line);
		_exit(line ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip(); // no seccomp filters
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void bad_requests_are_errors_and_change_nothing(void **state)
{
	struct iovec iov = { memory, PAGE_BYTES }, odd = { memory, 512 };
	struct {
		struct io io;
		int result;
	} cases[] = {
		{ { .kind = 'r', .block = BLOCKS, .iov = &iov, .iovcnt = 1 }, -EIO },
		{ { .kind = 'w', .block = BLOCKS, .iov = &iov, .iovcnt = 1 }, -EIO },
		{ { .kind = 'W', .block = UINT64_MAX, .iov = &iov, .iovcnt = 1 }, -EIO },
		{ { .kind = 'r', .block = UINT64_MAX >> 12, .iov = &iov, .iovcnt = 1 }, -EIO },
		{ { .kind = 'r', .block = 0, .iov = &odd, .iovcnt = 1 }, -EINVAL },
		{ { .kind = 'r', .block = 0, .iov = &iov, .iovcnt = 0 }, -EINVAL },
		{ { .kind = 'r', .block = 0, .iov = &iov, .iovcnt = IO_IOV_MAX + 1 }, -EINVAL },
		{ { .kind = '?', .block = 0, .iov = &iov, .iovcnt = 1 }, -EINVAL },
	};
	const size_t n = sizeof cases / sizeof *cases;
	struct backing *b = open_file(FILE_BYTES);
	struct stat st;
	struct ioq *q;

	assert_int_equal(ioq_new(b, 4, &q), 0);
	for (size_t i = 0; i < n; i++)
		ioq_submit(q, &cases[i].io);
	ioq_wait_all(q);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(cases[i].io.result, cases[i].result);
	assert_int_equal(ioq_read(q, BLOCKS - 1, memory, 2), -EIO);
	assert_int_equal(ioq_write(q, BLOCKS - 1, memory, 2, false), -EIO);
	assert_int_equal(b->errors, n + 2);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, FILE_BYTES);
	ioq_free(q);
	backing_close(b);
}

static void shrunken_file_is_an_error_not_a_short_read(void **state)
{
	struct backing *b = open_file(FILE_BYTES);
	struct ioq *q;

	assert_int_equal(ioq_new(b, 4, &q), 0);
	assert_int_equal(truncate(path, 5 * PAGE_BYTES + 512), 0);
	assert_int_equal(ioq_read(q, 0, memory, 8), -EIO);
	assert_int_equal(ioq_read(q, 5, memory, 1), -EIO);
	assert_int_equal(ioq_read(q, 100, memory, 1), -EIO);
	assert_int_equal(ioq_read(q, 0, memory, 5), 0);
	ioq_free(q);
	backing_close(b);
}

struct refuser {
	char kinds[16];
	unsigned count;
};

static int refuse_block_3(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	struct refuser *r = arg;

	r->kinds[r->count++ % sizeof r->kinds] = kind;
	return block == 3 ? -ENODEV : 0;
}

static void hook_sees_all_and_fails_one_unissued(void **state)
{
	struct refuser refuser = { 0 };
	const struct backing_hook hook = { refuse_block_3, &refuser };
	struct backing *b = open_file(FILE_BYTES);
	struct ioq *q;

	b->hook = &hook;
	assert_int_equal(ioq_new(b, 4, &q), 0);
	memset(memory, 1, PAGE_BYTES);
	assert_int_equal(ioq_write(q, 3, memory, 1, true), -ENODEV);
	assert_int_equal(ioq_write(q, 2, memory, 1, false), 0);
	assert_int_equal(ioq_flush(q), 0);
	assert_int_equal(ioq_read(q, 2, memory, 1), 0);
	assert_memory_equal(refuser.kinds, "Wwfr", 5);
	assert_int_equal(b->errors, 1);
	assert_int_equal(b->writes, 1);
	b->hook = NULL;
	assert_int_equal(ioq_read(q, 3, memory, 1), 0);
	assert_memory_equal(memory, zero_page, PAGE_BYTES);
	ioq_free(q);
	backing_close(b);
}

static struct ioq *chain_queue;
static unsigned chain_calls;
static bool chain_submitting;

static void submit_again(struct io *io)
{
	assert_false(chain_submitting);
	if (++chain_calls < 100 && !io->result) {
		io->block = chain_calls % BLOCKS;
		ioq_submit(chain_queue, io);
	}
}

static void add_one(struct io *io)
{
	*(unsigned *)io->arg += 1;
}

static void poll_waits_for_nothing_and_brings_all_to_an_end(void **state)
{
	struct backing *b = open_file(FILE_BYTES);
	struct iovec iov = { memory, PAGE_BYTES };
	unsigned done = 0;
	struct io io = { .kind = 'r', .block = 1, .iov = &iov, .iovcnt = 1, .done = add_one, .arg = &done };
	struct ioq *q;

	assert_int_equal(ioq_new(b, 8, &q), 0);
	ioq_poll(q);
	ioq_submit(q, &io);
	assert_int_equal(done, 0);
	for (unsigned n = 0; !done; n++) {
		assert_true(n < 10000);
		ioq_poll(q);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	assert_int_equal(io.result, 0);
	assert_int_equal(ioq_in_flight(q), 0);
	ioq_free(q);
	backing_close(b);
}

static void done_may_submit_and_is_called_by_waits_alone(void **state)
{
	enum { IOS = 6 };
	struct backing *b = open_file(FILE_BYTES);
	struct iovec iovs[IOS];
	struct io ios[IOS];

	assert_int_equal(ioq_new(b, 2, &chain_queue), 0);
	chain_calls = 0;
	chain_submitting = true;
	for (size_t i = 0; i < IOS; i++) {
		iovs[i] = (struct iovec){ memory + i * PAGE_BYTES, PAGE_BYTES };
		ios[i] = (struct io){ .kind = 'r', .block = i, .iov = &iovs[i], .iovcnt = 1, .done = submit_again };
		ioq_submit(chain_queue, &ios[i]);
	}
	chain_submitting = false;
	assert_int_equal(ioq_in_flight(chain_queue), IOS);
	ioq_wait_some(chain_queue);
	assert_true(chain_calls > 0);
	ioq_wait_all(chain_queue);
	assert_int_equal(chain_calls, 99 + IOS);
	assert_int_equal(b->reads, 99 + IOS);
	ioq_free(chain_queue);
	backing_close(b);
}

static void wait_without_io_returns(void **state)
{
	struct backing *b = open_file(FILE_BYTES);
	struct ioq *q;

	assert_int_equal(ioq_new(b, 0, &q), 0);
	ioq_wait_some(q);
	ioq_wait_all(q);
	assert_int_equal(ioq_read(q, 0, memory, BLOCKS), 0); // a depth of 0 is one of 1
	ioq_free(q);
	backing_close(b);
}

static void free_waits_for_what_is_in_flight(void **state)
{
	struct backing *b = open_file(FILE_BYTES);
	struct iovec iov = { memory, FILE_BYTES };
	struct io io = { .kind = 'w', .iov = &iov, .iovcnt = 1, .result = 1 };
	struct ioq *q;

	memset(memory, 0x3c, FILE_BYTES);
	assert_int_equal(ioq_new(b, 4, &q), 0);
	ioq_submit(q, &io);
	ioq_free(q);
	assert_int_equal(io.result, 0);
	assert_int_equal(ioq_new(b, 4, &q), 0);
	memset(memory, 0, FILE_BYTES);
	assert_int_equal(ioq_read(q, 0, memory, BLOCKS), 0);
	assert_int_equal(memory[0], 0x3c);
	assert_int_equal(memory[FILE_BYTES - 1], 0x3c);
	ioq_free(q);
	backing_close(b);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(size_is_rounded_down_to_blocks),
		TEST(refuses_what_is_no_device),
		TEST(second_opener_is_refused_until_the_first_is_killed),
		TEST(readers_share_and_cannot_write),
		TEST(block_device_is_taken_exclusively),
		TEST(blank_is_zero_at_both_ends),
		TEST(blank_file_smaller_than_the_ends),
		TEST(probe_finds_nothing_on_blank),
		TEST(probe_finds_partition_table),
		TEST(probe_finds_file_system_and_a_second_one),
		TEST(probe_says_nothing_of_character_devices),
		TEST(probe_leaves_the_descriptor_as_it_was),
		TEST(random_io_equals_a_plain_file),
		TEST(random_io_without_uring),
		TEST(bad_requests_are_errors_and_change_nothing),
		TEST(shrunken_file_is_an_error_not_a_short_read),
		TEST(hook_sees_all_and_fails_one_unissued),
		TEST(poll_waits_for_nothing_and_brings_all_to_an_end),
		TEST(done_may_submit_and_is_called_by_waits_alone),
		TEST(wait_without_io_returns),
		TEST(free_waits_for_what_is_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
