// SPDX-License-Identifier: GPL-2.0-or-later
// Folding against a plain table of items and pages in memory: after every epoch the tree, read
// through walk.h, is the table, and every block taken is accounted for.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fold.h"
#include "log.h"

#define SEED 4711u
#define BLOCKS (2 * SPACE_GROUP_BLOCKS + 1000)
#define LEVELS 16u
#define OBJECTS 48u
#define TYPES 3u
#define RESTS 64u
#define PAGES 400u

struct item_ref {
	uint32_t tag; // 0: not there; else says what the value is
};
struct page_ref {
	block_t block;
	uint64_t sum;
	lsn_t birth;
	uint32_t flags;
	bool there;
};
struct table {
	struct item_ref item[OBJECTS][TYPES][RESTS];
	struct page_ref page[OBJECTS][PAGES];
};

static char path[] = "/dev/shm/test-fold-XXXXXX";
static struct backing *backing;
static struct ioq *queue;
static struct space *space;
static struct space_root space_root;
static struct tree_root tree;
static lsn_t lsn;
static struct table table, old_table, found;
static uint8_t used[BLOCKS];       // by nodes and extents, as the tree has it
static struct node_disk *buffer[2][LEVELS]; // of the fold; of the checks
static bool fail_writes;
static unsigned fail_at; // the n-th I/O fails; 0: none

static unsigned nodes, leaves, thin_nodes; // of the last check; thin: less than a third full
static size_t leaf_bytes;
static uint64_t written; // nodes of the last epoch

static const enum item_type types[TYPES] = { ITEM_INODE, ITEM_DIRENT, ITEM_DROP };

static object_t object_id(unsigned i)
{
	return i == 0 ? OBJECT_STORE : 17 + 3 * i;
}

static unsigned chance(unsigned n)
{
	return (unsigned)random() % n;
}

static size_t value_of(uint32_t tag, uint8_t *value)
{
	size_t bytes = tag % 7 == 0 ? tag % (ITEM_VALUE_MAX + 1) : tag % 130;
	memset(value, (int)(tag >> 3), bytes);
	return bytes;
}

// ---- the device -----------------------------------------------------------------------------

static int before_io(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt)
{
	if (fail_at > 0 && --fail_at == 0)
		return -EIO;
	return fail_writes && kind == 'w' ? -EIO : 0;
}

static const struct backing_hook hook = { before_io, NULL };

static int fetch(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node)
{
	struct node_disk **mine = arg;
	assert_true(level < LEVELS);
	int r = ioq_read(queue, ref.block, mine[level], 1);
	if (r < 0)
		return r;
	if (node_sum(mine[level], SEED) != ref.sum || !node_valid(mine[level], (int)level, ref.block, ref.birth))
		return -EUCLEAN;
	*ret_node = mine[level];
	return 0;
}

static int set_up(void **state)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	int fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, (off_t)BLOCKS * PAGE_BYTES) < 0 || close(fd) < 0)
		return -1;
	if (backing_open(path, false, &backing) < 0 || ioq_new(backing, 16, &queue) < 0)
		return -1;
	backing->hook = &hook;
	fail_writes = false;
	fail_at = 0;
	for (unsigned i = 0; i < 2 * LEVELS; i++)
		buffer[i / LEVELS][i % LEVELS] = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	space_root = space_root_format(BLOCKS);
	tree = (struct tree_root){ 0 };
	lsn = 1000;
	memset(&table, 0, sizeof table);
	return space_new(backing, queue, BLOCKS, SEED, space_root, &space);
}

static int tear_down(void **state)
{
	for (unsigned i = 0; i < 2 * LEVELS; i++)
		free(buffer[i / LEVELS][i % LEVELS]);
	space_free(space);
	ioq_free(queue);
	backing_close(backing);
	return unlink(path);
}

// ---- checks ---------------------------------------------------------------------------------

static void use_block(block_t block)
{
	assert_true(block > 0 && block < BLOCKS);
	if (used[block]++)
		fail_msg("block %lu used twice", (unsigned long)block);
}

static unsigned object_index(object_t id)
{
	unsigned i = 0;
	while (i < OBJECTS && object_id(i) != id)
		i++;
	assert_true(i < OBJECTS);
	return i;
}

