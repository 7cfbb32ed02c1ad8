// SPDX-License-Identifier: GPL-2.0-or-later
// The offline check: a small file system is made once, its two images are kept, and each case damages a
// copy of them. What is found must be exactly the kinds that the damage is, or a refusal to open.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs_check.h"
#include "fs_impl.h"
#include "log.h"
#include "check_impl.h"
#include "store_impl.h"
#include "walk.h"

#define TIER_BYTES (UINT64_C(4) << 20)
#define BACKING_BYTES (UINT64_C(16) << 20)
#define SUM_LEVEL 0x73706163u // of a bitmap's checksum (FORMAT.md)
#define FILES 200u

static char dir_path[] = "/dev/shm/test-check-XXXXXX", tier_path[64], backing_path[64];
static struct store_config config;
static uint8_t *tier_image, *backing_image;             // as unmounted
static uint8_t *dirty_tier_image, *dirty_backing_image; // as left by a crash
static uint8_t *tier, *backing;                         // of the case

static object_t sub, subsub, empty, big, linked, odd, symlink_long, attributed, orphan, second;

// ---- the file system ------------------------------------------------------------------------------

static const struct fs_cred cred = { 0, 0, 022 };
static struct store *store;
static struct fs *fs;
static struct lane *lane;

#define RUN(body)                             \
	({                                    \
		struct op *op = op_begin(lane); \
		int r_;                       \
		do                            \
			r_ = (int)(body);     \
		while (op_again(op, &r_));    \
		op_end(op);                   \
		r_;                           \
	})

static void open_fs(void)
{
	assert_int_equal(store_open(&config, &store), 0);
	assert_int_equal(fs_new(store, &fs), 0);
	assert_int_equal(fs_start(fs, 0, 0), 0);
	assert_int_equal(lane_new(store, &lane), 0);
}

static void close_fs(bool crash)
{
	lane_free(lane);
	fs_free(fs);
	if (crash)
		store_abandon(store);
	else
		assert_int_equal(store_close(store), 0);
}

static object_t make(object_t dir, const char *name, mode_t mode, const char *target)
{
	struct stat st;
	assert_int_equal(RUN(fs_make(op, fs, &cred, dir, name, mode, 0, target, &st)), 0);
	return st.st_ino;
}

static void write_file(object_t id, uint64_t offset, size_t bytes)
{
	char *data = malloc(bytes);
	for (size_t i = 0; i < bytes; i++)
		data[i] = (char)(1 + (id * 31 + (offset + i) / 512) % 255);
	assert_int_equal(RUN(fs_write(op, fs, id, data, bytes, offset, true)), (int)bytes);
	free(data);
}

static void populate(void)
{
	char name[128], target[3001], value[5000];
	struct stat st;

	memset(target, 't', sizeof target);
	target[sizeof target - 1] = 0;
	memset(value, 'v', sizeof value);
	sub = make(OBJECT_ROOT, "sub", S_IFDIR | 0755, NULL);
	subsub = make(sub, "subsub", S_IFDIR | 0755, NULL);
	empty = make(sub, "empty", S_IFDIR | 0755, NULL);
	second = make(OBJECT_ROOT, "second", S_IFDIR | 0755, NULL);
	big = make(OBJECT_ROOT, "big", S_IFREG | 0644, NULL);
	write_file(big, 0, 100 * PAGE_BYTES);
	write_file(big, 300 * PAGE_BYTES, 10 * PAGE_BYTES);
	linked = make(sub, "linked", S_IFREG | 0644, NULL);
	write_file(linked, 0, 3 * PAGE_BYTES);
	assert_int_equal(RUN(fs_link(op, fs, linked, subsub, "other", &st)), 0);
	odd = make(subsub, "odd", S_IFREG | 0644, NULL);
	write_file(odd, 0, 2 * PAGE_BYTES + 100);
	make(sub, "short", S_IFLNK | 0777, "target");
	symlink_long = make(sub, "long", S_IFLNK | 0777, target);
	attributed = make(sub, "attributed", S_IFREG | 0644, NULL);
	assert_int_equal(RUN(fs_setxattr(op, fs, attributed, "user.small", "1", 1, 0)), 0);
	assert_int_equal(RUN(fs_setxattr(op, fs, attributed, "user.large", value, sizeof value, 0)), 0);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof name, "a name of some length, so that there are several leaves, number %u", i);
		make(subsub, name, S_IFREG | 0600, NULL);
	}
	orphan = make(sub, "orphan", S_IFREG | 0600, NULL);
	write_file(orphan, 0, PAGE_BYTES);
	assert_int_equal(RUN(fs_unlink(op, fs, sub, "orphan")), 0);
}

// ---- images -----------------------------------------------------------------------------------------

static void image_read(const char *path, uint8_t *data, size_t bytes)
{
	int fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, data, bytes, 0), bytes);
	close(fd);
}

static void image_write(const char *path, const uint8_t *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(pwrite(fd, data, bytes, 0), bytes);
	close(fd);
}

static void images_take(uint8_t *to_tier, uint8_t *to_backing)
{
	image_read(tier_path, to_tier, TIER_BYTES);
	image_read(backing_path, to_backing, BACKING_BYTES);
}

static void images_put(const uint8_t *from_tier, const uint8_t *from_backing)
{
	memmove(tier, from_tier, TIER_BYTES);
	memmove(backing, from_backing, BACKING_BYTES);
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
}

static struct super_disk *super(void)
{
	return (struct super_disk *)backing;
}

static struct super_disk *super_b(void)
{
	return (struct super_disk *)(backing + BACKING_BYTES - PAGE_BYTES);
}

static void supers_seal(void)
{
	super_seal(super());
	memcpy(super_b(), super(), PAGE_BYTES);
}

static uint64_t seed(void)
{
	return hash_bytes(super()->fsid, sizeof super()->fsid);
}

