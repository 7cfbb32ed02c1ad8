// SPDX-License-Identifier: GPL-2.0-or-later
// Inside the store. The order of locks: docs/DESIGN.md "Locks".
#ifndef STORE_STORE_IMPL_H
#define STORE_STORE_IMPL_H

#include <pthread.h>
#include <time.h>
#include "backing.h"
#include "clock.h"
#include "fold.h"
#include "grace.h"
#include "hash.h"
#include "policy.h"
#include "store.h"
#include "super.h"
#include "tier.h"

// ---- overlay (overlay.c): items not yet in the tree ---------------------------------------------

struct item { // immutable once put; readers traverse without locks
	_Atomic(struct item *) hash_next, object_next;
	struct item *hash_prev; // under the overlay lock of the bucket; NULL: first
	struct item_key key;
	lsn_t lsn;
	uint16_t bytes;
	bool deleted;
	uint8_t levels; // of its object's list, above the lowest, that it is in: their links lie behind the value
	struct item *next; // of a private list
	_Alignas(8) uint8_t value[];
};

#define OVERLAY_LEVELS 10u // above the lowest
struct overlay_head { // of a list's upper levels
	_Atomic(struct item *) first[OVERLAY_LEVELS];
};
struct overlay_bucket {
	pthread_mutex_t lock;
	_Atomic(struct item *) first;
};
struct overlay_list {
	struct overlay_bucket lowest;
	_Atomic(struct overlay_head *) head; // NULL: there are no others, the list is short
};
struct overlay {
	struct overlay_bucket *hash;
	struct overlay_list *object;
	uint32_t buckets; // of each, a power of two
	_Atomic uint64_t items, bytes, claimed;
	uint64_t bytes_max;
};

int overlay_init(struct overlay *o, uint64_t bytes_max);
void overlay_fini(struct overlay *o);
struct item *item_new(struct item_key key, const void *value, size_t bytes, bool deleted);
static inline uint64_t item_cost(const struct item *i) { return ITEM_RECORD_BYTES(i->bytes); }
// The newest version with LSN <= not_above, or NULL. The caller is a grace reader or knows better.
const struct item *overlay_find(const struct overlay *o, struct item_key key, lsn_t not_above);
// Puts item->lsn's version; the ones it replaces go to *ret_replaced (list through next) unless
// lsn <= cut < item->lsn: those are frozen and stay until the epoch ends.
void overlay_put(struct overlay *o, struct item *item, lsn_t cut, struct item **ret_replaced);
void overlay_remove(struct overlay *o, struct item *item);
// Takes out all versions that are not the newest of their key: a list through next.
void overlay_drop_superseded(struct overlay *o, struct item **ret_gone);
// Calls fn for each item, under the bucket's lock.
void overlay_each(struct overlay *o, void (*fn)(void *arg, struct item *item), void *arg);
// For readers: the first item in [from, last] (same object) that is no DROP, and that behind i; of each key the
// newest version, deleted or not. NULL: none.
const struct item *overlay_first(const struct overlay *o, struct item_key from, struct item_key last);
const struct item *overlay_after(const struct overlay *o, const struct item *i, struct item_key last);
static inline bool item_is_drop(const struct item *i) { return item_key_type(i->key) == ITEM_DROP; }

// ---- DROPs (drops.c): ranges of pages, and whole objects, that are dead --------------------------

struct drop {
	_Atomic(struct drop *) next;
	struct drop *taken_next;
	object_t object;
	page_t from, to;
	lsn_t lsn;
	bool whole;
};
struct drops {
	pthread_mutex_t lock;
	_Atomic uint64_t count;
	uint32_t buckets; // a power of two
	_Atomic(struct drop *) *bucket;
};
// As many buckets as the overlay: a DROP is an item there.
int drops_init(struct drops *d, uint32_t buckets);
void drops_fini(struct drops *d);
struct drop *drop_new(object_t object, page_t from, page_t to, bool whole);
void drops_add(struct drops *d, struct drop *drop);
// The newest DROP over that page with LSN <= not_above; 0: none.
lsn_t drops_newest(const struct drops *d, object_t object, page_t page, lsn_t not_above);
bool drops_whole(const struct drops *d, object_t object, lsn_t *ret_lsn);
// Takes out all with LSN <= cut, as a list to be freed after a grace period.
struct drop *drops_take_folded(struct drops *d, lsn_t cut);
// Sorted by object and first page, LSN <= cut; malloc'ed.
int drops_collect(struct drops *d, lsn_t cut, struct fold_drop **ret_drops, size_t *ret_count);
static inline bool drops_any(const struct drops *d) { return atomic_load_explicit(&d->count, memory_order_acquire) != 0; }