static void check_extent(const struct node_item *item)
{
	const struct extent_disk *e = item->value;
	struct page_ref *page = found.page[object_index(item->key.object)];
	assert_true(extent_valid(item, BLOCKS));
	for (unsigned i = 0; i < e->pages; i++) {
		uint64_t number = item_key_rest(item->key) + i;
		assert_true(number < PAGES && !page[number].there);
		page[number] = (struct page_ref){ e->flags ? 0 : e->block + i, e->flags ? 0 : e->sum[i], e->birth, e->flags, true };
		if (e->flags == 0)
			use_block(e->block + i);
	}
}

static void check_item(const struct node_item *item)
{
	uint8_t value[ITEM_VALUE_MAX];
	unsigned o = object_index(item->key.object), rest = (unsigned)item_key_rest(item->key), t = 0;
	if (item_key_type(item->key) == ITEM_EXTENT) {
		check_extent(item);
		return;
	}
	while (t < TYPES && types[t] != item_key_type(item->key))
		t++;
	assert_true(t < TYPES && rest < RESTS);
	found.item[o][t][rest] = table.item[o][t][rest];
	assert_int_not_equal(table.item[o][t][rest].tag, 0);
	assert_int_equal(value_of(table.item[o][t][rest].tag, value), item->bytes);
	assert_memory_equal(value, item->value, item->bytes);
}

// Every node of the level, by its parents; well formed, and where its parent says.
static void check_nodes(struct node_ref ref, unsigned level, const struct item_key *first)
{
	const struct node_disk *n;
	assert_int_equal(fetch(buffer[1], ref, level, &n), 0);
	if (first != NULL)
		assert_true(item_key_equal(node_key(n, 0), *first));
	use_block(ref.block);
	nodes++;
	thin_nodes += node_used_bytes(n) < NODE_BODY_BYTES / 3;
	for (unsigned i = 0; level > 0 && i < node_count(n); i++) {
		struct item_key key = node_key(n, i);
		check_nodes(node_child(n, i), level - 1, &key);
	}
	if (level == 0) {
		leaves++;
		leaf_bytes += node_used_bytes(n);
	} else if (first == NULL) {
		assert_true(node_count(n) > 1); // no root of one child
	}
}

static void check_tree(void)
{
	struct item_key key = ITEM_KEY_MIN, last = ITEM_KEY_MIN;
	bool any = false;
	memset(&found, 0, sizeof found);
	memset(used, 0, sizeof used);
	nodes = leaves = thin_nodes = 0;
	leaf_bytes = 0;
	if (tree.ref.block != 0)
		check_nodes(tree.ref, tree.level, NULL);
	while (!item_key_equal(key, ITEM_KEY_MAX)) {
		const struct node_disk *leaf;
		assert_int_equal(tree_leaf(&tree, key, fetch, buffer[1], &leaf, &key), 0);
		for (unsigned i = 0; leaf != NULL && i < node_count(leaf); i++) {
			struct node_item item = node_item(leaf, i);
			assert_true(!any || item_key_compare(last, item.key) < 0);
			any = true;
			last = item.key;
			check_item(&item);
		}
	}
	assert_memory_equal(found.item, table.item, sizeof table.item);
	for (unsigned i = 0; i < OBJECTS * PAGES; i++) {
		const struct page_ref *a = &table.page[i / PAGES][i % PAGES], *b = &found.page[i / PAGES][i % PAGES];
		if (a->there != b->there || (a->there && (a->block != b->block || a->sum != b->sum ||
							  a->birth != b->birth || a->flags != b->flags)))
			fail_msg("page %u of object %u", i % PAGES, i / PAGES);
	}
}

static uint64_t taken_blocks, used_blocks;

static int check_taken(void *arg, block_t block, uint64_t count)
{
	taken_blocks += count;
	for (block_t b = block; b < block + count; b++)
		used_blocks += used[b];
	return 0;
}

// Taken in force = fixed + nodes + extents.
static void check_space(void)
{
	uint64_t all = 0;
	taken_blocks = used_blocks = 0;
	for (unsigned i = 0; i < BLOCKS; i++)
		all += used[i];
	assert_int_equal(space_for_each_taken(space, check_taken, NULL), 0);
	assert_int_equal(used_blocks, all);
	assert_int_equal(taken_blocks, all + space_fixed_blocks(BLOCKS));
	assert_int_equal(space_free_blocks(space), BLOCKS - taken_blocks);
}

