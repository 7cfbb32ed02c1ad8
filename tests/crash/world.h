// SPDX-License-Identifier: GPL-2.0-or-later
// A store under a workload and an adversary, and what is done at a crash: the images that it could
// leave are opened, compared with the model, worked on and crashed again.
#ifndef CRASH_WORLD_H
#define CRASH_WORLD_H

#include "adversary.h"
#include "model.h"

#define DRIVERS_MAX 4u

struct settings {
	uint64_t seed;
	unsigned tier_mib, backing_mib, drivers, steps;
	unsigned objects, pages; // of each driver, at most
	bool many_items;         // rather than pages
	bool serial;             // wait for the background after each step: the seed replays it all
	bool faults;             // writes and flushes fail now and then
	unsigned crash_every;    // events, on average
	unsigned nested;         // depth of crashes after crashes
	uint64_t states_max;     // of the process
	uint64_t only_event;     // crash there alone (0: no)
	int broken;              // enum order; -1: none
	bool trace, keep;
};

// Of the process.
struct tally {
	_Atomic uint64_t states, lost_tier, killed, nested, in_flight, checked, commits, epochs, events, reads, read_only, broken;
	_Atomic bool failed;
	char text[1024]; // the first failure
};
extern struct tally tally;

// One workload from a blank pair to its end, with crashes. Stops at the first failure.
void world_run(const struct settings *settings);

#endif
