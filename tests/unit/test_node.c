// SPDX-License-Identifier: GPL-2.0-or-later
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"
#include "walk.h"

#define BLOCK 100u
#define BIRTH 50u

static struct node_disk node;

static struct item_key key(uint64_t i)
{
	return item_key(20 + i / 8, ITEM_DIRENT, i % 8 * 1000);
}

// Fills with items 0, 1, ... of i * 37 % (limit + 1) bytes until one has no room.
static unsigned fill_leaf(struct node_disk *n, unsigned limit)
{
	uint8_t value[ITEM_VALUE_MAX];
	unsigned i = 0;
	node_init(n, 0, BLOCK, BIRTH);
	for (;; i++) {
		memset(value, (int)i, sizeof value);
		if (!node_add_item(n, key(i), value, i * 37 % (limit + 1)))
			return i;
	}
}

static unsigned fill_inner(struct node_disk *n, unsigned level)
{
	unsigned i = 0;
	node_init(n, level, BLOCK, BIRTH);
	while (node_add_child(n, key(i), (struct node_ref){ 1000 + i, i % BIRTH, i * 7 }))
		i++;
	return i;
}

static void leaf_returns_what_was_added(void **state)
{
	static const unsigned limits[] = { 0, 1, 8, 100, 1024 };
	for (unsigned l = 0; l < sizeof limits / sizeof limits[0]; l++) {
		unsigned count = fill_leaf(&node, limits[l]);
		size_t used = 0;
		assert_true(node_valid(&node, 0, BLOCK, BIRTH));
		assert_true(node_valid(&node, -1, BLOCK, BIRTH));
		assert_int_equal(node_count(&node), count);
		for (unsigned i = 0; i < count; i++) {
			struct node_item item = node_item(&node, i);
			assert_true(item_key_equal(item.key, key(i)) && item_key_equal(node_key(&node, i), key(i)));
			assert_int_equal(item.bytes, i * 37 % (limits[l] + 1));
			for (size_t b = 0; b < item.bytes; b++)
				assert_int_equal(((const uint8_t *)item.value)[b], (uint8_t)i);
			used += LEAF_ITEM_BYTES(item.bytes);
		}
		assert_int_equal(node_used_bytes(&node), used);
		assert_true(used <= NODE_BODY_BYTES && used + LEAF_ITEM_BYTES(ITEM_VALUE_MAX) > NODE_BODY_BYTES);
	}
}

static void inner_returns_what_was_added(void **state)
{
	unsigned count = fill_inner(&node, 3);
	assert_int_equal(count, NODE_BODY_BYTES / sizeof(struct inner_entry_disk));
	assert_true(node_valid(&node, 3, BLOCK, BIRTH));
	for (unsigned i = 0; i < count; i++) {
		struct node_ref ref = node_child(&node, i);
		assert_true(item_key_equal(node_key(&node, i), key(i)));
		assert_true(ref.block == 1000 + i && ref.birth == i % BIRTH && ref.sum == i * 7);
	}
}

static void search_finds_bounds_and_children(void **state)
{
	unsigned count = fill_inner(&node, 1);
	for (unsigned i = 0; i < count; i++) {
		struct item_key after = key(i);
		after.sub++;
		assert_int_equal(node_lower_bound(&node, key(i)), i);
		assert_int_equal(node_lower_bound(&node, after), i + 1);
		assert_int_equal(node_child_for(&node, key(i)), i);
		assert_int_equal(node_child_for(&node, after), i);
	}
	assert_int_equal(node_lower_bound(&node, ITEM_KEY_MIN), 0);
	assert_int_equal(node_child_for(&node, ITEM_KEY_MIN), 0);
	assert_int_equal(node_lower_bound(&node, ITEM_KEY_MAX), count);
	assert_int_equal(node_child_for(&node, ITEM_KEY_MAX), count - 1);
}

static void oversized_values_are_refused(void **state)
{
	uint8_t value[ITEM_VALUE_MAX + 1] = { 0 };
	node_init(&node, 0, BLOCK, BIRTH);
	assert_false(node_add_item(&node, key(0), value, sizeof value));
	assert_true(node_add_item(&node, key(0), value, ITEM_VALUE_MAX));
}

static void checksum_has_the_block_in_it(void **state)
{
	fill_leaf(&node, 100);
	uint64_t sum = node_sum(&node, 1);
	assert_int_not_equal(sum, node_sum(&node, 2));
	node.block++;
	assert_int_not_equal(sum, node_sum(&node, 1));
}

static struct leaf_entry_disk *leaf_entry(unsigned i)
{
	return (struct leaf_entry_disk *)node.body + i;
}

static struct inner_entry_disk *inner_entry(unsigned i)
{
	return (struct inner_entry_disk *)node.body + i;
}