static void check_lookups(void)
{
	uint8_t value[ITEM_VALUE_MAX];
	for (unsigned i = 0; i < 50; i++) {
		unsigned o = chance(OBJECTS), t = chance(TYPES), rest = chance(RESTS), below = rest, above = rest;
		struct item_key key = item_key(object_id(o), types[t], rest);
		struct item_ref *ref = table.item[o][t];
		struct node_item item;
		assert_int_equal(tree_get(&tree, key, fetch, buffer[1], &item), ref[rest].tag ? 0 : -ENOENT);
		if (ref[rest].tag)
			assert_int_equal(item.bytes, value_of(ref[rest].tag, value));
		while (below > 0 && !ref[below].tag)
			below--;
		int r = tree_floor(&tree, key, item_key(object_id(o), types[t], 0), fetch, buffer[1], &item);
		assert_int_equal(r, ref[below].tag ? 0 : -ENOENT);
		if (r == 0)
			assert_int_equal(item_key_rest(item.key), below);
		while (above < RESTS && !ref[above].tag)
			above++;
		r = tree_next(&tree, key, item_key(object_id(o), types[t], RESTS), fetch, buffer[1], &item);
		assert_int_equal(r, above < RESTS ? 0 : -ENOENT);
		if (r == 0)
			assert_int_equal(item_key_rest(item.key), above);
	}
}

// ---- epochs ---------------------------------------------------------------------------------

struct plan { // of a random epoch; odds in percent
	unsigned object, item, remove; // touched; of its items; of those, deleted
	unsigned extents;              // per object, up to
	unsigned drops, whole;         // objects dropped in
	bool abandon;
};

static struct fold *begin_fold(const struct fold_drop *drops, size_t drop_count)
{
	struct fold *f;
	lsn += 100;
	struct fold_config config = {
		.backing = backing, .queue = queue, .space = space, .seed = SEED, .old = tree, .birth = lsn + 1,
		.cut = lsn, .fetch = fetch, .fetch_arg = buffer[0], .drops = drops, .drop_count = drop_count,
	};
	space_begin(space);
	assert_int_equal(fold_new(&config, &f), 0);
	return f;
}

static void put_item(struct fold *f, unsigned o, unsigned t, unsigned rest, uint32_t tag)
{
	uint8_t value[ITEM_VALUE_MAX];
	struct item_key key = item_key(object_id(o), types[t], rest);
	table.item[o][t][rest].tag = tag;
	if (tag != 0)
		assert_int_equal(fold_put(f, key, value, value_of(tag, value)), 0);
	else
		assert_int_equal(fold_delete(f, key), 0);
}

static void put_pages(struct fold *f, unsigned o, page_t page, unsigned count, unsigned flags)
{
	uint64_t sums[EXTENT_PAGES_MAX], got = count;
	block_t block = 0;
	if (flags == 0)
		assert_int_equal(space_take(space, count, 0, &block, &got), 0);
	for (unsigned i = 0; i < got; i++) {
		sums[i] = (uint64_t)random();
		table.page[o][page + i] = (struct page_ref){ flags ? 0 : block + i, flags ? 0 : sums[i], lsn, flags, true };
	}
	assert_int_equal(fold_extent(f, object_id(o), page, (unsigned)got, block, sums, flags), 0);
}

static void push_items(struct fold *f, const struct plan *plan, unsigned o, unsigned t)
{
	for (unsigned rest = 0; rest < (t == 0 ? 1 : RESTS); rest++)
		if (chance(100) < plan->item)
			put_item(f, o, t, rest, chance(100) < plan->remove ? 0 : 1 + (uint32_t)random());
}

static void push_extents(struct fold *f, const struct plan *plan, unsigned o)
{
	unsigned left = plan->extents ? chance(plan->extents + 1) : 0;
	for (page_t page = chance(PAGES); left > 0 && page < PAGES; left--) {
		unsigned count = 1 + chance(chance(3) ? 5 : EXTENT_PAGES_MAX);
		count = count < PAGES - page ? count : (unsigned)(PAGES - page);
		put_pages(f, o, page, count, chance(8) ? 0 : EXTENT_POISONED);
		page += count + chance(40) * chance(2);
	}
}

