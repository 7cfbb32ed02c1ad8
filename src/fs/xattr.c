// SPDX-License-Identifier: GPL-2.0-or-later
// Extended attributes. A value that does not fit the item with its name is the pages of a hidden
// object, written by the same transaction; POSIX ACLs are stored like the others.
//
// Every change is a change of the inode too (count, ctime), so that a watch on the object covers
// its hidden objects: they are written once and dropped whole.
#include <sys/xattr.h>
#include "fs_impl.h"

#define CAPABILITY "security.capability"

static int xattr_find(struct op *op, object_t id, const char *name, struct chain *ret_chain)
{
	size_t bytes = strlen(name);

	if (!bytes || bytes > NAME_BYTES_MAX)
		return -ERANGE;
	return chain_find(op, id, ITEM_XATTR, name, bytes, ret_chain);
}

// ---- reading

static int read_hidden(struct op *op, object_t hidden, char *value, size_t bytes)
{
	struct page_view view[XATTR_BYTES_MAX / PAGE_BYTES];
	unsigned count = (unsigned)((bytes + PAGE_BYTES - 1) / PAGE_BYTES);
	int r;

	r = op_read(op, hidden, 0, count, false, view);
	for (unsigned i = 0; !r && i < count; i++) {
		size_t start = (size_t)i * PAGE_BYTES, part = bytes - start < PAGE_BYTES ? bytes - start : PAGE_BYTES;

		if (!view[i].data)
			return -EUCLEAN;
		memcpy(value + start, view[i].data, part);
	}
	return r;
}

ssize_t fs_getxattr(struct op *op, struct fs *fs, object_t id, const char *name, void *value, size_t cap)
{
	struct inode inode;
	struct chain chain;
	size_t bytes;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (r)
		return r;
	if (!inode.disk.xattrs) // the kernel asks for capabilities and labels that few files have
		return -ENODATA;
	r = xattr_find(op, id, name, &chain);
	if (!r && !chain.found)
		r = -ENODATA;
	if (r)
		return r;
	bytes = chain.xattr.value_bytes;
	if (!cap)
		return (ssize_t)bytes;
	if (bytes > cap)
		return -ERANGE;
	if (chain.xattr.object && bytes)
		r = read_hidden(op, chain.xattr.object, value, bytes);
	else
		memcpy(value, chain.xattr.name + chain.xattr.name_bytes, bytes);
	return r ? r : (ssize_t)bytes;
}

struct name_list {
	char *list;
	size_t cap, bytes; // bytes: of all names, whether they fit or not
};

static int list_name(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct xattr_disk *xattr = value;
	struct name_list *list = arg;

	if (!xattr_valid(xattr, bytes)) {
		name_report_damage(key);
		return -EUCLEAN;
	}
	if (list->bytes + xattr->name_bytes + 1 <= list->cap) {
		memcpy(list->list + list->bytes, xattr->name, xattr->name_bytes);
		list->list[list->bytes + xattr->name_bytes] = 0;
	}
	list->bytes += xattr->name_bytes + 1u;
	return 0;
}

ssize_t fs_listxattr(struct op *op, struct fs *fs, object_t id, char *list, size_t cap)
{
	struct name_list names = { list, cap, 0 };
	struct inode inode;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (!r && inode.disk.xattrs)
		r = op_scan(op, item_key(id, ITEM_XATTR, 0), item_key(id, ITEM_XATTR, ITEM_REST_MAX), list_name, &names);
	if (!r && cap && names.bytes > cap)
		r = -ERANGE;
	return r ? r : (ssize_t)names.bytes;
}

// ---- changing

static int write_hidden(struct op *op, object_t hidden, const char *value, size_t bytes)
{
	unsigned count = (unsigned)((bytes + PAGE_BYTES - 1) / PAGE_BYTES);
	int r = txn_claim(op, hidden, 0, count);

	for (unsigned i = 0; !r && i < count; i++) {
		size_t start = (size_t)i * PAGE_BYTES, part = bytes - start < PAGE_BYTES ? bytes - start : PAGE_BYTES;
		const void *page = value + start;

		if (part < PAGE_BYTES)
			page = memcpy(op_scratch(op, 0), page, part);
		r = txn_page(op, hidden, i, page, NULL);
	}
	return r;
}

