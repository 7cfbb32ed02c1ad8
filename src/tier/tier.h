// SPDX-License-Identifier: GPL-2.0-or-later
// What lies in persistent memory: header and words, log rings, frame table, frames; with the DRAM
// index over them. Rules: docs/DESIGN.md "Log", "Frames and table".
#ifndef TIER_TIER_H
#define TIER_TIER_H

#include <pthread.h>
#include <stdatomic.h>
#include "grace.h"
#include "media.h"
#include "vems/format.h"

struct tier_geometry {
	uint64_t size_bytes;
	unsigned rings; // of lanes; the item ring comes after them
	uint64_t ring_bytes, item_ring_bytes;
	uint64_t table_offset, frames_offset;
	frame_t frames;
};

// A DRAM record per frame: key, LSN and checksum of what it holds; stable from build to reuse.
struct frame {
	object_t object;
	page_t page;
	lsn_t lsn;
	uint64_t sum;
	_Atomic uint16_t state; // enum frame_place | flags
	_Atomic uint8_t heat;   // 0 to 3: hits since the eviction policy looked
	uint8_t queue;          // the policy's that it is in, and its neighbours there; under the table lock
	frame_t newer, older;
	frame_t replaces; // INDEXED, LIMBO: chain of frames freed when the record of this one is reclaimed
};
_Static_assert(sizeof(struct frame) == 48, "DRAM per frame is a promise");

enum frame_place {
	FRAME_FREE,    // slot durably free
	FRAME_BUILD,   // claimed by an operation
	FRAME_INDEXED, // in the index
	FRAME_LIMBO,   // replaced; its slot is freed when the replacing record is reclaimed
	FRAME_LEAVING, // taken out of the index by evict or a drop pass
	FRAME_GRACE,   // slot durably free; readers may still look
	FRAME_LOST,    // its memory holds nothing any more: out of use until the next mount
	FRAME_PLACE_MASK = 0xf,
	FRAME_DIRTY = 0x10,      // not on the backing in the superblock in force
	FRAME_KEPT = 0x20,       // replaced past the cut; the epoch still needs it
	FRAME_PASSED = 0x40,     // the epoch has no use for it: do not keep
	FRAME_SLOT_FREED = 0x80, // in LIMBO: the slot is durably free, only KEPT holds it
	FRAME_FILLED = 0x100,    // from the backing
	FRAME_POISONED = 0x200,  // content is lost: clean, a miss; dirty, EIO until overwritten
	FRAME_VALIDATED = 0x400, // content was written or checked during this mount
	FRAME_LEAN = 0x800       // its commit claimed one block for it, and nodes for the run that it is in
};

struct ring {
	pthread_mutex_t lock; // serialises appends
	uint8_t *base;
	uint64_t bytes;
	unsigned number;
	uint64_t head;                  // logical offset of the next record; under lock (item ring: the table lock)
	uint64_t claimed;               // bytes promised to commits; under lock
	_Atomic uint64_t visible_head;  // records below it are whole and drained
	uint64_t tail;                  // next to reclaim; under the table lock
	_Atomic uint64_t durable_tail;  // space below it may be reused
};

#define INDEX_WAYS 7
struct bucket {
	_Atomic uint32_t version; // odd while changed; two more after each change
	_Atomic uint32_t next;    // overflow bucket + 1
	_Atomic uint64_t entry[INDEX_WAYS]; // tag << 32 | frame + 1; 0: none
};
_Static_assert(sizeof(struct bucket) == 64, "a bucket is one cache line");

struct index {
	struct bucket *bucket, *overflow;
	uint32_t buckets, overflows;
	pthread_mutex_t overflow_lock;
	uint32_t overflow_free; // list through next, of those used before
	uint32_t overflow_used; // the rest was never touched
};

#define RETIRE_BATCHES 128u
struct frame_pool { // lists through frame.replaces, which neither FREE nor GRACE uses
	pthread_mutex_t lock;
	frame_t free;                          // newest first
	frame_t retired_first, retired_last;   // in grace, oldest first
	frame_t sealed_last;                   // of the retired in a batch
	struct {
		uint64_t target; // grace clock
		frame_t last;
	} batch[RETIRE_BATCHES];
	uint64_t batch_head, batch_tail;
	_Atomic uint32_t free_count;
	_Atomic uint32_t dirty_count;
};

