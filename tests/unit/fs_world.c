// SPDX-License-Identifier: GPL-2.0-or-later
#include "fs_world.h"

struct world w;
const struct fs_cred cred = { .uid = 1000, .gid = 1000 };

// ---- short forms --------------------------------------------------------------------------------

int make(object_t dir, const char *name, mode_t mode)
{
	struct stat attr;
	int r = RUN(fs_make(op, w.fs, &cred, dir, name, mode, 0, NULL, &attr));

	return r ? r : (int)attr.st_ino;
}

object_t file(object_t dir, const char *name)
{
	int r = make(dir, name, S_IFREG | 0644);

	assert_true(r > 0);
	return (object_t)r;
}

object_t directory(object_t dir, const char *name)
{
	int r = make(dir, name, S_IFDIR | 0755);

	assert_true(r > 0);
	return (object_t)r;
}

int make_symlink(object_t dir, const char *name, const char *target)
{
	struct stat attr;
	int r = RUN(fs_make(op, w.fs, &cred, dir, name, S_IFLNK | 0777, 0, target, &attr));

	return r ? r : (int)attr.st_ino;
}

int lookup(object_t dir, const char *name)
{
	struct stat attr;
	int r = RUN(fs_lookup(op, w.fs, dir, name, &attr));

	return r ? r : (int)attr.st_ino;
}

struct stat attr_of(object_t id)
{
	struct stat attr;

	assert_int_equal(RUN(fs_getattr(op, w.fs, id, &attr)), 0);
	return attr;
}

int link_to(object_t id, object_t dir, const char *name)
{
	struct stat attr;

	return RUN(fs_link(op, w.fs, id, dir, name, &attr));
}

int unlink_name(object_t dir, const char *name)
{
	return RUN(fs_unlink(op, w.fs, dir, name));
}

int remove_directory(object_t dir, const char *name)
{
	return RUN(fs_rmdir(op, w.fs, dir, name));
}

int rename_name(object_t dir, const char *name, object_t newdir, const char *newname, unsigned flags)
{
	return RUN(fs_rename(op, w.fs, &cred, dir, name, newdir, newname, flags));
}

int write_at(object_t id, const void *data, size_t bytes, uint64_t offset)
{
	return RUN(fs_write(op, w.fs, id, data, bytes, offset, true));
}

int fill_at(object_t id, int byte, size_t bytes, uint64_t offset)
{
	char *data = malloc(bytes);
	int r;

	memset(data, byte, bytes);
	r = write_at(id, data, bytes, offset);
	free(data);
	return r;
}

static int copy_out(int bytes, const struct iovec *iov, int count, char *buffer)
{
	size_t sum = 0;

	for (int i = 0; bytes >= 0 && i < count; i++) {
		memcpy(buffer + sum, iov[i].iov_base, iov[i].iov_len);
		sum += iov[i].iov_len;
	}
	if (bytes >= 0)
		assert_int_equal(sum, bytes);
	return bytes;
}

int read_at(object_t id, char *buffer, size_t bytes, uint64_t offset)
{
	struct iovec iov[OP_PAGES_MAX];
	int count = 0;

	return RUN_LANE(w.lane, fs_read(op, w.fs, id, offset, bytes, true, iov, &count), copy_out(r_, iov, count, buffer));
}

void assert_bytes(object_t id, uint64_t from, uint64_t to, int byte)
{
	size_t bytes = to - from;
	char *buffer = malloc(bytes), *expected = malloc(bytes);

	memset(expected, byte, bytes);
	assert_int_equal(read_at(id, buffer, bytes, from), bytes);
	assert_memory_equal(buffer, expected, bytes);
	free(buffer);
	free(expected);
}

int set_attr(object_t id, struct stat attr, unsigned set)
{
	struct stat result;

	return RUN(fs_setattr(op, w.fs, id, &attr, set, &result));
}

int truncate_to(object_t id, uint64_t size)
{
	return set_attr(id, (struct stat){ .st_size = (off_t)size }, FS_SET_SIZE);
}

