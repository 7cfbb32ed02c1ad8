// SPDX-License-Identifier: GPL-2.0-or-later
// Every state that a crash can leave of a small workload on a file system. Each image is checked in full and
// compared with the model read-only; then mounted, compared, used, and at times crashed again on the way.
//
// A state has a name, from which it is made again: all happens in one order, however busy the machine is.
//
//	write-cold,sync@41:x5            the actions; the number of the event; the fifth of the states then
//	write-cold,sync@41:s77-lost      a sampled one, by its seed; without the tier
//	punch@12:k@3:x1                  killed; mounted, and cut at the third event of that
#ifndef CRASH_EXPLORER_H
#define CRASH_EXPLORER_H

#include "adversary.h"

struct explorer_settings {
	uint64_t seed;
	uint64_t states;  // of the process, at most
	unsigned nested;  // crashes in mounting what a crash has left
	bool exhaustive;  // every state at every cut, where they are few
	int broken;       // enum order; -1: none
};
struct explorer_tally {
	uint64_t states, enumerated, killed, lost_tier, nested, in_flight, refused, cuts, events, workloads, broken;
	bool failed;
	char text[1024]; // the first failure
	char name[512];  // of its state; while none has failed, of the one at hand
};
extern struct explorer_tally explored;

void explorer_start(const struct explorer_settings *settings);
// Actions, with commas. quota: about how many states, if not exhaustive; 0: the one of explorer_replay() alone.
void explorer_run(const char *workload, double quota);
int explorer_replay(const char *name); // -1: no such name
void explorer_end(void);

#endif
