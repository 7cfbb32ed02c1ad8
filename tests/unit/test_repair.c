// SPDX-License-Identifier: GPL-2.0-or-later
// The repair: each damage that the check finds is done to a copy of the images and repaired. A second check
// finds nothing but what has to stay, what was not told as lost is as it was, and the pair mounts and works.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "check_world.h"
#include "walk.h"

// ---- as fsck does -----------------------------------------------------------------------------------

static unsigned stay; // findings of the last check that a repair leaves

static void note_all(void *arg, const struct check_finding *f)
{
	note(arg, f);
	stay += !f->warning && check_mend(f) == MEND_NOT;
}

static int open_for(bool repair, struct store **ret_store)
{
	struct store_config c = config;
	c.read_only = c.salvage = true;
	c.repair = repair;
	c.format_blank = false;
	return store_open(&c, ret_store);
}

static int writes_left = -1; // until the power is cut; negative: it is not
static int reads_left = -1;  // of the rebuild, until one fails; likewise
static bool rebuilding, reads_go_on; // after the one
static bool dropping; // the last repair

static int count_reads(void)
{
	if (!rebuilding || reads_left < 0 || (reads_left == 0 && reads_go_on))
		return 0;
	if (reads_left > 1)
		return reads_left--, 0;
	reads_left = reads_go_on ? 0 : 1;
	return -EIO;
}

static int count_ios(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (kind == 'r')
		return count_reads();
	if (writes_left < 0)
		return 0;
	if (writes_left == 0)
		return -EIO; // as is every one after it
	writes_left--;
	return 0;
}

static int rebuild(struct store *s, const struct check_config *check)
{
	rebuilding = true;
	int r = store_rebuild(s, check, result.store.nodes_lost);
	rebuilding = false;
	return r;
}

// 1: repaired, 0: nothing to do.
static int run_repair(bool drop_damaged)
{
	static const struct backing_hook hook = { count_ios, NULL };
	struct check_config check = { .report = note_all };
	struct fs_mends *mends;
	struct store *s;
	int r = open_for(true, &s);

	if (r)
		return r;
	s->backing->hook = &hook;
	founds = stay = 0;
	dropping = drop_damaged;
	assert_int_equal(fs_mends_new(drop_damaged, &mends), 0);
	r = fs_check_noting(s, &check, mends, &result);
	bool wanted = !r && result.store.errors > (drop_damaged ? 0 : stay);
	if (wanted) {
		r = fs_mend(s, &check, mends);
		if (!r)
			r = rebuild(s, &check);
		if (!r)
			r = store_put_in_force(s);
	}
	fs_mends_free(mends);
	store_close(s);
	return r ? r : wanted;
}

static int check_again(void)
{
	struct check_config check = { .report = note_all };
	struct store *s;
	int r = open_for(false, &s);
	if (r)
		return r;
	founds = stay = 0;
	r = fs_check(s, &check, &result);
	store_close(s);
	return r;
}

static void assert_only_stays(const char *name)
{
	int r = check_again();
	if (r)
		fail_msg("%s: cannot be checked once repaired: %d", name, r);
	for (unsigned i = 0; i < founds; i++) {
		char line[1024];
		if (found[i].warning || check_mend(&found[i]) == MEND_NOT)
			continue;
		check_describe(&found[i], line, sizeof line);
		fail_msg("%s: found after the repair: %s", name, line);
	}
}

static void put_case(void)
{
	image_write(tier_path, tier, TIER_BYTES);
	image_write(backing_path, backing, BACKING_BYTES);
}

// It mounts, takes a file, and is clean then.
static void assert_works(const char *name)
{
	open_fs();
	object_t id = make(OBJECT_ROOT, "made after the repair", S_IFREG | 0644, NULL);
	write_file(id, 0, 3 * PAGE_BYTES);
	close_fs(false);
	assert_only_stays(name);
}

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
};

static void view_add(struct view *v, struct item_key key, uint64_t hash, uint64_t size)
{
	if (v->count == v->room) {
		v->room = v->room ? 2 * v->room : 1024;
		v->seen = realloc(v->seen, v->room * sizeof *v->seen);
		assert_non_null(v->seen);
	}
	v->seen[v->count++] = (struct seen){ key, hash, size };
}

// Of an inode what is not counted.
static int view_item(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct inode_disk *i = value;
	if (key.object == OBJECT_STORE)
		return 0;
	if (item_key_type(key) == ITEM_INODE && bytes >= sizeof *i) {
		const uint64_t kept[] = { i->mode, i->uid, i->gid, i->size, (uint64_t)i->mtime.sec, i->rdev };
		view_add(arg, key, hash_bytes(kept, sizeof kept) ^ hash_bytes(i + 1, bytes - sizeof *i), i->size);
	} else {
		view_add(arg, key, hash_bytes(value, bytes), 0);
	}
	return 0;
}