static int put_value(struct op *op, struct fs *fs, struct item_key key, const char *name, const void *value,
		     size_t bytes)
{
	union {
		struct xattr_disk xattr;
		uint8_t raw[ITEM_VALUE_MAX];
	} u;
	size_t name_bytes = strlen(name), item_bytes = sizeof u.xattr + name_bytes;
	int r = 0;

	u.xattr.object = 0;
	u.xattr.value_bytes = (uint32_t)bytes;
	u.xattr.name_bytes = (uint8_t)name_bytes;
	memcpy(u.raw + sizeof u.xattr, name, name_bytes);
	if (item_bytes + bytes > sizeof u.raw) {
		u.xattr.object = store_new_object(fs->store);
		r = write_hidden(op, u.xattr.object, value, bytes);
	} else if (bytes) {
		memcpy(u.raw + item_bytes, value, bytes);
		item_bytes += bytes;
	}
	return r ? r : txn_put(op, key, u.raw, item_bytes);
}

static int drop_old_value(struct op *op, const struct chain *chain)
{
	return chain->found && chain->xattr.object ? txn_drop_object(op, chain->xattr.object) : 0;
}

static int check_flags(const struct chain *chain, int flags)
{
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	if (chain->found)
		return flags & XATTR_CREATE ? -EEXIST : 0;
	if (flags & XATTR_REPLACE)
		return -ENODATA;
	return chain->full ? -ENOSPC : 0;
}

int fs_setxattr(struct op *op, struct fs *fs, object_t id, const char *name, const void *value, size_t bytes,
		int flags)
{
	struct inode inode;
	struct chain chain;
	int r;

	if (bytes > XATTR_BYTES_MAX)
		return -E2BIG;
	r = inode_watch_get(op, id, &inode);
	if (!r)
		r = xattr_find(op, id, name, &chain);
	if (!r)
		r = inode_may_change(&inode);
	if (!r)
		r = check_flags(&chain, flags);
	if (!r)
		r = put_value(op, fs, chain.key, name, value, bytes);
	if (!r)
		r = drop_old_value(op, &chain);
	if (r)
		return r;
	if (!chain.found)
		inode.disk.xattrs++;
	if (!strcmp(name, CAPABILITY))
		inode.disk.flags |= INODE_CAPABILITY;
	inode.disk.ctime = time_now();
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, false);
}

// The item, its value and the inode's count; the inode is put by the caller.
static int remove_found(struct op *op, struct inode *inode, const char *name, const struct chain *chain)
{
	int r = txn_delete(op, chain->key);

	if (!r)
		r = drop_old_value(op, chain);
	if (inode->disk.xattrs)
		inode->disk.xattrs--;
	if (!strcmp(name, CAPABILITY))
		inode->disk.flags &= ~(uint32_t)INODE_CAPABILITY;
	return r;
}

int fs_removexattr(struct op *op, struct fs *fs, object_t id, const char *name)
{
	struct inode inode;
	struct chain chain;
	int r;

	r = inode_watch_get(op, id, &inode);
	if (!r)
		r = xattr_find(op, id, name, &chain);
	if (!r)
		r = inode_may_change(&inode);
	if (!r && !chain.found)
		r = -ENODATA;
	if (!r)
		r = remove_found(op, &inode, name, &chain);
	if (r)
		return r;
	inode.disk.ctime = time_now();
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, true);
}

int xattr_drop_capability(struct op *op, struct inode *inode)
{
	struct chain chain;
	int r;

	if (!(inode->disk.flags & INODE_CAPABILITY))
		return 0;
	r = xattr_find(op, inode->id, CAPABILITY, &chain);
	if (r)
		return r;
	if (chain.found)
		return remove_found(op, inode, CAPABILITY, &chain);
	inode->disk.flags &= ~(uint32_t)INODE_CAPABILITY;
	return 0;
}

struct hidden_list {
	unsigned count;
	bool more;
	struct {
		struct item_key key;
		object_t object;
	} entry[HIDDEN_BATCH];
};

static int collect_hidden(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct xattr_disk *xattr = value;
	struct hidden_list *list = arg;

	if (!xattr_valid(xattr, bytes) || !xattr->object)
		return 0; // what cannot be read is no reason to keep the rest
	if (list->count == HIDDEN_BATCH) {
		list->more = true;
		return 1;
	}
	list->entry[list->count].key = key;
	list->entry[list->count++].object = xattr->object;
	return 0;
}

int xattr_drop_hidden(struct op *op, struct inode *inode, bool *ret_more)
{
	struct hidden_list list = { 0 };
	int r = 0;

	if (inode->disk.xattrs)
		r = op_scan(op, item_key(inode->id, ITEM_XATTR, 0), item_key(inode->id, ITEM_XATTR, ITEM_REST_MAX),
			    collect_hidden, &list);
	if (r < 0)
		return r;
	r = 0;
	for (unsigned i = 0; !r && i < list.count; i++) {
		r = txn_drop_object(op, list.entry[i].object);
		// The object's own drop takes the others along.
		if (!r && list.more)
			r = txn_delete(op, list.entry[i].key);
	}
	if (!r && list.more)
		inode->disk.xattrs -= list.count;
	*ret_more = list.more;
	return r;
}
