// SPDX-License-Identifier: GPL-2.0-or-later
#include "store_world.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int backing_fd;
struct media *m;
struct store_config world_config = { .format_blank = true, .tiny = true, .assume_persistent = true, .on_demand = true,
				     .interval_ms = 3600000 };

struct store *open_store(void)
{
	struct backing *b;
	struct store *s;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", backing_fd);
	assert_int_equal(backing_open(path, false, &b), 0);
	assert_int_equal(store_open_on(&world_config, m, b, &s), 0);
	return s;
}

struct store *new_store(void)
{
	backing_fd = memfd_create("backing", MFD_CLOEXEC);
	assert_int_equal(ftruncate(backing_fd, (off_t)BACKING_BYTES), 0);
	assert_int_equal(media_open_dram(TIER_BYTES, &m), 0);
	return open_store();
}

void end_store(struct store *s, struct lane *lane)
{
	if (lane)
		lane_free(lane);
	assert_int_equal(store_close(s), 0);
	close(backing_fd);
}

int write_page(struct op *op, object_t object, page_t page, uint8_t byte)
{
	uint8_t data[PAGE_BYTES];
	memset(data, byte, sizeof data);
	int r = txn_claim(op, object, page, 1);
	return r ? r : txn_page(op, object, page, data, NULL);
}

frame_t frame_of(struct store *s, object_t object, page_t page)
{
	struct bucket *bucket;
	uint32_t version;
	return index_look(s->tier, object, page, &bucket, &version);
}

bool somebody_waits(const pthread_mutex_t *lock)
{
	return __atomic_load_n(&lock->__data.__lock, __ATOMIC_RELAXED) == 2; // of glibc
}

struct attempt {
	void (*fn)(struct store *s);
	struct store *s;
	_Atomic bool ended;
};

static void *attempt_main(void *arg)
{
	struct attempt *a = arg;
	a->fn(a->s);
	atomic_store(&a->ended, true);
	return NULL;
}

bool waits_for(pthread_mutex_t *lock, void (*fn)(struct store *s), struct store *s, void (*meanwhile)(struct store *s))
{
	struct attempt a = { .fn = fn, .s = s };
	pthread_t thread;
	bool waits;
	pthread_mutex_lock(lock);
	assert_int_equal(pthread_create(&thread, NULL, attempt_main, &a), 0);
	while (!(waits = somebody_waits(lock)) && !atomic_load(&a.ended))
		sched_yield();
	if (waits && meanwhile)
		meanwhile(s);
	pthread_mutex_unlock(lock);
	pthread_join(thread, NULL);
	return waits;
}
