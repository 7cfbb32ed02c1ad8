// SPDX-License-Identifier: GPL-2.0-or-later
#include "tree.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- life -----------------------------------------------------------------------------------------

struct tree *tree_new(void)
{
	struct tree *t = calloc(1, sizeof *t);
	assert(t);
	t->inode[0] = (struct tree_inode){ .mode = S_IFDIR | 0755, .nlink = 2 };
	return t;
}

struct tree *tree_copy(const struct tree *from)
{
	struct tree *t = malloc(sizeof *t);
	assert(t);
	*t = *from;
	for (unsigned i = 0; i < TREE_INODES; i++) {
		struct tree_inode *n = &t->inode[i];
		if (n->data) {
			n->data = calloc(1, TREE_FILE_BYTES);
			assert(n->data);
			memcpy(n->data, from->inode[i].data, n->size);
		}
		if (n->target)
			n->target = strdup(n->target);
	}
	return t;
}

static void inode_clear(struct tree_inode *n)
{
	free(n->data);
	free(n->target);
	*n = (struct tree_inode){ 0 };
}

void tree_free(struct tree *t)
{
	for (unsigned i = 0; t && i < TREE_INODES; i++)
		inode_clear(&t->inode[i]);
	free(t);
}

uint8_t tree_byte(unsigned stamp, uint64_t at)
{
	return (uint8_t)(1 + (stamp * 31 + at + at / 509) % 255); // never 0, which is a hole
}

void tree_fill(void *data, unsigned stamp, uint64_t offset, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)data)[i] = tree_byte(stamp, offset + i);
}

// ---- names ----------------------------------------------------------------------------------------

static struct tree_name *name_in(const struct tree *t, unsigned parent, const char *name, size_t bytes)
{
	for (unsigned i = 0; i < t->names; i++) {
		const struct tree_name *n = &t->name[i];
		if (n->parent == parent && strlen(n->name) == bytes && memcmp(n->name, name, bytes) == 0)
			return (struct tree_name *)n;
	}
	return NULL;
}

// The directory that a path's last name is in, and that name.
static int parent_of(const struct tree *t, const char *path, unsigned *ret_parent, const char **ret_name)
{
	unsigned at = 0;
	for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
		const struct tree_name *n = name_in(t, at, path, (size_t)(slash - path));
		if (!n)
			return -ENOENT;
		at = n->child;
		if (!S_ISDIR(t->inode[at].mode))
			return -ENOTDIR;
	}
	*ret_parent = at;
	*ret_name = path;
	return 0;
}

static int find_name(const struct tree *t, const char *path, struct tree_name **ret_name)
{
	unsigned parent;
	const char *name;
	int r = parent_of(t, path, &parent, &name);
	if (r)
		return r;
	*ret_name = name_in(t, parent, name, strlen(name));
	return *ret_name ? 0 : -ENOENT;
}

int tree_find(const struct tree *t, const char *path, unsigned *ret_inode)
{
	struct tree_name *name;
	*ret_inode = 0;
	if (!*path)
		return 0;
	int r = find_name(t, path, &name);
	if (!r)
		*ret_inode = name->child;
	return r;
}

static void name_add(struct tree *t, unsigned parent, const char *name, unsigned child)
{
	assert(t->names < TREE_NAMES && strlen(name) < TREE_NAME_BYTES);
	struct tree_name *n = &t->name[t->names++];
	memset(n, 0, sizeof *n);
	n->parent = parent;
	n->child = child;
	strcpy(n->name, name);
	t->inode[parent].timed = t->inode[child].timed = false;
	t->inode[parent].nlink += S_ISDIR(t->inode[child].mode);
}

static void name_remove(struct tree *t, struct tree_name *n)
{
	t->inode[n->parent].timed = t->inode[n->child].timed = false;
	t->inode[n->parent].nlink -= S_ISDIR(t->inode[n->child].mode);
	memmove(n, n + 1, (size_t)(&t->name[t->names] - (n + 1)) * sizeof *n);
	t->names--;
}

