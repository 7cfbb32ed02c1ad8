// SPDX-License-Identifier: GPL-2.0-or-later
// Owns the mapping of the tier and every store to it.
//
// Invariants:
// 1. The descriptor is locked before the first byte is read and unlocked by its close alone, so
//    a killed daemon's tier is free exactly when the kernel has let go of its mapping.
// 2. What this thread stored is, at each moment, on its way by a non-temporal store or flushed by
//    libpmem (tail bytes); a fence is all that is missing. So media_drain() needs no list, except:
// 3. On MEDIA_FILE every store of this thread since its last drain lies within its one entry of
//    `stored` for that mapping, or has been synced at once.
//
// Crash argument: a store may reach the media at any moment after it was made, and must have when
// the drain returns. 8 aligned bytes do so in one piece: libpmem copies aligned data in units of 8
// bytes or more, and an msync writes whole sectors.
#include "media.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libpmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include "class.h"
#include "clock.h"
#include "log.h"

#define LOCK_PATIENCE_MS 5000
#define LOCK_RETRY_MS 20

#define STORE_FLAGS (PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN)

// ---- what has to be synced (MEDIA_FILE) --------------------------------------------------------

// One interval for each mapping, from the first to the last byte, and not a list of what was really
// stored: an msync costs a flush of the device, however little it writes, and finds by itself
// which pages between are dirty. Those are what other lanes have not drained yet: few, and to be
// written anyway.
struct interval {
	const uint8_t *base; // of the mapping; NULL: free
	uint64_t from, to;   // bytes
};
#define STORED_MAX 8 // mappings that one thread has stored to and not drained
static _Thread_local struct interval stored[STORED_MAX];

static struct interval *find_stored(const uint8_t *base)
{
	for (unsigned i = 0; i < STORED_MAX; i++)
		if (stored[i].base == base)
			return &stored[i];
	return NULL;
}

static void sync_interval(const struct media *m, uint64_t from, uint64_t to)
{
	int err;

	// An entry may be older than this mapping: left by a thread that had not drained when another
	// closed the last one at this address.
	if (to > m->size_bytes)
		to = m->size_bytes;
	if (from >= to)
		return;
	from &= ~(uint64_t)(PAGE_BYTES - 1);
	while (msync(m->base + from, to - from, MS_SYNC)) {
		err = errno;
		if (err == EINTR)
			continue;
		// The kernel may call these pages clean now although they never reached the device, so
		// trying again proves nothing, and a reply would promise what is not true. To stop
		// leaves a tier that recovery understands.
		log_error("%s: msync: %s; stopping, since nothing can be promised durable", m->path, strerror(err));
		abort();
	}
}

static void note_stored(const struct media *m, uint64_t from, uint64_t bytes)
{
	struct interval *s = find_stored(m->base);

	if (!s)
		s = find_stored(NULL);
	if (!s) {
		// Too early is allowed: other mappings' entries wait for their own drain.
		pmem_drain();
		sync_interval(m, from, from + bytes);
		return;
	}
	if (!s->base)
		*s = (struct interval){ m->base, from, from + bytes };
	if (from < s->from)
		s->from = from;
	if (from + bytes > s->to)
		s->to = from + bytes;
}

static void sync_stored(const struct media *m)
{
	struct interval *s = find_stored(m->base);

	if (!s)
		return;
	sync_interval(m, s->from, s->to);
	s->base = NULL;
}

// ---- stores ------------------------------------------------------------------------------------

static uint64_t offset_of(const struct media *m, const void *dst, size_t bytes)
{
	uint64_t offset = (uint64_t)((const uint8_t *)dst - m->base);

	assert((const uint8_t *)dst >= m->base && bytes <= m->size_bytes && offset <= m->size_bytes - bytes);
	assert(offset % 8 == 0 && bytes % 8 == 0);
	return offset;
}