struct tier {
	struct media *media;
	struct grace *grace;
	struct tier_geometry geometry;
	uint64_t attach;
	uint8_t *data; // frame 0
	struct slot_disk *table;
	struct frame *frame;
	frame_t frames;
	struct index index;
	struct frame_pool pool;
	struct ring ring[TIER_RINGS_MAX + 1];
	_Atomic lsn_t tail_lsn; // T
	pthread_mutex_t table_lock; // slots, T, tails, item ring: lanes only, never the epoch thread
};

// ---- header and words (tier.c) --------------------------------------------------------------

// rings 0: chosen. -EINVAL: too small for 64 frames.
int tier_geometry_for(uint64_t size_bytes, unsigned rings, struct tier_geometry *ret_geometry);

enum tier_found {
	TIER_FOUND_BLANK, TIER_FOUND_GOOD, TIER_FOUND_FOREIGN, TIER_FOUND_DAMAGED, TIER_FOUND_FUTURE,
	TIER_FOUND_SHRUNK, // the media ends before the tier does, whose size is in ret_geometry
};
// Looks at the header copies of the media; fills geometry and fsid of a good one.
enum tier_found tier_probe(const struct media *m, struct tier_geometry *ret_geometry, uint8_t ret_fsid[16]);
// Both header copies, drained.
void tier_write_header(struct media *m, const struct tier_geometry *g, const uint8_t fsid[16]);
bool tier_headers_equal(const struct media *m);

// -EUCLEAN: damaged (reported).
int tier_word_load(const struct media *m, unsigned word, uint64_t *ret_value);
// Of a damaged one: the only value that is one flipped bit away. -EUCLEAN: there is none, so more than a bit
// has changed; that it is the right one must be known from elsewhere.
int tier_word_correct(const struct media *m, unsigned word, uint64_t *ret_value);
void tier_word_store(struct media *m, unsigned word, uint64_t value); // not drained

// DRAM side: index, frame records, rings at the geometry. The media outlives the tier.
int tier_new(struct media *m, struct grace *grace, const struct tier_geometry *g, uint64_t attach, struct tier **ret_tier);
void tier_free(struct tier *t);
static inline struct ring *tier_item_ring(struct tier *t) { return &t->ring[t->geometry.rings]; }
static inline void *tier_frame_data(const struct tier *t, frame_t f) { return t->data + (uint64_t)f * PAGE_BYTES; }
// What was stored there, and drained, is there.
static inline bool tier_frame_holds(const struct tier *t, frame_t f) { return media_holds(t->media, tier_frame_data(t, f), PAGE_BYTES); }
// Likewise all that lies before the frames: words, log, table.
static inline bool tier_front_holds(const struct tier *t) { return media_holds(t->media, t->media->base, t->geometry.frames_offset); }

// ---- table (table.c): one slot per frame ------------------------------------------------------

enum slot_found { SLOT_FOUND_FREE, SLOT_FOUND_GOOD, SLOT_FOUND_BAD };
enum slot_found slot_load(const struct tier *t, frame_t f, struct slot_disk *ret_slot);
// Of a bad one: the slot as it was, if one bit of it has flipped.
enum slot_found slot_correct(const struct tier *t, frame_t f, struct slot_disk *ret_slot);
// All of these only store; the caller drains. The body first, drained, then the state: so that a
// slot is never seen torn. Freeing is one store and leaves the image readable.
void slot_store_body(struct tier *t, frame_t f);
void slot_store_state(struct tier *t, frame_t f);
void slot_store_free(struct tier *t, frame_t f);
void table_store_all_free(struct tier *t);

// ---- rings (ring.c) -------------------------------------------------------------------------