static void link_less(struct tree *t, unsigned inode)
{
	struct tree_inode *n = &t->inode[inode];
	n->nlink = S_ISDIR(n->mode) ? 0 : n->nlink - 1;
	if (n->nlink == 0)
		inode_clear(n);
}

static bool is_empty(const struct tree *t, unsigned inode)
{
	for (unsigned i = 0; i < t->names; i++)
		if (t->name[i].parent == inode)
			return false;
	return true;
}

int tree_make(struct tree *t, const char *path, mode_t mode, const char *target)
{
	unsigned parent, i = 1;
	const char *name;
	int r = parent_of(t, path, &parent, &name);
	if (r)
		return r;
	if (name_in(t, parent, name, strlen(name)))
		return -EEXIST;
	while (t->inode[i].mode)
		i++;
	assert(i < TREE_INODES);
	t->inode[i] = (struct tree_inode){ .mode = mode, .nlink = S_ISDIR(mode) ? 2 : 1 };
	if (S_ISREG(mode))
		t->inode[i].data = calloc(1, TREE_FILE_BYTES);
	if (target) {
		t->inode[i].target = strdup(target);
		t->inode[i].size = strlen(target);
	}
	name_add(t, parent, name, i);
	return 0;
}

int tree_link(struct tree *t, const char *path, const char *to)
{
	unsigned inode, parent;
	const char *name;
	int r = tree_find(t, path, &inode);
	if (!r)
		r = parent_of(t, to, &parent, &name);
	if (r)
		return r;
	if (name_in(t, parent, name, strlen(name)))
		return -EEXIST;
	t->inode[inode].nlink++;
	name_add(t, parent, name, inode);
	return 0;
}

int tree_unlink(struct tree *t, const char *path)
{
	struct tree_name *name;
	int r = find_name(t, path, &name);
	if (r)
		return r;
	unsigned inode = name->child;
	if (S_ISDIR(t->inode[inode].mode))
		return -EISDIR;
	name_remove(t, name);
	link_less(t, inode);
	return 0;
}

int tree_rmdir(struct tree *t, const char *path)
{
	struct tree_name *name;
	int r = find_name(t, path, &name);
	if (r)
		return r;
	unsigned inode = name->child;
	if (!S_ISDIR(t->inode[inode].mode))
		return -ENOTDIR;
	if (!is_empty(t, inode))
		return -ENOTEMPTY;
	name_remove(t, name);
	link_less(t, inode);
	return 0;
}

static int exchange_names(struct tree *t, struct tree_name *a, struct tree_name *b)
{
	unsigned one = a->child, other = b->child;
	bool one_dir = S_ISDIR(t->inode[one].mode), other_dir = S_ISDIR(t->inode[other].mode);
	a->child = other;
	b->child = one;
	t->inode[a->parent].nlink += other_dir - one_dir;
	t->inode[b->parent].nlink += one_dir - other_dir;
	t->inode[a->parent].timed = t->inode[b->parent].timed = t->inode[one].timed = t->inode[other].timed = false;
	return 0;
}

// No path of the tests leads a directory into itself.
int tree_rename(struct tree *t, const char *path, const char *to, bool exchange)
{
	struct tree_name *from, *over;
	unsigned parent, old_parent;
	const char *name, *old_name;
	int r = parent_of(t, path, &old_parent, &old_name); // both of them before either name
	if (!r)
		r = parent_of(t, to, &parent, &name);
	if (!r)
		r = find_name(t, path, &from);
	if (r)
		return r;
	over = name_in(t, parent, name, strlen(name));
	if (exchange)
		return over ? exchange_names(t, from, over) : -ENOENT;
	unsigned moved = from->child, gone = over ? over->child : moved;
	if (over && gone == moved)
		return 0; // two names of one file
	if (over && S_ISDIR(t->inode[gone].mode) != S_ISDIR(t->inode[moved].mode))
		return S_ISDIR(t->inode[gone].mode) ? -EISDIR : -ENOTDIR;
	if (over && S_ISDIR(t->inode[gone].mode) && !is_empty(t, gone))
		return -ENOTEMPTY;
	name_remove(t, from);
	if (over) {
		name_remove(t, name_in(t, parent, name, strlen(name)));
		link_less(t, gone);
	}
	name_add(t, parent, name, moved);
	return 0;
}

