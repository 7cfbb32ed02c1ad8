// SPDX-License-Identifier: GPL-2.0-or-later
// Both devices of a running store as an adversary sees them: what is durable, and what is only on its
// way. At any event it makes a pair of images that a power cut there could leave, without disturbing
// the store.
//
//	tier     of the 8-byte stores that their thread has not drained, any may have arrived, by some
//	         policies those of one thread to one cache line in their order
//	backing  of the 512-byte sectors written since the last flush, any may have arrived; a W write
//	         has when it is complete, and so has at a flush what was complete before it
//
// What completes is seen by the next event of the same thread: until then it counts as on its way.
#ifndef CRASH_ADVERSARY_H
#define CRASH_ADVERSARY_H

#include "backing.h"
#include "check.h"
#include "media.h"
#include "tier.h"

// ---- images -----------------------------------------------------------------------------------

struct image {
	struct media *media; // anonymous memory; NULL: handed on
	int fd;              // memfd of the backing
	uint8_t *backing;    // mapped
	uint64_t backing_bytes;
	uint8_t *written;    // bit per block
	bool blank_rest;     // the others are zero, in copies too
	struct image *next;  // spare
};
struct image *image_new(uint64_t tier_bytes, uint64_t backing_bytes); // blank
void image_free(struct image *i);
struct image *image_copy(const struct image *i);
// Hands the tier's media on, which its user closes, and opens the backing.
int image_open(struct image *i, bool read_only, struct media **ret_media, struct backing **ret_backing);
void image_blank_tier(struct image *i);
void image_tear_header_b(struct image *i); // of the tier
void image_tear_super_b(struct image *i);
int image_age_tier(struct image *i, uint64_t epoch); // not 0: it is no tier in use
// The better superblock, or NULL.
const struct super_disk *image_super(const struct image *i);
// As fsck does: the store, and by `check` what is above it, read-only; the image stays as it is. `then`
// (may be NULL) looks at the store that is open. 0, or 1 with the first error in text.
typedef int (*image_check_fn)(struct store *store, const struct check_config *config, struct check_result *ret_result);
typedef int (*image_then_fn)(struct store *store, void *arg, char *text, size_t bytes);
int image_check(const struct image *i, bool lost_tier, image_check_fn check, image_then_fn then, void *arg, char *text,
		size_t bytes);
int image_save(const struct image *i, const char *prefix); // prefix.tier, prefix.backing

int check_index(struct store *s, char *text, size_t bytes); // while no operation runs

// ---- the adversary --------------------------------------------------------------------------------

// Orders that can be broken: the drain (or flush) is ignored, so that what it was to order is so only
// by the thread's next one. A drain is told by what its thread has stored since its last one.
enum order {
	ORDER_FRAMES,  // pages before the record that names them; an unfinished build before reuse
	ORDER_RECORD,  // a record before the reply
	ORDER_RELOG,   // a record of the item ring
	ORDER_SLOTS,   // slot bodies before their states
	ORDER_RECLAIM, // slots and items before T
	ORDER_TAILS,   // T and tails before ring space and frames are reused
	ORDER_EVICT,   // slots of victims before their frames are reused
	ORDER_BASE,    // LSN base before an LSN is handed out
	ORDER_ATTACH,  // what an attached tier starts with before its state and the superblocks
	ORDER_FLUSH,   // blocks before the superblock
	ORDER_FUA,     // superblocks: plain writes
	ORDERS
};
extern const char *const order_name[ORDERS];

enum event { EVENT_STORE, EVENT_DRAIN, EVENT_WRITE, EVENT_FUA, EVENT_FLUSH };

struct adversary;
// Called under the adversary's lock, after the event was noted. May call adversary_crash().
typedef void (*adversary_event_fn)(void *arg, enum event event, uint64_t number);

// From what the image holds now, as durable. The media and backing are those of image_open().
struct adversary *adversary_new(struct image *i, struct media *m, struct backing *b, adversary_event_fn fn, void *arg);
void adversary_free(struct adversary *a); // after the store is closed
// From now on it is looked at who has that lock, until the store is closed.
void adversary_opened(struct adversary *a, pthread_mutex_t *table_lock);
void adversary_lock(struct adversary *a);
void adversary_unlock(struct adversary *a);
void adversary_break(struct adversary *a, enum order order);
uint64_t adversary_broken(const struct adversary *a); // how often it was
uint64_t adversary_events(const struct adversary *a);
uint64_t adversary_writes(const struct adversary *a); // stores, writes and flushes: 0 of a reader
// The next `count` w writes (flushes, if kind is f) fail with -EIO.
void adversary_fail(struct adversary *a, char kind, unsigned count);

// The first order that was broken, seen without a crash; NULL: none. Not if one is broken on purpose.
const char *adversary_disorder(const struct adversary *a);
// What is not as the end of an unmount or of formatting should leave it; NULL: nothing. By its thread, under the lock.
const char *adversary_unfinished(struct adversary *a);

enum crash_kind {
	CRASH_POWER, // what is on its way arrives or not, by the seed
	CRASH_KILL   // all of it arrives: the process alone died
};
// Under the lock (in an event, or by adversary_lock()).
struct image *adversary_crash(struct adversary *a, enum crash_kind kind, uint64_t seed);
const char *crash_policy(uint64_t seed, char text[64]);

// All states that a power cut could leave now, at the finest of three grains that has at most `most`:
// how many; 0: there are more. Without the tier: those of the backing alone.
//	words   of each line what its first stores left; of each block any sectors
//	lines   any lines, any blocks
//	stores  any calls of media_copy() as a whole, any blocks
uint64_t adversary_states(const struct adversary *a, bool with_tier, uint64_t most);
struct image *adversary_state(const struct adversary *a, bool with_tier, uint64_t most, uint64_t number);

static inline uint64_t rng_next(uint64_t *state) // splitmix64
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}
static inline uint32_t rng_below(uint64_t *state, uint32_t n) { return (uint32_t)((rng_next(state) >> 32) * n >> 32); }

#endif
