// SPDX-License-Identifier: GPL-2.0-or-later
// Extended attributes. A value that does not fit the item with its name is the pages of a hidden
// object, written by the same transaction.
//
// Every change is a change of the inode too (count, ctime), so that a watch on the object covers
// its hidden objects: they are written once and dropped whole.
#include <sys/xattr.h>
#include "fs_impl.h"

#define CAPABILITY "security.capability"

uint32_t xattr_flag(const char *name)
{
	if (!strcmp(name, CAPABILITY))
		return INODE_CAPABILITY;
	if (!strcmp(name, ACL_ACCESS))
		return INODE_ACL;
	return !strcmp(name, ACL_DEFAULT) ? INODE_DEFAULT_ACL : 0;
}

static bool is_acl(const char *name)
{
	return xattr_flag(name) & (INODE_ACL | INODE_DEFAULT_ACL);
}

static int check_namespace(const char *name)
{
	static const char *const prefix[] = { "user.", "trusted.", "security." };

	for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++)
		if (!strncmp(name, prefix[i], strlen(prefix[i])))
			return name[strlen(prefix[i])] ? 0 : -EINVAL;
	return is_acl(name) ? 0 : -EOPNOTSUPP;
}

static int xattr_find(struct op *op, object_t id, const char *name, struct chain *ret_chain)
{
	size_t bytes = strlen(name);
	int r;

	if (!bytes || bytes > NAME_BYTES_MAX)
		return -ERANGE;
	r = check_namespace(name);
	if (r)
		return r;
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
	bool trusted;
};

static int list_name(void *arg, struct item_key key, const void *value, size_t bytes)
{
	const struct xattr_disk *xattr = value;
	struct name_list *list = arg;

	if (!xattr_valid(xattr, bytes)) {
		name_report_damage(key);
		return -EUCLEAN;
	}
	if (!list->trusted && xattr->name_bytes > 8 && !memcmp(xattr->name, "trusted.", 8))
		return 0;
	if (list->bytes + xattr->name_bytes + 1 <= list->cap) {
		memcpy(list->list + list->bytes, xattr->name, xattr->name_bytes);
		list->list[list->bytes + xattr->name_bytes] = 0;
	}
	list->bytes += xattr->name_bytes + 1u;
	return 0;
}

ssize_t fs_listxattr(struct op *op, struct fs *fs, object_t id, bool trusted, char *list, size_t cap)
{
	struct name_list names = { list, cap, 0, trusted };
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

union xattr_value {
	struct xattr_disk xattr;
	uint8_t raw[ITEM_VALUE_MAX];
};

static size_t value_begin(union xattr_value *v, const char *name, object_t hidden, size_t bytes)
{
	size_t name_bytes = strlen(name);

	v->xattr.object = hidden;
	v->xattr.value_bytes = (uint32_t)bytes;
	v->xattr.name_bytes = (uint8_t)name_bytes;
	memcpy(v->raw + sizeof v->xattr, name, name_bytes);
	return sizeof v->xattr + name_bytes;
}

int xattr_put(struct op *op, struct item_key key, const char *name, const void *value, size_t bytes)
{
	union xattr_value v;
	size_t begin = value_begin(&v, name, 0, bytes);

	if (bytes)
		memcpy(v.raw + begin, value, bytes);
	return txn_put(op, key, v.raw, begin + bytes);
}

static int put_value(struct op *op, struct fs *fs, struct item_key key, const char *name, const void *value,
		     size_t bytes)
{
	union xattr_value v;
	object_t hidden;
	int r;

	if (sizeof v.xattr + strlen(name) + bytes <= sizeof v.raw)
		return xattr_put(op, key, name, value, bytes);
	hidden = store_new_object(fs->store);
	r = write_hidden(op, hidden, value, bytes);
	return r ? r : txn_put(op, key, v.raw, value_begin(&v, name, hidden, bytes));
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

// The item, its value and the inode's count; the inode is put by the caller.
static int remove_found(struct op *op, struct inode *inode, const char *name, const struct chain *chain)
{
	int r = txn_delete(op, chain->key);

	if (!r)
		r = drop_old_value(op, chain);
	if (inode->disk.xattrs)
		inode->disk.xattrs--;
	inode->disk.flags &= ~xattr_flag(name);
	return r;
}

// Likewise.
static int put_found(struct op *op, struct fs *fs, struct inode *inode, const char *name, const void *value,
		     size_t bytes, const struct chain *chain)
{
	int r = put_value(op, fs, chain->key, name, value, bytes);

	if (!r)
		r = drop_old_value(op, chain);
	inode->disk.xattrs += !chain->found;
	inode->disk.flags |= xattr_flag(name);
	return r;
}

int fs_setxattr(struct op *op, struct fs *fs, object_t id, const char *name, const void *value, size_t bytes,
		int flags)
{
	struct inode inode;
	struct chain chain;
	bool needless = false;
	int r;

	if (bytes > XATTR_BYTES_MAX)
		return -E2BIG;
	r = inode_watch_get(op, id, &inode);
	if (!r)
		r = xattr_find(op, id, name, &chain);
	if (!r)
		r = inode_may_change(&inode);
	if (!r)
		r = check_flags(&chain, flags & ~FS_XATTR_KILL_SGID);
	if (!r && is_acl(name))
		r = acl_prepare(&inode, name, value, bytes, &needless);
	if (r)
		return r;
	if (flags & FS_XATTR_KILL_SGID && !strcmp(name, ACL_ACCESS))
		inode.disk.mode &= ~(uint32_t)S_ISGID;
	if (!needless)
		r = put_found(op, fs, &inode, name, value, bytes, &chain);
	else if (chain.found)
		r = remove_found(op, &inode, name, &chain);
	if (r)
		return r;
	inode.disk.ctime = time_now();
	r = inode_put(op, &inode);
	return r ? r : txn_commit(op, false);
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
