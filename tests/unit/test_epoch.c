// SPDX-License-Identifier: GPL-2.0-or-later
// The order of an epoch's steps, seen from within: from its block I/O, from its first write to memory that was
// protected, and by readers who hold it up.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "log.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(4) << 20)
#define BACKING_BYTES (UINT64_C(32) << 20)
#define OBJECT 100u
#define DROPPED 101u
#define PAGES 200u // in several pages of memory of the tier's array of frames
#define ITEMS 60u

static int backing_fd;
static struct store *store;
static struct lane *lane;
static struct grace_reader *reader, *later_reader;

static void (*at_io)(char kind); // in the epoch thread; it asserts nothing, as only the test's own thread may
static _Atomic bool undrained;   // stores of the epoch thread
static bool flush_fails;
static struct {
	_Atomic unsigned ios, supers;
	bool announced, reclaimed, dirty_at_super, dropped_at_super, clean_at_super;
	lsn_t cut;
} seen;

static bool in_epoch(void)
{
	return store && store->epoch_running && pthread_equal(pthread_self(), store->epoch_thread);
}

static int before(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (kind != 'r' && in_epoch() && at_io)
		at_io(kind);
	return kind == 'f' && flush_fails ? -EIO : 0;
}
static const struct backing_hook hook = { .before = before };

static void (*at_tail)(void); // in the chores thread, when T is drained
static _Thread_local bool tail_moves;

static void on_store(void *arg, uint64_t offset, const void *src, size_t bytes)
{
	if (in_epoch())
		atomic_store(&undrained, true);
	tail_moves |= offset == TIER_WORDS_OFFSET + WORD_TAIL_LSN * TIER_WORD_STRIDE;
}

static void on_drain(void *arg)
{
	if (in_epoch())
		atomic_store(&undrained, false);
	if (tail_moves && at_tail)
		at_tail();
	tail_moves = false;
}
static const struct media_recorder recorder = { on_store, on_drain, NULL };

// ---- a trap: what happens at the first write (or look) to memory ------------------------------------------------

static struct {
	uint8_t *from;
	size_t bytes;
	void (*fn)(void);
	_Atomic bool sprung;
} trap;

static void on_fault(int number, siginfo_t *info, void *context)
{
	uint8_t *at = info->si_addr;
	if (at < trap.from || at >= trap.from + trap.bytes || mprotect(trap.from, trap.bytes, PROT_READ | PROT_WRITE))
		abort();
	trap.fn();
	atomic_store(&trap.sprung, true);
}

// Of the whole pages in there.
static void trap_set(void *area, size_t bytes, int allowed, void (*fn)(void))
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }; // cmocka has put its own
	uintptr_t from = ((uintptr_t)area + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
	trap.from = (uint8_t *)from;
	trap.bytes = ((uintptr_t)area + bytes - from) & ~(size_t)(PAGE_BYTES - 1);
	trap.fn = fn;
	atomic_store(&trap.sprung, false);
	if (sigaction(SIGSEGV, &action, NULL) || mprotect(trap.from, trap.bytes, allowed))
		abort();
}

static void trap_frames(int allowed, void (*fn)(void))
{
	trap_set(store->tier->frame, store->tier->frames * sizeof(struct frame), allowed, fn);
}

// ---- the store ------------------------------------------------------------------------------------------

