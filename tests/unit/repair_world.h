// SPDX-License-Identifier: GPL-2.0-or-later
// For tests of the repair: it is done as fsck does it, and what was there before is compared with what is there now.
#ifndef REPAIR_WORLD_H
#define REPAIR_WORLD_H

#include "check_world.h"

// ---- as fsck does -----------------------------------------------------------------------------------

extern unsigned stay;    // findings of the last check that a repair leaves
extern int writes_left;  // until the power is cut; negative: it is not
extern int reads_left;   // of the rebuild, until one fails; likewise
extern bool reads_go_on; // after the one
extern bool dropping;    // the last repair

void note_all(void *arg, const struct check_finding *f); // counts them in `stay`, too
int open_for(bool repair, struct store **ret_store);
int rebuild(struct store *s, const struct check_config *check);
int run_repair(bool drop_damaged); // 1: repaired, 0: nothing to do
int check_again(void);
void assert_only_stays(const char *name);
void put_case(void);
void assert_works(const char *name); // it mounts, takes a file, and is clean then

// ---- what is there ------------------------------------------------------------------------------------

struct seen { // an item, or a page under the key of an extent
	struct item_key key;
	uint64_t hash;
	uint64_t size; // of a file
};
struct pages { // that are no holes
	object_t object;
	page_t from, to;
};
struct view {
	struct seen *seen;
	size_t count, room;
	struct pages *pages;
	size_t page_runs;
	bool incomplete; // nodes could not be read: what is missing may be no hole
};

struct view view_now(void);
const struct seen *seen_at(const struct view *v, struct item_key key);
void view_free(struct view *v);
void assert_kept(const char *name, const struct view *before); // `founds` are those of the repair

#endif