static int view_pages(void *arg, object_t object, page_t first, unsigned count, uint64_t *ret_tag)
{
	struct view *v = arg;
	v->pages = realloc(v->pages, (v->page_runs + 1) * sizeof *v->pages);
	assert_non_null(v->pages);
	v->pages[v->page_runs++] = (struct pages){ object, first, first + count };
	return 0;
}

static int view_page(void *arg, object_t object, page_t page, const void *data, uint64_t tag)
{
	view_add(arg, item_key(object, ITEM_EXTENT, page), hash_bytes(data, PAGE_BYTES), 0);
	return 0;
}

static int seen_order(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;
	return item_key_compare(x->key, y->key);
}

static struct view view_now(void)
{
	static const struct check_visitor visitor = { view_item, view_pages, view_page };
	struct view v = { 0 };
	struct check_config check = { .visitor = &visitor, .visitor_arg = &v };
	struct check_result nothing;
	struct store *s;

	assert_int_equal(open_for(false, &s), 0);
	assert_int_equal(store_check(s, &check, &nothing), 0);
	store_close(s);
	if (!v.seen) // nothing is there
		v.seen = calloc(1, sizeof *v.seen);
	assert_non_null(v.seen);
	qsort(v.seen, v.count, sizeof *v.seen, seen_order);
	return v;
}

static bool told(struct item_key key)
{
	for (unsigned i = 0; i < founds; i++) {
		const struct check_finding *f = &found[i];
		struct item_key from = { f->object, f->at }, to = { f->expected, f->found };
		if (f->object == key.object)
			return true;
		if (f->kind == CHECK_RANGE_LOST && item_key_compare(key, from) >= 0 && item_key_compare(key, to) < 0)
			return true;
	}
	return founds == FINDINGS_MAX;
}

static const struct seen *seen_at(const struct view *v, struct item_key key)
{
	const struct seen wanted = { .key = key };
	return bsearch(&wanted, v->seen, v->count, sizeof wanted, seen_order);
}

// Does it read as zeroes now?
static bool is_hole(const struct view *v, struct item_key key)
{
	const struct seen *inode = seen_at(v, item_key(key.object, ITEM_INODE, 0));
	page_t page = item_key_rest(key);
	if (item_key_type(key) != ITEM_EXTENT || !inode || inode->size <= page << PAGE_SHIFT)
		return false;
	for (size_t i = 0; i < v->page_runs; i++)
		if (v->pages[i].object == key.object && page >= v->pages[i].from && page < v->pages[i].to)
			return false;
	return true;
}

static void view_free(struct view *v)
{
	free(v->seen);
	free(v->pages);
}

// `founds` are those of the repair.
static void assert_kept(const char *name, const struct view *before)
{
	struct view now = view_now();
	for (size_t i = 0; i < before->count; i++) {
		const struct seen *b = &before->seen[i];
		const struct seen *a = seen_at(&now, b->key);
		if (!a && !dropping && is_hole(&now, b->key))
			fail_msg("%s: object %llu, page %llu reads as zeroes", name, (unsigned long long)b->key.object,
				 (unsigned long long)item_key_rest(b->key));
		if ((!a || a->hash != b->hash) && !told(b->key))
			fail_msg("%s: object %llu, item %016llx is %s, and was not told", name, (unsigned long long)b->key.object,
				 (unsigned long long)b->key.sub, a ? "changed" : "gone");
	}
	view_free(&now);
}

// ---- each damage ----------------------------------------------------------------------------------------

static void repair_case(const char *name, const struct view *before)
{
	put_case();
	int r = run_repair(false);
	if (r < 0)
		fail_msg("%s: repair: %d", name, r);
	assert_kept(name, before);
	assert_only_stays(name);
}

static void test_damaged_images_are_repaired(void **state)
{
	for (unsigned i = 0; i < damages_count; i++) {
		images_put(tier_image, backing_image);
		struct view before = view_now();
		damages[i].damage();
		repair_case(damages[i].name, &before);
		view_free(&before);
		assert_works(damages[i].name);
	}
}

static void test_wrong_meaning_is_repaired(void **state)
{
	for (unsigned i = 0; i < 2 * meanings_count; i++) {
		const char *name = meanings[i / 2].name;
		images_put(tier_image, backing_image);
		assert_int_equal(store_open(&config, &store), 0);
		assert_int_equal(lane_new(store, &lane), 0);
		assert_int_equal(RUN(meanings[i / 2].change(op)), 0);
		lane_free(lane);
		if (i % 2)
			assert_int_equal(store_close(store), 0);
		else
			store_abandon(store);
		int r = run_repair(false);
		if (r != 1)
			fail_msg("%s: repair: %d", name, r);
		assert_only_stays(name);
		assert_int_equal(stay, 0);
		assert_works(name);
	}
}

