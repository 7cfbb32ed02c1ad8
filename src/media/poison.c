// SPDX-License-Identifier: GPL-2.0-or-later
// Owns SIGBUS: what happens when memory of a mapping has failed.
//
// The handler maps zeroes over the page, and the load or store that met the poison goes on with them.
//
// 1. A page is counted before zeroes can be seen in it: who loads, then asks for the count and finds the
//    old one, has loaded what was there.
// 2. The kernel loads by itself, and cannot ask afterwards. So zeroes are mapped only when nothing is lent
//    to it: who lends asks for the count once more behind a fence, and the handler, behind one too, waits for
//    who has not seen the new one. A loan is one copy in the kernel, which waits for nobody here.
// 3. A device-DAX can be mapped in units of its alignment alone. There a copy of the whole unit, poisoned
//    pages zero, takes its place. Stores to any of its pages go nowhere then, so none of them is held: its
//    pages can be read, and those that are free are not used again. The copy has what was stored and found to be held
//    before: the page is counted first, then each thread has passed a barrier, then it is copied.
//
// The handler uses system calls and atomics only, runs one at a time, and not over itself but for a
// second poisoned page in a unit that is being copied.
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "media.h"

#define MAPPINGS_MAX 64u // of a process, and only in tests more than one; poison in any beyond ends it

static _Atomic(struct media *) mapping[MAPPINGS_MAX];
static struct sigaction others; // what SIGBUS did before
static atomic_flag replacing = ATOMIC_FLAG_INIT;
static _Thread_local sigjmp_buf *copying; // a unit: where to go on when a page of it is poisoned

// ---- what is known --------------------------------------------------------------------------------

static uint64_t unit_of(const struct media *m, uint64_t offset)
{
	return offset & ~(m->unit_bytes - 1);
}

bool media_holds_slowly(const struct media *m, const void *at, size_t bytes)
{
	uint64_t from = (uint64_t)((const uint8_t *)at - m->base);
	unsigned count = atomic_load_explicit(&m->poisoned, memory_order_acquire);

	for (unsigned i = 0; i < count; i++) {
		uint64_t unit = unit_of(m, m->poison[i]);

		if (from < unit + m->unit_bytes && unit < from + bytes)
			return false;
	}
	return true;
}

bool media_lend(struct media *m, struct grace_reader *reader, unsigned seen)
{
	grace_enter(&m->lent, reader);
	if (media_poisoned(m) == seen)
		return true;
	grace_leave(reader);
	return false;
}

// ---- the handler --------------------------------------------------------------------------------

static bool is_known(const struct media *m, uint64_t page)
{
	for (unsigned i = 0; i < atomic_load(&m->poisoned); i++)
		if (m->poison[i] == page)
			return true;
	return false;
}

static bool count_page(struct media *m, uint64_t page)
{
	unsigned count = atomic_load(&m->poisoned);

	if (is_known(m, page))
		return true;
	if (count == MEDIA_POISONED_MAX)
		return false;
	m->poison[count] = page;
	atomic_store(&m->poisoned, count + 1);
	return true;
}

static void wait_for_loans(struct media *m)
{
	uint64_t target = grace_start(&m->lent);

	while (!grace_over(&m->lent, target))
		sched_yield();
}

static bool map_zeroes(struct media *m, uint64_t page)
{
	return mmap(m->base + page, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	       MAP_FAILED;
}

static void copy_page(struct media *m, uint64_t page, uint8_t *to)
{
	sigjmp_buf again;

	if (sigsetjmp(again, 0) == 0) {
		copying = &again;
		atomic_signal_fence(memory_order_seq_cst);
		memcpy(to, m->base + page, PAGE_BYTES);
		atomic_signal_fence(memory_order_seq_cst);
	} else {
		count_page(m, page);
		memset(to, 0, PAGE_BYTES);
	}
	copying = NULL;
}

static bool map_copy(struct media *m, uint64_t unit)
{
	uint8_t *copy = mmap(NULL, m->unit_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (copy == MAP_FAILED)
		return false;
	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0); // what was stored before the count was seen is there
	for (uint64_t at = 0; at < m->unit_bytes; at += PAGE_BYTES)
		if (!is_known(m, unit + at))
			copy_page(m, unit + at, copy + at);
	return mremap(copy, m->unit_bytes, m->unit_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, m->base + unit) != MAP_FAILED;
}

static bool replace(struct media *m, uint64_t page)
{
	bool copied = m->unit_bytes == PAGE_BYTES || !media_holds(m, m->base + page, PAGE_BYTES);

	if (!count_page(m, page))
		return false;
	wait_for_loans(m);
	return copied ? map_zeroes(m, page) : map_copy(m, unit_of(m, page));
}

static struct media *mapping_of(const uint8_t *address)
{
	for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
		struct media *m = atomic_load(&mapping[i]);

		if (m && address >= m->base && address < m->base + m->size_bytes)
			return m;
	}
	return NULL;
}

static void pass_on(int signal, siginfo_t *info, void *context)
{
	if (others.sa_flags & SA_SIGINFO)
		others.sa_sigaction(signal, info, context);
	else if (others.sa_handler == SIG_DFL || others.sa_handler == SIG_IGN)
		sigaction(signal, &others, NULL); // and it comes again
	else
		others.sa_handler(signal);
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	struct media *m = mapping_of(info->si_addr);
	int saved = errno;
	bool done = false;

	if (m && copying)
		siglongjmp(*copying, 1);
	if (m) {
		while (atomic_flag_test_and_set(&replacing))
			sched_yield();
		done = replace(m, (uint64_t)((uint8_t *)info->si_addr - m->base) & ~(uint64_t)(PAGE_BYTES - 1));
		atomic_flag_clear(&replacing);
	}
	if (!done)
		pass_on(signal, info, context);
	errno = saved;
}

// ---- which mappings -----------------------------------------------------------------------------

static void take_sigbus(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART };

	sigfillset(&action.sa_mask);
	sigdelset(&action.sa_mask, SIGBUS);
	sigaction(SIGBUS, &action, &others);
}

void media_watch(struct media *m)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	grace_init(&m->lent);
	pthread_once(&once, take_sigbus);
	for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
		struct media *none = NULL;

		if (atomic_compare_exchange_strong(&mapping[i], &none, m))
			return;
	}
}

void media_unwatch(struct media *m)
{
	for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
		struct media *ours = m;

		atomic_compare_exchange_strong(&mapping[i], &ours, NULL);
	}
}