void media_copy(struct media *m, void *dst, const void *src, size_t bytes)
{
	uint64_t offset = offset_of(m, dst, bytes);

	if (!bytes)
		return;
	if (m->recorder)
		m->recorder->store(m->recorder->arg, offset, src, bytes);
	pmem_memcpy(dst, src, bytes, STORE_FLAGS);
	if (m->class == MEDIA_FILE)
		note_stored(m, offset, bytes);
}

void media_zero(struct media *m, void *dst, size_t bytes)
{
	static const uint8_t zeros[PAGE_BYTES];
	uint64_t offset = offset_of(m, dst, bytes);

	if (!m->recorder) {
		pmem_memset(dst, 0, bytes, STORE_FLAGS);
		if (m->class == MEDIA_FILE && bytes)
			note_stored(m, offset, bytes);
		return;
	}
	while (bytes) { // in pieces for which there is a source to show
		size_t part = bytes < sizeof zeros ? bytes : sizeof zeros;

		media_copy(m, m->base + offset, zeros, part);
		offset += part;
		bytes -= part;
	}
}

void media_store64(struct media *m, uint64_t *dst, uint64_t value)
{
	uint64_t offset = offset_of(m, dst, sizeof *dst);

	if (m->recorder)
		m->recorder->store(m->recorder->arg, offset, &value, sizeof value);
#ifdef __x86_64__
	_mm_stream_si64((long long *)dst, (long long)value);
#else
	__atomic_store_n(dst, value, __ATOMIC_RELAXED);
	pmem_flush(dst, sizeof *dst);
#endif
	if (m->class == MEDIA_FILE)
		note_stored(m, offset, sizeof value);
}

void media_drain(struct media *m)
{
	// Orders all of this thread's stores before all of its later ones; of an ordinary file, also
	// before the msync that reads them.
	pmem_drain();
#ifdef __x86_64__
	// libpmem's drain is empty where it flushes with clflush, which needs none; our movnti does.
	_mm_sfence();
#endif
	if (m->class == MEDIA_FILE)
		sync_stored(m);
	if (m->recorder)
		m->recorder->drain(m->recorder->arg);
}

// ---- opening -----------------------------------------------------------------------------------

// A killed predecessor holds its lock until the kernel has torn down its mapping, which takes a
// while for a large one.
static int lock_patiently(int fd, bool shared)
{
	uint64_t deadline_ms = now_ms() + LOCK_PATIENCE_MS;
	int err;

	while (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB)) {
		err = errno;
		if (err == EINTR)
			continue;
		if (err != EWOULDBLOCK)
			return -err;
		if (now_ms() >= deadline_ms)
			return -EBUSY;
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_RETRY_MS * 1000000 }, NULL);
	}
	return 0;
}

// Through libpmem, which knows the alignment that the device wants. It opens the path by itself;
// the lock stays on our descriptor.
static int map_devdax(struct media *m)
{
	size_t mapped_bytes;
	int is_pmem, err;
	void *base = pmem_map_file(m->path, 0, 0, 0, &mapped_bytes, &is_pmem);

	if (!base) {
		err = errno ? -errno : -EINVAL;
		log_error("%s: %s", m->path, pmem_errormsg());
		return err;
	}
	if (mapped_bytes != m->size_bytes || !is_pmem) {
		log_error("%s: libpmem maps %zu bytes%s, the device has %llu", m->path, mapped_bytes,
			  is_pmem ? "" : ", not as persistent memory", (unsigned long long)m->size_bytes);
		pmem_unmap(base, mapped_bytes);
		return -EINVAL;
	}
	m->base = base;
	return 0;
}