static void test_damaged_pages_are_dropped_if_that_is_wanted(void **state)
{
	images_put(tier_image, backing_image);
	damage_data();
	put_case();
	assert_int_equal(run_repair(false), 0); // it goes on to read as an error
	assert_int_equal(run_repair(true), 1);
	assert_int_equal(check_again(), 0);
	assert_int_equal(founds, 0);
	assert_works("dropped page");
}

// ---- lost nodes -----------------------------------------------------------------------------------------------

// Two files that fill several leaves, one after the other, behind enough others for nodes above the leaves; and one
// with holes. Left so and unmounted, with a tier that has no copies; and after overwrites, by a crash.
#define OTHERS 1300u
#define LONG_PAGES 1100u
#define SPARSE_STEP 90u
static uint8_t *lost_image[2][2]; // unmounted, crash: tier, backing
static object_t long_file, next_file, sparse_file;

static void lost_images_keep(unsigned dirty)
{
	for (int i = 0; i < 2; i++) {
		lost_image[dirty][i] = aligned_alloc(PAGE_BYTES, i ? BACKING_BYTES : TIER_BYTES);
		assert_non_null(lost_image[dirty][i]);
	}
	images_take(lost_image[dirty][0], lost_image[dirty][1]);
}

static void write_long(object_t id)
{
	for (page_t page = 0; page < LONG_PAGES; page += 100)
		write_file(id, page * PAGE_BYTES, 100 * PAGE_BYTES);
}

// Of `next_file` all from there on was truncated and has grown again.
#define CUT_PAGE 700u

static void lost_images_make(void)
{
	struct stat st;
	char name[80];
	if (lost_image[0][0])
		return;
	images_put(tier_image, backing_image);
	open_fs();
	for (unsigned i = 0; i < OTHERS; i++) {
		snprintf(name, sizeof name, "another name of some length, for more leaves, number %u", i);
		make(second, name, S_IFREG | 0600, NULL);
	}
	long_file = make(OBJECT_ROOT, "long", S_IFREG | 0644, NULL);
	write_long(long_file);
	next_file = make(OBJECT_ROOT, "next", S_IFREG | 0644, NULL);
	write_long(next_file);
	sparse_file = make(OBJECT_ROOT, "sparse", S_IFREG | 0644, NULL);
	for (page_t page = 0; page < LONG_PAGES; page += SPARSE_STEP)
		write_file(sparse_file, page * PAGE_BYTES, PAGE_BYTES);
	close_fs(false);
	image_read(backing_path, backing, BACKING_BYTES);
	memset(tier, 0, TIER_BYTES);
	image_write(tier_path, tier, TIER_BYTES);
	open_fs();
	close_fs(false);
	lost_images_keep(0);
	open_fs();
	for (page_t page = 5; page < LONG_PAGES; page += 50)
		write_file(long_file, page * PAGE_BYTES, PAGE_BYTES);
	st.st_size = CUT_PAGE * PAGE_BYTES;
	assert_int_equal(RUN(fs_setattr(op, fs, next_file, &st, FS_SET_SIZE, &st)), 0);
	st.st_size = LONG_PAGES * PAGE_BYTES;
	assert_int_equal(RUN(fs_setattr(op, fs, next_file, &st, FS_SET_SIZE, &st)), 0);
	write_file(sparse_file, 3 * PAGE_BYTES, PAGE_BYTES);
	close_fs(true);
	lost_images_keep(1);
}

static bool is_dirty(object_t id, page_t page) // in the images of the crash
{
	return id == long_file ? page % 50 == 5 : id == sparse_file && page == 3;
}

static bool is_data(object_t id, page_t page, unsigned dirty)
{
	if (id == sparse_file)
		return page % SPARSE_STEP == 0 || (dirty && page == 3);
	return !dirty || id == long_file || page < CUT_PAGE;
}

// The node of that level on the way to the key; its keys are below *ret_limit.
static struct node_disk *node_of(struct item_key key, unsigned level, struct item_key *ret_limit)
{
	struct node_disk *n = root_node();
	*ret_limit = ITEM_KEY_MAX;
	while (n->level > level) {
		unsigned i = node_child_for(n, key);
		if (i + 1 < node_count(n))
			*ret_limit = node_key(n, i + 1);
		n = block_at(node_child(n, i).block);
	}
	return n;
}

