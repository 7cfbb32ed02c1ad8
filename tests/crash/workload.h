// SPDX-License-Identifier: GPL-2.0-or-later
// One lane's random work on objects of its own, each step checked against the model.
#ifndef CRASH_WORKLOAD_H
#define CRASH_WORKLOAD_H

#include "world.h"

struct driver {
	const struct settings *settings;
	struct store *store;
	struct lane *lane;
	struct adversary *adversary; // NULL: none
	uint64_t rng;
	uint32_t stamp;
	struct model model;   // all that was acknowledged; under the adversary's lock
	struct txn **journal; // likewise, by LSN
	size_t txns, room;
	size_t own_from;      // those before are another's
	struct txn *inflight; // likewise
	lsn_t inflight_lsn;   // of one whose lane is gone; 0: ask the lane
	size_t synced;        // txns before are on the backing
};

void driver_init(struct driver *d, const struct settings *settings, uint64_t seed);
// What a crash leaves of it. cut: of the backing alone; LSN_MAX: tier and log are there.
void driver_clone(struct driver *d, const struct driver *from, lsn_t cut);
void driver_fini(struct driver *d);
void driver_acknowledge(struct driver *d, struct txn *t, lsn_t lsn, bool own);
lsn_t driver_inflight_lsn(const struct driver *d);

// 0, or 1 with the reason in text.
int driver_step(struct driver *d, char *text, size_t bytes);
int driver_sync(struct driver *d, char *text, size_t bytes);
void driver_evict(struct driver *d, unsigned frames);
void driver_reclaim(struct driver *d);

#endif
