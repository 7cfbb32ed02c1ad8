// SPDX-License-Identifier: GPL-2.0-or-later
#include "nth.h"
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { // under lock
	bool alloc;
	char io; // 0: none
	const void *place;
	uint64_t first, count, calls, failures;
	struct nth_site site[NTH_SITES_MAX];
	unsigned sites;
} armed;

static void arm(bool alloc, char io, const void *place, uint64_t first, uint64_t count)
{
	pthread_mutex_lock(&lock);
	memset(&armed, 0, sizeof armed);
	armed.alloc = alloc;
	armed.io = io;
	armed.place = place;
	armed.first = first;
	armed.count = count;
	pthread_mutex_unlock(&lock);
}

void nth_arm_alloc(const void *place, uint64_t first, uint64_t count)
{
	arm(true, 0, place, first, count);
}

void nth_arm_io(char kind, uint64_t first, uint64_t count)
{
	arm(false, kind, NULL, first, count);
}

void nth_disarm(void)
{
	pthread_mutex_lock(&lock);
	armed.alloc = false;
	armed.io = 0;
	pthread_mutex_unlock(&lock);
}

static uint64_t read_locked(const uint64_t *value)
{
	pthread_mutex_lock(&lock);
	uint64_t now = *value;
	pthread_mutex_unlock(&lock);
	return now;
}

uint64_t nth_failures(void)
{
	return read_locked(&armed.failures);
}

uint64_t nth_calls(void)
{
	return read_locked(&armed.calls);
}

unsigned nth_sites(struct nth_site *ret_sites)
{
	pthread_mutex_lock(&lock);
	unsigned count = armed.sites;
	memcpy(ret_sites, armed.site, count * sizeof *ret_sites);
	pthread_mutex_unlock(&lock);
	return count;
}

static void note_site(const void *place)
{
	unsigned i = 0;
	while (i < armed.sites && armed.site[i].place != place)
		i++;
	if (i == NTH_SITES_MAX)
		abort();
	if (i == armed.sites)
		armed.site[armed.sites++].place = place;
	armed.site[i].calls++;
}

static bool fails_locked(void)
{
	uint64_t call = ++armed.calls;
	bool fails = call >= armed.first && call - armed.first < armed.count;
	armed.failures += fails;
	return fails;
}

static bool alloc_fails(const void *place)
{
	bool fails = false;
	pthread_mutex_lock(&lock);
	if (armed.alloc) {
		note_site(place);
		fails = (!armed.place || armed.place == place) && fails_locked();
	}
	pthread_mutex_unlock(&lock);
	return fails;
}

static int before_io(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	pthread_mutex_lock(&lock);
	bool fails = armed.io == kind && fails_locked();
	pthread_mutex_unlock(&lock);
	return fails ? -EIO : 0;
}
const struct backing_hook nth_hook = { .before = before_io };

// ---- what the linker puts in the place of the real ones ------------------------------------------------

// A call has come from behind its caller's return address.
#define FAILS() alloc_fails(__builtin_return_address(0))
#define WRAP(type, name, parameters, arguments, failed)  \
	type __real_##name parameters;                   \
	type __wrap_##name parameters;                   \
	type __wrap_##name parameters                    \
	{                                                \
		if (!FAILS())                            \
			return __real_##name arguments;  \
		errno = ENOMEM;                          \
		return failed;                           \
	}

WRAP(void *, malloc, (size_t bytes), (bytes), NULL)
WRAP(void *, calloc, (size_t count, size_t bytes), (count, bytes), NULL)
WRAP(void *, realloc, (void *old, size_t bytes), (old, bytes), NULL)
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), NULL)
WRAP(void *, mmap, (void *at, size_t bytes, int protection, int flags, int fd, off_t offset),
     (at, bytes, protection, flags, fd, offset), MAP_FAILED)
WRAP(int, pthread_create, (pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg),
     (thread, attr, run, arg), EAGAIN)
WRAP(int, io_uring_queue_init, (unsigned entries, struct io_uring *ring, unsigned flags), (entries, ring, flags), -ENOMEM)
