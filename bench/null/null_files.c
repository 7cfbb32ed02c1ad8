// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "null_fs.h"

// ---- data -------------------------------------------------------------------------------------------------

static unsigned power_for(uint64_t bytes)
{
	unsigned power = 12;
	while (UINT64_C(1) << power < bytes)
		power++;
	return power;
}

static uint8_t *space_take(struct fs *fs, unsigned power)
{
	pthread_mutex_lock(&fs->space);
	uint64_t bytes = UINT64_C(1) << power;
	uint8_t *used = fs->freed[power], *piece = used;
	if (used) {
		memcpy(&fs->freed[power], used, sizeof used);
	} else if (fs->end + bytes <= fs->base + SPACE_BYTES) {
		piece = fs->end;
		fs->end += bytes;
	}
	pthread_mutex_unlock(&fs->space);
	if (used)
		memset(used, 0, bytes);
	return piece;
}

static void space_give(struct fs *fs, uint8_t *piece, unsigned power)
{
	pthread_mutex_lock(&fs->space);
	memcpy(piece, &fs->freed[power], sizeof piece);
	fs->freed[power] = piece;
	pthread_mutex_unlock(&fs->space);
}

// The old piece is not used again: somebody may be reading it without a lock.
int null_grow(struct fs *fs, struct object *o, uint64_t bytes)
{
	if (bytes <= o->capacity)
		return 0;
	if (bytes > SPACE_BYTES / 4)
		return -EFBIG;
	unsigned power = power_for(bytes);
	uint8_t *piece = space_take(fs, power);
	if (!piece)
		return -ENOSPC;
	if (o->capacity)
		memcpy(piece, atomic_load(&o->data), (size_t)o->attr.st_size);
	atomic_store(&o->data, piece);
	o->capacity = UINT64_C(1) << power;
	return 0;
}

void null_release(struct fs *fs, object_t id)
{
	struct object *o = object_of(fs, id);
	pthread_mutex_lock(&o->lock);
	if (o->capacity)
		space_give(fs, atomic_load(&o->data), power_for(o->capacity));
	o->capacity = 0;
	free(o->target);
	free(o->entry);
	o->target = NULL;
	o->entry = NULL;
	pthread_mutex_unlock(&o->lock);
}

static void resize(struct object *o, off_t size)
{
	if (size < o->attr.st_size)
		memset(atomic_load(&o->data) + size, 0, (size_t)(o->attr.st_size - size));
	o->attr.st_size = size;
	o->attr.st_blocks = (size + 4095) / 4096 * 8;
	o->attr.st_mtim = o->attr.st_ctim = null_now();
}

ssize_t fs_read(struct op *op, struct fs *fs, object_t id, uint64_t offset, size_t bytes, bool touch, struct iovec *ret_iov,
		int *ret_iovcnt)
{
	struct object *o = object_of(fs, id);
	uint64_t size = (uint64_t)o->attr.st_size;
	*ret_iovcnt = 0;
	if (offset >= size)
		return 0;
	if (bytes > size - offset)
		bytes = size - offset;
	ret_iov[0] = (struct iovec){ atomic_load_explicit(&o->data, memory_order_acquire) + offset, bytes };
	*ret_iovcnt = 1;
	return (ssize_t)bytes;
}

ssize_t fs_write(struct op *op, struct fs *fs, object_t id, const void *data, size_t bytes, uint64_t offset, bool kill_suidgid)
{
	struct object *o = object_of(fs, id);
	pthread_mutex_lock(&o->lock);
	int r = null_grow(fs, o, offset + bytes);
	if (!r) {
		memcpy(atomic_load_explicit(&o->data, memory_order_relaxed) + offset, data, bytes);
		if ((uint64_t)o->attr.st_size < offset + bytes)
			resize(o, (off_t)(offset + bytes));
		else
			o->attr.st_mtim = o->attr.st_ctim = null_now();
	}
	pthread_mutex_unlock(&o->lock);
	return r ? r : (ssize_t)bytes;
}

ssize_t fs_copy(struct op *op, struct fs *fs, object_t from, uint64_t offset, object_t to, uint64_t to_offset, size_t bytes,
		void *buffer)
{
	struct iovec iov;
	int count;
	ssize_t n = fs_read(op, fs, from, offset, bytes < 1 << 20 ? bytes : 1 << 20, false, &iov, &count);
	if (n <= 0)
		return n;
	memcpy(buffer, iov.iov_base, (size_t)n);
	return fs_write(op, fs, to, buffer, (size_t)n, to_offset, false);
}

