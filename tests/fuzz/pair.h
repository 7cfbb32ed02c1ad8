// SPDX-License-Identifier: GPL-2.0-or-later
// Small pairs of images to be damaged: one as it was unmounted, one as a crash has left it. Both are
// made once, with the same content each time; what a run has changed in them is put back after it.
#ifndef FUZZ_PAIR_H
#define FUZZ_PAIR_H

#include "store_impl.h"

#define FUZZ_TIER_BYTES (UINT64_C(3) << 20)
#define FUZZ_BLOCKS (32768u + 2048u) // sparse; two groups, so that there is a table above the bitmaps
#define FUZZ_OBJECTS_MAX 256u
#define FUZZ_CATALOGUE_MAX 512u

struct found_record {
	unsigned ring;
	uint64_t offset;
};

struct fuzz_pair {
	uint8_t *tier, *backing; // what a run works on: damage is done here, with fuzz_touch_*()
	struct media *open_media;
	uint64_t seed, attach;
	struct tier_geometry geometry;
	// Of the undamaged images:
	struct super_disk super;
	block_t node[FUZZ_CATALOGUE_MAX];
	unsigned nodes;
	frame_t slot[FUZZ_CATALOGUE_MAX]; // not free
	unsigned slots;
	struct found_record record[FUZZ_CATALOGUE_MAX];
	unsigned records;
	uint64_t ring_head[TIER_RINGS_MAX + 1];
	lsn_t lsn; // above all that is there
	object_t object[FUZZ_OBJECTS_MAX];
	unsigned objects;
	// Inside of pair.c:
	int tier_fd, backing_fd;
	uint8_t *store_tier;
	const uint8_t *tier_before, *backing_before;
	uint8_t *tier_touched, *backing_touched; // bit per page
};

void fuzz_pair_make(struct fuzz_pair *clean, struct fuzz_pair *dirty);
void fuzz_touch_tier(struct fuzz_pair *p, const void *at, size_t bytes);
void fuzz_touch_block(struct fuzz_pair *p, block_t block);
void fuzz_pair_restore(struct fuzz_pair *p); // no store is open on it
// The store sees the tier between pages that fault.
int fuzz_pair_open(struct fuzz_pair *p, const struct store_config *config, struct store **ret_store);

// Checksums of what was damaged.
struct record_disk *fuzz_record_at(struct fuzz_pair *p, unsigned ring, uint64_t offset); // what does not go round the end
void fuzz_seal_record(struct fuzz_pair *p, unsigned ring, uint64_t offset);
// Copies a record to the head of a ring, whose lsn is set if it is 0, sealed.
void fuzz_append_record(struct fuzz_pair *p, unsigned ring, struct record_disk *record);
void fuzz_seal_slot(struct fuzz_pair *p, frame_t f);
void fuzz_seal_header(struct fuzz_pair *p);
void fuzz_set_word(struct fuzz_pair *p, unsigned word, uint64_t value);
void fuzz_seal_tree(struct fuzz_pair *p, bool separators);
void fuzz_seal_space(struct fuzz_pair *p, bool counts);
void fuzz_seal_supers(struct fuzz_pair *p, bool both);

// ---- input ------------------------------------------------------------------------------------

struct input {
	const uint8_t *at;
	size_t left;
};
uint64_t input_take(struct input *in, unsigned bytes); // zeroes at the end
size_t input_bytes(struct input *in, void *to, size_t bytes); // how many there were

// ---- use --------------------------------------------------------------------------------------

// Everything that there is to see and do, errors being fine.
void fuzz_use(struct fuzz_pair *p, const struct store_config *config, bool writes, bool close);
void fuzz_check(struct fuzz_pair *p); // as fsck does
void fuzz_repair(struct fuzz_pair *p, bool drop_damaged); // likewise; if it says that it has, a check finds nothing

#endif
