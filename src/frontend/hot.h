// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that come all the time: decoded from the entry of a ring and answered in it.
#ifndef FRONTEND_HOT_H
#define FRONTEND_HOT_H

#include "store.h"
#include "worker.h"

struct hot {
	const struct fuse_in_header *in; // the request, which stays as it is until it is answered:
	const void *arg;                 // the operation's struct
	char *payload;
	size_t payload_bytes;
	struct op *op; // NULL, or the one that has waited
	int error;     // the answer: 0 or a positive errno
	size_t bytes;  // of it in payload, TRANSPORT_PAYLOAD_BYTES at most
};

enum hot_result {
	HOT_IS_NOT,     // one of those
	HOT_ANSWERED,
	HOT_WAITS,      // for blocks of the backing. When they are there, w's lane calls ready(): to be served again
	HOT_WOULD_WAIT, // for something else: it is for another thread, from the top
};

enum hot_result hot_serve(struct worker *w, struct hot *h, void (*ready)(void *arg), void *arg);

#endif
