// SPDX-License-Identifier: GPL-2.0-or-later
// Loaded into a daemon by LD_PRELOAD: fails its Nth allocation, or its Nth I/O of a kind, as the file
// $NTH_CONTROL says, which both sides have mapped. I/O is done by system calls for it, not by io_uring.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

struct control { // nth.py: struct control
	_Atomic uint64_t kind; // 'a', 'r', 'w', 'f'; 0: not armed
	_Atomic uint64_t first, count, calls, failures;
};
static struct control *control;

__attribute__((constructor)) static void map_control(void)
{
	const char *path = getenv("NTH_CONTROL");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		abort();
	control = p;
	close(fd);
}

static bool fails(char kind)
{
	uint64_t call, first;

	if (!control || atomic_load(&control->kind) != (uint64_t)kind)
		return false;
	call = atomic_fetch_add(&control->calls, 1) + 1;
	first = atomic_load(&control->first);
	if (call < first || call - first >= atomic_load(&control->count))
		return false;
	atomic_fetch_add(&control->failures, 1);
	return true;
}

// ---- memory ---------------------------------------------------------------------------------------------

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static void *no_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

void *malloc(size_t bytes)
{
	return fails('a') ? no_memory() : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	return fails('a') ? no_memory() : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
	return fails('a') ? no_memory() : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	return fails('a') ? no_memory() : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **ret_memory, size_t alignment, size_t bytes)
{
	void *p = fails('a') ? NULL : __libc_memalign(alignment, bytes);

	if (!p)
		return ENOMEM;
	*ret_memory = p;
	return 0;
}

// ---- I/O ------------------------------------------------------------------------------------------------

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	return -EPERM;
}

static ssize_t failed(void)
{
	errno = EIO;
	return -1;
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	return fails('r') ? failed() : preadv64(fd, iov, count, offset);
}

// RWF_DSYNC or not: both are of kind 'w', and durable for a process that is not killed.
ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	return fails('w') ? failed() : pwritev64(fd, iov, count, offset);
}

int fdatasync(int fd)
{
	return fails('f') ? (int)failed() : fsync(fd);
}