// ---- content --------------------------------------------------------------------------------------

static int find_to_change(struct tree *t, const char *path, struct tree_inode **ret_inode)
{
	unsigned i;
	int r = tree_find(t, path, &i);
	if (r)
		return r;
	*ret_inode = &t->inode[i];
	(*ret_inode)->timed = false;
	return 0;
}

static int find_file(struct tree *t, const char *path, uint64_t end, struct tree_inode **ret_inode)
{
	int r = find_to_change(t, path, ret_inode);
	assert(end <= TREE_FILE_BYTES);
	return !r && !S_ISREG((*ret_inode)->mode) ? -EINVAL : r;
}

int tree_write(struct tree *t, const char *path, uint64_t offset, size_t bytes, unsigned stamp)
{
	struct tree_inode *n;
	int r = find_file(t, path, offset + bytes, &n);
	if (r)
		return r;
	tree_fill(n->data + offset, stamp, offset, bytes);
	if (n->size < offset + bytes)
		n->size = offset + bytes;
	return 0;
}

int tree_zero(struct tree *t, const char *path, uint64_t from, uint64_t end, bool keep_size)
{
	struct tree_inode *n;
	int r = find_file(t, path, end, &n);
	if (r)
		return r;
	memset(n->data + from, 0, end - from);
	if (!keep_size && n->size < end)
		n->size = end;
	return 0;
}

int tree_allocate(struct tree *t, const char *path, uint64_t end)
{
	return tree_zero(t, path, end, end, false); // zeroes where there were none before
}

int tree_truncate(struct tree *t, const char *path, uint64_t size)
{
	struct tree_inode *n;
	int r = find_file(t, path, size, &n);
	if (r)
		return r;
	if (size < n->size)
		memset(n->data + size, 0, n->size - size);
	n->size = size;
	return 0;
}

int tree_chmod(struct tree *t, const char *path, mode_t mode)
{
	struct tree_inode *n;
	int r = find_to_change(t, path, &n);
	if (r)
		return r;
	n->mode = (n->mode & S_IFMT) | mode;
	return 0;
}

// ---- extended attributes --------------------------------------------------------------------------

static struct tree_xattr *find_xattr(struct tree_inode *n, const char *name)
{
	for (unsigned i = 0; i < n->xattrs; i++)
		if (strcmp(n->xattr[i].name, name) == 0)
			return &n->xattr[i];
	return NULL;
}

int tree_setxattr(struct tree *t, const char *path, const char *name, size_t bytes, unsigned stamp)
{
	struct tree_inode *n;
	int r = find_to_change(t, path, &n);
	if (r)
		return r;
	struct tree_xattr *x = find_xattr(n, name);
	if (!x) {
		assert(n->xattrs < TREE_XATTRS);
		x = &n->xattr[n->xattrs++];
	}
	memset(x, 0, sizeof *x);
	strncpy(x->name, name, sizeof x->name - 1);
	x->bytes = bytes;
	x->stamp = stamp;
	return 0;
}

int tree_removexattr(struct tree *t, const char *path, const char *name)
{
	struct tree_inode *n;
	int r = find_to_change(t, path, &n);
	if (r)
		return r;
	struct tree_xattr *x = find_xattr(n, name);
	if (!x)
		return -ENODATA;
	*x = n->xattr[--n->xattrs];
	memset(&n->xattr[n->xattrs], 0, sizeof *x);
	return 0;
}
