// SPDX-License-Identifier: GPL-2.0-or-later
// The tier's memory: mapping, non-temporal stores and the order in which they become durable.
// The only layer with flush, drain and libpmem.
#ifndef MEDIA_MEDIA_H
#define MEDIA_MEDIA_H

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

struct media {
	uint8_t *base;
	uint64_t size_bytes;
	enum media_class class;
	bool read_only; // the mapping faults on a store
	int fd;         // -1: none
	const struct media_recorder *recorder;
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

#endif
