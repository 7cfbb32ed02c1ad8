// SPDX-License-Identifier: GPL-2.0-or-later
// Two paths that must not lead to the same place.
#ifndef BASE_DISTINCT_H
#define BASE_DISTINCT_H

// The paths of a tier and a backing. 0, also where one cannot be looked at: whoever opens it says so.
// -EINVAL, reported with log_error: they are one file, or nodes of one device.
int distinct_check(const char *tier, const char *backing);

#endif