// ---- the store -------------------------------------------------------------------------------

#define OBJECT_LOCKS 4096u
struct object_lock {
	_Alignas(64) pthread_mutex_t lock;
	_Atomic uint32_t sequence; // odd while a commit switches
};

struct root { // published; freed after a grace period
	struct tree_root tree;
	lsn_t cut;
	uint64_t epoch;
};

enum counter {
	COUNT_READ_HITS, COUNT_READ_MISSES, COUNT_READ_HOLES, COUNT_WRITE_HITS, COUNT_WRITE_WAITS, COUNT_NODE_HITS,
	COUNT_NODE_MISSES, COUNT_FILLED, COUNT_COMMITS, COUNT_RESTARTS, COUNTERS
};

enum degraded { DEGRADED_NO = 0, DEGRADED_NO_DIRTY = 1, DEGRADED_READ_ONLY = 2 };

#define LSN_CUT_AHEAD (UINT64_C(1) << 20)
#define LSN_CUT_JUMP (UINT64_C(1) << 21)
#define LSN_BASE_JUMP (UINT64_C(1) << 32)
#define LSN_LOST_JUMP (UINT64_C(1) << 40)
#define LSN_LIMIT (LSN_MAX - 4 * LSN_LOST_JUMP) // what has more is not opened: its numbers would run out
#define LSN_FIRST 1024u // ids below OBJECT_FIRST are the store's

struct new_node { // a node of the epoch just published, copied into a claimed frame and drained
	struct node_ref ref;
	frame_t frame;
};
struct request { // of the epoch thread to the chores thread
	lsn_t reclaim_to, drop_to; // 0: not asked
	const struct new_node *install;
	size_t install_count;
};

#define COMING 4096u

struct store {
	struct store_config config;
	struct media *media;
	struct backing *backing;
	struct tier *tier;
	struct space *space; // the epoch thread's
	struct ioq *ioq;     // likewise; also at open and close
	struct grace grace;
	uint64_t seed;
	bool read_only, persistent;
	bool resumes; // the tier was this backing's already
	bool told_of_next; // and has been told of superblocks that did not come

	_Atomic lsn_t lsn;       // the next
	_Atomic lsn_t cut;       // of the epoch being built, else that in force
	_Atomic lsn_t clean_cut; // C of the superblock in force, and of the root
	_Atomic(struct root *) root;
	struct super_disk super; // in force; the epoch thread's
	_Atomic uint64_t incompat, incompat_wanted; // its bits; of the next one: what commits wait for
	uint64_t blocks;         // of the file system
	struct super_disk super_before; // rebuilt: the one in force, super is to be
	bool rebuilt;
	struct {
		struct tail { // mend_tail(): a page to be cut short; in their order
			object_t object;
			page_t page;
			unsigned bytes;
		} *tail;
		size_t count;
	} tails;
	struct { // mend_poison(): pages that are to read as errors, as extents under what the tier has
		struct poisoned {
			object_t object;
			page_t from, to;
			lsn_t lsn;
		} *range;
		size_t count;
		uint64_t extents; // that it takes to write them down
	} poisoned;
	struct { // by the last pass of a check: keys that it could not read, in order; DROPs by object and page
		struct key_range {
			struct item_key from, limit;
		} *range;
		size_t count;
		struct fold_drop *drop;
		size_t drops;
	} lost;
	struct check_finding *salvage; // noted by recovery
	size_t salvages;
	char super_inferior;     // the copy that is to be made equal before anything else is written; 0: none

	struct object_lock *lock;
	struct overlay overlay;
	struct drops drops;
	struct lane *_Atomic lane[GRACE_READERS_MAX];

	// Space promised to commits until their fold (under space_lock).
	pthread_mutex_t space_lock;
	uint64_t claims, claims_of[2]; // claims_of[claims_before]: folded by the running or next epoch
	uint64_t returning_of[2]; // likewise: pages that were dropped
	unsigned claims_before;
	uint64_t reserve; // blocks for overwrites and deletes
	_Atomic bool building;

	// Dirty frames: granted ahead of the switch, paced while an epoch is built.
	_Atomic uint64_t dirty_claimed;
	_Atomic uint64_t pace_base, pace_total, pace_done; // frames: dirty at the cut, to write, written

	// Waiters of all kinds.
	pthread_mutex_t wait_lock;
	pthread_cond_t wait_cond;
	_Atomic uint32_t waiters;
	_Atomic uint32_t coming[COMING]; // pages that are being read into the tier, by the hash of their place