static ssize_t read_page(object_t id, page_t page, uint8_t *data)
{
	struct iovec iov[OP_PAGES_MAX];
	struct op *op = op_begin(lane);
	int count, r;
	do {
		r = (int)fs_read(op, fs, id, page * PAGE_BYTES, PAGE_BYTES, false, iov, &count);
		uint8_t *to = data;
		for (int i = 0; r > 0 && i < count; i++)
			to = (uint8_t *)memcpy(to, iov[i].iov_base, iov[i].iov_len) + iov[i].iov_len;
	} while (op_again(op, &r));
	op_end(op);
	return r;
}

// As write_file() has it, zeroes in holes, an error where it was lost.
static void assert_page(object_t id, page_t page, unsigned dirty, bool was_lost)
{
	uint8_t data[PAGE_BYTES];
	ssize_t r = read_page(id, page, data);
	bool kept = !was_lost || (dirty && (is_dirty(id, page) || (id == next_file && page >= CUT_PAGE)));

	if (!kept && !dropping) {
		if (r != -EIO)
			fail_msg("object %llu, page %llu is lost and reads as %zd", (unsigned long long)id, (unsigned long long)page, r);
		return;
	}
	if (r != PAGE_BYTES)
		fail_msg("object %llu, page %llu: %zd", (unsigned long long)id, (unsigned long long)page, r);
	for (unsigned i = 0; i < PAGE_BYTES; i += 512) {
		uint8_t expected = kept && is_data(id, page, dirty) ? (uint8_t)(1 + (id * 31 + (page * PAGE_BYTES + i) / 512) % 255) : 0;
		if (data[i] != expected)
			fail_msg("object %llu, page %llu: byte %u is %u, not %u", (unsigned long long)id, (unsigned long long)page, i, data[i],
				 expected);
	}
}

static bool was_told(object_t id, page_t page)
{
	for (unsigned i = 0; i < founds; i++)
		if (found[i].kind == CHECK_BYTES_LOST && found[i].object == id && found[i].expected <= page * PAGE_BYTES &&
		    found[i].found >= page * PAGE_BYTES)
			return true;
	return false;
}

// Of a file that is still there each page. One that has neither its inode nor any page left is gone, and was told.
static unsigned assert_file(object_t id, const char *name, unsigned dirty, struct item_key from, struct item_key limit)
{
	bool told_of[LONG_PAGES], any_left = dirty;
	unsigned pages = id == sparse_file ? (LONG_PAGES - 1) / SPARSE_STEP * SPARSE_STEP + 1 : LONG_PAGES, lost = 0;
	struct stat st;
	bool was_lost[LONG_PAGES], inode_lost = item_key_compare(item_key(id, ITEM_INODE, 0), from) >= 0;

	for (page_t page = 0; page < pages; page++) {
		struct item_key key = item_key(id, ITEM_EXTENT, page);
		was_lost[page] = item_key_compare(key, from) >= 0 && item_key_compare(key, limit) < 0;
		told_of[page] = was_told(id, page);
		any_left |= !was_lost[page] && is_data(id, page, dirty);
	}
	int r = RUN(fs_lookup(op, fs, OBJECT_ROOT, name, &st));
	if (r == -ENOENT && inode_lost && !any_left)
		return 1;
	assert_int_equal(r, 0);
	assert_int_equal(st.st_ino, id);
	assert_int_equal(st.st_size, pages * PAGE_BYTES);
	assert_true(st.st_blocks * 512 <= st.st_size);
	bool any = false; // none of them may have been: then none is
	for (page_t page = 0; page < pages; page++)
		any |= was_lost[page] && is_data(id, page, dirty) && !(dirty && is_dirty(id, page));
	for (page_t page = 0; page < pages; page++) {
		assert_page(id, page, dirty, any && was_lost[page]);
		bool kept = dirty && (is_dirty(id, page) || (id == next_file && page >= CUT_PAGE));
		assert_int_equal(told_of[page], any && was_lost[page] && !kept);
		lost += any && was_lost[page];
	}
	return lost;
}

// What reads as an error can be written, cut off and removed; space and counts are right then.
static void use_lost(object_t id, unsigned dirty)
{
	struct stat st;
	if (RUN(fs_stat(op, fs, id, &st, NULL)))
		return;
	for (page_t page = 0; page < LONG_PAGES; page += 7)
		write_file(id, page * PAGE_BYTES, PAGE_BYTES);
	for (page_t page = 0; page < LONG_PAGES; page += 7)
		if (is_data(id, page, 0))
			assert_page(id, page, 0, false);
	close_fs(dirty);
	assert_only_stays("written over");
	open_fs();
	st.st_size = 21 * PAGE_BYTES; // of a page that was written
	assert_int_equal(RUN(fs_setattr(op, fs, id, &st, FS_SET_SIZE, &st)), 0);
	close_fs(!dirty);
	assert_only_stays("cut off");
	open_fs();
}

