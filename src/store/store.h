// SPDX-License-Identifier: GPL-2.0-or-later
// The store: transactions over pages (object, page number -> 4 KiB) and items (16-byte key ->
// short value), tiered over persistent memory and a block device. It knows nothing of names.
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "vems/format.h"
#include "vems/stats.h"

struct store;
struct lane;
struct op;

enum store_policy { STORE_POLICY_A2Q, STORE_POLICY_CLOCK, STORE_POLICY_LRU };

struct store_config {
	const char *tier_path, *backing_path; // tier_path NULL (read_only alone): without a tier
	bool read_only;         // nothing is written to either device
	bool lose_tier;         // mount the last epoch, whatever was in a lost tier
	bool discard_tier;      // the tier may hold another file system's data
	bool assume_persistent; // a tmpfs tier is treated as if it survived a power cut
	bool format_blank;      // a blank pair is formatted
	bool salvage;           // read-only: what is damaged in the tier is noted for a check, and done without
	bool repair;            // read-only: opened so that it can be repaired; nobody else has it
	bool tiny;              // tests: no lower bounds on sizes
	bool on_demand;         // tests: nothing is reclaimed or evicted ahead of need
	enum store_policy policy; // of eviction
	// Called once both devices are open, before anything else is done and any thread is started: an error
	// ends store_open(). Nothing else is ever opened. NULL: nothing to do.
	int (*devices_open)(void);
	unsigned interval_ms;   // between epochs; 0: default (30 s)
	unsigned io_timeout_ms; // of failing epochs before new dirty pages are refused; 0: default (30 s)
};

// Opens, locks, pairs, recovers. Every refusal is reported in one line with what to do (log_error)
// and has written nothing. -EBUSY, -EINVAL, -ENOENT, -EUCLEAN, -ESTALE (pairing), ...
int store_open(const struct store_config *config, struct store **ret_store);
// Last epoch, then CLEAN on both devices. An error (reported) leaves all in the tier: the next
// mount recovers. Lanes must be freed before.
int store_close(struct store *store);
// Forgets the DRAM and closes, writing nothing: what a crash would do (tests).
void store_abandon(struct store *store);

// mkfs: wipes old superblocks first, writes new ones last.
struct store_format_config {
	const char *tier_path, *backing_path;
	bool force; // overwrite whatever is there
	bool tiny;  // tests: no lower bounds on sizes
};
int store_format(const struct store_format_config *config);

bool store_read_only(const struct store *store);
// fsync has nothing to do: acknowledged commits survive a power cut.
bool store_is_persistent(const struct store *store);
// The backing alone holds everything committed before the call. Blocks; no operation of this
// thread may be running. -EIO, -EROFS.
int store_sync(struct store *store);
// Verifies every checksum of tier and backing, in the background and a quarter of the time at most. Its
// progress and result are in store_stats(). -EBUSY: one is under way.
int store_scrub(struct store *store);
void store_scrub_stop(struct store *store); // returns when none is
void store_stats(struct store *store, struct vems_stats *ret_stats);

struct store_space { // in blocks
	uint64_t total, free, available;    // free: not promised; available: without the reserve
	uint64_t free_soon, available_soon; // with the next epoch, which gives back what was dropped; available_soon: for
					    // pages of one large file, without what it takes to find them
};
void store_space(struct store *store, struct store_space *ret_space);
uint64_t store_incompat(const struct store *store); // bits of the superblock in force
object_t store_new_object(struct store *store); // an id never used before

// ---- operations -------------------------------------------------------------------------------

// A lane belongs to one thread and runs one operation at a time; others may wait meanwhile (op_wait()).
int lane_new(struct store *store, struct lane **ret_lane);
void lane_free(struct lane *lane);
// When nonzero, waiting operations of the lane end with -EINTR. May be set by any thread.
void lane_interrupt(struct lane *lane, bool interrupted);
// From now on: -EIO rather than wait for space that a failing backing does not give.
void lane_be_impatient(struct lane *lane);

// An operation is plain code that may be run again from the top: when something it needs is not in
// the tier (the call has noted what), or when what it has read was changed by another commit before
// it could commit, calls return -ERESTART, to be passed up unchanged. So an operation changes
// nothing outside itself before it commits:
//
//	struct op *op = op_begin(lane);
//	int r;
//	do
//		r = body(op, ...);        // resets its own results at the top
//	while (op_again(op, &r));      // waits if need be; checks what was read; *r is final on false
//	... use pointers into the op, reply ...
//	op_end(op);
//
// Pointers returned by calls on the op are good until op_again() returns true or op_end(). What is loaded
// through one into pages counts if op_again() returns false after it (see op_lend(), too).
struct op *op_begin(struct lane *lane);
bool op_again(struct op *op, int *result);
// As op_again(), but never waits: where that would, it returns false with -EAGAIN in *result. The op
// is to be ended then; what it wanted is tried from the top by an operation that may wait.
bool op_try(struct op *op, int *result);
// After op_try() has left it with -EAGAIN. True: all it lacks is blocks of the backing, which are being read, and the
// lane may begin others. Until lane_poll() calls ready() the op is nobody's; then it is to be resumed and run again.
bool op_wait(struct op *op, void (*ready)(void *arg), void *arg);
void op_resume(struct op *op);
void lane_poll(struct lane *lane); // waits for nothing; also sees to it that what was asked for is on its way
int lane_fd(const struct lane *lane); // readable to poll(2) when lane_poll() has something to do; -1: op_wait() is in vain
// What the op's pointers point to is about to be loaded by the kernel, in one call between these two, with
// nothing else of the op used. False: memory of the tier has failed meanwhile, and the op has to run again.
bool op_lend(struct op *op);
void op_lend_end(struct op *op);
void op_end(struct op *op);
// The result of an operation whose body is one expression, in which it is called `op`.
#define OP_RUN(lane, body)                      \
	({                                      \
		struct op *op = op_begin(lane); \
		int r_;                         \
		do                              \
			r_ = (int)(body);       \
		while (op_again(op, &r_));      \
		op_end(op);                     \
		r_;                             \
	})
