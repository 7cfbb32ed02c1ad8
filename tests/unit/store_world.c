// SPDX-License-Identifier: GPL-2.0-or-later
#include "store_world.h"
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

// ---- traps ------------------------------------------------------------------------------------------

struct trap traps[TRAPS_MAX];
static struct sigaction before;

static void protect_all(int protection)
{
	for (unsigned i = 0; i < TRAPS_MAX; i++)
		if (traps[i].page)
			mprotect(traps[i].page, PAGE_BYTES, protection);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	for (unsigned i = 0; i < TRAPS_MAX; i++) {
		struct trap *t = &traps[i];
		if (!t->page || (uintptr_t)info->si_addr - (uintptr_t)t->page >= PAGE_BYTES)
			continue;
		mprotect(t->page, PAGE_BYTES, PROT_READ | PROT_WRITE);
		t->accesses++;
		t->accessed();
		return;
	}
	abort();
}

void *trap_page(const void *content, size_t bytes)
{
	void *page = aligned_alloc(PAGE_BYTES, (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1));
	memcpy(page, content, bytes);
	return page;
}

void traps_begin(void)
{
	const struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &action, &before);
	protect_all(PROT_NONE);
}

void traps_arm(void)
{
	protect_all(PROT_NONE);
}

void traps_end(void)
{
	protect_all(PROT_READ | PROT_WRITE);
	sigaction(SIGSEGV, &before, NULL);
	for (unsigned i = 0; i < TRAPS_MAX; i++)
		traps[i] = (struct trap){ 0 };
}
