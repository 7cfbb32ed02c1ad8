// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages were given up lately, and how long ago: fingerprints in sets of a cache line. A page may
// be forgotten early where its set is full, and one in some 4,000 looks finds a page that was not there.
#ifndef TIER_GHOST_H
#define TIER_GHOST_H

#include "vems/types.h"

struct ghost {
	uint32_t *entry; // fingerprint << 16 | age stamp; 0: none
	uint32_t sets;
	uint64_t added;    // pages, in all
	uint32_t capacity; // of the last so many, a look finds all, about
	uint32_t step;     // pages for each change of the stamp
};

int ghost_init(struct ghost *g, uint32_t capacity); // -ENOMEM
void ghost_fini(struct ghost *g);
void ghost_add(struct ghost *g, object_t object, page_t page);
// Takes the page out. false: it is not there. *ret_age: how many have been added since it was, about.
bool ghost_take(struct ghost *g, object_t object, page_t page, uint64_t *ret_age);

#endif