static void *block_at(block_t block)
{
	assert_true(block < BACKING_BYTES / PAGE_BYTES);
	return backing + block * PAGE_BYTES;
}

static struct node_disk *root_node(void)
{
	return block_at(super()->root_block);
}

static struct node_disk *leaf_of(struct item_key key)
{
	struct node_disk *n = root_node();
	while (n->level > 0)
		n = block_at(node_child(n, node_child_for(n, key)).block);
	return n;
}

static struct extent_disk *extent_of(object_t object, page_t page)
{
	struct item_key key = item_key(object, ITEM_EXTENT, page);
	struct node_disk *n = leaf_of(key);
	unsigned i = node_lower_bound(n, key);
	assert_true(i < node_count(n) && item_key_equal(node_key(n, i), key));
	return (struct extent_disk *)node_item(n, i).value;
}

// Separators and checksums from the leaves up, as if the damage had been written in good order.
static uint64_t reseal_node(struct node_disk *n)
{
	struct inner_entry_disk *e = (struct inner_entry_disk *)n->body;
	for (unsigned i = 0; n->level > 0 && i < n->count; i++) {
		struct node_disk *child = block_at(e[i].block);
		e[i].sum = reseal_node(child);
		e[i].object = node_key(child, 0).object;
		e[i].sub = node_key(child, 0).sub;
	}
	return node_sum(n, seed());
}

static void reseal(void)
{
	super()->root_sum = reseal_node(root_node());
	supers_seal();
}

// Only the checksums on the way to that leaf, whatever is in it now.
static bool seal_way(block_t at, unsigned level, block_t leaf, uint64_t *ret_sum)
{
	struct node_disk *n = block_at(at);
	struct inner_entry_disk *e = (struct inner_entry_disk *)n->body;
	bool here = at == leaf;
	for (unsigned i = 0; level > 0 && !here && i < n->count; i++)
		here = seal_way(e[i].block, level - 1, leaf, &e[i].sum);
	if (here)
		*ret_sum = checksum_page(seed(), OBJECT_STORE, at, n);
	return here;
}

static void seal_leaf(block_t leaf)
{
	assert_true(seal_way(super()->root_block, super()->root_level, leaf, &super()->root_sum));
	supers_seal();
}

static void seal_root(void)
{
	super()->root_sum = node_sum(root_node(), seed());
	supers_seal();
}

static uint64_t *bitmap(void)
{
	assert_int_equal(super()->space_levels, 0);
	return block_at(space_slot(0, 0, (super()->space.word & SPACE_SLOT) != 0));
}

static void bitmap_change(block_t block, bool taken)
{
	uint64_t *bits = bitmap(), mask = UINT64_C(1) << block % 64;
	assert_int_equal((bits[block / 64] & mask) != 0, !taken);
	bits[block / 64] ^= mask;
	super()->space.word += taken ? -UINT64_C(1) : 1;
	super()->space.sum = checksum_page(seed(), SUM_LEVEL, 0, bits);
	supers_seal();
}

// ---- the check of a case ------------------------------------------------------------------------------

#define FINDINGS_MAX 64u
static struct check_finding found[FINDINGS_MAX];
static unsigned founds;
static struct fs_check_result result;

static void note(void *arg, const struct check_finding *f)
{
	char line[1024], tiny[16];
	check_describe(f, line, sizeof line);
	assert_true(line[0] != 0);
	check_describe(f, tiny, sizeof tiny);
	if (getenv("SHOW_FINDINGS"))
		print_message("    %s\n", line);
	if (founds < FINDINGS_MAX)
		found[founds++] = *f;
}

static int run_check(bool quick, bool without_tier)
{
	struct store_config c = config;
	struct check_config check = { .quick = quick, .report = note };
	struct store *s;

	c.read_only = true;
	c.format_blank = false;
	if (without_tier)
		c.tier_path = NULL;
	founds = 0;
	int r = store_open(&c, &s);
	if (r)
		return r;
	r = fs_check(s, &check, &result);
	store_close(s);
	assert_int_equal(r, 0);
	return 0;
}

static int check_images(void)
{
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
	return run_check(false, false);
}

static bool has(enum check_kind kind)
{
	for (unsigned i = 0; i < founds; i++)
		if (found[i].kind == kind)
			return true;
	return false;
}

static const struct check_finding *finding_of(enum check_kind kind)
{
	for (unsigned i = 0; i < founds; i++)
		if (found[i].kind == kind)
			return &found[i];
	fail_msg("nothing of kind %d was found", kind);
	return NULL;
}

#define KINDS_MAX 4u
#define END CHECK_KINDS // of a list of kinds

static void assert_kinds(const char *name, const enum check_kind *kinds)
{
	for (unsigned i = 0; i < KINDS_MAX && kinds[i] != END; i++)
		if (!has(kinds[i]))
			fail_msg("%s: kind %d was not found", name, kinds[i]);
	for (unsigned i = 0; i < founds; i++) {
		char line[1024];
		unsigned k = 0;
		if (found[i].kind == CHECK_FRAME_STALE && found[i].warning)
			continue; // the tier's copy of a node that was sealed again
		while (k < KINDS_MAX && kinds[k] != END && kinds[k] != found[i].kind)
			k++;
		if (k < KINDS_MAX && kinds[k] == found[i].kind)
			continue;
		check_describe(&found[i], line, sizeof line);
		fail_msg("%s: found besides: %s", name, line);
	}
}

// ---- the count of pages ---------------------------------------------------------------------------------

#define SPARSE_PAGES 1500u

static uint64_t pages_counted(object_t id)
{
	struct fs_count count = { 0 }, before;

	while (!count.done) {
		before = count;
		assert_int_equal(RUN(fs_count(op, fs, id, &before, &count)), 0);
	}
	return count.pages;
}

