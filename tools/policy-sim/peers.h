// SPDX-License-Identifier: GPL-2.0-or-later
// Policies to compare with, in the simulator alone: they keep exact ghosts, and arc moves pages on hits.
#ifndef POLICY_SIM_PEERS_H
#define POLICY_SIM_PEERS_H

#include "policy.h"

extern const struct policy_ops policy_arc, policy_s3fifo, policy_clock2qplus;

// Of these three alone: a page will come in that is not there. They ask their ghosts before they choose who goes.
void peer_expect(struct policy *p, object_t object, page_t page);

#endif
