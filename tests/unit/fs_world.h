// SPDX-License-Identifier: GPL-2.0-or-later
// A file system on the store in memory, for one test; short forms of the operations on it.
#ifndef TESTS_FS_WORLD_H
#define TESTS_FS_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include "fake_store.h"
#include "fs_impl.h"

#define MIB (1u << 20)

struct world {
	struct store *store;
	struct fs *fs;
	struct lane *lane, *other; // other: of what happens meanwhile
};
extern struct world w;
extern const struct fs_cred cred;

// The body's result, or that of `use`, which may look at pointers into the op.
#define RUN_LANE(lane_, body, use)                  \
	({                                          \
		struct op *op = op_begin(lane_);    \
		int r_;                             \
		do                                  \
			r_ = (int)(body);           \
		while (op_again(op, &r_));          \
		use;                                \
		op_end(op);                         \
		r_;                                 \
	})
#define RUN(body) RUN_LANE(w.lane, body, (void)0)
#define RUN_OTHER(body) RUN_LANE(w.other, body, (void)0)

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

struct listing {
	unsigned count, limit;
	uint64_t cookie; // of the last one taken
	char name[1024][16];
	struct stat attr[1024];
};
extern struct listing listing;

// Fixture. A test ends with a check of the whole content against the rules of the format.
int setup(void **state);
int teardown(void **state);
void check_world(void);
void remount(void); // as after a crash: what is in DRAM is lost

// Results are as those of the operation, or the id of what was made or found. file(), directory(),
// attr_of(), assert_bytes() and drop_orphans() assert that they succeed.
int make(object_t dir, const char *name, mode_t mode);
object_t file(object_t dir, const char *name);
object_t directory(object_t dir, const char *name);
int make_symlink(object_t dir, const char *name, const char *target);
int lookup(object_t dir, const char *name);
struct stat attr_of(object_t id);
int link_to(object_t id, object_t dir, const char *name);
int unlink_name(object_t dir, const char *name);
int remove_directory(object_t dir, const char *name);
int rename_name(object_t dir, const char *name, object_t newdir, const char *newname, unsigned flags);
int write_at(object_t id, const void *data, size_t bytes, uint64_t offset);
int fill_at(object_t id, int byte, size_t bytes, uint64_t offset);
int read_at(object_t id, char *buffer, size_t bytes, uint64_t offset);
void assert_bytes(object_t id, uint64_t from, uint64_t to, int byte);
int set_attr(object_t id, struct stat attr, unsigned set);
int truncate_to(object_t id, uint64_t size);
int set_xattr(object_t id, const char *name, const void *value, size_t bytes, int flags);
int get_xattr(object_t id, const char *name, void *value, size_t cap);
int list_xattr(object_t id, char *list, size_t cap);
int remove_xattr(object_t id, const char *name);
unsigned drop_orphans(void);
bool exists(object_t id);
int list(object_t dir, uint64_t cookie, bool plus, unsigned limit, struct listing *l);
int listed(const struct listing *l, const char *name);

#endif