static void sparse_change(object_t id, bool *there, uint64_t random)
{
	static const char data[32 * PAGE_BYTES] = { 'x' };
	page_t first = (random >> 8) % (SPARSE_PAGES - 32), count = 1 + (random >> 24) % 31, page;
	const struct stat cut = { .st_size = (off_t)(first * PAGE_BYTES) };
	uint64_t bytes = count * PAGE_BYTES, offset = first * PAGE_BYTES;
	struct stat st;

	if (random % 16 == 0) {
		assert_int_equal(RUN(fs_setattr(op, fs, id, &cut, FS_SET_SIZE, &st)), 0);
		count = SPARSE_PAGES - first;
	} else if (random % 16 < 7) {
		assert_int_equal(RUN(fs_punch(op, fs, id, offset, offset + bytes, true)), 0);
	} else {
		assert_int_equal(RUN(fs_write(op, fs, id, data, bytes, offset, true)), (int)bytes);
	}
	for (page = first; page < first + count; page++)
		there[page] = random % 16 >= 7;
}

// Through write-back, eviction and a crash; the backing is larger than the tier.
static void test_pages_of_a_sparse_file_are_counted(void **state)
{
	static bool there[SPARSE_PAGES];
	uint64_t random = 7;
	object_t id;

	images_put(tier_image, backing_image);
	open_fs();
	id = make(OBJECT_ROOT, "sparse", S_IFREG | 0644, NULL);
	for (unsigned i = 0; i < 3000; i++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		sparse_change(id, there, random >> 16);
		if (i % 97 == 0)
			assert_int_equal(store_sync(store), 0);
		if (i % 31 == 0) {
			uint64_t expected = 0;
			for (page_t page = 0; page < SPARSE_PAGES; page++)
				expected += there[page];
			assert_int_equal(pages_counted(id), expected);
		}
		if (i % 500 == 499) {
			close_fs(i % 1000 < 500);
			open_fs();
		}
	}
	close_fs(false);
	assert_int_equal(run_check(false, false), 0);
	assert_int_equal(founds, 0);
}

// ---- nothing to find ------------------------------------------------------------------------------------

static void test_clean_pair_has_no_findings(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(run_check(false, false), 0);
	assert_int_equal(founds, 0);
	assert_int_equal(result.directories, 5);
	assert_int_equal(result.files, 7 + FILES);
	assert_true(result.store.nodes > 3 && result.store.pages_read >= 110);
}

static void test_pair_left_by_a_crash_has_no_findings(void **state)
{
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(run_check(false, false), 0);
	assert_int_equal(founds, 0);
	assert_true(result.store.frames > 0);
}

static void test_quick_reads_no_data(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(run_check(true, false), 0);
	assert_int_equal(founds, 0);
	assert_int_equal(result.store.pages_read, 0);
}

static void test_unmounted_backing_needs_no_tier(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(run_check(false, true), 0);
	assert_int_equal(founds, 0);
	assert_int_equal(result.store.frames, 0);
}

static void test_backing_in_use_needs_its_tier(void **state)
{
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(run_check(false, true), -ESTALE);
}

static void test_check_writes_nothing(void **state)
{
	uint8_t *now = malloc(TIER_BYTES + BACKING_BYTES);
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(run_check(false, false), 0);
	images_take(now, now + TIER_BYTES);
	assert_memory_equal(now, dirty_tier_image, TIER_BYTES);
	assert_memory_equal(now + TIER_BYTES, dirty_backing_image, BACKING_BYTES);
	free(now);
}

static void test_cancelled_check_ends(void **state)
{
	atomic_bool cancelled = true;
	struct check_config check = { .report = note, .cancelled = &cancelled };
	struct store_config c = config;
	struct store *s;

	images_put(tier_image, backing_image);
	c.read_only = true;
	assert_int_equal(store_open(&c, &s), 0);
	assert_int_equal(fs_check(s, &check, &result), -ECANCELED);
	store_close(s);
}

// ---- damage to the images ----------------------------------------------------------------------------------

static void damage_leaf(void)
{
	leaf_of(item_key(big, ITEM_INODE, 0))->body[NODE_BODY_BYTES - 1] ^= 1;
}

static void damage_root(void)
{
	assert_true(root_node()->level > 0);
	root_node()->body[7] ^= 0x10;
}

static void damage_data(void)
{
	((uint8_t *)block_at(extent_of(big, 0)->block + 3))[77] ^= 4;
}

static void damage_bitmap(void)
{
	bitmap()[3] ^= 2;
}

static void damage_super_a(void)
{
	super()->created_ns ^= 1;
}

static void damage_super_b(void)
{
	super_b()->reserved[100] ^= 1;
}

static void age_super_b(void)
{
	super_b()->epoch--;
	super_seal(super_b());
}

static void swap_blocks(block_t a, block_t b)
{
	uint8_t page[PAGE_BYTES];
	memcpy(page, block_at(a), PAGE_BYTES);
	memcpy(block_at(a), block_at(b), PAGE_BYTES);
	memcpy(block_at(b), page, PAGE_BYTES);
}

static void swap_data(void)
{
	swap_blocks(extent_of(big, 0)->block, extent_of(big, 0)->block + 1);
}

static void swap_nodes(void)
{
	swap_blocks(node_child(root_node(), 0).block, node_child(root_node(), 1).block);
}

static void leak_block(void)
{
	block_t block = BACKING_BYTES / PAGE_BYTES - 100;
	bitmap_change(block, true);
}

static void free_used_block(void)
{
	bitmap_change(extent_of(big, 0)->block + 5, false);
}

static void use_block_twice(void)
{
	extent_of(linked, 0)->block = extent_of(odd, 0)->block;
	reseal();
}

static void use_superblock(void)
{
	extent_of(linked, 0)->block = 1;
	reseal();
}

static void change_extent_sum(void)
{
	extent_of(big, 0)->sum[2] ^= 1;
	reseal();
}

