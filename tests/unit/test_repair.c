// SPDX-License-Identifier: GPL-2.0-or-later
// The repair: each damage that the check finds is done to a copy of the images and repaired. A second check
// finds nothing but what has to stay, what was not told as lost is as it was, and the pair mounts and works.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "repair_world.h"
#include "walk.h"

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

static block_t nodes[512]; // of the undamaged images
static unsigned node_total;

static void list_nodes(struct node_disk *n)
{
	assert_true(node_total < sizeof nodes / sizeof nodes[0]);
	nodes[node_total++] = n->block;
	for (unsigned i = 0; n->level > 0 && i < node_count(n); i++)
		list_nodes(block_at(node_child(n, i).block));
}

// ---- what the tier has a copy of ----------------------------------------------------------------------------

static unsigned count_copied(void)
{
	unsigned copied = 0;
	for (unsigned i = 0; i < founds; i++)
		copied += found[i].copied;
	return copied;
}

// Nothing is lost then, nor anything left to find; of blocks without a copy `stay` says what is.
static void repair_with_copy(block_t block, unsigned dirty, unsigned *copied)
{
	images_put(warm_image[dirty][0], warm_image[dirty][1]);
	struct view before = view_now();
	((uint8_t *)block_at(block))[PAGE_BYTES - 1] ^= 1;
	put_case();
	int r = run_repair(false);
	if (count_copied()) {
		++*copied;
		assert_int_equal(founds, 1);
		assert_int_equal(stay, 0);
		assert_int_equal(r, 1);
		founds = 0;
		assert_kept("copy", &before); // nothing was told
		assert_int_equal(check_again(), 0);
		assert_int_equal(founds, 0);
		assert_works("copy");
	}
	view_free(&before);
}

static void test_copies_in_the_tier_are_taken(void **state)
{
	for (unsigned dirty = 0; dirty < 2; dirty++) {
		unsigned copied = 0;
		images_put(warm_image[dirty][0], warm_image[dirty][1]);
		node_total = 0;
		list_nodes(root_node());
		for (unsigned i = 0; i < node_total; i++)
			repair_with_copy(nodes[i], dirty, &copied);
		assert_true(copied > 2);
		images_put(warm_image[dirty][0], warm_image[dirty][1]);
		copied = 0;
		for (page_t page = 0; page < 6; page++)
			repair_with_copy(extent_of(big, 0)->block + page, dirty, &copied);
		assert_true(copied > 2);
	}
}

// It is what its checksum says, or it is no copy.
static void test_damaged_copy_is_not_taken(void **state)
{
	struct store *s;
	images_put(warm_image[0][0], warm_image[0][1]);
	block_t root = super()->root_block, page = extent_of(big, 0)->block;
	assert_int_equal(open_for(false, &s), 0);
	for (frame_t f = 0; f < s->tier->frames; f++)
		tier[(uint8_t *)tier_frame_data(s->tier, f) - s->media->base] ^= 1;
	store_close(s);
	((uint8_t *)block_at(root))[PAGE_BYTES - 1] ^= 1;
	((uint8_t *)block_at(page))[PAGE_BYTES - 1] ^= 1;
	put_case();
	assert_int_equal(check_again(), 0);
	assert_int_equal(count_copied(), 0);
	assert_true(has(CHECK_RANGE_LOST));
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

// A page that the repair drops, and of which the tier has a copy.
static void damage_page_behind(void)
{
	unsigned i = 0;
	while (strcmp(meanings[i].name, "page behind"))
		i++;
	put_case();
	assert_int_equal(store_open(&config, &store), 0);
	assert_int_equal(lane_new(store, &lane), 0);
	assert_int_equal(RUN(meanings[i].change(op)), 0);
	lane_free(lane);
	assert_int_equal(store_close(store), 0);
	images_take(tier, backing);
}

// After a cut at each write, the pair is as it was or repaired: repaired then, nothing more is lost. As soon as the
// first superblock is there, nothing is left to do.
static void power_cut_at_any_write(const uint8_t *from_tier, const uint8_t *from_backing, void (*damage)(void))
{
	images_put(from_tier, from_backing);
	struct view before = view_now();
	int r = -EIO;
	for (int cut = 0; r != 1; cut++) {
		images_put(from_tier, from_backing);
		damage();
		put_case();
		uint64_t epoch = super()->epoch;
		writes_left = cut;
		r = run_repair(false);
		writes_left = -1;
		assert_true(r == 1 || r == -EIO);
		assert_kept("cut", &before);
		images_take(tier, backing);
		if (super()->epoch > epoch)
			assert_only_stays("superblock");
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
	for (unsigned dirty = 0; dirty < 2; dirty++) { // whose only copies are in the tier until the new tree is in force
		power_cut_at_any_write(warm_image[dirty][0], warm_image[dirty][1], damage_some_leaf);
		power_cut_at_any_write(warm_image[dirty][0], warm_image[dirty][1], damage_leaf_of_extents);
		power_cut_at_any_write(warm_image[dirty][0], warm_image[dirty][1], damage_data);
		power_cut_at_any_write(warm_image[dirty][0], warm_image[dirty][1], damage_page_behind);
	}
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
		cmocka_unit_test(test_copies_in_the_tier_are_taken),
		cmocka_unit_test(test_damaged_copy_is_not_taken),
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