static size_t plan_drops(const struct plan *plan, struct fold_drop *drops)
{
	size_t count = 0;
	for (unsigned o = 0; o < OBJECTS; o++) {
		page_t from = 0;
		if (chance(100) < plan->whole) {
			drops[count++] = (struct fold_drop){ object_id(o), 0, PAGE_MAX, lsn + 100, true };
			memset(table.item[o], 0, sizeof table.item[o]);
			memset(table.page[o], 0, sizeof table.page[o]);
		}
		while (chance(100) < plan->drops && from < PAGES) {
			page_t to = chance(4) ? from + 1 + chance(150) : UINT64_MAX;
			lsn_t l = chance(2) ? lsn - 100 * chance(10) : 900 + chance((unsigned)lsn - 700); // births, or between
			for (page_t p = from; p < to && p < PAGES; p++)
				if (table.page[o][p].birth < l)
					table.page[o][p] = (struct page_ref){ 0 };
			drops[count++] = (struct fold_drop){ object_id(o), from, to, l, false };
			from += chance(60);
		}
	}
	return count;
}

static void end_fold(struct fold *f, bool abandon)
{
	struct tree_root new_tree;
	struct space_root new_space;
	assert_int_equal(fold_finish(f, &new_tree), 0);
	assert_int_equal(space_write(space, &new_space), 0);
	ioq_wait_all(queue);
	assert_int_equal(fold_written(f), 0);
	assert_int_equal(space_written(space), 0);
	written = fold_nodes_written(f);
	fold_free(f);

	// Nothing of the old tree is touched before the switch.
	struct table *new_table = malloc(sizeof *new_table);
	*new_table = table;
	table = old_table;
	check_tree();
	check_space();
	if (abandon) {
		space_abandon(space);
		check_space();
	} else {
		table = *new_table;
		tree = new_tree;
		space_root = new_space;
		space_commit(space, space_root);
		check_tree();
		check_space();
	}
	free(new_table);
}

static void run_epoch(const struct plan *plan)
{
	static struct fold_drop drops[OBJECTS * 200];
	old_table = table;
	size_t count = plan_drops(plan, drops);
	struct fold *f = begin_fold(drops, count);
	for (unsigned o = 0; o < OBJECTS; o++) {
		if (chance(100) >= plan->object)
			continue;
		push_items(f, plan, o, 0);
		push_items(f, plan, o, 1);
		push_extents(f, plan, o);
		push_items(f, plan, o, 2);
	}
	end_fold(f, plan->abandon);
	check_lookups();
}

static void random_epochs_match_the_table(void **state)
{
	for (unsigned seed = 1; seed <= 3; seed++) {
		srandom(seed);
		for (unsigned e = 0; e < 60; e++) {
			struct plan plan = {
				.object = chance(3) ? 10 : 60, .item = chance(3) ? 5 : 60,
				.remove = e / 8 % 3 == 2 ? 80 : 20, .extents = chance(2) ? 3 : 20,
				.drops = chance(3) ? 0 : 15, .whole = chance(4) ? 0 : 10, .abandon = chance(5) == 0,
			};
			run_epoch(&plan);
		}
	}
}

static void drops_alone_are_worked_off(void **state)
{
	srandom(7);
	for (unsigned e = 0; e < 30; e++) {
		run_epoch(&(struct plan){ .object = 100, .item = 10, .extents = 10 });
		run_epoch(&(struct plan){ .drops = 30, .whole = e % 3 ? 0 : 20 });
	}
	run_epoch(&(struct plan){ .whole = 100 });
	assert_int_equal(tree.ref.block, 0);
}

static void tree_shrinks_to_nothing(void **state)
{
	srandom(8);
	for (unsigned e = 0; e < 10; e++)
		run_epoch(&(struct plan){ .object = 100, .item = 30, .extents = 5 });
	assert_true(tree.level >= 2);
	for (unsigned e = 0; e < 40; e++)
		run_epoch(&(struct plan){ .object = 50, .item = 50, .remove = 100, .drops = 20 });
	run_epoch(&(struct plan){ .object = 100, .item = 100, .remove = 100, .whole = 50 });
	run_epoch(&(struct plan){ .whole = 100 });
	assert_int_equal(tree.ref.block, 0);
	assert_int_equal(tree.level, 0);
	assert_int_equal(space_free_blocks(space), BLOCKS - space_fixed_blocks(BLOCKS));
}

