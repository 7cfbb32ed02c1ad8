// SPDX-License-Identifier: GPL-2.0-or-later
// A repair's epoch: what is taken is told by the check, and not by the maps in force, of which some may be
// damaged or wrong. Slots in force are not written, as in any epoch; below a table that cannot be read none
// can be told from the other, and none is of use.
#include "space_impl.h"
#include <string.h>

void space_begin_anew(struct space *s, space_taken_fn taken, const void *arg)
{
	s->losts = 0;
	space_begin(s);
	s->taken = taken;
	s->taken_arg = arg;
	if (s->layout.levels == 0)
		s->avail = space_full(&s->layout, 0, 0); // until the one bitmap is there
}

// Is the bitmap in force like that already?
static bool group_is(struct space *s, uint64_t index, const uint64_t *bits)
{
	uint64_t now[GROUP_WORDS];
	return part_read(s, 0, index, part_entry(s, 0, index), now) == 0 && memcmp(now, bits, sizeof now) == 0;
}

int space_write_anew(struct space *s, space_taken_fn taken, const void *arg, struct space_root *ret_root)
{
	uint64_t bits[GROUP_WORDS];
	int r = 0;
	for (uint64_t index = 0; r == 0 && index < s->layout.groups; index++) {
		r = part_load_path(s, 0, index);
		taken(arg, index, bits);
		if (r == 0 && !group_is(s, index, bits))
			r = part_write(s, 0, index, bits, bits_clear_count(bits));
	}
	if (r == 0)
		r = space_write_tables(s);
	if (r == 0)
		*ret_root = s->next;
	return r;
}