static void overlap_extents(void)
{
	struct item_key key = item_key(big, ITEM_EXTENT, 64);
	struct node_disk *n = leaf_of(key);
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)n->body;
	e[node_lower_bound(n, key)].sub--;
	reseal();
}

static void future_extent(void)
{
	extent_of(big, 0)->birth = leaf_of(item_key(big, ITEM_EXTENT, 0))->birth + 1;
	reseal();
}

static void unsort_leaf(void)
{
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)leaf_of(item_key(big, ITEM_INODE, 0))->body;
	struct leaf_entry_disk first = e[0];
	e[0].object = e[1].object;
	e[0].sub = e[1].sub;
	e[1].object = first.object;
	e[1].sub = first.sub;
	reseal();
}

static void wrong_separator(void)
{
	struct inner_entry_disk *e = (struct inner_entry_disk *)root_node()->body;
	e[1].sub++;
	seal_root();
}

static void child_twice(void)
{
	struct inner_entry_disk *e = (struct inner_entry_disk *)root_node()->body;
	e[1].block = e[0].block;
	seal_root();
}

static void unknown_type(void)
{
	struct item_key key = item_key(OBJECT_STORE, ITEM_ORPHAN, orphan);
	struct node_disk *n = leaf_of(key);
	struct leaf_entry_disk *e = (struct leaf_entry_disk *)n->body;
	assert_true(item_key_equal(node_key(n, 0), key));
	e[0].sub = (uint64_t)77 << ITEM_REST_BITS;
	reseal();
}

// any: what a subtree that cannot be read takes along is not told in advance.
static const struct {
	const char *name;
	void (*damage)(void);
	bool any; // and whatever comes of it
	enum check_kind kinds[KINDS_MAX];
} damages[] = {
	{ "leaf", damage_leaf, true, { CHECK_NODE_CONTENT, END } },
	{ "root", damage_root, false, { CHECK_NODE_CONTENT, CHECK_BLOCK_UNKNOWN, END } },
	{ "data", damage_data, false, { CHECK_DATA_CONTENT, END } },
	{ "bitmap", damage_bitmap, false, { CHECK_SPACE_DAMAGED, END } },
	{ "super A", damage_super_a, false, { CHECK_SUPER_DAMAGED, END } },
	{ "super B", damage_super_b, false, { CHECK_SUPER_DAMAGED, END } },
	{ "super B old", age_super_b, false, { CHECK_SUPER_DIFFERS, END } },
	{ "swapped data", swap_data, false, { CHECK_DATA_CONTENT, END } },
	{ "swapped nodes", swap_nodes, true, { CHECK_NODE_CONTENT, END } },
	{ "leaked block", leak_block, false, { CHECK_BLOCK_LEAKED, END } },
	{ "free block in use", free_used_block, false, { CHECK_BLOCK_FREE, END } },
	{ "block used twice", use_block_twice, false, { CHECK_BLOCK_TWICE, CHECK_BLOCK_LEAKED, CHECK_DATA_CONTENT, END } },
	{ "fixed block used", use_superblock, true, { CHECK_BLOCK_RANGE, CHECK_BLOCK_LEAKED, END } },
	{ "wrong checksum of a page", change_extent_sum, true, { CHECK_DATA_CONTENT, END } },
	{ "extents overlap", overlap_extents, true, { CHECK_EXTENT_OVERLAP, END } },
	{ "extent of the future", future_extent, false, { CHECK_EXTENT_BIRTH, END } },
	{ "keys out of order", unsort_leaf, true, { CHECK_NODE_MALFORMED, END } },
	{ "wrong separator", wrong_separator, true, { CHECK_NODE_ORDER, END } },
	{ "child twice", child_twice, true, { CHECK_BLOCK_TWICE, END } },
	{ "unknown item", unknown_type, false, { CHECK_ITEM_UNKNOWN, CHECK_ORPHAN_UNLISTED, END } },
};

static void test_damage_is_found(void **state)
{
	for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
		images_put(tier_image, backing_image);
		damages[i].damage();
		assert_int_equal(check_images(), 0);
		if (damages[i].any) {
			for (unsigned k = 0; damages[i].kinds[k] != END; k++)
				finding_of(damages[i].kinds[k]);
		} else {
			assert_kinds(damages[i].name, damages[i].kinds);
		}
	}
}

static void test_finding_says_where_and_what(void **state)
{
	images_put(tier_image, backing_image);
	damage_data();
	block_t block = extent_of(big, 0)->block + 3;
	assert_int_equal(check_images(), 0);
	const struct check_finding *f = finding_of(CHECK_DATA_CONTENT);
	assert_false(f->warning);
	assert_int_equal(f->object, big);
	assert_int_equal(f->place, PLACE_PAGE);
	assert_int_equal(f->at, 3);
	assert_int_equal(f->expected, extent_of(big, 0)->sum[3]);
	assert_int_equal(f->found, checksum_page(seed(), big, 3, block_at(block)));

	images_put(tier_image, backing_image);
	free_used_block();
	block = extent_of(big, 0)->block + 5;
	assert_int_equal(check_images(), 0);
	f = finding_of(CHECK_BLOCK_FREE);
	assert_int_equal(f->at, block);
	assert_int_equal(f->found, 1);
}

static void test_old_super_is_a_warning(void **state)
{
	images_put(tier_image, backing_image);
	age_super_b();
	assert_int_equal(check_images(), 0);
	assert_true(finding_of(CHECK_SUPER_DIFFERS)->warning);
	assert_int_equal(result.store.errors, 0);
	images_put(dirty_tier_image, dirty_backing_image);
	damage_super_b();
	assert_int_equal(check_images(), 0);
	assert_true(finding_of(CHECK_SUPER_DAMAGED)->warning);
}

static void test_both_supers_damaged_is_a_refusal(void **state)
{
	images_put(tier_image, backing_image);
	damage_super_a();
	damage_super_b();
	assert_int_equal(check_images(), -EUCLEAN);
}