static void lost_node(unsigned dirty, object_t id, page_t page, unsigned level, bool drop)
{
	struct item_key key = item_key(id, ITEM_EXTENT, page), limit;
	unsigned lost = 0;

	images_put(lost_image[dirty][0], lost_image[dirty][1]);
	struct node_disk *n = node_of(key, level, &limit);
	struct item_key from = node_key(n, 0);
	assert_true(root_node()->level > level);
	n->body[NODE_BODY_BYTES - 1] ^= 1;
	put_case();
	assert_int_equal(run_repair(drop), 1);
	open_fs();
	lost += assert_file(long_file, "long", dirty, from, limit);
	lost += assert_file(next_file, "next", dirty, from, limit);
	lost += assert_file(sparse_file, "sparse", dirty, from, limit);
	assert_true(lost > 0);
	use_lost(long_file, dirty);
	use_lost(next_file, dirty);
	use_lost(sparse_file, dirty);
	for (unsigned i = 0; i < 3; i++)
		RUN(fs_unlink(op, fs, OBJECT_ROOT, ((const char *[]){ "long", "next", "sparse" })[i]));
	close_fs(false);
	open_fs(); // the orphans go
	for (object_t orphan_id; (orphan_id = fs_next_orphan(fs));)
		while (RUN(fs_drop(op, fs, orphan_id)) == 1)
			;
	close_fs(false);
	assert_int_equal(check_again(), 0);
	assert_int_equal(founds, 0);
}

static void test_pages_of_a_lost_leaf_read_as_errors(void **state)
{
	lost_images_make();
	for (unsigned i = 0; i < 4; i++) {
		bool dirty = i % 2, drop = i / 2;
		lost_node(dirty, long_file, 600, 0, drop); // a part of one file
		lost_node(dirty, next_file, 0, 0, drop);   // its beginning, and the end of the one before
		if (drop)
			continue;
		lost_node(dirty, long_file, 0, 0, false); // likewise, and inodes
		lost_node(dirty, next_file, LONG_PAGES - 1, 0, false);
		lost_node(dirty, sparse_file, SPARSE_STEP, 0, false);
	}
}

static void test_pages_of_a_lost_inner_node_read_as_errors(void **state)
{
	lost_images_make();
	for (unsigned i = 0; i < 4; i++)
		lost_node(i % 2, long_file, 600, 1, i / 2);
}

// To write down what may be lost of it would take more space than there is.
static void test_lost_part_of_a_huge_sparse_file_has_to_be_dropped(void **state)
{
	struct stat st = { .st_size = INT64_C(1) << 50 };
	struct item_key limit;
	lost_images_make();
	images_put(lost_image[0][0], lost_image[0][1]);
	open_fs();
	assert_int_equal(RUN(fs_setattr(op, fs, long_file, &st, FS_SET_SIZE, &st)), 0);
	close_fs(false);
	images_take(tier, backing);
	node_of(item_key(long_file, ITEM_EXTENT, LONG_PAGES - 1), 0, &limit)->body[NODE_BODY_BYTES - 1] ^= 1;
	put_case();
	assert_int_equal(run_repair(false), -ENOSPC);
	assert_int_equal(run_repair(true), 1);
	assert_only_stays("sparse");
	assert_works("sparse");
}

// ---- the power fails ----------------------------------------------------------------------------------------

static void damage_some_leaf(void)
{
	leaf_of(item_key(subsub, ITEM_INODE, 0))->body[NODE_BODY_BYTES - 1] ^= 1;
}

static void damage_leaf_of_extents(void)
{
	leaf_of(item_key(big, ITEM_EXTENT, 64))->body[NODE_BODY_BYTES - 1] ^= 1;
}

// After a cut at each write, the pair is as it was or repaired: repaired then, nothing more is lost.
static void power_cut_at_any_write(const uint8_t *from_tier, const uint8_t *from_backing, void (*damage)(void))
{
	images_put(from_tier, from_backing);
	struct view before = view_now();
	int r = -EIO;
	for (int cut = 0; r != 1; cut++) {
		images_put(from_tier, from_backing);
		damage();
		put_case();
		writes_left = cut;
		r = run_repair(false);
		writes_left = -1;
		assert_true(r == 1 || r == -EIO);
		assert_kept("cut", &before);
		r = r == 1 ? 1 : run_repair(false) < 0 ? -EUCLEAN : -EIO;
		assert_true(r != -EUCLEAN);
		assert_only_stays("cut");
		assert_works("cut");
	}
	view_free(&before);
}