// Each case damages one thing that no reader may rely on.
static void damaged_leaves_are_refused(void **state)
{
	for (unsigned c = 0;; c++) {
		unsigned count = fill_leaf(&node, 300), last = count - 1;
		switch (c) {
		case 0: node.magic++; break;
		case 1: node.level = 1; break;
		case 2: node.level = 16; break;
		case 3: node.count = 0; break;
		case 4: node.count++; break;
		case 5: node.count--; break;
		case 6: node.count = UINT16_MAX; break;
		case 7: node.block++; break;
		case 8: node.birth++; break;
		case 9: node.value_bytes += 8; break;
		case 10: node.value_bytes = UINT32_MAX; break;
		case 11: node.reserved = 1; break;
		case 12: leaf_entry(1)->offset += 8; break;
		case 13: leaf_entry(0)->offset = PAGE_BYTES; leaf_entry(0)->bytes = 8; break;
		case 14: leaf_entry(last)->bytes = UINT16_MAX; break;
		case 15: leaf_entry(last)->offset = 0; break;
		case 16: leaf_entry(2)->reserved = 1; break;
		case 17: *leaf_entry(1) = *leaf_entry(0); break;
		case 18: leaf_entry(1)->object = 0; break;
		case 19: leaf_entry(last)->object = leaf_entry(last - 1)->object; leaf_entry(last)->sub = 0; break;
		default: return;
		}
		if (node_valid(&node, -1, BLOCK, BIRTH) && node_valid(&node, 0, BLOCK, BIRTH))
			fail_msg("case %u passed", c);
	}
}

static void damaged_inner_nodes_are_refused(void **state)
{
	for (unsigned c = 0;; c++) {
		fill_inner(&node, 2);
		switch (c) {
		case 0: node.count++; break;
		case 1: node.count = 0; break;
		case 2: node.level = 0; break;
		case 3: node.level = 3; break;
		case 4: node.value_bytes = 8; break;
		case 5: inner_entry(5)->block = 0; break;
		case 6: inner_entry(5)->block = BLOCK; break; // a loop
		case 7: inner_entry(5)->birth = BIRTH + 1; break;
		case 8: inner_entry(5)->sub = inner_entry(4)->sub; inner_entry(5)->object = inner_entry(4)->object; break;
		default: return;
		}
		if (node_valid(&node, 2, BLOCK, BIRTH))
			fail_msg("case %u passed", c);
	}
}

// Nothing that a node may contain makes validation read outside it (under the address sanitizer).
static void random_bytes_are_survived(void **state)
{
	struct node_disk *n = malloc(sizeof *n);
	srandom(1);
	for (unsigned round = 0; round < 20000; round++) {
		fill_leaf(&node, 200);
		memcpy(n, &node, sizeof *n);
		for (unsigned flips = 1 + (unsigned)random() % 3; flips > 0; flips--)
			((uint8_t *)n)[(unsigned)random() % 600] ^= (uint8_t)(1 << random() % 8);
		if (node_valid(n, -1, n->block, n->birth) && n->level == 0)
			for (unsigned i = 0; i < node_count(n); i++) {
				struct node_item item = node_item(n, i);
				assert_true((const uint8_t *)item.value + item.bytes <= (const uint8_t *)n + PAGE_BYTES);
			}
	}
	free(n);
}

// ---- walks over a root and one child ----------------------------------------------------------

static struct node_disk leaf[2];
static int fetch_error;

static int fetch(void *arg, struct node_ref ref, unsigned level, const struct node_disk **ret_node)
{
	if (fetch_error < 0 && level == 0)
		return fetch_error;
	*ret_node = level == 1 ? &node : &leaf[ref.block - 1];
	return 0;
}

// Leaves of keys 10, 20, 30 and 40, 50, 60.
static struct tree_root two_leaves(void)
{
	node_init(&node, 1, BLOCK, BIRTH);
	for (unsigned i = 0; i < 2; i++) {
		node_init(&leaf[i], 0, i + 1, BIRTH);
		for (unsigned k = 0; k < 3; k++)
			node_add_item(&leaf[i], item_key(1, ITEM_DIRENT, 10 * (3 * i + k + 1)), "v", 1);
		node_add_child(&node, node_key(&leaf[i], 0), (struct node_ref){ i + 1, BIRTH, 0 });
	}
	fetch_error = 0;
	return (struct tree_root){ { BLOCK, BIRTH, 0 }, 1 };
}