static int map_shared(struct media *m)
{
	int protection = m->read_only ? PROT_READ : PROT_READ | PROT_WRITE, err;
	void *base = MAP_FAILED;

	// MAP_SYNC is refused unless the file is DAX; where granted, no msync is needed for the file's
	// metadata either.
	if (m->class == MEDIA_FILE) {
		base = mmap(NULL, m->size_bytes, protection, MAP_SHARED_VALIDATE | MAP_SYNC, m->fd, 0);
		if (base != MAP_FAILED)
			m->class = MEDIA_FSDAX;
	}
	if (base == MAP_FAILED)
		base = mmap(NULL, m->size_bytes, protection, MAP_SHARED, m->fd, 0);
	if (base == MAP_FAILED) {
		err = -errno;
		log_error("%s: cannot map %llu bytes: %s", m->path, (unsigned long long)m->size_bytes, strerror(-err));
		return err;
	}
	m->base = base;
	return 0;
}

static int lock_and_map(struct media *m)
{
	int err = lock_patiently(m->fd, m->read_only);

	if (err) {
		log_error("%s: %s", m->path, err == -EBUSY ? "is in use by another process" : strerror(-err));
		return err;
	}
	err = class_recognise(m->fd, m->path, &m->class, &m->size_bytes);
	if (err)
		return err;
	// pmem_map_file() always maps for writing.
	return m->class == MEDIA_DEVDAX && !m->read_only ? map_devdax(m) : map_shared(m);
}

int media_open(const char *path, bool read_only, struct media **ret_media)
{
	struct media *m;
	int err;

	if (strlen(path) >= sizeof m->path) {
		log_error("%s: path too long", path);
		return -ENAMETOOLONG;
	}
	m = calloc(1, sizeof *m);
	if (!m)
		return -ENOMEM;
	strcpy(m->path, path);
	m->read_only = read_only;
	// O_NONBLOCK: a FIFO given by mistake is refused, not waited for.
	m->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (m->fd < 0) {
		err = -errno;
		log_error("%s: %s", path, strerror(-err));
		free(m);
		return err;
	}
	err = lock_and_map(m);
	if (err) {
		close(m->fd);
		free(m);
		return err;
	}
	m->unit_bytes = m->class == MEDIA_DEVDAX ? DEVDAX_ALIGN_BYTES : PAGE_BYTES;
	media_watch(m);
	*ret_media = m;
	return 0;
}

int media_open_dram(uint64_t size_bytes, struct media **ret_media)
{
	struct media *m;
	int err;

	if (!size_bytes || size_bytes % PAGE_BYTES)
		return -EINVAL;
	m = calloc(1, sizeof *m);
	if (!m)
		return -ENOMEM;
	// All of it is used at once: populated, it spares a fault for each page.
	m->base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (m->base == MAP_FAILED) {
		err = -errno;
		free(m);
		return err;
	}
	m->size_bytes = size_bytes;
	m->class = MEDIA_DRAM;
	m->fd = -1;
	m->unit_bytes = PAGE_BYTES;
	strcpy(m->path, "(anonymous memory)");
	media_watch(m);
	*ret_media = m;
	return 0;
}

int media_allocate(struct media *m)
{
	int err;

	if (m->read_only)
		return -EROFS;
	if (m->class == MEDIA_DEVDAX || m->class == MEDIA_DRAM)
		return 0;
	// Not fallocate(): file systems that lack it are served by writing.
	do {
		err = posix_fallocate(m->fd, 0, (off_t)m->size_bytes);
	} while (err == EINTR);
	if (err)
		log_error("%s: cannot allocate %llu bytes: %s", m->path, (unsigned long long)m->size_bytes,
			  strerror(err));
	return -err;
}

void media_close(struct media *m)
{
	struct interval *s;

	if (!m)
		return;
	s = find_stored(m->base);
	if (s)
		s->base = NULL;
	media_unwatch(m);
	if (m->class == MEDIA_DEVDAX && !m->read_only)
		pmem_unmap(m->base, m->size_bytes);
	else
		munmap(m->base, m->size_bytes);
	if (m->fd >= 0)
		close(m->fd); // and with it the lock, after the last possible store
	free(m);
}