bool op_missed(const struct op *op); // something that it has looked for was not in the tier
// What it will read, so many pages at most, is worth a short wait in op_end() to get into the tier. False:
// there is no room for it now.
bool op_keep(struct op *op, unsigned pages);
unsigned store_keeps(const struct store *store); // how many pages there is room for at the best of times; read-only: 0

// All that the op reads of object is of one moment, and still true when the op commits or, if it
// does not commit, when op_again() returns false. To be called before the first read of the object.
int op_watch(struct op *op, object_t object);

// Of the newest version: the length of the value (at most cap bytes copied), or -ENOENT.
// -EUCLEAN, -EIO: the backing is damaged (reported).
int op_get(struct op *op, struct item_key key, void *value, size_t cap);
// Visits the items in [from, last] (same object) in key order until fn returns nonzero, which is
// returned; else 0. Of the calls on the op fn may use op_get().
typedef int (*op_scan_fn)(void *arg, struct item_key key, const void *value, size_t bytes);
int op_scan(struct op *op, struct item_key from, struct item_key last, op_scan_fn fn, void *arg);

struct page_view {
	const void *data;  // 4 KiB; NULL: a hole, all zero
	uint32_t version;  // the store's own: what a commit built on the page checks
	frame_t frame;     // likewise
	lsn_t drop;        // likewise
	void *bucket;      // likewise
};
// Pages [first, first + count), count <= OP_PAGES_MAX; those that are not in the tier are fetched
// together. -EIO, -EUCLEAN: one of them cannot be read. For a page to build on, `verify` checks the
// content of a frame too.
#define OP_PAGES_MAX 260u
int op_read(struct op *op, object_t object, page_t first, unsigned count, bool verify, struct page_view *ret_views);
// The next page >= from that is not a hole (data) or is one (!data), below limit; limit if none.
int op_seek(struct op *op, object_t object, page_t from, page_t limit, bool data, page_t *ret_page);
// Is the page there (1) or a hole (0)? -EAGAIN: the backing would have to be asked. Waits for nothing, so
// that merge() (below) may ask it about its own object.
int op_page_known(struct op *op, object_t object, page_t page);
// Counts the pages >= from that are no holes, up to *ret_next, which is PAGE_MAX + 1 at the end: as
// many as one operation can look at.
int op_count(struct op *op, object_t object, page_t from, uint64_t *ret_pages, page_t *ret_next);
void *op_scratch(struct op *op, unsigned i); // zeroed 4 KiB, i < 4, until op_again()/op_end()

// ---- transactions -----------------------------------------------------------------------------

// Building; nothing is visible before txn_commit() has returned 0, everything is durable then.
// To be called once, before all else of the transaction: claims a frame for each of the pages to be
// written, [first, first + count) of object.
int txn_claim(struct op *op, object_t object, page_t first, unsigned count);
int txn_claim_two(struct op *op, object_t object, page_t one, page_t other); // instead; may be the same one
// Is there room for so many pages more? Promises nothing; -ENOSPC early.
int txn_room(struct op *op, uint64_t pages);
// The commit makes use of these incompat bits of the format: a superblock has them before. Waits for an epoch, the first
// time that a file system needs them. -EIO, -EROFS: it cannot be.
int txn_needs_format(struct op *op, uint64_t incompat);
// data is copied now (unless the op must start again). base: the view that data was made from,
// NULL if the whole page is replaced blindly.
int txn_page(struct op *op, object_t object, page_t page, const void *data, const struct page_view *base);
int txn_put(struct op *op, struct item_key key, const void *value, size_t bytes);
int txn_delete(struct op *op, struct item_key key);
// The item as it is when the commit holds the lock, changed by merge(). `seen`: as op_get() found
// it; the object need not be watched. Gone meanwhile: -ESTALE from txn_commit().
typedef void (*txn_merge_fn)(void *value, void *arg);
int txn_update(struct op *op, struct item_key key, const void *seen, size_t bytes, txn_merge_fn merge, void *arg);
// Pages [from, to) become holes, in constant time; pages of this transaction may not lie in it.
int txn_drop(struct op *op, object_t object, page_t from, page_t to);
// The object is gone for good, pages and items; its id is never used again.
int txn_drop_object(struct op *op, object_t object);
// So many pages are freed by its DROPs, as far as is known: counted in store_space() until the epoch frees them.
void txn_gives_back(struct op *op, uint64_t pages);
// Growth needs free space outside the reserve; overwrites and deletes may use it (`may_use_reserve`).
// -ENOSPC, -EROFS, -EIO (the backing has failed for too long), -ESTALE, -EINTR.
int txn_commit(struct op *op, bool may_use_reserve);

#endif