	// Chores: reclaim, evict and drop passes on behalf of the epoch thread or ahead of need.
	pthread_t chores_thread;
	bool chores_running;
	pthread_mutex_t chores_lock;
	pthread_cond_t chores_cond, chores_done;
	_Atomic bool chores_kicked;
	bool chores_stop;       // under chores_lock
	bool asked;             // likewise: by the epoch thread, which waits
	struct request request; // likewise
	struct policy policy;   // of eviction; under the table lock
	frame_t hand;           // looks for dead frames; likewise
	frame_t limbo;          // left by a crash, freed by the next slice: a list through frame.replaces; likewise
	unsigned limbo_count;
	struct slice *slice;    // of reclaiming, which must not want for memory; likewise
	_Atomic bool log_damaged;
	pthread_mutex_t poison_lock;
	_Atomic unsigned poison_met; // pages of the tier found poisoned, and seen to
	_Atomic bool item_ring_full; // the last slice found no room to turn it

	// Epochs, under epoch_lock.
	block_t *bad; // blocks that refuse to be written, not yet noted in the tree; the epoch thread's
	size_t bads;
	pthread_t epoch_thread;
	bool epoch_running;
	pthread_mutex_t epoch_lock;
	pthread_cond_t epoch_cond, epoch_done;
	uint64_t attempts_wanted, attempts_started, attempts_finished;
	int attempt_result;
	bool epoch_stop;        // a superblock that cannot be written is not waited for any more
	_Atomic uint64_t super_failures; // times that one could not be written: it may be there or not, and is tried again
	uint64_t failing_since_ms;
	_Atomic uint64_t epoch_failures;
	_Atomic int degraded;

	pthread_mutex_t scrub_lock;
	struct scrub *scrub;     // under scrub_lock: has been started and not yet joined
	_Atomic uint64_t scrub_state, scrub_end_ns, scrub_checked, scrub_total, scrub_errors, scrub_healed;
	struct errand *errand;   // of the epoch thread, under epoch_lock; NULL: none

	_Atomic uint64_t count[COUNTERS]; // of lanes that are gone
	_Atomic uint64_t evicted, written_back, dropped;
	uint64_t recovery_ms;
	_Atomic uint64_t cut_wall_ns; // wall clock of the cut in force
};

void store_forget(struct store *s); // overlay and DROPs
// The tier notes the superblocks in force: an older backing is a stale copy from then on. The caller drains.
void pair_note(struct store *s);
// To be called before superblocks of the next epoch are written: one behind, and not told, the tier is a stale copy.
void pair_announce(struct store *s);
// Before the first announcement of who has not resumed. If superblocks were announced that did not come, others take
// their number, of the tree in force: a copy of the tier that was told of those must not take what comes now for them.
int pair_skip_announced(struct store *s);
// Likewise, but these superblocks have all that the tier holds: as soon as one of them is there, it may be attached to
// anything. And when both are: to be told.
void pair_announce_last(struct store *s);
void pair_release_tier(struct store *s);
int equalise_supers(struct store *s);
// With config.salvage: notes a finding, -EUCLEAN otherwise.
int salvage(struct store *s, const struct check_finding *finding);

// ---- lanes and operations (op.c) -----------------------------------------------------------------

struct fetched { // a node or page read from the backing into DRAM, kept until the reply
	struct fetched *next;
	block_t block;
	lsn_t birth;
	uint64_t sum;
	object_t object; // key: OBJECT_STORE and the block for nodes
	page_t page;
	int level;       // of a node; -1: a page
	int error;       // of the read: kept, so that a restart gets it instead of asking again
	bool ready;
	lsn_t root_cut;  // of the root that the walk began with
	struct bucket *bucket; // of the last look, for admission
	uint32_t version;
	unsigned run;          // of the operation: of the last look
	bool announced;        // in store.coming
	uint8_t *data;
};

#define OP_WATCHES_MAX 64u
#define OP_ITEMS_MAX 80u
#define OP_DROPS_MAX 8u
#define FETCH_BUCKETS 128u

enum park { PARK_NONE, PARK_FRAMES, PARK_DIRTY, PARK_LOG, PARK_OVERLAY, PARK_SPACE, PARK_FORMAT };

struct watch {
	uint16_t slot;
	uint32_t sequence;
};
struct txn_page {
	object_t object;
	page_t page;
	frame_t frame;
	uint64_t sum;
	bool has_base;
	struct page_view base;
};
struct txn_item {
	struct item *item;
	txn_merge_fn merge; // NULL: put as it is
	void *merge_arg;
};

#define FETCHES_MAX (OP_PAGES_MAX + 64u)

