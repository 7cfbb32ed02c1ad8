// SPDX-License-Identifier: GPL-2.0-or-later
#include "check_world.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "log.h"
#include "walk.h"

#define SUM_LEVEL 0x73706163u // of a bitmap's checksum (FORMAT.md)

static char dir_path[] = "/dev/shm/test-check-XXXXXX";
char tier_path[64], backing_path[64];
struct store_config config;
uint8_t *tier_image, *backing_image, *dirty_tier_image, *dirty_backing_image, *warm_image[2][2], *tier, *backing;
object_t sub, subsub, empty, big, linked, odd, allocated, symlink_long, attributed, orphan, second;

// ---- the file system ------------------------------------------------------------------------------

static const struct fs_cred cred = { 0, 0, 022 };
struct store *store;
struct fs *fs;
struct lane *lane;

void open_fs(void)
{
	assert_int_equal(store_open(&config, &store), 0);
	assert_int_equal(fs_new(store, &fs), 0);
	assert_int_equal(fs_start(fs, 0, 0), 0);
	assert_int_equal(lane_new(store, &lane), 0);
}

void close_fs(bool crash)
{
	lane_free(lane);
	fs_free(fs);
	if (crash)
		store_abandon(store);
	else
		assert_int_equal(store_close(store), 0);
}

object_t make(object_t dir, const char *name, mode_t mode, const char *target)
{
	struct stat st;
	assert_int_equal(RUN(fs_make(op, fs, &cred, dir, name, mode, 0, target, &st)), 0);
	return st.st_ino;
}

void write_file(object_t id, uint64_t offset, size_t bytes)
{
	char *data = malloc(bytes);
	for (size_t i = 0; i < bytes; i++)
		data[i] = (char)(1 + (id * 31 + (offset + i) / 512) % 255);
	assert_int_equal(RUN(fs_write(op, fs, id, data, bytes, offset, true)), (int)bytes);
	free(data);
}

static void allocate_past_end(object_t id, uint64_t from, uint64_t end)
{
	struct fs_allocation before = { .next = from, .end = end, .keep_size = true }, after;
	assert_int_equal(RUN(fs_allocate(op, fs, id, &before, &after)), 0);
	assert_int_equal(after.next, end);
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
	allocated = make(subsub, "allocated", S_IFREG | 0644, NULL);
	write_file(allocated, 0, 2 * PAGE_BYTES + 100);
	allocate_past_end(allocated, 5 * PAGE_BYTES, 8 * PAGE_BYTES);
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

void image_read(const char *path, uint8_t *data, size_t bytes)
{
	int fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, data, bytes, 0), bytes);
	close(fd);
}

void image_write(const char *path, const uint8_t *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(pwrite(fd, data, bytes, 0), bytes);
	close(fd);
}

void images_take(uint8_t *to_tier, uint8_t *to_backing)
{
	image_read(tier_path, to_tier, TIER_BYTES);
	image_read(backing_path, to_backing, BACKING_BYTES);
}

void images_put(const uint8_t *from_tier, const uint8_t *from_backing)
{
	memmove(tier, from_tier, TIER_BYTES);
	memmove(backing, from_backing, BACKING_BYTES);
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
}

void forget_copies(bool crash)
{
	open_fs();
	for (frame_t f = 0; f < store->tier->frames; f++)
		evict_frame(store, f);
	close_fs(crash);
}

struct super_disk *super(void)
{
	return (struct super_disk *)backing;
}

struct super_disk *super_b(void)
{
	return (struct super_disk *)(backing + BACKING_BYTES - PAGE_BYTES);
}

void supers_seal(void)
{
	super_seal(super());
	memcpy(super_b(), super(), PAGE_BYTES);
}

uint64_t seed(void)
{
	return hash_bytes(super()->fsid, sizeof super()->fsid);
}

void *block_at(block_t block)
{
	assert_true(block < BACKING_BYTES / PAGE_BYTES);
	return backing + block * PAGE_BYTES;
}

struct node_disk *root_node(void)
{
	return block_at(super()->root_block);
}

struct node_disk *leaf_of(struct item_key key)
{
	struct node_disk *n = root_node();
	while (n->level > 0)
		n = block_at(node_child(n, node_child_for(n, key)).block);
	return n;
}

struct extent_disk *extent_of(object_t object, page_t page)
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

void reseal(void)
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

void seal_leaf(block_t leaf)
{
	assert_true(seal_way(super()->root_block, super()->root_level, leaf, &super()->root_sum));
	supers_seal();
}

void seal_root(void)
{
	super()->root_sum = node_sum(root_node(), seed());
	supers_seal();
}

uint64_t *bitmap(void)
{
	assert_int_equal(super()->space_levels, 0);
	return block_at(space_slot(0, 0, (super()->space.word & SPACE_SLOT) != 0));
}

void bitmap_change(block_t block, bool taken)
{
	uint64_t *bits = bitmap(), mask = UINT64_C(1) << block % 64;
	assert_int_equal((bits[block / 64] & mask) != 0, !taken);
	bits[block / 64] ^= mask;
	super()->space.word += taken ? -UINT64_C(1) : 1;
	super()->space.sum = checksum_page(seed(), SUM_LEVEL, 0, bits);
	supers_seal();
}

// ---- the check of a case ------------------------------------------------------------------------------

struct check_finding found[FINDINGS_MAX];
unsigned founds;
struct fs_check_result result;

void note(void *arg, const struct check_finding *f)
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

int run_check(bool quick, bool without_tier)
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

int check_images(void)
{
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
	return run_check(false, false);
}

bool has(enum check_kind kind)
{
	for (unsigned i = 0; i < founds; i++)
		if (found[i].kind == kind)
			return true;
	return false;
}

const struct check_finding *finding_of(enum check_kind kind)
{
	for (unsigned i = 0; i < founds; i++)
		if (found[i].kind == kind)
			return &found[i];
	fail_msg("nothing of kind %d was found", kind);
	return NULL;
}

void assert_kinds(const char *name, const enum check_kind *kinds)
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

// ---- set up -----------------------------------------------------------------------------------------------

static uint8_t *page_alloc(size_t bytes)
{
	uint8_t *p = aligned_alloc(PAGE_BYTES, bytes);
	assert_non_null(p);
	return p;
}

int world_setup(void **state)
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
	for (int i = 0; i < 4; i++)
		warm_image[i / 2][i % 2] = page_alloc(i % 2 ? BACKING_BYTES : TIER_BYTES);
	memset(tier, 0, TIER_BYTES);
	memset(backing, 0, BACKING_BYTES);
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
	open_fs();
	populate();
	close_fs(false);
	images_take(warm_image[0][0], warm_image[0][1]);
	forget_copies(false);
	images_take(tier_image, backing_image);
	images_put(warm_image[0][0], warm_image[0][1]);

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
	images_take(warm_image[1][0], warm_image[1][1]);
	forget_copies(true);
	images_take(dirty_tier_image, dirty_backing_image);
	return 0;
}

int world_teardown(void **state)
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
	for (int i = 0; i < 4; i++)
		free(warm_image[i / 2][i % 2]);
	return 0;
}
