// SPDX-License-Identifier: GPL-2.0-or-later
// Requests by FUSE-over-io_uring: a thread on each core, and what it hands to threads that may wait.
#ifndef FRONTEND_URING_H
#define FRONTEND_URING_H

#include "vems/stats.h"
#include "worker.h"

struct uring;
struct uring_entry;

// Starts the threads, each with a ring that works, before the kernel is told that it may use them:
// once it has been, it waits for all of them. NULL with the reason: it is not to be had here.
struct uring *uring_new(struct frontend *f, enum vems_transport_reason *ret_reason);
// Once INIT has been answered. 0: all queues are registered, and requests come by them; or what the
// kernel has refused one with: it goes on with /dev/fuse.
int uring_register(struct uring *u);
// No other worker may be left. What they have finished is answered; then the threads end.
void uring_free(struct uring *u);
void uring_stats(struct uring *u, struct vems_stats *ret_stats); // those of the requests

// For workers that may wait. The next request that had to be parked; sleeps until there is one, or
// something else to see to: NULL.
struct uring_entry *uring_take(struct uring *u);
void uring_look_for_chores(struct uring *u); // one of them is to
void uring_wake(struct uring *u); // all that sleep in it
// As it would have come by /dev/fuse; in the entry's own memory.
struct fuse_buf uring_request(struct uring_entry *e);
// If it is the caller that is being killed: whom to look at; else 0.
pid_t uring_signalled(struct uring_entry *e);
// The kernel says that the caller of this request has a signal. False: it is not parked here.
bool uring_interrupt(struct uring *u, uint64_t unique);
void uring_done(struct uring_entry *e); // back to its core, with the answer

// What libfuse writes: is it the answer to e? Then it goes into the entry.
bool uring_is_answer(const struct uring_entry *e, const struct iovec *iov);
ssize_t uring_answer(struct uring_entry *e, const struct iovec *iov, int count);

#endif