bool ring_claim(struct ring *r, uint64_t bytes);
void ring_unclaim(struct ring *r, uint64_t bytes);
uint64_t ring_used(struct ring *r);
// Under r->lock, or of the item ring under the table lock; at its head: seals the record (its lsn, bytes, counts are
// set) and stores it.
// After the caller's media_drain(), ring_appended() makes it visible to reclaim.
void ring_append(struct tier *t, struct ring *r, struct record_disk *record, uint64_t claimed);
void ring_appended(struct ring *r);
// After the drain: what was appended there is on the media. Also: none of its memory has failed so far.
bool ring_holds(const struct tier *t, const struct ring *r, uint64_t offset, uint64_t bytes);
// Copies the record at that logical offset into buffer (RECORD_BYTES_MAX). 0, or -ENODATA: none valid.
int ring_read(const struct tier *t, const struct ring *r, uint64_t offset, void *buffer);
// Is there a valid record with LSN > above in [offset, offset + ring size)? A sign of rot.
bool ring_search(const struct tier *t, const struct ring *r, uint64_t offset, lsn_t above, void *buffer,
		 uint64_t *ret_offset);
// Whatever lies there.
void ring_copy(const struct ring *r, uint64_t offset, void *buffer, uint64_t bytes);

// Walks a record's parts, checking sizes: NULL when damaged or at the end.
const struct switch_disk *record_switches(const struct record_disk *r);
const struct item_disk *record_item(const struct record_disk *r, const struct item_disk *previous);
#define ITEM_RECORD_BYTES(value_bytes) (sizeof(struct item_disk) + (((value_bytes) + 7) & ~(size_t)7))

// ---- frames (frames.c) ----------------------------------------------------------------------

// All or nothing; spare: leave so many on the free list. False: not enough now. Those that hold nothing any
// more are put aside.
bool frames_claim(struct tier *t, unsigned count, unsigned spare, frame_t *ret_frames);
// Claimed and not used (whoever stored into them has drained), or found free at recovery.
void frames_return(struct tier *t, const frame_t *frames, unsigned count);
// The slot is durably free: reusable after a grace period.
void frames_retire(struct tier *t, const frame_t *frames, unsigned count);
unsigned frames_poll(struct tier *t); // moves what is through its grace to the free list; how many
// The epoch needs the frame no longer.
void frame_release(struct tier *t, frame_t f);
// Its slot is durably free (reclaim).
void frame_slot_freed(struct tier *t, frame_t f);
void frame_set_clean(struct tier *t, frame_t f); // INDEXED and on the backing; KEPT: released
void frame_set_dirty(struct tier *t, frame_t f); // INDEXED, and nobody else is at it
static inline uint32_t frames_free_count(const struct tier *t) { return atomic_load_explicit(&t->pool.free_count, memory_order_relaxed); }
static inline uint32_t frames_dirty_count(const struct tier *t) { return atomic_load_explicit(&t->pool.dirty_count, memory_order_relaxed); }
static inline unsigned frame_place(uint16_t state) { return state & FRAME_PLACE_MASK; }
static inline uint16_t frame_state(const struct frame *f) { return atomic_load_explicit(&f->state, memory_order_acquire); }

// ---- index (index.c) ------------------------------------------------------------------------

// The frame of that page, or FRAME_NONE, at one moment; version is that of the bucket then.
// The caller is a grace reader: the frame is not reused before it leaves.
frame_t index_look(const struct tier *t, object_t object, page_t page, struct bucket **ret_bucket, uint32_t *ret_version);
struct bucket *index_bucket(const struct tier *t, object_t object, page_t page);
// Its bucket is to be looked at soon: of many pages, the cache misses are waited for together.
static inline void index_ahead(const struct tier *t, object_t object, page_t page) { __builtin_prefetch(index_bucket(t, object, page)); }
// Spins (memory only). The version to give to unlock: changed or not.
uint32_t index_lock(struct bucket *b);
void index_unlock(struct bucket *b, uint32_t version, bool changed);
// Under the bucket's lock:
frame_t index_find(const struct tier *t, struct bucket *b, object_t object, page_t page);
void index_set(struct tier *t, struct bucket *b, object_t object, page_t page, frame_t f); // replaces or inserts
void index_remove(struct tier *t, struct bucket *b, object_t object, page_t page);

#endif