static void test_power_cut_at_any_write(void **state)
{
	power_cut_at_any_write(tier_image, backing_image, damage_some_leaf);
	power_cut_at_any_write(dirty_tier_image, dirty_backing_image, damage_some_leaf);
	power_cut_at_any_write(dirty_tier_image, dirty_backing_image, damage_leaf_of_extents);
}

// What could be read when the user was told is not lost without a word: the repair fails and changes nothing, or
// did not want it.
static void read_fails(bool once)
{
	bool reached = true;
	images_put(tier_image, backing_image);
	struct view before = view_now();
	for (int n = 1; reached; n++) {
		images_put(tier_image, backing_image);
		damage_some_leaf();
		put_case();
		reads_left = n;
		reads_go_on = once;
		int r = run_repair(false);
		reached = reads_left == (once ? 0 : 1) && n < 1000;
		reads_left = -1;
		assert_true(r == 1 || r == -EIO);
		assert_kept("read", &before);
	}
	view_free(&before);
}

static void test_passing_read_error_loses_nothing_untold(void **state)
{
	read_fails(true);
	read_fails(false);
}

// What is damaged in the new tree is told as well: it is not taken for a block that has moved.
static void test_damage_of_the_new_tree_is_met(void **state)
{
	static _Alignas(PAGE_BYTES) uint8_t zeroes[PAGE_BYTES];
	struct check_config check = { .report = note_all };
	struct inode_disk inode;
	struct lane *reader;
	struct store *s;
	images_put(tier_image, backing_image);
	assert_int_equal(open_for(true, &s), 0);
	assert_int_equal(fs_check(s, &check, &result), 0);
	assert_int_equal(rebuild(s, &check), 0);
	assert_int_equal(lane_new(s, &reader), 0);
	struct item_key key = item_key(OBJECT_ROOT, ITEM_INODE, 0);
	assert_true(OP_RUN(reader, op_get(op, key, &inode, sizeof inode)) > 0);
	assert_int_equal(ioq_write(s->ioq, s->super.root_block, zeroes, 1, true), 0);
	for (frame_t f = 0; f < s->tier->frames; f++)
		evict_frame(s, f);
	alarm(20); // for who reads it for ever
	assert_int_equal(OP_RUN(reader, op_get(op, key, &inode, sizeof inode)), -ENOENT); // as a repair has it
	alarm(0);
	lane_free(reader);
	store_close(s);
}

static struct tier_geometry geometry;

static void slot_geometry(void)
{
	struct store *s;
	images_put(tier_image, backing_image);
	assert_int_equal(open_for(false, &s), 0);
	geometry = s->tier->geometry;
	store_close(s);
}

// ---- damage at random ---------------------------------------------------------------------------------------

#define PLACES_MAX 4u
static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (random_state >> 33) % limit;
}

static block_t nodes[512]; // of the undamaged images
static unsigned node_total;

static void list_nodes(struct node_disk *n)
{
	assert_true(node_total < sizeof nodes / sizeof nodes[0]);
	nodes[node_total++] = n->block;
	for (unsigned i = 0; n->level > 0 && i < node_count(n); i++)
		list_nodes(block_at(node_child(n, i).block));
}

// Nodes, and all blocks near the start, where the images have theirs.
static block_t some_block(void)
{
	return random_below(2) ? nodes[random_below(node_total)] : 1 + random_below(400);
}

static void damage_backing(void)
{
	block_t block = some_block(), other = some_block();
	uint8_t page[PAGE_BYTES];
	switch (random_below(4)) {
	case 0:
		((uint8_t *)block_at(block))[random_below(PAGE_BYTES)] ^= (uint8_t)(1u << random_below(8));
		break;
	case 1:
		memset(block_at(block), 0, PAGE_BYTES);
		break;
	case 2: // a write that went elsewhere
		memcpy(block_at(block), block_at(other), PAGE_BYTES);
		break;
	default:
		memcpy(page, block_at(block), PAGE_BYTES);
		memcpy(block_at(block), block_at(other), PAGE_BYTES);
		memcpy(block_at(other), page, PAGE_BYTES);
		break;
	}
}

// In good order for who looks at checksums alone.
static void damage_leaf_sealed(void)
{
	block_t leaf = leaf_of(item_key(random_below(2) ? sub : subsub, ITEM_INODE, 0))->block;
	uint8_t *at = (uint8_t *)block_at(leaf) + random_below(PAGE_BYTES);
	*at ^= (uint8_t)(1u << random_below(8));
	seal_leaf(leaf);
}

static void damage_tier(void)
{
	uint64_t end = random_below(2) ? geometry.table_offset + geometry.frames * sizeof(struct slot_disk) : TIER_BYTES;
	uint64_t at = random_below(end);
	if (random_below(4))
		tier[at] ^= (uint8_t)(1u << random_below(8));
	else
		memset(tier + (at & ~UINT64_C(63)), 0, 64);
}

