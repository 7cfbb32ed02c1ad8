// SPDX-License-Identifier: GPL-2.0-or-later
#include "quick.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

__attribute__((weak)) const char *__asan_default_options(void);
__attribute__((weak)) const char *__asan_default_options(void)
{
	return QUICK_ASAN;
}

static uint8_t *backing, *tier;
static uint64_t backing_bytes;

void quick_backing(uint8_t *base, uint64_t bytes)
{
	backing = base;
	backing_bytes = bytes;
}

void quick_tier(uint8_t *base)
{
	tier = base;
}

int __wrap_munmap(void *at, size_t bytes);
int __real_munmap(void *at, size_t bytes);
int __wrap_munmap(void *at, size_t bytes)
{
	return at == tier ? mprotect(at, bytes, PROT_NONE) : __real_munmap(at, bytes);
}

// ---- I/O: copies, without io_uring --------------------------------------------------------------------

struct io_uring;
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	return -ENOSYS;
}

static ssize_t transfer(const struct iovec *iov, int count, off_t offset, int write)
{
	uint64_t at = (uint64_t)offset;
	for (int i = 0; i < count; at += iov[i++].iov_len) {
		CHECK(at <= backing_bytes && iov[i].iov_len <= backing_bytes - at);
		if (write)
			memcpy(backing + at, iov[i].iov_base, iov[i].iov_len);
		else
			memcpy(iov[i].iov_base, backing + at, iov[i].iov_len);
	}
	return (ssize_t)(at - (uint64_t)offset);
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	return transfer(iov, count, offset, 0);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	return transfer(iov, count, offset, 1);
}

int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
	return 0;
}

// ---- whose backing it is, if not ours: by its ends alone ------------------------------------------------

static int is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, 4095) == 0;
}

struct backing;
int __wrap_backing_is_blank(struct backing *b);
int __wrap_backing_is_blank(struct backing *b)
{
	return is_zero(backing) && is_zero(backing + backing_bytes - 4096);
}

int __wrap_backing_probe_foreign(int fd, char *ret_name, size_t name_bytes);
int __wrap_backing_probe_foreign(int fd, char *ret_name, size_t name_bytes)
{
	return 0;
}

// ---- the same ids each time, so that an input means the same ------------------------------------------

ssize_t __wrap_getrandom(void *buffer, size_t bytes, unsigned flags);
ssize_t __wrap_getrandom(void *buffer, size_t bytes, unsigned flags)
{
	static uint8_t next = 1;
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)buffer)[i] = next++;
	return (ssize_t)bytes;
}
