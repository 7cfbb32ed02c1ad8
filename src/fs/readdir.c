// SPDX-License-Identifier: GPL-2.0-or-later
// Listing a directory, in the order of its entries' keys. A cookie says where to go on: 1 is after
// ".", 2 after "..", rest + 3 after the entry whose key has that rest. So it stays valid whatever is
// made or removed meanwhile, and a listing neither misses nor repeats an entry that stayed.
//
// What one call lists is of one moment. It looks at about as much as the caller has room for,
// however large the directory is.
#include <dirent.h>
#include "fs_impl.h"

#define COOKIE_DOT 1u
#define COOKIE_DOTDOT 2u
#define COOKIE_FIRST 3u

#define BATCH_BYTES 32768u
#define BATCH_FIRST 64u // entries; then twice as many each time
#define BATCH_MAX 512u

struct batch_entry {
	uint64_t rest;
	object_t object;
	uint16_t name; // where it begins in names
	uint8_t type;
};
struct batch {
	unsigned count, limit;
	unsigned names_bytes;
	struct batch_entry entry[BATCH_MAX];
	char names[BATCH_BYTES]; // each with a zero after it
};

static int collect_entry(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct dirent_disk *dirent = value;
	struct batch *batch = arg;
	struct batch_entry *entry = &batch->entry[batch->count];

	if (!dirent_valid(dirent, bytes)) {
		name_report_damage(key);
		return -EUCLEAN;
	}
	*entry = (struct batch_entry){ item_key_rest(key), dirent->object, (uint16_t)batch->names_bytes, dirent->type };
	memcpy(batch->names + batch->names_bytes, dirent->name, dirent->name_bytes);
	batch->names_bytes += dirent->name_bytes;
	batch->names[batch->names_bytes++] = 0;
	batch->count++;
	return batch->count == batch->limit || batch->names_bytes + NAME_BYTES_MAX + 1 > BATCH_BYTES;
}

// 1: there may be more, 0: the end.
static int collect(struct op *op, object_t dir, uint64_t rest, struct batch *batch)
{
	batch->count = batch->names_bytes = 0;
	if (rest > ITEM_REST_MAX)
		return 0;
	return op_scan(op, item_key(dir, ITEM_DIRENT, rest), item_key(dir, ITEM_DIRENT, ITEM_REST_MAX), collect_entry, batch);
}

// An entry whose inode is gone keeps nlink 0: the directory has changed meanwhile, and the call
// starts again, or it is damaged, and can be listed all the same.
static int entry_stat(struct op *op, struct fs *fs, const struct batch_entry *entry, bool plus, struct stat *ret_attr)
{
	struct inode inode;
	int r;

	*ret_attr = (struct stat){ .st_ino = entry->object, .st_mode = DTTOIF(entry->type) };
	if (!plus)
		return 0;
	r = inode_get(op, entry->object, &inode);
	if (!r)
		inode_stat(fs, &inode, ret_attr);
	return r == -ESTALE ? 0 : r;
}

static int fill_dots(const struct inode *dir, uint64_t cookie, fs_fill_fn fill, void *arg)
{
	struct stat attr = { .st_ino = dir->id, .st_mode = S_IFDIR };

	if (cookie < COOKIE_DOT && fill(arg, ".", &attr, COOKIE_DOT))
		return 1;
	attr.st_ino = dir->disk.parent;
	return cookie < COOKIE_DOTDOT && fill(arg, "..", &attr, COOKIE_DOTDOT);
}

// 1: the caller has enough.
static int fill_batch(struct op *op, struct fs *fs, const struct batch *batch, bool plus, fs_fill_fn fill, void *arg)
{
	struct stat attr;
	int r;

	for (unsigned i = 0; i < batch->count; i++) {
		const struct batch_entry *entry = &batch->entry[i];

		r = entry_stat(op, fs, entry, plus, &attr);
		if (r)
			return r;
		if (fill(arg, batch->names + entry->name, &attr, entry->rest + COOKIE_FIRST))
			return 1;
	}
	return 0;
}

int fs_readdir(struct op *op, struct fs *fs, object_t dir_id, uint64_t cookie, bool plus, fs_fill_fn fill, void *arg)
{
	struct batch batch;
	struct inode dir;
	uint64_t rest;
	int r, more;

	r = inode_watch_get(op, dir_id, &dir);
	if (r)
		return r;
	if (!inode_is(&dir, S_IFDIR))
		return -ENOTDIR;
	if (cookie < COOKIE_DOTDOT && fill_dots(&dir, cookie, fill, arg))
		return 0;
	atime_touch(fs, &dir);
	rest = cookie > COOKIE_DOTDOT ? cookie - COOKIE_FIRST + 1 : 0;
	batch.limit = BATCH_FIRST;
	do {
		more = collect(op, dir_id, rest, &batch);
		r = more < 0 ? more : fill_batch(op, fs, &batch, plus, fill, arg);
		if (r)
			return r < 0 ? r : 0;
		if (batch.count)
			rest = batch.entry[batch.count - 1].rest + 1;
		if (batch.limit < BATCH_MAX)
			batch.limit *= 2;
	} while (more);
	return 0;
}
