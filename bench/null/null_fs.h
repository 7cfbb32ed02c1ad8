// SPDX-License-Identifier: GPL-2.0-or-later
// In the place of the file system: everything in DRAM, nothing kept, as little done as can be.
#ifndef BENCH_NULL_FS_H
#define BENCH_NULL_FS_H

#include <pthread.h>
#include <stdatomic.h>
#include "fs.h"

// An object is its index in a table that is mapped once. Its data is one piece of a mapping.
struct object {
	struct stat attr;
	_Atomic(uint8_t *) data;
	uint64_t capacity; // bytes of data, a power of two; under lock
	pthread_mutex_t lock;
	char *target; // of a symlink
	object_t parent;
	struct entry **entry; // of a directory: by cookie; NULL: deleted
	size_t entries, entry_room;
	_Atomic uint32_t opens;
};

struct entry {
	struct entry *next; // of the hash chain
	object_t dir, id;
	size_t cookie;
	char name[];
};

struct fs {
	struct object *object; // [OBJECTS_MAX]
	_Atomic object_t next;
	pthread_rwlock_t names; // entries, links
	struct entry **bucket;  // [BUCKETS], by directory and name
	pthread_mutex_t space;  // the mapping
	uint8_t *base, *end;
	uint8_t *freed[64];     // pieces by power of two, linked through their first bytes
};

#define OBJECTS_MAX (UINT64_C(1) << 24)
#define BUCKETS (UINT64_C(1) << 22)
#define SPACE_BYTES (UINT64_C(1) << 44)

static inline struct object *object_of(struct fs *fs, object_t id)
{
	return &fs->object[id];
}
struct timespec null_now(void);
// Under the lock of names. NULL: there is none.
struct entry *null_find(struct fs *fs, object_t dir, const char *name);
int null_enter(struct fs *fs, object_t dir, const char *name, object_t id);
void null_leave(struct fs *fs, struct entry *entry);
// Data of at least so many bytes, zeroed where it is new; under the object's lock.
int null_grow(struct fs *fs, struct object *o, uint64_t bytes);
void null_release(struct fs *fs, object_t id); // its last link and open are gone

#endif
