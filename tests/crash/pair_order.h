// SPDX-License-Identifier: GPL-2.0-or-later
// Orders that hold a pair of devices together, asked about by the adversary before each store to the tier's headers
// and words and before each superblock: is what it relies on durable, and does it go with the other device?
// All of them: the order that was broken, or NULL.
#ifndef CRASH_PAIR_ORDER_H
#define CRASH_PAIR_ORDER_H

#include "adversary.h"
#include "super.h"

struct pair_at { // an event
	const struct media *now;     // the tier as the store sees it
	const struct image *durable; // of both devices
	struct tier_geometry geometry;
};

bool pair_formats(const struct pair_at *p); // no superblock is in force
bool pair_is_written(const struct image *durable, block_t block); // else it holds what another image has left
const char *pair_header_relies(const struct pair_at *p, uint64_t offset, const void *src, uint64_t bytes);
const char *pair_word_relies(const struct pair_at *p, unsigned word, uint64_t value);
const char *pair_table_relies(const struct pair_at *p); // slots of a new table
const char *pair_super_relies(const struct pair_at *p, block_t block, const struct super_disk *next);
const char *pair_use_relies(const struct pair_at *p);    // a record or a page
const char *pair_rest_relies(const struct pair_at *p);   // the end of formatting, unmounting, a repair; `now` may be gone

#endif