static void walks_find_the_neighbours(void **state)
{
	struct tree_root root = two_leaves();
	for (unsigned rest = 0; rest <= 70; rest++) {
		struct item_key k = item_key(1, ITEM_DIRENT, rest), least = item_key(1, ITEM_DIRENT, 15),
				most = item_key(1, ITEM_DIRENT, 55);
		struct node_item item;
		unsigned below = rest / 10 * 10 > 60 ? 60 : rest / 10 * 10, above = (rest + 9) / 10 * 10;
		bool there = rest % 10 == 0 && rest >= 10 && rest <= 60;
		assert_int_equal(tree_get(&root, k, fetch, NULL, &item), there ? 0 : -ENOENT);
		assert_int_equal(tree_floor(&root, k, least, fetch, NULL, &item), below >= 20 ? 0 : -ENOENT);
		if (below >= 20)
			assert_int_equal(item_key_rest(item.key), below);
		above = above < 10 ? 10 : above;
		assert_int_equal(tree_next(&root, k, most, fetch, NULL, &item), above <= 50 ? 0 : -ENOENT);
		if (above <= 50)
			assert_int_equal(item_key_rest(item.key), above);
	}
}

static void walks_pass_errors_on(void **state)
{
	struct tree_root root = two_leaves(), empty = { 0 };
	struct node_item item;
	const struct node_disk *n = &node;
	struct item_key next;
	fetch_error = -EREMOTEIO;
	assert_int_equal(tree_get(&root, ITEM_KEY_MIN, fetch, NULL, &item), -EREMOTEIO);
	assert_int_equal(tree_next(&root, ITEM_KEY_MIN, ITEM_KEY_MAX, fetch, NULL, &item), -EREMOTEIO);
	assert_int_equal(tree_leaf(&empty, ITEM_KEY_MIN, fetch, NULL, &n, &next), 0);
	assert_true(n == NULL && item_key_equal(next, ITEM_KEY_MAX));
	assert_int_equal(tree_get(&empty, ITEM_KEY_MIN, fetch, NULL, &item), -ENOENT);
}

static void walks_refuse_children_out_of_order(void **state)
{
	for (unsigned c = 0; c < 4; c++) {
		struct tree_root root = two_leaves();
		struct node_item item;
		if (c == 0)
			inner_entry(0)->sub--;
		else if (c == 1)
			inner_entry(0)->sub++;
		else if (c == 2)
			inner_entry(1)->sub = node_key(&leaf[0], 2).sub; // overlaps the first leaf
		else
			root.level = 16;
		assert_int_equal(tree_get(&root, node_key(&leaf[0], 1), fetch, NULL, &item), -EUCLEAN);
	}
}

static void extents_are_checked(void **state)
{
	uint64_t room[3 + EXTENT_PAGES_MAX + 1] = { 0 };
	struct extent_disk *e = (struct extent_disk *)room;
	static const struct {
		block_t block;
		uint32_t pages, flags;
		page_t page;
		size_t sums;
		bool good;
	} cases[] = {
		{ 10, 1, 0, 0, 1, true },
		{ 10, 64, 0, 5, 64, true },
		{ 936, 64, 0, 5, 64, true },
		{ 0, 64, EXTENT_POISONED, 5, 0, true },
		{ 0, 64, EXTENT_UNWRITTEN, 5, 0, true },
		{ 10, 2, 0, PAGE_MAX - 1, 2, true },
		{ 10, 2, 0, PAGE_MAX, 2, false },
		{ 10, 2, 0, ITEM_REST_MAX, 2, false },
		{ 0, 1, 0, 0, 1, false },
		{ 10, 0, 0, 0, 0, false },
		{ 10, 65, 0, 0, 65, false },
		{ 10, 2, 0, 0, 1, false },
		{ 10, 2, 0, 0, 3, false },
		{ 937, 64, 0, 5, 64, false },
		{ UINT64_MAX, 2, 0, 5, 2, false },
		{ 10, 2, EXTENT_POISONED, 5, 0, false },
		{ 0, 2, EXTENT_POISONED, 5, 2, false },
		{ 0, 2, 4, 5, 0, false },
		{ 0, 2, 3, 5, 0, false },
	};
	for (unsigned c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		*e = (struct extent_disk){ cases[c].block, 7, cases[c].pages, cases[c].flags };
		struct node_item item = { item_key(20, ITEM_EXTENT, cases[c].page), e, sizeof *e + 8 * cases[c].sums };
		if (extent_valid(&item, 1000) != cases[c].good)
			fail_msg("case %u", c);
		item.bytes = 8;
		assert_false(extent_valid(&item, 1000));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leaf_returns_what_was_added),
		cmocka_unit_test(inner_returns_what_was_added),
		cmocka_unit_test(search_finds_bounds_and_children),
		cmocka_unit_test(oversized_values_are_refused),
		cmocka_unit_test(checksum_has_the_block_in_it),
		cmocka_unit_test(damaged_leaves_are_refused),
		cmocka_unit_test(damaged_inner_nodes_are_refused),
		cmocka_unit_test(random_bytes_are_survived),
		cmocka_unit_test(walks_find_the_neighbours),
		cmocka_unit_test(walks_pass_errors_on),
		cmocka_unit_test(walks_refuse_children_out_of_order),
		cmocka_unit_test(extents_are_checked),
	};
	log_quiet(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
