// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "hash.h"
#include "null_fs.h"

struct timespec null_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return now;
}

// ---- entries ------------------------------------------------------------------------------------------

static struct entry **chain(struct fs *fs, object_t dir, const char *name)
{
	return &fs->bucket[(hash_bytes(name, strlen(name)) ^ hash_mix(dir, 0)) % BUCKETS];
}

struct entry *null_find(struct fs *fs, object_t dir, const char *name)
{
	struct entry *e = *chain(fs, dir, name);
	while (e && (e->dir != dir || strcmp(e->name, name)))
		e = e->next;
	return e;
}

int null_enter(struct fs *fs, object_t dir, const char *name, object_t id)
{
	struct object *d = object_of(fs, dir);
	struct entry **bucket = chain(fs, dir, name), *e = malloc(sizeof *e + strlen(name) + 1);
	if (d->entries == d->entry_room) {
		size_t room = d->entry_room ? 2 * d->entry_room : 16;
		struct entry **more = realloc(d->entry, room * sizeof *more);
		if (!more || !e) {
			free(e);
			return -ENOMEM;
		}
		d->entry = more;
		d->entry_room = room;
	}
	*e = (struct entry){ *bucket, dir, id, d->entries };
	strcpy(e->name, name);
	*bucket = e;
	d->entry[d->entries++] = e;
	d->attr.st_mtim = d->attr.st_ctim = null_now();
	return 0;
}

void null_leave(struct fs *fs, struct entry *entry)
{
	struct object *d = object_of(fs, entry->dir);
	struct entry **at = chain(fs, entry->dir, entry->name);
	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
	d->entry[entry->cookie] = NULL;
	while (d->entries && !d->entry[d->entries - 1])
		d->entries--;
	d->attr.st_mtim = d->attr.st_ctim = null_now();
	free(entry);
}

// ---- life -----------------------------------------------------------------------------------------------

static object_t object_make(struct fs *fs, mode_t mode, uid_t uid, gid_t gid, dev_t rdev)
{
	object_t id = atomic_fetch_add(&fs->next, 1);
	if (id >= OBJECTS_MAX)
		return 0;
	struct object *o = object_of(fs, id);
	struct timespec now = null_now();
	pthread_mutex_init(&o->lock, NULL);
	o->attr = (struct stat){ .st_ino = id, .st_mode = mode, .st_nlink = S_ISDIR(mode) ? 2 : 1, .st_uid = uid, .st_gid = gid,
				 .st_rdev = rdev, .st_blksize = 4096, .st_atim = now, .st_mtim = now, .st_ctim = now };
	return id;
}