// Damage of the backing alone, which checksums find: what is not told is as it was. Of the newest record of
// a ring nobody can tell rot from a power cut, and of a sealed leaf nobody can tell anything.
static void test_damage_at_random_is_repaired(void **state)
{
	unsigned rounds = getenv("REPAIR_ROUNDS") ? (unsigned)atoi(getenv("REPAIR_ROUNDS")) : 60, refused = 0;
	char name[32];

	slot_geometry();
	for (unsigned i = 0; i < rounds; i++) {
		bool dirty = i % 2, drop = i % 3 == 0;
		unsigned where = i / 2 % 3;
		snprintf(name, sizeof name, "round %u", i);
		random_state = i + 1;
		images_put(dirty ? dirty_tier_image : tier_image, dirty ? dirty_backing_image : backing_image);
		struct view before = view_now();
		node_total = 0;
		list_nodes(root_node());
		if (where == 2)
			damage_leaf_sealed();
		for (uint64_t n = 1 + random_below(PLACES_MAX); n; n--) {
			if (where == 1 && random_below(2))
				damage_tier();
			else
				damage_backing();
		}
		put_case();
		int r = run_repair(drop);
		if (r < 0) {
			refused++;
			if (r != -EUCLEAN && r != -ESTALE && r != -EINVAL && r != -ENOTSUP)
				fail_msg("%s: repair: %d", name, r);
		} else {
			if (where == 0)
				assert_kept(name, &before);
			assert_only_stays(name);
			if (drop && stay)
				fail_msg("%s: %u damaged pages are left", name, stay);
			assert_works(name);
		}
		view_free(&before);
	}
	assert_true(refused < rounds / 2);
}

// ---- the tier ---------------------------------------------------------------------------------------------

static struct slot_disk *slot_at(frame_t f)
{
	return (struct slot_disk *)(tier + geometry.table_offset) + f;
}

static uint64_t *word_at(unsigned word)
{
	return (uint64_t *)(tier + TIER_WORDS_OFFSET + word * TIER_WORD_STRIDE);
}

// The tier is found damaged by the recovery, when its headers have been believed.
static void test_damaged_tier_is_given_up_if_told(void **state)
{
	struct store *s;
	images_put(dirty_tier_image, dirty_backing_image);
	*word_at(WORD_TAIL_LSN) ^= 3;
	put_case();
	assert_int_equal(store_open(&config, &s), -EUCLEAN);
	config.lose_tier = true;
	assert_works("without its tier");
	config.lose_tier = false;
	images_put(tier_image, backing_image);
	*word_at(WORD_TAIL_LSN) ^= 3;
	put_case();
	assert_int_equal(store_open(&config, &s), -EUCLEAN);
	config.discard_tier = true;
	assert_works("with its tier discarded");
	config.discard_tier = false;
}

// A dirty page that is in no record any more, hence in its slot alone.
static frame_t slot_alone(void)
{
	struct store *s;
	frame_t f = 0;
	assert_int_equal(open_for(false, &s), 0);
	geometry = s->tier->geometry;
	for (; f < s->tier->frames; f++) {
		struct slot_disk slot;
		uint16_t state = frame_state(&s->tier->frame[f]);
		if (frame_place(state) == FRAME_INDEXED && state & FRAME_DIRTY && slot_load(s->tier, f, &slot) == SLOT_FOUND_GOOD)
			break;
	}
	assert_true(f < s->tier->frames);
	store_close(s);
	return f;
}

// The crash images, with all that the log had in slots.
static void put_reclaimed(void)
{
	images_put(dirty_tier_image, dirty_backing_image);
	assert_int_equal(store_open(&config, &store), 0);
	while (reclaim_slice(store, true))
		;
	store_abandon(store);
	images_take(tier, backing);
}

static void test_flipped_bit_of_a_slot_loses_nothing(void **state)
{
	for (unsigned bit = 0; bit < 8 * sizeof(struct slot_disk); bit += 37) {
		put_reclaimed();
		struct view before = view_now();
		((uint8_t *)slot_at(slot_alone()))[bit / 8] ^= (uint8_t)(1u << bit % 8);
		repair_case("bit of a slot", &before);
		assert_int_equal(founds, 0);
		assert_works("bit of a slot");
		view_free(&before);
	}
}