static int zero_range(struct fs *fs, object_t id, uint64_t offset, uint64_t end, bool keep_size, bool zero)
{
	struct object *o = object_of(fs, id);
	pthread_mutex_lock(&o->lock);
	uint64_t size = (uint64_t)o->attr.st_size;
	int r = keep_size && end > size ? 0 : null_grow(fs, o, end);
	if (!r && zero && offset < size)
		memset(atomic_load(&o->data) + offset, 0, (end < size ? end : size) - offset);
	if (!r && !keep_size && end > size)
		resize(o, (off_t)end);
	pthread_mutex_unlock(&o->lock);
	return r;
}

int fs_allocate(struct op *op, struct fs *fs, object_t id, const struct fs_allocation *before, struct fs_allocation *ret)
{
	int r = zero_range(fs, id, before->next, before->end, before->keep_size, false);
	if (!r)
		*ret = (struct fs_allocation){ .next = before->end, .end = before->end };
	return r;
}

int fs_allocate_undo(struct op *op, struct fs *fs, object_t id, const struct fs_allocation *allocation)
{
	return 0; // it has no steps
}

int fs_punch(struct op *op, struct fs *fs, object_t id, uint64_t offset, uint64_t end, bool keep_size)
{
	return zero_range(fs, id, offset, end, keep_size, true);
}

int fs_seek(struct op *op, struct fs *fs, object_t id, uint64_t offset, bool data, uint64_t *ret_offset)
{
	uint64_t size = (uint64_t)object_of(fs, id)->attr.st_size;
	if (offset >= size)
		return -ENXIO;
	*ret_offset = data ? offset : size;
	return 0;
}

// ---- attributes ---------------------------------------------------------------------------------------------

int fs_getattr(struct op *op, struct fs *fs, object_t id, struct stat *ret_attr)
{
	*ret_attr = object_of(fs, id)->attr;
	return 0;
}

int fs_stat(struct op *op, struct fs *fs, object_t id, struct stat *ret_attr, struct timespec *ret_birth)
{
	*ret_attr = object_of(fs, id)->attr;
	if (ret_birth)
		*ret_birth = ret_attr->st_ctim;
	return 0;
}

int fs_count(struct op *op, struct fs *fs, object_t id, const struct fs_count *before, struct fs_count *ret_count)
{
	*ret_count = (struct fs_count){ .done = true };
	return 0;
}

int fs_setattr(struct op *op, struct fs *fs, object_t id, const struct stat *attr, unsigned set, struct stat *ret_attr)
{
	struct object *o = object_of(fs, id);
	struct stat *to = &o->attr;
	int r = 0;
	pthread_mutex_lock(&o->lock);
	if (set & FS_SET_SIZE)
		r = null_grow(fs, o, (uint64_t)attr->st_size);
	if (!r && set & FS_SET_SIZE)
		resize(o, attr->st_size);
	if (set & FS_SET_MODE)
		to->st_mode = (to->st_mode & S_IFMT) | (attr->st_mode & 07777);
	if (set & FS_SET_UID)
		to->st_uid = attr->st_uid;
	if (set & FS_SET_GID)
		to->st_gid = attr->st_gid;
	if (set & (FS_SET_ATIME | FS_SET_ATIME_NOW))
		to->st_atim = set & FS_SET_ATIME_NOW ? null_now() : attr->st_atim;
	if (set & (FS_SET_MTIME | FS_SET_MTIME_NOW))
		to->st_mtim = set & FS_SET_MTIME_NOW ? null_now() : attr->st_mtim;
	to->st_ctim = null_now();
	*ret_attr = *to;
	pthread_mutex_unlock(&o->lock);
	return r;
}

int fs_getflags(struct op *op, struct fs *fs, object_t id, unsigned *ret_flags)
{
	return -EOPNOTSUPP;
}

int fs_setflags(struct op *op, struct fs *fs, object_t id, unsigned flags)
{
	return -EOPNOTSUPP;
}

int fs_may_open(struct op *op, struct fs *fs, object_t id, int flags)
{
	return 0;
}

int fs_setxattr(struct op *op, struct fs *fs, object_t id, const char *name, const void *value, size_t bytes, int flags)
{
	return -EOPNOTSUPP;
}

ssize_t fs_getxattr(struct op *op, struct fs *fs, object_t id, const char *name, void *value, size_t cap)
{
	return -ENODATA;
}

ssize_t fs_listxattr(struct op *op, struct fs *fs, object_t id, bool trusted, char *list, size_t cap)
{
	return 0;
}

int fs_removexattr(struct op *op, struct fs *fs, object_t id, const char *name)
{
	return -ENODATA;
}