int set_xattr(object_t id, const char *name, const void *value, size_t bytes, int flags)
{
	return RUN(fs_setxattr(op, w.fs, id, name, value, bytes, flags));
}

int get_xattr(object_t id, const char *name, void *value, size_t cap)
{
	return RUN(fs_getxattr(op, w.fs, id, name, value, cap));
}

int list_xattr(object_t id, char *list, size_t cap)
{
	return RUN(fs_listxattr(op, w.fs, id, true, list, cap));
}

int remove_xattr(object_t id, const char *name)
{
	return RUN(fs_removexattr(op, w.fs, id, name));
}

unsigned drop_orphans(void)
{
	unsigned n = 0;
	object_t id;

	for (; (id = fs_next_orphan(w.fs)); n++) {
		while (RUN(fs_drop(op, w.fs, id)) > 0)
			;
		fs_dropped(w.fs, id, 0);
		assert_false(exists(id));
	}
	return n;
}

bool exists(object_t id)
{
	return fake_store_item(w.store, item_key(id, ITEM_INODE, 0));
}

// ---- listing -------------------------------------------------------------------------------------

static int take(void *arg, const char *name, const struct stat *attr, uint64_t cookie)
{
	struct listing *l = arg;

	if (l->count == l->limit)
		return 1;
	assert_true(cookie > l->cookie);
	snprintf(l->name[l->count], sizeof l->name[0], "%.15s", name);
	l->attr[l->count++] = *attr;
	l->cookie = cookie;
	return 0;
}

static int list_body(struct op *op, object_t dir, uint64_t cookie, bool plus, unsigned limit, struct listing *l)
{
	l->count = 0;
	l->limit = limit;
	l->cookie = cookie;
	return fs_readdir(op, w.fs, dir, cookie, plus, take, l);
}

int list(object_t dir, uint64_t cookie, bool plus, unsigned limit, struct listing *l)
{
	return RUN(list_body(op, dir, cookie, plus, limit, l));
}

int listed(const struct listing *l, const char *name)
{
	for (unsigned i = 0; i < l->count; i++)
		if (!strcmp(l->name[i], name))
			return (int)i;
	return -1;
}

struct listing listing;

// ---- the rules of the format --------------------------------------------------------------------

static void check_name_key(const struct fake_item *item, const uint8_t *name, unsigned bytes)
{
	assert_int_equal(item_key_rest(item->key) >> 8, name_hash((const char *)name, bytes));
}

struct tally { // of what items say about one object
	unsigned names, subdirectories, entries, xattrs;
	uint32_t flags;
	bool orphan, hidden;
};

static struct tally count_object(object_t id)
{
	struct tally t = { 0 };

	for (unsigned i = 0; i < w.store->items; i++) {
		const struct fake_item *item = &w.store->item[i];
		const struct dirent_disk *dirent = (const void *)item->value;
		const struct xattr_disk *xattr = (const void *)item->value;
		bool own = item->key.object == id;
		char name[NAME_BYTES_MAX + 1];

		switch (item_key_type(item->key)) {
		case ITEM_DIRENT:
			assert_true(dirent_valid(dirent, item->bytes));
			t.names += dirent->object == id;
			t.entries += own;
			t.subdirectories += own && dirent->type == DT_DIR;
			if (own)
				check_name_key(item, dirent->name, dirent->name_bytes);
			break;
		case ITEM_XATTR:
			assert_true(xattr_valid(xattr, item->bytes));
			t.xattrs += own;
			t.hidden |= xattr->object == id;
			memcpy(name, xattr->name, xattr->name_bytes);
			name[xattr->name_bytes] = 0;
			t.flags |= own ? xattr_flag(name) : 0;
			if (own)
				check_name_key(item, xattr->name, xattr->name_bytes);
			break;
		case ITEM_ORPHAN:
			t.orphan |= item_key_rest(item->key) == id;
			break;
		default:
			break;
		}
	}
	return t;
}

