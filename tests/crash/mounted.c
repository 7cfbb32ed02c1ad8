// SPDX-License-Identifier: GPL-2.0-or-later
#include "mounted.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_BYTES_MAX 16384u

int mounted_start(struct mounted *m, struct store *s)
{
	*m = (struct mounted){ .store = s };
	int r = fs_new(s, &m->fs);
	if (!r)
		r = fs_start(m->fs, 0, 0);
	if (!r)
		r = lane_new(s, &m->lane);
	if (!r)
		m->lane->record->lsn = 0; // that of its last commit
	return r;
}

void mounted_free(struct mounted *m)
{
	if (m->lane)
		lane_free(m->lane);
	if (m->fs)
		fs_stop(m->fs);
	fs_free(m->fs);
	*m = (struct mounted){ 0 };
}

int mounted_find(struct mounted *m, const char *path, object_t *ret_id)
{
	object_t id = OBJECT_ROOT;
	while (*path) {
		char name[TREE_NAME_BYTES];
		struct stat st;
		size_t bytes = strcspn(path, "/");
		snprintf(name, sizeof name, "%.*s", (int)bytes, path);
		int r = RUN(m, fs_lookup(op, m->fs, id, name, &st));
		if (r)
			return r;
		id = st.st_ino;
		path += bytes + (path[bytes] == '/');
	}
	*ret_id = id;
	return 0;
}

int mounted_drop_orphans(struct mounted *m)
{
	int r = 0;
	for (object_t id; !r && (id = fs_next_orphan(m->fs));)
		r = RUN(m, fs_drop(op, m->fs, id));
	return r;
}

// ---- comparison -----------------------------------------------------------------------------------

struct compare {
	struct mounted *m;
	const struct tree *tree;
	struct tree *learns; // NULL: looks at all
	object_t id[TREE_INODES]; // 0: not met yet
	char path[256];
	char *text;
	size_t bytes;
};

