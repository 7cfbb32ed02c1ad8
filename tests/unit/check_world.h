// SPDX-License-Identifier: GPL-2.0-or-later
// For tests of the offline check and of the repair: a small file system is made once, the images of its two
// devices are kept, as unmounted and as left by a crash, and each case damages a copy of them.
#ifndef CHECK_WORLD_H
#define CHECK_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/stat.h>
#include "check_impl.h"
#include "fs_check.h"
#include "fs_impl.h"
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(4) << 20)
#define BACKING_BYTES (UINT64_C(16) << 20)
#define FILES 200u

extern char tier_path[64], backing_path[64];
extern struct store_config config;
extern uint8_t *tier_image, *backing_image;             // as unmounted, without copies in the tier
extern uint8_t *dirty_tier_image, *dirty_backing_image; // as left by a crash, likewise
extern uint8_t *warm_image[2][2];                       // as unmounted, as left by a crash: tier, backing, with copies
extern uint8_t *tier, *backing;                         // of the case
extern object_t sub, subsub, empty, big, linked, odd, allocated, symlink_long, attributed, orphan, second;

int world_setup(void **state);
int world_teardown(void **state);

// ---- the file system ------------------------------------------------------------------------------

extern struct store *store;
extern struct fs *fs;
extern struct lane *lane;

#define RUN(body) OP_RUN(lane, body)

void open_fs(void);
void close_fs(bool crash);
object_t make(object_t dir, const char *name, mode_t mode, const char *target);
void write_file(object_t id, uint64_t offset, size_t bytes);

// ---- images -----------------------------------------------------------------------------------------

void image_read(const char *path, uint8_t *data, size_t bytes);
void image_write(const char *path, const uint8_t *data, size_t bytes);
void images_take(uint8_t *to_tier, uint8_t *to_backing);
void images_put(const uint8_t *from_tier, const uint8_t *from_backing);
void forget_copies(bool crash); // that the tier has of what is on the backing
struct super_disk *super(void);
struct super_disk *super_b(void);
uint64_t seed(void);
void *block_at(block_t block);
struct node_disk *root_node(void);
struct node_disk *leaf_of(struct item_key key);
struct extent_disk *extent_of(object_t object, page_t page);
uint64_t *bitmap(void);
void bitmap_change(block_t block, bool taken);
// Checksums of what was changed: of all; of the way to a leaf, whatever is in it now; of the root.
void supers_seal(void);
void reseal(void);
void seal_leaf(block_t leaf);
void seal_root(void);

// ---- the check of a case ------------------------------------------------------------------------------

#define FINDINGS_MAX 4096u
extern struct check_finding found[FINDINGS_MAX];
extern unsigned founds;
extern struct fs_check_result result;

void note(void *arg, const struct check_finding *f); // into found
int run_check(bool quick, bool without_tier);
int check_images(void); // of the case
bool has(enum check_kind kind);
const struct check_finding *finding_of(enum check_kind kind);

#define KINDS_MAX 4u
#define END CHECK_KINDS // of a list of kinds
void assert_kinds(const char *name, const enum check_kind *kinds);

// ---- damage (check_damage.c) ----------------------------------------------------------------------------

struct damage { // of the images
	const char *name;
	void (*damage)(void);
	bool any; // and whatever comes of it: what a subtree that cannot be read takes along is not told in advance
	enum check_kind kinds[KINDS_MAX];
};
extern const struct damage damages[];
extern const unsigned damages_count;
void damage_data(void);
void damage_super_a(void);
void damage_super_b(void);
void age_super_b(void);
void free_used_block(void);
void change_extent_sum(void);

struct meaning { // committed in good order
	const char *name;
	int (*change)(struct op *op);
	enum check_kind kinds[KINDS_MAX];
};
extern const struct meaning meanings[];
extern const unsigned meanings_count;
int dangling(struct op *op);

// A frame of the images with those bits of state set or clear, which holds a page.
frame_t some_frame(uint16_t set, uint16_t clear, struct tier_geometry *ret_geometry);

#endif