// ---- damage to the tier -----------------------------------------------------------------------------------

// A frame of the images with those bits of state set or clear, which holds a page.
static frame_t some_frame(uint16_t set, uint16_t clear, struct tier_geometry *ret_geometry)
{
	struct store_config c = config;
	struct store *s;
	frame_t f;

	c.read_only = true;
	assert_int_equal(store_open(&c, &s), 0);
	*ret_geometry = s->tier->geometry;
	for (f = 0; f < s->tier->frames; f++) {
		const struct frame *fr = &s->tier->frame[f];
		uint16_t state = frame_state(fr);
		if (frame_place(state) == FRAME_INDEXED && fr->object != OBJECT_STORE && (state & set) == set && !(state & clear))
			break;
	}
	assert_true(f < s->tier->frames);
	store_close(s);
	return f;
}

static void test_damaged_clean_frame_is_a_warning(void **state)
{
	struct tier_geometry g;
	images_put(tier_image, backing_image);
	frame_t f = some_frame(0, FRAME_DIRTY, &g);
	tier[g.frames_offset + (uint64_t)f * PAGE_BYTES + 9] ^= 1;
	assert_int_equal(check_images(), 0);
	assert_int_equal(founds, 1);
	assert_int_equal(found[0].kind, CHECK_FRAME_CONTENT);
	assert_int_equal(found[0].at, f);
	assert_true(found[0].warning);
}

static void test_damaged_dirty_frame_is_an_error(void **state)
{
	struct tier_geometry g;
	images_put(dirty_tier_image, dirty_backing_image);
	frame_t f = some_frame(FRAME_DIRTY, 0, &g);
	tier[g.frames_offset + (uint64_t)f * PAGE_BYTES + 9] ^= 1;
	assert_int_equal(check_images(), 0);
	assert_int_equal(founds, 1);
	assert_int_equal(found[0].kind, CHECK_FRAME_CONTENT);
	assert_false(found[0].warning);
}

static void test_damaged_slot_is_a_refusal(void **state)
{
	struct tier_geometry g;
	images_put(dirty_tier_image, dirty_backing_image);
	frame_t f = some_frame(0, FRAME_DIRTY, &g);
	tier[g.table_offset + (uint64_t)f * sizeof(struct slot_disk) + 20] ^= 3;
	assert_int_equal(check_images(), -EUCLEAN);
}

static void test_clean_copy_of_other_content_is_found(void **state)
{
	struct store_config c = config;
	struct store *s;

	images_put(tier_image, backing_image);
	c.read_only = true;
	assert_int_equal(store_open(&c, &s), 0);
	struct bucket *b;
	uint32_t version;
	bool cached = index_look(s->tier, big, 2, &b, &version) != FRAME_NONE;
	store_close(s);
	if (!cached)
		skip();
	change_extent_sum();
	assert_int_equal(check_images(), 0);
	assert_true(has(CHECK_FRAME_STALE));
}

// Any bit anywhere: found, refused or without effect, but never a crash.
static void test_any_bit(void **state)
{
	unsigned rounds = getenv("CHECK_ROUNDS") ? (unsigned)atoi(getenv("CHECK_ROUNDS")) : 150;
	int tier_fd = open(tier_path, O_WRONLY), backing_fd = open(backing_path, O_WRONLY);

	images_put(dirty_tier_image, dirty_backing_image);
	srandom(7);
	for (unsigned i = 0; i < rounds; i++) {
		bool in_tier = i % 2;
		uint64_t end = in_tier ? TIER_BYTES : BACKING_BYTES / 8, at = (uint64_t)random() % end;
		uint8_t *image = in_tier ? tier : backing;
		block_t leaf = !in_tier && i % 4 == 0 ? leaf_of(item_key(i % 8 ? sub : big, ITEM_INODE, 0))->block : 0;
		if (leaf) // sealed again: what is in it is believed
			at = leaf * PAGE_BYTES + at % PAGE_BYTES;
		image[at] ^= (uint8_t)(1u << random() % 8);
		if (leaf) {
			seal_leaf(leaf);
			image_write(backing_path, backing, BACKING_BYTES);
		}
		assert_int_equal(pwrite(in_tier ? tier_fd : backing_fd, image + at, 1, (off_t)at), 1);
		int r = run_check(false, false);
		assert_true(r == 0 || r == -EUCLEAN || r == -ESTALE || r == -EINVAL || r == -ENOTSUP);
		images_put(dirty_tier_image, dirty_backing_image);
	}
	close(tier_fd);
	close(backing_fd);
}

// ---- damage of meaning: committed in good order ---------------------------------------------------------------

static int put_inode(struct op *op, object_t id, void (*change)(struct inode *inode))
{
	struct inode inode;
	int r = inode_watch_get(op, id, &inode);
	if (r)
		return r;
	change(&inode);
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, false);
}

static void more_links(struct inode *i) { i->disk.nlink++; }
static void no_links(struct inode *i) { i->disk.nlink = 0; }
static void more_entries(struct inode *i) { i->disk.entries++; }
static void more_xattrs(struct inode *i) { i->disk.xattrs++; }
static void other_parent(struct inode *i) { i->disk.parent = second; }
static void capability(struct inode *i) { i->disk.flags |= INODE_CAPABILITY; }
static void bad_mode(struct inode *i) { i->disk.mode |= 1u << 20; }
static void shorter(struct inode *i) { i->disk.size = 2 * PAGE_BYTES; }
static void shorter_by_bytes(struct inode *i) { i->disk.size = 2 * PAGE_BYTES + 50; }