static void assert_leaf_fill(unsigned percent)
{
	if (leaf_bytes * 100 < (size_t)percent * leaves * NODE_BODY_BYTES)
		fail_msg("%u leaves filled to %lu %%", leaves, (unsigned long)(leaf_bytes * 100 / leaves / NODE_BODY_BYTES));
}

static void random_inserts_leave_leaves_filled(void **state)
{
	srandom(9);
	for (unsigned e = 0; e < 150; e++)
		run_epoch(&(struct plan){ .object = 20, .item = 3 });
	assert_true(leaves > 100);
	assert_leaf_fill(50);
	assert_true(thin_nodes * 20 < nodes);
	for (unsigned e = 0; e < 150; e++) // down to a tenth
		run_epoch(&(struct plan){ .object = 20, .item = 8, .remove = 100 });
	assert_leaf_fill(33);
	assert_true(thin_nodes * 10 < nodes);
}

// All items of one leaf but one are deleted per epoch. Upwards the thin leaf is behind, downwards
// ahead of the next: neither way may they stay.
static void thin_leaves(bool upwards)
{
	static struct item_key bound[1000];
	unsigned count = 0;
	struct fold *f;
	old_table = table;
	f = begin_fold(NULL, 0);
	for (unsigned o = 0; o < OBJECTS; o++)
		for (unsigned rest = 0; rest < RESTS; rest++)
			put_item(f, o, 1, rest, 7 * 100 + 1);
	end_fold(f, false);
	while (count == 0 || !item_key_equal(bound[count], ITEM_KEY_MAX)) {
		const struct node_disk *leaf;
		assert_int_equal(tree_leaf(&tree, bound[count], fetch, buffer[1], &leaf, &bound[count + 1]), 0);
		count++;
	}
	assert_true(count > 50);
	for (unsigned i = 0; i < count; i++) {
		unsigned l = upwards ? i : count - 1 - i, kept = 0;
		old_table = table;
		f = begin_fold(NULL, 0);
		for (unsigned k = 0; k < OBJECTS * RESTS; k++) {
			struct item_key key = item_key(object_id(k / RESTS), types[1], k % RESTS);
			if (item_key_compare(key, bound[l]) >= 0 && item_key_compare(key, bound[l + 1]) < 0 && kept++ > 0)
				put_item(f, k / RESTS, 1, k % RESTS, 0);
		}
		end_fold(f, false);
	}
	assert_true(leaves < 8);
}

static void leaves_thinned_upwards_are_merged(void **state)
{
	thin_leaves(true);
}

static void leaves_thinned_downwards_are_merged(void **state)
{
	thin_leaves(false);
}

static void a_small_change_writes_one_path(void **state)
{
	srandom(10);
	for (unsigned e = 0; e < 5; e++)
		run_epoch(&(struct plan){ .object = 100, .item = 60, .extents = 5 });
	assert_true(tree.level >= 2);
	unsigned height = tree.level + 1;
	for (unsigned i = 0; i < 50; i++) {
		unsigned o = chance(OBJECTS), rest = chance(RESTS);
		old_table = table;
		struct fold *f = begin_fold(NULL, 0);
		put_item(f, o, 1, rest, 9);
		end_fold(f, false);
		assert_true(written >= tree.level + 1 && written <= 2 * height);
	}
}

static void an_empty_epoch_writes_nothing(void **state)
{
	srandom(11);
	run_epoch(&(struct plan){ 0 });
	assert_int_equal(written, 0);
	assert_int_equal(tree.ref.block, 0);
	run_epoch(&(struct plan){ .object = 100, .item = 50 });
	struct tree_root before = tree;
	run_epoch(&(struct plan){ 0 });
	assert_int_equal(written, 0);
	assert_memory_equal(&before.ref, &tree.ref, sizeof tree.ref);
}

// Each page rewritten on its own, then every other one dropped.
static void extents_are_split_page_by_page(void **state)
{
	old_table = table;
	struct fold *f = begin_fold(NULL, 0);
	for (page_t p = 0; p + 64 <= PAGES; p += 64)
		put_pages(f, 1, p, 64, 0);
	end_fold(f, false);
	for (unsigned step = 0; step < 3; step++) {
		old_table = table;
		f = begin_fold(NULL, 0);
		for (page_t p = step; p < PAGES; p += 2 + step)
			put_pages(f, 1, p, 1, p % 5 ? 0 : EXTENT_POISONED);
		end_fold(f, false);
	}
	struct fold_drop drops[PAGES];
	size_t count = 0;
	old_table = table;
	for (page_t p = 0; p < PAGES; p += 2) {
		drops[count++] = (struct fold_drop){ object_id(1), p, p + 1, LSN_MAX, false };
		table.page[1][p] = (struct page_ref){ 0 };
	}
	end_fold(begin_fold(drops, count), false);
}