static void *map(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

int fs_new(struct store *store, struct fs **ret_fs)
{
	struct fs *fs = calloc(1, sizeof *fs);
	if (!fs)
		return -ENOMEM;
	fs->object = map(OBJECTS_MAX * sizeof *fs->object);
	fs->bucket = map(BUCKETS * sizeof *fs->bucket);
	fs->base = map(SPACE_BYTES);
	if (!fs->object || !fs->bucket || !fs->base)
		return -ENOMEM;
	fs->end = fs->base;
	fs->next = OBJECT_ROOT;
	pthread_rwlock_init(&fs->names, NULL);
	pthread_mutex_init(&fs->space, NULL);
	*ret_fs = fs;
	return 0;
}

int fs_start(struct fs *fs, uid_t uid, gid_t gid)
{
	object_of(fs, object_make(fs, S_IFDIR | 0755, uid, gid, 0))->parent = OBJECT_ROOT;
	return 0;
}

bool fs_has_atimes(const struct fs *fs)
{
	return false;
}

bool fs_write_atime(struct fs *fs, struct lane *lane, bool all)
{
	return false;
}

int fs_opened(struct fs *fs, object_t id)
{
	atomic_fetch_add(&object_of(fs, id)->opens, 1);
	return 0;
}

void fs_released(struct fs *fs, object_t id)
{
	if (atomic_fetch_sub(&object_of(fs, id)->opens, 1) == 1 && object_of(fs, id)->attr.st_nlink == 0)
		null_release(fs, id);
}

void fs_forgotten(struct fs *fs, object_t id)
{
}

object_t fs_next_orphan(struct fs *fs)
{
	return 0;
}

bool fs_has_orphans(struct fs *fs)
{
	return false;
}

int fs_drop(struct op *op, struct fs *fs, object_t id)
{
	return 0;
}

void fs_dropped(struct fs *fs, object_t id, int result)
{
}

// ---- names ----------------------------------------------------------------------------------------------

int fs_lookup(struct op *op, struct fs *fs, object_t dir, const char *name, struct stat *ret_attr)
{
	int r = 0;
	pthread_rwlock_rdlock(&fs->names);
	struct entry *e = null_find(fs, dir, name);
	if (e)
		*ret_attr = object_of(fs, e->id)->attr;
	else if (strcmp(name, ".") == 0)
		*ret_attr = object_of(fs, dir)->attr;
	else if (strcmp(name, "..") == 0)
		*ret_attr = object_of(fs, object_of(fs, dir)->parent)->attr;
	else
		r = -ENOENT;
	pthread_rwlock_unlock(&fs->names);
	return r;
}

static int make(struct fs *fs, const struct fs_cred *cred, object_t dir, const char *name, mode_t mode, dev_t rdev,
		const char *target, struct stat *ret_attr)
{
	struct object *d = object_of(fs, dir);
	if (null_find(fs, dir, name))
		return -EEXIST;
	bool setgid = d->attr.st_mode & S_ISGID;
	object_t id = object_make(fs, (mode & ~(cred->umask & 0777)) | (setgid && S_ISDIR(mode) ? S_ISGID : 0), cred->uid,
				  setgid ? d->attr.st_gid : cred->gid, rdev);
	int r = id ? null_enter(fs, dir, name, id) : -ENOSPC;
	if (r)
		return r;
	struct object *o = object_of(fs, id);
	o->parent = dir;
	o->target = target ? strdup(target) : NULL;
	o->attr.st_size = target ? (off_t)strlen(target) : 0;
	d->attr.st_nlink += S_ISDIR(mode);
	*ret_attr = o->attr;
	return 0;
}

int fs_make(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, const char *name, mode_t mode, dev_t rdev,
	    const char *target, struct stat *ret_attr)
{
	pthread_rwlock_wrlock(&fs->names);
	int r = make(fs, cred, dir, name, mode, rdev, target, ret_attr);
	pthread_rwlock_unlock(&fs->names);
	return r;
}

int fs_tmpfile(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, mode_t mode, struct stat *ret_attr)
{
	object_t id = object_make(fs, mode & ~(cred->umask & 0777), cred->uid, cred->gid, 0);
	if (!id)
		return -ENOSPC;
	object_of(fs, id)->attr.st_nlink = 0;
	*ret_attr = object_of(fs, id)->attr;
	return 0;
}

int fs_link(struct op *op, struct fs *fs, object_t id, object_t dir, const char *name, struct stat *ret_attr)
{
	pthread_rwlock_wrlock(&fs->names);
	struct object *o = object_of(fs, id);
	int r = null_find(fs, dir, name) ? -EEXIST : null_enter(fs, dir, name, id);
	if (!r) {
		o->attr.st_nlink++;
		o->attr.st_ctim = null_now();
		*ret_attr = o->attr;
	}
	pthread_rwlock_unlock(&fs->names);
	return r;
}

// Under the lock of names.
static void unlink_entry(struct fs *fs, struct entry *e)
{
	struct object *o = object_of(fs, e->id);
	bool directory = S_ISDIR(o->attr.st_mode);
	object_t id = e->id;
	object_of(fs, e->dir)->attr.st_nlink -= directory;
	null_leave(fs, e);
	o->attr.st_ctim = null_now();
	o->attr.st_nlink -= directory ? 2 : 1;
	if (o->attr.st_nlink == 0 && atomic_load(&o->opens) == 0)
		null_release(fs, id);
}

static int remove_name(struct fs *fs, object_t dir, const char *name, bool directory)
{
	pthread_rwlock_wrlock(&fs->names);
	struct entry *e = null_find(fs, dir, name);
	struct object *o = e ? object_of(fs, e->id) : NULL;
	int r = 0;
	if (!e)
		r = -ENOENT;
	else if (S_ISDIR(o->attr.st_mode) != directory)
		r = directory ? -ENOTDIR : -EISDIR;
	else if (directory && o->entries)
		r = -ENOTEMPTY;
	else
		unlink_entry(fs, e);
	pthread_rwlock_unlock(&fs->names);
	return r;
}

int fs_unlink(struct op *op, struct fs *fs, object_t dir, const char *name)
{
	return remove_name(fs, dir, name, false);
}

int fs_rmdir(struct op *op, struct fs *fs, object_t dir, const char *name)
{
	return remove_name(fs, dir, name, true);
}

static int exchange(struct fs *fs, struct entry *from, struct entry *to)
{
	object_t id = from->id;
	if (!to)
		return -ENOENT;
	from->id = to->id;
	to->id = id;
	return 0;
}

static int rename_entry(struct fs *fs, object_t dir, const char *name, object_t newdir, const char *newname, unsigned flags)
{
	struct entry *from = null_find(fs, dir, name), *to = null_find(fs, newdir, newname);
	if (!from)
		return -ENOENT;
	if (flags & RENAME_EXCHANGE)
		return exchange(fs, from, to);
	if (to && flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (to && to->id == from->id)
		return 0;
	if (to && object_of(fs, to->id)->entries)
		return -ENOTEMPTY;
	object_t id = from->id;
	struct object *o = object_of(fs, id);
	if (to)
		unlink_entry(fs, to);
	null_leave(fs, from);
	o->parent = newdir;
	o->attr.st_ctim = null_now();
	if (S_ISDIR(o->attr.st_mode) && dir != newdir) {
		object_of(fs, dir)->attr.st_nlink--;
		object_of(fs, newdir)->attr.st_nlink++;
	}
	return null_enter(fs, newdir, newname, id);
}

int fs_rename(struct op *op, struct fs *fs, const struct fs_cred *cred, object_t dir, const char *name, object_t newdir,
	      const char *newname, unsigned flags)
{
	pthread_rwlock_wrlock(&fs->names);
	int r = flags & RENAME_WHITEOUT ? -EINVAL : rename_entry(fs, dir, name, newdir, newname, flags);
	pthread_rwlock_unlock(&fs->names);
	return r;
}

int fs_readlink(struct op *op, struct fs *fs, object_t id, char *buffer, size_t cap)
{
	const char *target = object_of(fs, id)->target;
	if (!target)
		return -EINVAL;
	strncpy(buffer, target, cap);
	return (int)(strlen(target) < cap ? strlen(target) : cap);
}

// Cookies: 1 and 2 for "." and "..", then that of the entry + 3.
int fs_readdir(struct op *op, struct fs *fs, object_t dir, uint64_t cookie, bool plus, fs_fill_fn fill, void *arg)
{
	struct object *d = object_of(fs, dir);
	struct stat self = { .st_ino = dir, .st_mode = S_IFDIR }, parent = { .st_ino = d->parent, .st_mode = S_IFDIR };
	if (cookie < 1 && fill(arg, ".", &self, 1))
		return 0;
	if (cookie < 2 && fill(arg, "..", &parent, 2))
		return 0;
	pthread_rwlock_rdlock(&fs->names);
	for (size_t at = cookie < 3 ? 0 : cookie - 2; at < d->entries; at++) {
		const struct entry *e = d->entry[at];
		if (e && fill(arg, e->name, &object_of(fs, e->id)->attr, at + 3))
			break;
	}
	pthread_rwlock_unlock(&fs->names);
	return 0;
}