static int setup(void **state)
{
	const struct store_config config = { .format_blank = true, .tiny = true, .assume_persistent = true, .interval_ms = 3600000 };
	struct media *m;
	struct backing *b;
	char path[64];
	backing_fd = memfd_create("backing", MFD_CLOEXEC);
	assert_int_equal(ftruncate(backing_fd, (off_t)BACKING_BYTES), 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", backing_fd);
	assert_int_equal(media_open_dram(TIER_BYTES, &m), 0);
	assert_int_equal(backing_open(path, false, &b), 0);
	b->hook = &hook;
	m->recorder = &recorder;
	assert_int_equal(store_open_on(&config, m, b, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	reader = grace_register(&store->grace);
	later_reader = grace_register(&store->grace);
	memset(&seen, 0, sizeof seen);
	return 0;
}

static int teardown(void **state)
{
	at_io = NULL;
	grace_unregister(reader);
	grace_unregister(later_reader);
	lane_free(lane);
	assert_int_equal(store_close(store), 0);
	store = NULL;
	close(backing_fd);
	return 0;
}

static int put_all(struct op *op, object_t object, unsigned pages, unsigned items, uint8_t stamp)
{
	uint8_t data[PAGE_BYTES];
	memset(data, stamp, sizeof data);
	int r = txn_claim(op, object, 0, pages);
	for (unsigned i = 0; !r && i < pages; i++)
		r = txn_page(op, object, i, data, NULL);
	for (unsigned i = 0; !r && i < items; i++)
		r = txn_put(op, item_key(object, ITEM_INODE, i), &stamp, 1);
	return r ? r : txn_commit(op, false);
}

static int drop(struct op *op, object_t object)
{
	int r = txn_drop_object(op, object);
	return r ? r : txn_commit(op, false);
}

static void *sync_in_thread(void *arg)
{
	return (void *)(intptr_t)store_sync(store);
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ 0, ms * 1000000 }, NULL);
}

#define WAIT_FOR(condition)                             \
	do {                                            \
		for (unsigned n_ = 0; !(condition); n_++) { \
			assert_true(n_ < 20000);        \
			pause_ms(1);                    \
		}                                       \
	} while (0)

static unsigned frames_with(uint16_t bit)
{
	unsigned count = 0;
	for (frame_t f = 0; f < store->tier->frames; f++)
		count += (frame_state(&store->tier->frame[f]) & bit) != 0;
	return count;
}

static unsigned frames_in(enum frame_place place)
{
	unsigned count = 0;
	for (frame_t f = 0; f < store->tier->frames; f++)
		count += frame_place(frame_state(&store->tier->frame[f])) == place;
	return count;
}

static frame_t frame_of(object_t object)
{
	struct bucket *bucket;
	uint32_t version;
	return index_look(store->tier, object, 0, &bucket, &version);
}

static const struct item *folded[ITEMS]; // by one commit
static lsn_t folded_lsn;

static void note_folded(void)
{
	for (unsigned i = 0; i < ITEMS; i++)
		folded[i] = overlay_find(&store->overlay, item_key(OBJECT, ITEM_INODE, i), LSN_MAX);
	folded_lsn = folded[0]->lsn;
}

static void assert_none_was_freed(void)
{
	for (unsigned i = 0; i < ITEMS; i++)
		assert_int_equal(folded[i]->lsn, folded_lsn);
}

// ---- the tests --------------------------------------------------------------------------------------------

static void at_first_clean(void)
{
	seen.clean_at_super = atomic_load(&store->clean_cut) == seen.cut || store_root(store)->cut != seen.cut;
}

static void look_at_steps(char kind)
{
	if (atomic_fetch_add(&seen.ios, 1) == 0) {
		seen.cut = atomic_load(&store->cut);
		seen.announced = atomic_load(&store->building) && seen.cut > atomic_load(&store->clean_cut) && atomic_load(&store->lsn) > seen.cut;
		seen.reclaimed = atomic_load(&store->tier->tail_lsn) >= seen.cut;
	}
	if (kind != 'W')
		return;
	seen.dirty_at_super = frames_with(FRAME_DIRTY) >= PAGES;
	seen.dropped_at_super = frame_of(DROPPED) == FRAME_NONE;
	if (atomic_fetch_add(&seen.supers, 1) == 1)
		trap_frames(PROT_READ, at_first_clean);
}

static void each_step_is_behind_the_one_before(void **state)
{
	assert_int_equal(OP_RUN(lane, put_all(op, DROPPED, 1, 1, 1)), 0);
	assert_int_equal(store_sync(store), 0);
	assert_int_equal(OP_RUN(lane, put_all(op, OBJECT, PAGES, 1, 1)), 0);
	assert_int_equal(OP_RUN(lane, drop(op, DROPPED)), 0);
	at_io = look_at_steps;
	assert_int_equal(store_sync(store), 0);
	assert_true(seen.announced);
	assert_true(seen.reclaimed);
	assert_true(seen.dirty_at_super);
	assert_true(seen.dropped_at_super);
	assert_true(trap.sprung);
	assert_false(seen.clean_at_super);
	assert_int_equal(atomic_load(&store->clean_cut), seen.cut);
	assert_false(atomic_load(&store->building));
	assert_int_equal(frames_with(FRAME_DIRTY), 0);
	assert_false(atomic_load(&undrained));
}

static _Atomic uint64_t told; // pages that writers had heard of when the last write began

static void look_at_pace(char kind)
{
	if (kind != 'w')
		return;
	atomic_store(&told, atomic_load(&store->pace_done));
	pause_ms(20);
}

// Who waits for frames gets them while the rest is still to be written.
static void writers_hear_of_each_part(void **state)
{
	assert_int_equal(OP_RUN(lane, put_all(op, OBJECT, PAGES, 1, 1)), 0);
	at_io = look_at_pace;
	assert_int_equal(store_sync(store), 0);
	assert_int_not_equal(told, 0);
}

static bool by_epoch, in_grace;

static void at_first_look(void)
{
	by_epoch = in_epoch();
	in_grace = !grace_over(&store->grace, grace_start(&store->grace));
}

static void trap_next_look(void)
{
	at_tail = NULL;
	trap_frames(PROT_NONE, at_first_look);
}

// Else one may be used again between the looks at its state and at its LSN.
static void frames_are_collected_in_grace_periods(void **state)
{
	assert_int_equal(OP_RUN(lane, put_all(op, OBJECT, PAGES, 1, 1)), 0);
	at_tail = trap_next_look;
	assert_int_equal(store_sync(store), 0);
	assert_true(trap.sprung);
	assert_true(by_epoch);
	assert_true(in_grace);
}

static bool drops_there;

static void a_reader_comes(void)
{
	drops_there = drops_any(&store->drops);
	grace_enter(&store->grace, later_reader);
}

static void trap_overlay(void)
{
	trap_set(store->overlay.hash, store->overlay.buckets * sizeof *store->overlay.hash, PROT_READ, a_reader_comes);
}

// Who reads under the old root still finds all items in the overlay, and those that leave it stay in memory.
static void readers_hold_up_what_is_folded(void **state)
{
	pthread_t thread;
	void *result;
	assert_int_equal(OP_RUN(lane, put_all(op, OBJECT, 1, ITEMS, 1)), 0);
	assert_int_equal(OP_RUN(lane, drop(op, DROPPED)), 0);
	uint64_t items = atomic_load(&store->overlay.items);
	lsn_t before_it = atomic_load(&store->clean_cut);
	note_folded();
	grace_enter(&store->grace, reader);
	assert_int_equal(pthread_create(&thread, NULL, sync_in_thread, NULL), 0);
	WAIT_FOR(atomic_load(&store->clean_cut) != before_it);
	pause_ms(100);
	assert_int_equal(atomic_load(&store->overlay.items), items);
	trap_overlay();
	grace_leave(reader);
	WAIT_FOR(atomic_load(&trap.sprung));
	assert_true(drops_there);
	pause_ms(100);
	assert_int_equal(pthread_tryjoin_np(thread, &result), EBUSY);
	assert_none_was_freed();
	grace_leave(later_reader);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_null(result);
	assert_int_equal(atomic_load(&store->overlay.items), 0);
	assert_false(drops_any(&store->drops));
}

// Newer versions, while the epoch holds those that it has folded.
static void overwrite_at_flush(char kind)
{
	if (kind != 'f')
		return;
	at_io = NULL;
	if (OP_RUN(lane, put_all(op, OBJECT, 2, ITEMS / 2, 2)))
		abort();
	atomic_fetch_add(&seen.ios, 1);
}

static void a_failed_epoch_leaves_what_was(void **state)
{
	pthread_t thread;
	void *result;
	assert_int_equal(OP_RUN(lane, put_all(op, OBJECT, PAGES, ITEMS, 1)), 0);
	uint64_t items = atomic_load(&store->overlay.items), blocks = space_free_blocks(store->space);
	lsn_t in_force = atomic_load(&store->clean_cut);
	note_folded();
	flush_fails = true;
	at_io = overwrite_at_flush;
	grace_enter(&store->grace, reader);
	assert_int_equal(pthread_create(&thread, NULL, sync_in_thread, NULL), 0);
	WAIT_FOR(atomic_load(&seen.ios) && atomic_load(&store->cut) == in_force);
	pause_ms(100);
	assert_int_equal(frames_with(FRAME_KEPT), 2);
	assert_int_equal(atomic_load(&store->overlay.items), items + ITEMS / 2);
	trap_overlay();
	grace_leave(reader);
	WAIT_FOR(atomic_load(&trap.sprung));
	pause_ms(100);
	assert_int_equal(pthread_tryjoin_np(thread, &result), EBUSY);
	assert_none_was_freed();
	grace_leave(later_reader);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_int_equal((intptr_t)result, -EIO);
	flush_fails = false;

	assert_int_equal(atomic_load(&store->clean_cut), in_force);
	assert_false(atomic_load(&store->building));
	assert_int_equal(frames_with(FRAME_KEPT), 0);
	assert_int_equal(frames_with(FRAME_DIRTY), PAGES);
	assert_int_equal(frames_in(FRAME_BUILD), 0); // copies of nodes
	assert_false(atomic_load(&undrained));
	assert_int_equal(atomic_load(&store->overlay.items), items);
	assert_int_equal(space_free_blocks(store->space), blocks);
	assert_int_equal(store->claims_of[1 - store->claims_before], 0);
	assert_int_equal(store_sync(store), 0);
	assert_int_equal(store->claims, 0);
}

#define INCOMPAT VEMS_INCOMPAT_PAST_END

static int put_by_format(struct op *op)
{
	int r = txn_needs_format(op, INCOMPAT);
	if (!r)
		r = txn_put(op, item_key(OBJECT, ITEM_INODE, 0), "", 1);
	return r ? r : txn_commit(op, false);
}

static bool both_supers_have(uint64_t incompat)
{
	static const uint64_t place[] = { 0, BACKING_BYTES - PAGE_BYTES };
	struct super_disk super;
	for (int i = 0; i < 2; i++)
		if (pread(backing_fd, &super, sizeof super, (off_t)place[i]) != sizeof super || super.incompat != incompat)
			return false;
	return true;
}

// Also where there is nothing else to write; and never again.
static void superblocks_have_a_format_before_it_is_used(void **state)
{
	char value;
	assert_int_equal(store_sync(store), 0);
	flush_fails = true;
	assert_int_equal(OP_RUN(lane, put_by_format(op)), -EIO);
	assert_int_equal(OP_RUN(lane, op_get(op, item_key(OBJECT, ITEM_INODE, 0), &value, 1)), -ENOENT);
	assert_true(both_supers_have(0));
	assert_int_equal(store_incompat(store), 0);
	flush_fails = false;

	uint64_t epoch = store->super.epoch;
	assert_int_equal(OP_RUN(lane, put_by_format(op)), 0);
	assert_true(both_supers_have(INCOMPAT));
	assert_int_equal(store_incompat(store), INCOMPAT);
	assert_true(store->super.epoch > epoch);
	assert_int_equal(atomic_load(&store->overlay.items), 1); // it is newer
	epoch = store->super.epoch;
	assert_int_equal(OP_RUN(lane, put_by_format(op)), 0);
	assert_int_equal(store->super.epoch, epoch);
	assert_int_equal(store_sync(store), 0);
	assert_true(both_supers_have(INCOMPAT));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_step_is_behind_the_one_before, setup, teardown),
		cmocka_unit_test_setup_teardown(writers_hear_of_each_part, setup, teardown),
		cmocka_unit_test_setup_teardown(frames_are_collected_in_grace_periods, setup, teardown),
		cmocka_unit_test_setup_teardown(readers_hold_up_what_is_folded, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failed_epoch_leaves_what_was, setup, teardown),
		cmocka_unit_test_setup_teardown(superblocks_have_a_format_before_it_is_used, setup, teardown),
	};
	mallopt(M_PERTURB, 0xa5); // what was freed is seen to be, but for the few that wait to be given out again
	log_init("test_epoch");
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