static int links_of_file(struct op *op) { return put_inode(op, linked, more_links); }
static int links_of_directory(struct op *op) { return put_inode(op, sub, more_links); }
static int unlisted_orphan(struct op *op) { return put_inode(op, big, no_links); }
static int linked_orphan(struct op *op) { return put_inode(op, orphan, more_links); }
static int entries(struct op *op) { return put_inode(op, sub, more_entries); }
static int xattrs(struct op *op) { return put_inode(op, attributed, more_xattrs); }
static int parent(struct op *op) { return put_inode(op, subsub, other_parent); }
static int flag(struct op *op) { return put_inode(op, big, capability); }
static int malformed(struct op *op) { return put_inode(op, odd, bad_mode); }
static int pages_past_end(struct op *op) { return put_inode(op, big, shorter); }
static int bytes_past_end(struct op *op) { return put_inode(op, odd, shorter_by_bytes); }

static int put_entry(struct op *op, object_t dir, const char *name, object_t object, uint8_t type, uint64_t key_change)
{
	struct chain chain;
	uint8_t raw[sizeof(struct dirent_disk) + NAME_BYTES_MAX];
	struct dirent_disk *e = (struct dirent_disk *)raw;
	size_t bytes = strlen(name);
	int r = dirent_find(op, dir, name, &chain);

	if (r)
		return r;
	e->object = object;
	e->type = type;
	e->name_bytes = (uint8_t)bytes;
	memcpy(e->name, name, bytes);
	chain.key.sub ^= key_change;
	r = txn_put(op, chain.key, raw, sizeof *e + bytes);
	return r ? r : txn_commit(op, false);
}

static int delete_entry(struct op *op, object_t dir, const char *name)
{
	struct chain chain;
	int r = dirent_find(op, dir, name, &chain);
	if (!r)
		r = txn_delete(op, chain.key);
	return r ? r : txn_commit(op, true);
}

static int delete_item(struct op *op, struct item_key key)
{
	int r = txn_delete(op, key);
	return r ? r : txn_commit(op, true);
}

static int put_page(struct op *op, object_t object, page_t page)
{
	uint8_t *data = op_scratch(op, 0);
	int r = txn_claim(op, object, page, 1);
	data[0] = 1;
	if (!r)
		r = txn_page(op, object, page, data, NULL);
	return r ? r : txn_commit(op, false);
}

static int cycle(struct op *op)
{
	// sub moves below its own subdirectory, in all but the kernel's view.
	struct inode above, dir, below;
	struct chain chain;
	int r = inode_watch_get(op, OBJECT_ROOT, &above);
	if (!r)
		r = inode_watch_get(op, sub, &dir);
	if (!r)
		r = inode_watch_get(op, subsub, &below);
	if (!r)
		r = dirent_find(op, OBJECT_ROOT, "sub", &chain);
	if (!r)
		r = txn_delete(op, chain.key);
	if (!r)
		r = dirent_find(op, subsub, "sub", &chain);
	if (!r)
		r = dirent_put(op, chain.key, "sub", &dir);
	above.disk.entries--;
	above.disk.nlink--;
	below.disk.entries++;
	below.disk.nlink++;
	dir.disk.parent = subsub;
	if (!r)
		r = inode_put(op, &above);
	if (!r)
		r = inode_put(op, &dir);
	if (!r)
		r = inode_put(op, &below);
	return r ? r : txn_commit(op, false);
}

static int dangling(struct op *op) { return put_entry(op, sub, "nothing", 999999, DT_REG, 0); }
static int entry_type(struct op *op) { return put_entry(op, sub, "linked", linked, DT_DIR, 0); }
static int wrong_hash(struct op *op) { return put_entry(op, sub, "here", big, DT_REG, 0x10000); }
static int name_twice(struct op *op) { return put_entry(op, sub, "linked", linked, DT_REG, 1); }
static int bad_name(struct op *op) { return put_entry(op, sub, "a/b", big, DT_REG, 0); }
static int entry_in_file(struct op *op) { return put_entry(op, big, "x", linked, DT_REG, 0); }
static int directory_twice(struct op *op) { return put_entry(op, second, "again", subsub, DT_DIR, 0); }
static int unreachable(struct op *op) { return delete_entry(op, OBJECT_ROOT, "sub"); }
static int no_entry(struct op *op) { return delete_entry(op, OBJECT_ROOT, "big"); }
static int no_inode(struct op *op) { return delete_item(op, item_key(big, ITEM_INODE, 0)); }
static int no_root(struct op *op) { return delete_item(op, item_key(OBJECT_ROOT, ITEM_INODE, 0)); }
static int no_orphan(struct op *op) { return delete_item(op, item_key(OBJECT_STORE, ITEM_ORPHAN, orphan)); }
static int pages_of_directory(struct op *op) { return put_page(op, sub, 0); }
static int pages_of_nothing(struct op *op) { return put_page(op, store_new_object(store), 0); }
static void more_pages(struct inode *i) { i->disk.pages++; }
static int page_count(struct op *op) { return put_inode(op, big, more_pages); }
static int page_behind(struct op *op) { return put_page(op, big, 310); }
static int target_twice(struct op *op) { return put_page(op, symlink_long, 1); }
static int missing_orphan(struct op *op)
{
	int r = txn_put(op, item_key(OBJECT_STORE, ITEM_ORPHAN, 5555), "", 0);
	return r ? r : txn_commit(op, false);
}
static int no_target(struct op *op)
{
	int r = txn_drop(op, symlink_long, 0, 1);
	return r ? r : txn_commit(op, true);
}
static int no_value(struct op *op)
{
	struct chain chain;
	int r = chain_find(op, attributed, ITEM_XATTR, "user.large", strlen("user.large"), &chain);
	if (!r)
		r = txn_drop_object(op, chain.xattr.object);
	return r ? r : txn_commit(op, true);
}
static int shared_value(struct op *op)
{
	struct chain chain, other;
	uint8_t raw[ITEM_VALUE_MAX];
	struct xattr_disk *x = (struct xattr_disk *)raw;
	int r = chain_find(op, attributed, ITEM_XATTR, "user.large", 10, &chain);
	if (!r)
		r = chain_find(op, attributed, ITEM_XATTR, "user.small", 10, &other);
	memcpy(raw, chain.value, chain.bytes);
	memcpy(x->name, "user.small", 10);
	if (!r)
		r = txn_put(op, other.key, raw, chain.bytes);
	return r ? r : txn_commit(op, false);
}
static int lost_value(struct op *op)
{
	struct chain chain;
	int r = chain_find(op, attributed, ITEM_XATTR, "user.large", 10, &chain);
	if (!r)
		r = txn_delete(op, chain.key);
	return r ? r : txn_commit(op, true);
}