// ---- what must be refused or reported -------------------------------------------------------

static void keys_must_ascend(void **state)
{
	uint64_t sums[64] = { 0 };
	for (unsigned c = 0; c < 7; c++) {
		struct fold *f = begin_fold(NULL, 0);
		assert_int_equal(fold_put(f, item_key(20, ITEM_DIRENT, 5), "x", 1), 0);
		assert_int_equal(fold_extent(f, 20, 10, 64, 5000, sums, 0), 0);
		int r = 0;
		switch (c) {
		case 0: r = fold_put(f, item_key(20, ITEM_DIRENT, 6), "x", 1); break;
		case 1: r = fold_delete(f, item_key(20, ITEM_INODE, 0)); break;
		case 2: r = fold_extent(f, 20, 73, 1, 6000, sums, 0); break;
		case 3: r = fold_extent(f, 20, 80, 65, 6000, sums, 0); break;
		case 4: r = fold_extent(f, 20, PAGE_MAX, 2, 6000, sums, 0); break;
		case 5: r = fold_put(f, item_key(21, ITEM_EXTENT, 5), "x", 1); break;
		case 6: r = fold_put(f, ITEM_KEY_MAX, "x", 1); break;
		}
		assert_int_equal(r, -EINVAL);
		struct tree_root root = tree;
		assert_int_equal(fold_finish(f, &root), -EINVAL); // void from there on
		ioq_wait_all(queue);
		fold_free(f);
		space_abandon(space);
	}
}

static void failed_writes_are_reported(void **state)
{
	struct tree_root root;
	fail_writes = true;
	struct fold *f = begin_fold(NULL, 0);
	assert_int_equal(fold_put(f, item_key(20, ITEM_DIRENT, 5), "x", 1), 0);
	assert_int_equal(fold_finish(f, &root), 0);
	ioq_wait_all(queue);
	assert_int_equal(fold_written(f), -EIO);
	fold_free(f);
	space_abandon(space);
}

static int fold_something(struct fold *f)
{
	uint64_t sums[2] = { 0 };
	int r = 0;
	for (unsigned o = 0; o < OBJECTS && r == 0; o += 5) {
		r = fold_put(f, item_key(object_id(o), ITEM_INODE, 0), "abc", 3);
		if (r == 0)
			r = fold_extent(f, object_id(o), 50, 2, 0, sums, EXTENT_POISONED);
	}
	return r;
}

// The n-th I/O of an epoch fails, for every n; the file system is as before, and the next epoch is good.
static void any_failing_io_leaves_the_old_tree(void **state)
{
	unsigned failures = 0;
	srandom(12);
	for (unsigned e = 0; e < 4; e++)
		run_epoch(&(struct plan){ .object = 100, .item = 60, .extents = 5 });
	for (bool good = false; !good; failures++) {
		struct fold_drop drop = { object_id(7), 0, PAGES, LSN_MAX, false };
		struct tree_root root;
		struct space_root unused;
		space_free(space); // so that nothing is cached
		assert_int_equal(space_new(backing, queue, BLOCKS, SEED, space_root, &space), 0);
		struct fold *f = begin_fold(&drop, 1);
		fail_at = failures + 1;
		int r = fold_something(f), again = fold_finish(f, &root);
		assert_true(r == 0 || again == r);
		good = again == 0 && space_write(space, &unused) == 0;
		ioq_wait_all(queue);
		good = good && fold_written(f) == 0 && space_written(space) == 0 && fail_at > 0;
		fail_at = 0;
		fold_free(f);
		space_abandon(space);
		space_begin(space); // reads again what could not be read
		space_abandon(space);
		check_tree();
		check_space();
	}
	assert_true(failures > 20);
	run_epoch(&(struct plan){ .object = 50, .item = 20, .extents = 5 });
}

// Takes a block and begins a node there, for trees made by hand.
static struct node_disk *plant_node(unsigned i, unsigned level)
{
	block_t block;
	uint64_t got;
	assert_int_equal(space_take(space, 1, 0, &block, &got), 0);
	node_init(buffer[1][i], level, block, lsn);
	return buffer[1][i];
}