// It may have been newer than what the backing has: it reads as an error rather than as the older version.
static void test_damaged_slot_is_poisoned_and_told(void **state)
{
	put_reclaimed();
	struct view before = view_now();
	struct slot_disk *slot = slot_at(slot_alone());
	object_t object = slot->object;
	page_t page = slot->page;
	slot->sum ^= 0x5555;
	repair_case("slot", &before);
	assert_true(has(CHECK_PAGE_LOST));
	assert_int_equal(finding_of(CHECK_PAGE_LOST)->object, object);
	assert_int_equal(finding_of(CHECK_PAGE_LOST)->at, page);
	assert_int_equal(founds, 1);
	assert_works("slot");
	view_free(&before);
}

static void test_zeroed_slots_are_told(void **state)
{
	put_reclaimed();
	struct view before = view_now();
	frame_t f = slot_alone() & ~63u;
	memset(slot_at(f), 0, PAGE_BYTES);
	put_case();
	assert_int_equal(run_repair(false), 1);
	assert_int_equal(finding_of(CHECK_SLOT_DAMAGED)->object, OBJECT_STORE);
	assert_only_stays("zeroed slots");
	assert_works("zeroed slots");
	view_free(&before);
}

// The first record of a ring, with others behind it.
static struct record_disk *some_record(void)
{
	struct store *s;
	assert_int_equal(open_for(false, &s), 0);
	geometry = s->tier->geometry;
	uint64_t at = s->tier->ring[0].tail % geometry.ring_bytes;
	store_close(s);
	return (struct record_disk *)(tier + TIER_RINGS_OFFSET + at);
}

static void test_damaged_word_loses_nothing(void **state)
{
	images_put(tier_image, backing_image);
	some_record(); // geometry
	for (unsigned word = 0; word <= WORD_RING_TAIL + geometry.rings; word++) {
		images_put(dirty_tier_image, dirty_backing_image);
		struct view before = view_now();
		*word_at(word) ^= UINT64_C(1) << (word * 11 % 64);
		repair_case("word", &before);
		assert_int_equal(founds, 0);
		assert_works("word");
		view_free(&before);
	}
}

// That the ring is empty, nothing says: it may have had what is nowhere else.
static void test_tail_that_no_record_proves_is_a_refusal(void **state)
{
	images_put(dirty_tier_image, dirty_backing_image);
	*word_at(WORD_RING_TAIL) ^= 0x303;
	put_case();
	assert_int_equal(run_repair(false), -EUCLEAN);
}

static void test_pages_of_a_damaged_record_are_kept(void **state)
{
	images_put(dirty_tier_image, dirty_backing_image);
	struct view before = view_now();
	struct record_disk *r = some_record();
	assert_true(r->switches > 0 && r->items > 0);
	object_t object = ((struct switch_disk *)(r + 1))->object;
	((uint8_t *)r)[r->bytes - 1] ^= 1; // of an item's value, or padding
	put_case();
	assert_int_equal(run_repair(false), 1);
	assert_int_equal(finding_of(CHECK_RECORD_DAMAGED)->found, r->lsn);
	assert_true(finding_of(CHECK_LOG_LOST)->found >= r->bytes);
	finding_of(CHECK_RECORD_ITEM);
	struct view now = view_now();
	for (size_t i = 0; i < before.count; i++) {
		const struct seen *b = &before.seen[i], *a = seen_at(&now, b->key);
		if (b->key.object == object && item_key_type(b->key) == ITEM_EXTENT)
			assert_true(a && a->hash == b->hash);
	}
	assert_only_stays("record");
	assert_int_equal(stay, 0);
	assert_works("record");
	view_free(&now);
	view_free(&before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_damaged_images_are_repaired),
		cmocka_unit_test(test_wrong_meaning_is_repaired),
		cmocka_unit_test(test_damaged_pages_are_dropped_if_that_is_wanted),
		cmocka_unit_test(test_pages_of_a_lost_leaf_read_as_errors),
		cmocka_unit_test(test_pages_of_a_lost_inner_node_read_as_errors),
		cmocka_unit_test(test_lost_part_of_a_huge_sparse_file_has_to_be_dropped),
		cmocka_unit_test(test_power_cut_at_any_write),
		cmocka_unit_test(test_damaged_tier_is_given_up_if_told),
		cmocka_unit_test(test_passing_read_error_loses_nothing_untold),
		cmocka_unit_test(test_damage_of_the_new_tree_is_met),
		cmocka_unit_test(test_damage_at_random_is_repaired),
		cmocka_unit_test(test_flipped_bit_of_a_slot_loses_nothing),
		cmocka_unit_test(test_damaged_slot_is_poisoned_and_told),
		cmocka_unit_test(test_zeroed_slots_are_told),
		cmocka_unit_test(test_damaged_word_loses_nothing),
		cmocka_unit_test(test_tail_that_no_record_proves_is_a_refusal),
		cmocka_unit_test(test_pages_of_a_damaged_record_are_kept),
	};
	return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