struct fetching { // blocks on their way from the backing
	unsigned left; // I/Os
	void (*ready)(void *arg); // NULL: somebody waits for left == 0
	void *arg;
	struct fetched *list[FETCHES_MAX];
	struct iovec iov[FETCHES_MAX]; // as in list
	struct io io[FETCHES_MAX];
};

struct op {
	struct lane *lane;
	struct store *store;
	struct op *next; // idle
	bool committed;
	bool keep; // op_keep()
	bool joined; // it has waited for what others read into the tier
	unsigned poisoned; // pages of the tier, when the run began
	unsigned space_waits; // epochs waited for in vain
	unsigned conflicts; // restarts since it began, parks not counted
	unsigned run;       // counts them all
	enum park park;

	struct watch watch[OP_WATCHES_MAX];
	unsigned watches;
	uint16_t held[2 * OP_WATCHES_MAX + OP_ITEMS_MAX]; // object locks held, ascending
	unsigned helds;
	uint16_t want[2 * OP_WATCHES_MAX + OP_ITEMS_MAX]; // to be taken first, next time
	unsigned wants;

	struct fetched *fetched[FETCH_BUCKETS];
	unsigned fetches, pending;
	struct fetching fetching;

	frame_t frames[OP_PAGES_MAX];
	unsigned frames_claimed, frames_wanted;
	uint64_t dirty_claim, dirty_wanted;
	bool overwrites; // its pages are dirty already, all of them
	uint64_t ring_wanted, overlay_wanted;

	struct txn_page pages[OP_PAGES_MAX];
	unsigned page_count;
	bool lean; // claimed by runs of pages, as there was no room to claim for each
	struct txn_item items[OP_ITEMS_MAX];
	unsigned item_count;
	struct drop *drops[OP_DROPS_MAX];
	unsigned drop_count;
	uint64_t gives_back;   // pages
	uint64_t dead_retired; // dirty ones that a DROP had killed, replaced by the commit
};

#define IDLE_OPS_MAX 16u // of those that have waited: a burst does not keep its memory

struct lane {
	struct store *store;
	struct grace_reader *reader, *lender; // of the tier's memory to the kernel
	_Atomic lsn_t inflight; // 0: none; T never passes it
	struct ring *ring;
	struct ioq *ioq;
	_Atomic bool interrupted;
	bool impatient;
	unsigned number;
	uint64_t count[COUNTERS]; // written by its thread alone
	struct item *retired, *retired_waiting;
	unsigned retired_count;
	uint64_t retired_target;
	struct fetched *spare; // buffers
	unsigned spares;
	uint8_t *scratch;              // 4 pages
	struct record_disk *record;    // RECORD_BYTES_MAX
	struct op *op;   // the next to begin, or the one that has begun; those that wait are not the lane's
	struct op *idle; // more of them, IDLE_OPS_MAX at most
	unsigned idles;
};

static inline void count_add(struct lane *lane, enum counter c, uint64_t n)
{
	__atomic_store_n(&lane->count[c], lane->count[c] + n, __ATOMIC_RELAXED);
}
static inline uint16_t object_slot(object_t object)
{
	return (uint16_t)(hash_mix(object, 0x6c6f636b) % OBJECT_LOCKS);
}
void lane_retire_items(struct lane *lane, struct item *list); // freed after a grace period
int op_conflict(struct op *op); // notes it; -ERESTART
int op_park(struct op *op, enum park park);
void op_unlock(struct op *op);
bool op_dirty_granted(struct op *op); // the claim is dirty_wanted at least
void op_frames_return(struct op *op); // those that it has claimed and not used
// A block in DRAM, verified; or -ERESTART (noted, to be read), -EIO, -EUCLEAN.
int op_fetch(struct op *op, const struct root *root, const struct fetched *what, const uint8_t **ret_data);
void txn_reset(struct op *op);

// ---- read.c --------------------------------------------------------------------------------------

struct fetch_context { // for walk.h
	struct op *op;
	const struct root *root;
	bool cached; // from the tier alone: -EAGAIN
};
int op_fetch_node(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node);
static inline struct root *store_root(struct store *s) { return atomic_load_explicit(&s->root, memory_order_acquire); }

// ---- poison.c: pages of the tier's memory that have failed ------------------------------------------

// Sees to those that were found since: a clean frame is a miss, a dirty one an error; without log or table
// nothing more is written. Takes a lock of its own.
void poison_meet(struct store *s);
static inline bool poison_is_met(const struct store *s) { return media_poisoned(s->media) == atomic_load_explicit(&s->poison_met, memory_order_acquire); }
static inline bool op_is_poisoned(const struct op *op) { return media_poisoned(op->store->media) != op->poisoned; }
// After a drain: log, table and words have what was stored there. If not, nothing more is written, and
// what was stored is not to be relied on.
bool poison_spares_front(struct store *s);
// A dirty frame does not have what its checksum says: EIO from now on.
void frame_damaged(struct store *s, frame_t f, uint64_t found);

