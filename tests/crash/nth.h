// SPDX-License-Identifier: GPL-2.0-or-later
// Failures by number: the Nth allocation (and what else takes memory from the system: mappings, threads,
// rings), or the Nth I/O of a kind. The executable is linked with --wrap for the former (meson.build).
#ifndef CRASH_NTH_H
#define CRASH_NTH_H

#include "backing.h"

#define NTH_SITES_MAX 256u

struct nth_site { // a place in the code that allocates
	const void *place; // where the call returns to
	uint64_t calls;
};

// Calls are counted from 1 on, from arming; those from `first` on, `count` of them, fail: of all, or of
// one place (not NULL).
void nth_arm_alloc(const void *place, uint64_t first, uint64_t count);
// I/O of a kind (r, w, W, f), likewise, with EIO.
void nth_arm_io(char kind, uint64_t first, uint64_t count);
void nth_disarm(void);
uint64_t nth_failures(void);  // since armed
uint64_t nth_calls(void);     // that counted
// Places seen since armed, at most NTH_SITES_MAX; the number of them.
unsigned nth_sites(struct nth_site *ret_sites);
extern const struct backing_hook nth_hook;

#endif