__attribute__((format(printf, 2, 3))) static int differs(struct compare *c, const char *format, ...)
{
	va_list args;
	int at = snprintf(c->text, c->bytes, "/%s: ", c->path);
	va_start(args, format);
	vsnprintf(c->text + at, c->bytes - (size_t)at, format, args);
	va_end(args);
	return 1;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static int compare_attributes(struct compare *c, unsigned inode, const struct stat *st)
{
	const struct tree_inode *n = &c->tree->inode[inode];
	if (st->st_mode != n->mode)
		return differs(c, "mode 0%o, expected 0%o", st->st_mode, n->mode);
	if (st->st_nlink != n->nlink)
		return differs(c, "%u links, expected %u", (unsigned)st->st_nlink, n->nlink);
	if (!S_ISDIR(n->mode) && (uint64_t)st->st_size != n->size)
		return differs(c, "%llu bytes, expected %llu", (unsigned long long)st->st_size, (unsigned long long)n->size);
	if (st->st_uid || st->st_gid)
		return differs(c, "owner %u:%u, expected 0:0", st->st_uid, st->st_gid);
	if (n->timed && (!same_time(st->st_mtim, n->mtime) || !same_time(st->st_ctim, n->ctime)))
		return differs(c, "times have changed");
	if (c->learns && !n->timed) {
		struct tree_inode *to = &c->learns->inode[inode];
		to->mtime = st->st_mtim;
		to->ctime = st->st_ctim;
		to->timed = true;
	}
	return 0;
}

static int compare_bytes(struct compare *c, const struct tree_inode *n, const struct iovec *iov, int count)
{
	uint64_t at = 0;
	for (int i = 0; i < count; at += iov[i++].iov_len)
		for (size_t b = 0; b < iov[i].iov_len; b++) {
			uint8_t found = ((const uint8_t *)iov[i].iov_base)[b];
			if (found != n->data[at + b])
				return differs(c, "byte %llu is %u, expected %u", (unsigned long long)(at + b), found, n->data[at + b]);
		}
	return at == n->size ? 0 : differs(c, "%llu bytes read, expected %llu", (unsigned long long)at, (unsigned long long)n->size);
}

static int compare_content(struct compare *c, const struct tree_inode *n, object_t id)
{
	struct iovec iov[OP_PAGES_MAX];
	int count = 0, r;
	struct op *op = op_begin(c->m->lane);
	do
		r = (int)fs_read(op, c->m->fs, id, 0, TREE_FILE_BYTES, false, iov, &count);
	while (op_again(op, &r));
	r = r < 0 ? differs(c, "read: %s", strerror(-r)) : compare_bytes(c, n, iov, count);
	op_end(op);
	return r;
}

static int compare_target(struct compare *c, const struct tree_inode *n, object_t id)
{
	char target[4097];
	int r = RUN(c->m, fs_readlink(op, c->m->fs, id, target, sizeof target));
	if (r < 0)
		return differs(c, "readlink: %s", strerror(-r));
	return (size_t)r == strlen(n->target) && memcmp(target, n->target, (size_t)r) == 0 ? 0 : differs(c, "another target");
}

static int compare_xattr(struct compare *c, const struct tree_xattr *x, object_t id)
{
	uint8_t value[VALUE_BYTES_MAX], expected[VALUE_BYTES_MAX]; // not static: there are scenes within scenes
	int r = RUN(c->m, fs_getxattr(op, c->m->fs, id, x->name, value, sizeof value));
	if (r < 0)
		return differs(c, "attribute %s: %s", x->name, strerror(-r));
	tree_fill(expected, x->stamp, 0, x->bytes);
	return (size_t)r == x->bytes && memcmp(value, expected, x->bytes) == 0 ? 0 : differs(c, "attribute %s: another value", x->name);
}

static int compare_xattrs(struct compare *c, const struct tree_inode *n, object_t id)
{
	char list[TREE_XATTRS * TREE_NAME_BYTES];
	unsigned names = 0;
	int r = RUN(c->m, fs_listxattr(op, c->m->fs, id, true, list, sizeof list));
	if (r < 0)
		return differs(c, "listxattr: %s", strerror(-r));
	for (const char *name = list; name < list + r; name += strlen(name) + 1)
		names++;
	if (names != n->xattrs)
		return differs(c, "%u attributes, expected %u", names, n->xattrs);
	for (unsigned i = 0; i < n->xattrs; i++)
		if (compare_xattr(c, &n->xattr[i], id))
			return 1;
	return 0;
}

struct entry {
	char name[TREE_NAME_BYTES];
	object_t id;
	mode_t type;
};
struct entries {
	unsigned count;
	struct entry entry[TREE_NAMES];
};

static int take_entry(void *arg, const char *name, const struct stat *st, uint64_t cookie)
{
	struct entries *list = arg;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	if (list->count == TREE_NAMES)
		return 1;
	struct entry *e = &list->entry[list->count++];
	snprintf(e->name, sizeof e->name, "%s", name);
	e->id = st->st_ino;
	e->type = st->st_mode & S_IFMT;
	return 0;
}

static int list_body(struct op *op, struct fs *fs, object_t id, struct entries *list)
{
	list->count = 0;
	return fs_readdir(op, fs, id, 0, false, take_entry, list);
}

static int compare_object(struct compare *c, unsigned inode, object_t id);

static int compare_entry(struct compare *c, const struct entries *list, const struct tree_name *name)
{
	size_t length = strlen(c->path);
	int r;
	snprintf(c->path + length, sizeof c->path - length, "%s%s", length ? "/" : "", name->name);
	unsigned i = 0;
	while (i < list->count && strcmp(list->entry[i].name, name->name) != 0)
		i++;
	if (i == list->count)
		r = differs(c, "is not there");
	else if (list->entry[i].type != (c->tree->inode[name->child].mode & S_IFMT))
		r = differs(c, "another type in the directory");
	else
		r = compare_object(c, name->child, list->entry[i].id);
	c->path[length] = 0;
	return r;
}

static int compare_names(struct compare *c, unsigned inode, object_t id)
{
	struct entries list;
	unsigned names = 0;
	int r = RUN(c->m, list_body(op, c->m->fs, id, &list));
	if (r < 0)
		return differs(c, "readdir: %s", strerror(-r));
	for (unsigned i = 0; i < c->tree->names; i++) {
		if (c->tree->name[i].parent != inode)
			continue;
		names++;
		if (compare_entry(c, &list, &c->tree->name[i]))
			return 1;
	}
	return names == list.count ? 0 : differs(c, "%u entries, expected %u", list.count, names);
}

// Two names of one file have one id, and of two files two.
static int note_id(struct compare *c, unsigned inode, object_t id)
{
	if (c->id[inode])
		return c->id[inode] == id ? 0 : differs(c, "is no link to the same file");
	for (unsigned i = 0; i < TREE_INODES; i++)
		if (c->id[i] == id)
			return differs(c, "is a link to another file");
	c->id[inode] = id;
	return 0;
}

static int compare_object(struct compare *c, unsigned inode, object_t id)
{
	const struct tree_inode *n = &c->tree->inode[inode];
	struct stat st;
	bool met = c->id[inode];
	if (note_id(c, inode, id))
		return 1;
	if (met)
		return 0;
	int r = RUN(c->m, fs_getattr(op, c->m->fs, id, &st));
	if (r)
		return differs(c, "getattr: %s", strerror(-r));
	if (compare_attributes(c, inode, &st) || (!c->learns && compare_xattrs(c, n, id)))
		return 1;
	if (S_ISDIR(n->mode))
		return compare_names(c, inode, id);
	if (c->learns)
		return 0;
	if (S_ISLNK(n->mode))
		return compare_target(c, n, id);
	return S_ISREG(n->mode) ? compare_content(c, n, id) : 0;
}

int mounted_compare(struct mounted *m, const struct tree *t, char *text, size_t bytes)
{
	struct compare c = { .m = m, .tree = t, .text = text, .bytes = bytes };
	return compare_object(&c, 0, OBJECT_ROOT);
}

int mounted_compare_and_learn(struct mounted *m, struct tree *t, char *text, size_t bytes)
{
	struct compare c = { .m = m, .tree = t, .learns = t, .text = text, .bytes = bytes };
	return compare_object(&c, 0, OBJECT_ROOT);
}
