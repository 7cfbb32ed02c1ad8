// SPDX-License-Identifier: GPL-2.0-or-later
// A frame that a reader may still look at is not used again, whichever way it has left.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "tier.h"

#define TIER_BYTES (UINT64_C(2) << 20)

static struct grace grace;
static struct media *media;
static struct tier *tier;

static int setup(void **state)
{
	struct tier_geometry g;
	grace_init(&grace);
	assert_int_equal(media_open_dram(TIER_BYTES, &media), 0);
	assert_int_equal(tier_geometry_for(TIER_BYTES, 1, &g), 0);
	assert_int_equal(tier_new(media, &grace, &g, 1, &tier), 0);
	for (frame_t f = 0; f < tier->frames; f++)
		frames_return(tier, &f, 1);
	return 0;
}

static int teardown(void **state)
{
	tier_free(tier);
	media_close(media);
	return 0;
}

static void retired(frame_t f)
{
	frames_retire(tier, &f, 1);
}

static void slot_freed_last(frame_t f)
{
	atomic_store(&tier->frame[f].state, FRAME_LIMBO | FRAME_KEPT);
	frame_release(tier, f);
	frame_slot_freed(tier, f);
}

static void released_last(frame_t f)
{
	atomic_store(&tier->frame[f].state, FRAME_LIMBO | FRAME_KEPT);
	frame_slot_freed(tier, f);
	frame_release(tier, f);
}

static void cleaned_last(frame_t f)
{
	atomic_store(&tier->frame[f].state, FRAME_LIMBO | FRAME_KEPT);
	frame_slot_freed(tier, f);
	frame_set_clean(tier, f);
}

static void a_frame_outlives_its_readers(void **state)
{
	void (*const leave[])(frame_t) = { retired, slot_freed_last, released_last, cleaned_last };
	struct grace_reader *reader = grace_register(&grace), *late = grace_register(&grace);
	for (unsigned i = 0; i < sizeof leave / sizeof leave[0]; i++) {
		frame_t f;
		uint32_t before = frames_free_count(tier);
		assert_true(frames_claim(tier, 1, 0, &f));
		grace_enter(&grace, reader);
		leave[i](f);
		frames_poll(tier);
		grace_enter(&grace, late); // it has not seen the frame
		assert_int_equal(frames_free_count(tier), before - 1);
		grace_leave(reader);
		frames_poll(tier);
		assert_int_equal(frames_free_count(tier), before);
		grace_leave(late);
	}
	grace_unregister(reader);
	grace_unregister(late);
}

static void one_hold_is_enough(void **state)
{
	frame_t f;
	uint32_t before = frames_free_count(tier);
	assert_true(frames_claim(tier, 1, 0, &f));
	atomic_store(&tier->frame[f].state, FRAME_LIMBO | FRAME_KEPT);
	frame_slot_freed(tier, f);
	frames_poll(tier);
	assert_int_equal(frames_free_count(tier), before - 1);
	frame_release(tier, f);
	frames_poll(tier);
	assert_int_equal(frames_free_count(tier), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_frame_outlives_its_readers, setup, teardown),
		cmocka_unit_test_setup_teardown(one_hold_is_enough, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