static struct node_ref write_planted(const struct node_disk *n)
{
	assert_int_equal(ioq_write(queue, n->block, n, 1, false), 0);
	return (struct node_ref){ n->block, n->birth, node_sum(n, SEED) };
}

static void plant_root(const struct node_disk *n)
{
	tree = (struct tree_root){ write_planted(n), n->level };
	assert_int_equal(space_write(space, &space_root), 0);
	ioq_wait_all(queue);
	space_commit(space, space_root);
}

static void plant_leaf(const struct node_item *item, unsigned count)
{
	space_begin(space);
	struct node_disk *n = plant_node(0, 0);
	for (unsigned i = 0; i < count; i++)
		assert_true(node_add_item(n, item[i].key, item[i].value, item[i].bytes));
	plant_root(n);
}

// Two chains of inner nodes down to a leaf of one item each; one item goes, and its chain.
static void root_of_one_child_is_replaced_by_it(void **state)
{
	for (unsigned gone = 0; gone < 2; gone++) {
		space_begin(space);
		struct node_disk *root = plant_node(8, 3);
		for (unsigned o = 1; o <= 2; o++) {
			uint8_t value[ITEM_VALUE_MAX];
			struct item_key key = item_key(object_id(o), types[1], 3);
			struct node_disk *n = plant_node(0, 0);
			table.item[o][1][3].tag = 5;
			node_add_item(n, key, value, value_of(5, value));
			struct node_ref ref = write_planted(n);
			for (unsigned level = 1; level <= 2; level++) {
				n = plant_node(0, level);
				node_add_child(n, key, ref);
				ref = write_planted(n);
			}
			node_add_child(root, key, ref);
		}
		plant_root(root);
		check_tree();
		old_table = table;
		struct fold *f = begin_fold(NULL, 0);
		put_item(f, 1 + gone, 1, 3, 0);
		end_fold(f, false);
		assert_int_equal(tree.level, 0);
		assert_int_equal(leaves, 1);
		old_table = table;
		f = begin_fold(NULL, 0);
		put_item(f, 2 - gone, 1, 3, 0);
		end_fold(f, false);
		assert_int_equal(tree.ref.block, 0);
	}
}

static void damaged_extents_are_refused(void **state)
{
	struct {
		struct extent_disk disk;
		uint64_t room[8];
	} good = { .disk = { 5000, 1, 8, 0 } }, beyond = { .disk = { BLOCKS - 7, 1, 8, 0 } };
	struct node_item cases[][2] = {
		{ { item_key(20, ITEM_EXTENT, 0), &good, 88 }, { item_key(20, ITEM_EXTENT, 7), &good, 88 } }, // overlap
		{ { item_key(20, ITEM_EXTENT, 0), &good, 80 }, { item_key(20, ITEM_EXTENT, 8), &good, 88 } },
		{ { item_key(20, ITEM_EXTENT, 0), &good, 88 }, { item_key(20, ITEM_EXTENT, 8), &beyond, 88 } },
		{ { item_key(20, ITEM_EXTENT, 0), "", 0 }, { item_key(20, ITEM_EXTENT, 8), &good, 88 } },
	};
	for (unsigned c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		struct tree_root root;
		plant_leaf(cases[c], 2);
		struct fold *f = begin_fold(NULL, 0);
		(void)fold_put(f, item_key(30, ITEM_DIRENT, 5), "x", 1);
		assert_int_equal(fold_finish(f, &root), -EUCLEAN);
		ioq_wait_all(queue);
		fold_free(f);
		space_abandon(space);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(random_epochs_match_the_table),
		TEST(drops_alone_are_worked_off),
		TEST(tree_shrinks_to_nothing),
		TEST(random_inserts_leave_leaves_filled),
		TEST(leaves_thinned_upwards_are_merged),
		TEST(leaves_thinned_downwards_are_merged),
		TEST(root_of_one_child_is_replaced_by_it),
		TEST(a_small_change_writes_one_path),
		TEST(an_empty_epoch_writes_nothing),
		TEST(extents_are_split_page_by_page),
		TEST(keys_must_ascend),
		TEST(failed_writes_are_reported),
		TEST(any_failing_io_leaves_the_old_tree),
		TEST(damaged_extents_are_refused),
	};
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