static const struct {
	const char *name;
	int (*change)(struct op *op);
	enum check_kind kinds[KINDS_MAX];
} meanings[] = {
	{ "links of a file", links_of_file, { CHECK_LINKS, END } },
	{ "links of a directory", links_of_directory, { CHECK_LINKS, END } },
	{ "unlisted orphan", unlisted_orphan, { CHECK_ORPHAN_UNLISTED, CHECK_LINKS, END } },
	{ "linked orphan", linked_orphan, { CHECK_ORPHAN_LINKED, CHECK_LINKS, END } },
	{ "entries", entries, { CHECK_ENTRIES, END } },
	{ "xattrs", xattrs, { CHECK_XATTRS, END } },
	{ "parent", parent, { CHECK_PARENT, END } },
	{ "capability flag", flag, { CHECK_XATTR_FLAGS, END } },
	{ "malformed inode", malformed, { CHECK_INODE_MALFORMED, END } },
	{ "pages past the end", pages_past_end, { CHECK_PAGES_PAST_END, END } },
	{ "bytes past the end", bytes_past_end, { CHECK_BYTES_PAST_END, END } },
	{ "dangling entry", dangling, { CHECK_ENTRY_DANGLING, CHECK_ENTRIES, END } },
	{ "type of an entry", entry_type, { CHECK_ENTRY_TYPE, END } },
	{ "wrong hash", wrong_hash, { CHECK_NAME_HASH, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "name twice", name_twice, { CHECK_NAME_TWICE, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "bad name", bad_name, { CHECK_DIRENT_MALFORMED, CHECK_ENTRIES, END } },
	{ "entry in a file", entry_in_file, { CHECK_DIRENT_MISPLACED, CHECK_LINKS, END } },
	{ "directory with two names", directory_twice, { CHECK_DIRECTORY_TWICE, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "unreachable", unreachable, { CHECK_UNREACHABLE, CHECK_ENTRIES, CHECK_LINKS, END } },
	{ "cycle", cycle, { CHECK_UNREACHABLE, END } },
	{ "no entry", no_entry, { CHECK_LINKS, CHECK_ENTRIES, END } },
	{ "no inode", no_inode, { CHECK_ENTRY_DANGLING, CHECK_HIDDEN_LEAKED, END } },
	{ "no root", no_root, { CHECK_ROOT_MISSING, CHECK_INODE_MISSING, CHECK_UNREACHABLE, END } },
	{ "orphan without item", no_orphan, { CHECK_ORPHAN_UNLISTED, END } },
	{ "orphan that is not there", missing_orphan, { CHECK_ORPHAN_MISSING, END } },
	{ "pages of a directory", pages_of_directory, { CHECK_PAGES_MISPLACED, END } },
	{ "pages of nothing", pages_of_nothing, { CHECK_HIDDEN_LEAKED, END } },
	{ "page behind", page_behind, { CHECK_PAGES_PAST_END, CHECK_PAGES, END } },
	{ "number of pages", page_count, { CHECK_PAGES, END } },
	{ "symlink with two pages", target_twice, { CHECK_SYMLINK, CHECK_PAGES_PAST_END, END } },
	{ "symlink without its page", no_target, { CHECK_SYMLINK, END } },
	{ "xattr without its value", no_value, { CHECK_HIDDEN_MISSING, END } },
	{ "xattrs with one value", shared_value, { CHECK_HIDDEN_TWICE, END } },
	{ "value without its xattr", lost_value, { CHECK_HIDDEN_LEAKED, CHECK_XATTRS, END } },
};

// Both ways: still in the tier's log, and folded into the tree.
static void test_wrong_meaning_is_found(void **state)
{
	for (unsigned i = 0; i < 2 * sizeof meanings / sizeof meanings[0]; i++) {
		images_put(tier_image, backing_image);
		assert_int_equal(store_open(&config, &store), 0);
		assert_int_equal(lane_new(store, &lane), 0);
		int r = RUN(meanings[i / 2].change(op));
		if (r)
			fail_msg("%s: cannot be made: %d", meanings[i / 2].name, r);
		lane_free(lane);
		if (i % 2)
			assert_int_equal(store_close(store), 0);
		else
			store_abandon(store);
		assert_int_equal(run_check(false, false), 0);
		assert_kinds(meanings[i / 2].name, meanings[i / 2].kinds);
	}
}

static void test_finding_names_the_entry(void **state)
{
	images_put(tier_image, backing_image);
	assert_int_equal(store_open(&config, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	assert_int_equal(RUN(dangling(op)), 0);
	lane_free(lane);
	assert_int_equal(store_close(store), 0);
	assert_int_equal(run_check(false, false), 0);
	const struct check_finding *f = finding_of(CHECK_ENTRY_DANGLING);
	assert_int_equal(f->object, sub);
	assert_int_equal(f->place, PLACE_NAME);
	assert_int_equal(f->found, 999999);
}

static void test_path_of_a_directory(void **state)
{
	char path[64];
	struct store_config c = config;

	images_put(tier_image, backing_image);
	c.read_only = true;
	assert_int_equal(store_open(&c, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	assert_int_equal(fs_check_path(lane, subsub, path, sizeof path), 0);
	assert_string_equal(path, "/sub/subsub");
	assert_int_equal(fs_check_path(lane, OBJECT_ROOT, path, sizeof path), 0);
	assert_string_equal(path, "/");
	assert_int_equal(fs_check_path(lane, big, path, sizeof path), -ENOENT);
	assert_int_equal(fs_check_path(lane, subsub, path, 8), -ENOENT);
	lane_free(lane);
	store_close(store);
}

// ---- blocks used --------------------------------------------------------------------------------------------

static void test_used_blocks_of_a_full_group(void **state)
{
	struct used u = { .layout = space_layout(UINT64_C(1) << 40) };
	uint64_t blank[SPACE_GROUP_BLOCKS / 64], bits[SPACE_GROUP_BLOCKS / 64];
	uint64_t group = UINT64_C(1) << 20;
	unsigned marked = 0;

	space_blank_bitmap(&u.layout, group, blank);
	for (unsigned i = 0; i < SPACE_GROUP_BLOCKS; i++) {
		bool fixed = blank[i / 64] >> i % 64 & 1;
		assert_int_equal(used_mark(&u, group * SPACE_GROUP_BLOCKS + i), fixed);
		marked += !fixed;
	}
	assert_int_equal(u.blocks, marked);
	assert_int_equal(used_mark(&u, group * SPACE_GROUP_BLOCKS + 9000), 1);
	for (uint64_t g = 1; g < 1000; g++)
		assert_int_equal(used_mark(&u, g * 7 * SPACE_GROUP_BLOCKS + 500), 0);
	used_bits(&u, group, bits);
	for (unsigned i = 0; i < SPACE_GROUP_BLOCKS / 64; i++)
		assert_int_equal(bits[i], UINT64_MAX);
	used_bits(&u, group + 1, bits);
	space_blank_bitmap(&u.layout, group + 1, blank);
	assert_memory_equal(bits, blank, sizeof bits);
	used_fini(&u);
}

// ---- set up -----------------------------------------------------------------------------------------------

static uint8_t *page_alloc(size_t bytes)
{
	uint8_t *p = aligned_alloc(PAGE_BYTES, bytes);
	assert_non_null(p);
	return p;
}

static int setup(void **state)
{
	log_quiet(getenv("SHOW_FINDINGS") == NULL);
	assert_non_null(mkdtemp(dir_path));
	snprintf(tier_path, sizeof tier_path, "%s/tier", dir_path);
	snprintf(backing_path, sizeof backing_path, "%s/backing", dir_path);
	config = (struct store_config){ .tier_path = tier_path, .backing_path = backing_path, .assume_persistent = true,
					.format_blank = true, .tiny = true, .interval_ms = 3600000 };
	tier = page_alloc(TIER_BYTES);
	backing = page_alloc(BACKING_BYTES);
	tier_image = page_alloc(TIER_BYTES);
	backing_image = page_alloc(BACKING_BYTES);
	dirty_tier_image = page_alloc(TIER_BYTES);
	dirty_backing_image = page_alloc(BACKING_BYTES);
	memset(tier, 0, TIER_BYTES);
	memset(backing, 0, BACKING_BYTES);
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
	open_fs();
	populate();
	close_fs(false);
	images_take(tier_image, backing_image);

	// And on: overwrites, a truncation, a removal, left in the tier. The orphan is not dropped: nobody
	// asks for it here.
	open_fs();
	struct stat st = { .st_size = 5 * PAGE_BYTES + 10 };
	write_file(big, 7 * PAGE_BYTES, 3 * PAGE_BYTES);
	write_file(big, 63 * PAGE_BYTES + 5, 2 * PAGE_BYTES);
	write_file(odd, 4 * PAGE_BYTES, 2 * PAGE_BYTES + 77);
	assert_int_equal(RUN(fs_setattr(op, fs, odd, &st, FS_SET_SIZE, &st)), 0);
	assert_int_equal(RUN(fs_rmdir(op, fs, sub, "empty")), 0);
	assert_int_equal(RUN(fs_removexattr(op, fs, attributed, "user.large")), 0);
	write_file(make(second, "new", S_IFREG | 0600, NULL), 0, 100);
	close_fs(true);
	images_take(dirty_tier_image, dirty_backing_image);
	return 0;
}

static int teardown(void **state)
{
	unlink(tier_path);
	unlink(backing_path);
	rmdir(dir_path);
	free(tier);
	free(backing);
	free(tier_image);
	free(backing_image);
	free(dirty_tier_image);
	free(dirty_backing_image);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean_pair_has_no_findings),
		cmocka_unit_test(test_pair_left_by_a_crash_has_no_findings),
		cmocka_unit_test(test_quick_reads_no_data),
		cmocka_unit_test(test_unmounted_backing_needs_no_tier),
		cmocka_unit_test(test_backing_in_use_needs_its_tier),
		cmocka_unit_test(test_check_writes_nothing),
		cmocka_unit_test(test_cancelled_check_ends),
		cmocka_unit_test(test_damage_is_found),
		cmocka_unit_test(test_finding_says_where_and_what),
		cmocka_unit_test(test_old_super_is_a_warning),
		cmocka_unit_test(test_both_supers_damaged_is_a_refusal),
		cmocka_unit_test(test_damaged_clean_frame_is_a_warning),
		cmocka_unit_test(test_damaged_dirty_frame_is_an_error),
		cmocka_unit_test(test_damaged_slot_is_a_refusal),
		cmocka_unit_test(test_clean_copy_of_other_content_is_found),
		cmocka_unit_test(test_wrong_meaning_is_found),
		cmocka_unit_test(test_finding_names_the_entry),
		cmocka_unit_test(test_path_of_a_directory),
		cmocka_unit_test(test_used_blocks_of_a_full_group),
		cmocka_unit_test(test_pages_of_a_sparse_file_are_counted),
		cmocka_unit_test(test_any_bit),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
