// SPDX-License-Identifier: GPL-2.0-or-later
// The tier's memory: mapping, non-temporal stores and the order in which they become durable.
// The only layer with flush, drain and libpmem.
#ifndef MEDIA_MEDIA_H
#define MEDIA_MEDIA_H

#include <stdatomic.h>
#include "grace.h"
#include "vems/types.h"

enum media_class {
	MEDIA_DEVDAX, // device-DAX: durable by store + fence
	MEDIA_FSDAX,  // file on a DAX file system, mapped with MAP_SYNC: likewise
	MEDIA_TMPFS,  // fake pmem in DRAM: a power cut loses it
	MEDIA_FILE,   // ordinary file: every drain is an msync of what was stored
	MEDIA_DRAM    // anonymous memory, for tests
};

// Sees each store before it is made and each drain after it, from any thread: crash tests.
struct media_recorder {
	void (*store)(void *arg, uint64_t offset, const void *src, size_t bytes);
	void (*drain)(void *arg);
	void *arg;
};

#define MEDIA_POISONED_MAX 1024u // pages; with more the memory has failed as a whole

struct media {
	uint8_t *base;
	uint64_t size_bytes;
	enum media_class class;
	bool read_only; // the mapping faults on a store
	int fd;         // -1: none
	const struct media_recorder *recorder;
	uint64_t unit_bytes;       // the least that can be mapped by itself
	_Atomic unsigned poisoned; // pages
	uint64_t poison[MEDIA_POISONED_MAX]; // their offsets
	struct grace lent;
	char path[256];
};

// Opens and locks (flock, exclusive; shared if read_only) before anything is read, waiting up to
// 5 s for a killed predecessor. Reports the reason of a failure with log_error, naming the path.
// -ENOENT, -EBUSY (in use), -EACCES, -EINVAL (neither device-DAX nor regular file, empty) ...
int media_open(const char *path, bool read_only, struct media **ret_media);
// Allocates all blocks of a file (so that no store meets a hole), before formatting. 0, -ENOSPC.
int media_allocate(struct media *m);
// Anonymous memory of that size (whole pages), for tests.
int media_open_dram(uint64_t size_bytes, struct media **ret_media);
void media_close(struct media *m);

// A power cut does not lose what was drained.
bool media_is_persistent(const struct media *m);
const char *media_class_name(enum media_class class); // for people: "device-DAX", ...

// Copies bytes (8-byte aligned dst and size) with non-temporal stores. Visible to this thread at
// once; to others and to power cuts at the latest after this thread's media_drain().
void media_copy(struct media *m, void *dst, const void *src, size_t bytes);
void media_zero(struct media *m, void *dst, size_t bytes);
// One aligned 8-byte store, atomic on media. Same visibility.
void media_store64(struct media *m, uint64_t *dst, uint64_t value);
// All of this thread's stores are durable on return (as the class has it) and ordered before
// its later ones. If the msync of a MEDIA_FILE fails, the process is aborted: nobody may go on as
// if it had not.
void media_drain(struct media *m);

// ---- poison (poison.c): memory that has failed, of which a load raises SIGBUS --------------------
//
// A page that is found poisoned reads as zeroes from then on, to whoever was about to touch it, too; and
// what is stored there goes nowhere. So nobody is stopped in the middle of anything. But what was loaded
// counts only if it has a checksum, or if no poison was found meanwhile; and what was stored, if it is held.

// How many pages so far. It has grown before a zero can be seen.
static inline unsigned media_poisoned(const struct media *m)
{
	atomic_thread_fence(memory_order_acquire); // after what was loaded
	return atomic_load_explicit(&m->poisoned, memory_order_acquire);
}
bool media_holds_slowly(const struct media *m, const void *at, size_t bytes);
// After a store (of other threads' pages: after its drain): it is on the media, not in memory that stands
// for a poisoned page.
static inline bool media_holds(const struct media *m, const void *at, size_t bytes)
{
	return atomic_load_explicit(&m->poisoned, memory_order_acquire) == 0 || media_holds_slowly(m, at, bytes);
}
// The kernel is to load by itself: poison is EFAULT to it, and it checks nothing. From here to the reader's
// grace_leave() no page turns into zeroes; the thread touches none itself. False, and not lent: poison
// was found since `seen`. The reader is one of m->lent.
bool media_lend(struct media *m, struct grace_reader *reader, unsigned seen);
// For who makes a mapping and takes it away.
void media_watch(struct media *m);
void media_unwatch(struct media *m);

#endif