static unsigned count_pages(object_t id)
{
	unsigned pages = 0;

	for (unsigned i = 0; i < w.store->pages; i++)
		pages += w.store->page[i].object == id;
	return pages;
}

static void check_inode(object_t id, const struct inode_disk *disk)
{
	struct tally t = count_object(id);

	assert_int_equal(disk->xattrs, t.xattrs);
	assert_int_equal(disk->flags & (INODE_CAPABILITY | INODE_ACL | INODE_DEFAULT_ACL), t.flags);
	assert_int_equal(disk->nlink == 0, t.orphan);
	if (!(disk->flags & INODE_PAGES_UNSURE))
		assert_int_equal(S_ISREG(disk->mode) ? disk->pages : 0, S_ISREG(disk->mode) ? count_pages(id) : 0);
	if (S_ISREG(disk->mode)) {
		assert_true(inode_pages_end_good(disk));
		assert_true(!disk->pages_end || w.store->incompat == VEMS_INCOMPAT_PAST_END);
	}
	if (S_ISDIR(disk->mode)) {
		assert_int_equal(disk->entries, t.entries);
		assert_int_equal(t.names, disk->nlink && id != OBJECT_ROOT);
		assert_int_equal(disk->nlink, t.orphan ? 0 : 2 + t.subdirectories);
	} else {
		assert_int_equal(disk->nlink, t.names);
	}
}

static void check_dirent(const struct fake_item *item)
{
	const struct dirent_disk *dirent = (const void *)item->value;
	const struct fake_item *child = fake_store_item(w.store, item_key(dirent->object, ITEM_INODE, 0));
	const struct inode_disk *disk = child ? (const void *)child->value : NULL;

	assert_non_null(child);
	assert_int_equal(IFTODT(disk->mode), dirent->type);
	if (S_ISDIR(disk->mode))
		assert_int_equal(disk->parent, item->key.object);
}

static void check_page(const struct fake_page *page)
{
	const struct fake_item *item = fake_store_item(w.store, item_key(page->object, ITEM_INODE, 0));
	const struct inode_disk *disk = item ? (const void *)item->value : NULL;

	if (!item) {
		assert_true(count_object(page->object).hidden);
		return;
	}
	assert_true(page->page < (S_ISREG(disk->mode) ? inode_pages_end(disk) : pages_of(disk->size)));
	for (uint64_t i = 0; i < PAGE_BYTES; i++)
		if ((page->page << PAGE_SHIFT) + i >= disk->size)
			assert_int_equal(page->data[i], 0);
}

void check_world(void)
{
	for (unsigned i = 0; i < w.store->items; i++) {
		const struct fake_item *item = &w.store->item[i];

		if (item_key_type(item->key) == ITEM_INODE)
			check_inode(item->key.object, (const void *)item->value);
		else if (item_key_type(item->key) == ITEM_DIRENT)
			check_dirent(item);
		else if (item_key_type(item->key) == ITEM_XATTR)
			assert_true(exists(item->key.object));
	}
	for (unsigned i = 0; i < w.store->pages; i++)
		check_page(&w.store->page[i]);
}

// ---- fixture ------------------------------------------------------------------------------------

static void mount_world(void)
{
	assert_int_equal(fs_new(w.store, &w.fs), 0);
	assert_int_equal(fs_start(w.fs, 7, 8), 0);
}

void remount(void)
{
	fs_free(w.fs);
	mount_world();
}

int setup(void **state)
{
	w.store = fake_store_new();
	assert_int_equal(lane_new(w.store, &w.lane), 0);
	assert_int_equal(lane_new(w.store, &w.other), 0);
	mount_world();
	return 0;
}

int teardown(void **state)
{
	check_world();
	name_hash_mask = UINT64_MAX;
	fs_free(w.fs);
	lane_free(w.lane);
	lane_free(w.other);
	fake_store_free(w.store);
	return 0;
}