// ---- chores.c: reclaim, evict, drop pass, admission: under the table lock -------------------------

// All return with the table lock released; false or 0: nothing done (somebody else holds the lock).
bool reclaim_slice(struct store *s, bool wait);
unsigned evict_some(struct store *s, unsigned want, bool wait);
int store_policy_new(struct store *s); // for the tier that it has
bool evict_take(void *arg, frame_t f); // for the policy: out of the index, if it may go
void admit_fetched(struct op *op);
void hit_frame(struct store *s, frame_t f); // a reader's
void evict_frame(struct store *s, frame_t f); // a clean one that fails its checksum
int chores_start(struct store *s);
void chores_stop(struct store *s);
void chores_kick(struct store *s); // cheap; any thread
void chores_reclaim_to(struct store *s, lsn_t lsn);  // waits until T >= lsn
void chores_drop_pass(struct store *s, lsn_t cut);   // waits: frames dead by a DROP <= cut are out
void chores_install(struct store *s, const struct new_node *nodes, size_t count); // waits
unsigned frames_low(const struct store *s);

// ---- epoch.c ---------------------------------------------------------------------------------------

int epoch_start_thread(struct store *s);
void epoch_stop_thread(struct store *s);
void epoch_request(struct store *s);       // one soon
// Has it run by the epoch thread, between two epochs: superblocks and space are its own, and no block of the root in
// force is used again meanwhile. Its result; -EINTR: stopped before it began. One at a time.
int epoch_errand(struct store *s, int (*run)(void *arg), void *arg, const atomic_bool *stop);
// One cut after the call has ended: its result. -EINTR: the lane (may be NULL) was interrupted; -EIO:
// a superblock cannot be written.
int epoch_wait(struct store *s, const struct lane *lane);
int epoch_last(struct store *s); // everything is on the backing; or an error, after the time-out at worst
int super_write_both(struct store *s, struct super_disk *next); // retried until it is there
void wake_waiters(struct store *s);
uint64_t dirty_limit(struct store *s); // frames

// ---- scrub.c -------------------------------------------------------------------------------------

void scrub_stats(struct store *s, struct vems_stats *ret_stats);

// ---- badblock.c: the epoch thread's ------------------------------------------------------------

// After a failed write to blocks taken in this epoch: those that refuse again, if others do not.
void bad_blocks_find(struct store *s, block_t block, unsigned count);
int bad_blocks_avoid(struct store *s); // after space_begin(): nobody takes them
int bad_blocks_fold(struct store *s, struct fold *fold);
void bad_blocks_noted(struct store *s); // the epoch with their items is in force

// ---- claims.c ----------------------------------------------------------------------------------------

// At worst: an item touches a leaf of its own and splits it, and so does the extent of a page. What all
// of them share, the nodes above, is in the reserve.
#define BLOCKS_PER_ITEM 2u
#define BLOCKS_PER_PAGE 3u
enum space_use { SPACE_GROWS, SPACE_OVERWRITES, SPACE_DELETES };
bool space_claim(struct store *s, uint64_t blocks, enum space_use use);
void claims_recovered(struct store *s); // of what is dirty and in the overlay
void space_settle(struct store *s, uint64_t refund, uint64_t kept, bool after_cut); // of a commit
void space_unclaim(struct store *s, uint64_t blocks);
// Pages that a commit has dropped; and dirty ones among such that have left the tier before their epoch.
void space_expect(struct store *s, uint64_t pages, bool after_cut);
void space_unexpect(struct store *s, uint64_t pages);
void claims_folded(struct store *s);
void claims_abandoned(struct store *s);

// ---- recover.c, pair.c ---------------------------------------------------------------------------

int recover(struct store *s); // DRAM from the media; LSN base and epoch words stored unless read-only
int pair(struct store *s, struct media *m, struct backing *b);
// The pair's own tier is recovered: in use, and where it was unmounted, attached again with the same id.
int pair_resumed(struct store *s);
// Recovery found the tier damaged: refuses, or with the user's leave attaches it anew.
int pair_damaged(struct store *s);
// Opens on media and backing that are open already, and owns them from then on.
int store_open_on(const struct store_config *config, struct media *m, struct backing *b, struct store **ret_store);
// Likewise, but they stay the caller's; the paths of the config are not looked at.
int store_format_on(const struct store_format_config *config, struct media *m, struct backing *b);

#endif
