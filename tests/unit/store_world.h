// SPDX-License-Identifier: GPL-2.0-or-later
// For tests of the store's inside: a small one in memory. All of it is the test's own: it does nothing ahead of need,
// and takes no epoch by itself.
#ifndef STORE_WORLD_H
#define STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "store_impl.h"

#define TIER_BYTES (UINT64_C(3) << 20)
#define BACKING_BYTES (UINT64_C(32) << 20)

extern int backing_fd;
extern struct media *m;
extern struct store_config world_config; // of the stores that are opened from now on

struct store *new_store(void);
struct store *open_store(void); // of what is there
void end_store(struct store *s, struct lane *lane); // unmounts

#define COMMIT(lane, body)                                            \
	assert_int_equal(OP_RUN(lane, ({                              \
					int body_ = (body);           \
					body_ ? body_ : txn_commit(op, true); \
				})), 0)

int write_page(struct op *op, object_t object, page_t page, uint8_t byte);
// The frame that holds it now, or FRAME_NONE.
frame_t frame_of(struct store *s, object_t object, page_t page);
bool somebody_waits(const pthread_mutex_t *lock);
// fn() runs in a thread while the lock is held. Does it wait for the lock? If so, meanwhile() is called (may be NULL).
bool waits_for(pthread_mutex_t *lock, void (*fn)(struct store *s), struct store *s, void (*meanwhile)(struct store *s));

// The first access to each page after it was armed calls accessed(), in the thread that makes it.
struct trap {
	void *page; // NULL: none
	void (*accessed)(void);
	_Atomic unsigned accesses;
};
#define TRAPS_MAX 4u
extern struct trap traps[TRAPS_MAX];
void *trap_page(const void *content, size_t bytes); // to be freed
void traps_begin(void); // and arms them
void traps_arm(void);
void traps_end(void);

#endif
