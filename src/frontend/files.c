// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on files: attributes, data, extended attributes.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "readahead.h"
#include "worker.h"

#define COPY_BYTES_MAX (16u << 20) // by one request, which holds up the writers of the file
#define OPEN_FOR_EXECVE 0x20 // the kernel's __FMODE_EXEC

static void reply_attr(fuse_req_t req, const struct stat *attr)
{
	struct stat known = attr_to_kernel(attr);

	fuse_reply_attr(req, &known, attr_timeout_s(attr));
}

// Blocks of a file with holes; if they cannot be counted, they stay unknown.
static void count_blocks(struct worker *w, fuse_req_t req, object_t id, struct stat *attr)
{
	struct fs_count count = { 0 }, before;
	int r = 0;

	while (!r && !count.done) {
		struct op *op = op_begin(w->lane);

		before = count;
		REQUEST_RUN(w, req, op, r, fs_count(op, w->frontend->fs, id, &before, &count));
		op_end(op);
	}
	if (!r)
		attr->st_blocks = (blkcnt_t)(count.pages * (PAGE_BYTES / 512));
}

void serve_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct timespec birth = { 0 };
	struct stat attr;
	int r;

	REQUEST_RUN(w, req, op, r, fs_stat(op, w->frontend->fs, ino, &attr, &birth));
	op_end(op);
	w->request.birth_sec = birth.tv_sec;
	w->request.birth_nsec = (uint32_t)birth.tv_nsec;
	if (!r && attr.st_blocks == FS_BLOCKS_UNKNOWN)
		count_blocks(w, req, ino, &attr);
	if (r)
		fuse_reply_err(req, -r);
	else
		reply_attr(req, &attr);
}

static unsigned set_from_fuse(int set)
{
	static const struct {
		int fuse;
		unsigned fs;
	} map[] = {
		{ FUSE_SET_ATTR_MODE, FS_SET_MODE },
		{ FUSE_SET_ATTR_UID, FS_SET_UID },
		{ FUSE_SET_ATTR_GID, FS_SET_GID },
		{ FUSE_SET_ATTR_SIZE, FS_SET_SIZE },
		{ FUSE_SET_ATTR_ATIME, FS_SET_ATIME },
		{ FUSE_SET_ATTR_MTIME, FS_SET_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW },
		{ FUSE_SET_ATTR_CTIME, FS_SET_CTIME },
		// The kernel's FATTR_KILL_SUIDGID, both in one.
		{ FUSE_SET_ATTR_KILL_SUID, FS_KILL_SUIDGID },
		// With HANDLE_KILLPRIV_V2 a change of owner takes the bits without being told.
		{ FUSE_SET_ATTR_UID, FS_KILL_SUIDGID },
		{ FUSE_SET_ATTR_GID, FS_KILL_SUIDGID },
	};
	unsigned result = 0;

	for (size_t i = 0; i < sizeof map / sizeof *map; i++)
		if (set & map[i].fuse)
			result |= map[i].fs;
	// So comes a chown() of nothing, and what takes the bits away before a fallocate() or a store to a
	// mapping: the kernel leaves out what it thinks is ours.
	return result ? result : FS_KILL_SUIDGID;
}

void serve_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	unsigned fs_set = set_from_fuse(set);
	struct stat result;
	int r;

	REQUEST_RUN(w, req, op, r, fs_setattr(op, w->frontend->fs, ino, attr, fs_set, &result));
	if (r)
		fuse_reply_err(req, -r);
	else
		reply_attr(req, &result);
	op_end(op);
}

// Past the page cache, but for who wants it. What is mapped lies in it all the same, and the kernel keeps it
// true: so it may stay over an open. A program to be run is only ever mapped: through the cache at once, which
// spares it the invalidation of all pages with each new mapping.
void file_info_set(const struct frontend *f, struct fuse_file_info *fi)
{
	fi->direct_io = !f->kernel_caches && !(fi->flags & OPEN_FOR_EXECVE);
	fi->keep_cache = 1;
	fi->noflush = 1;
}

static int truncate_on_open(struct worker *w, fuse_req_t req, object_t id)
{
	struct op *op = op_begin(w->lane);
	const struct stat empty = { 0 };
	struct stat attr;
	unsigned set = FS_SET_SIZE | (w->request.kill_suidgid ? FS_KILL_SUIDGID : 0);
	int r;

	REQUEST_RUN(w, req, op, r, fs_setattr(op, w->frontend->fs, id, &empty, set, &attr));
	op_end(op);
	return r;
}

void serve_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	int r = 0;

	if ((fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC) {
		struct op *op = op_begin(w->lane);

		REQUEST_RUN(w, req, op, r, fs_may_open(op, w->frontend->fs, ino, fi->flags));
		op_end(op);
	}
	if (!r && fi->flags & O_TRUNC)
		r = truncate_on_open(w, req, ino);
	if (!r)
		r = fs_opened(w->frontend->fs, ino);
	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	file_info_set(w->frontend, fi);
	// Nobody waits: there is no file to be released.
	if (fuse_reply_open(req, fi) == -ENOENT)
		fs_released(w->frontend->fs, ino);
}

void serve_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fs_released(request_frontend(req)->fs, ino);
	fuse_reply_err(req, 0);
}

// From the tier to the reader in one copy, the kernel's: the vector points into the tier, and stays
// good until op_end(). False: not answered.
static bool read_lent(struct worker *w, fuse_req_t req, struct op *op, object_t id, size_t bytes, uint64_t offset, bool touch)
{
	int r, count = 0;

	REQUEST_RUN(w, req, op, r, request_look(w, op, id, offset, bytes, touch, &count));
	if (r > 0)
		return worker_reply_lent(w, req, op, count);
	fuse_reply_err(req, -r);
	return true;
}

// The answer to a ring is copied here, as is what can not be lent.
void serve_read(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	bool touch = !(fi->flags & O_NOATIME);
	int r;

	if (bytes > TRANSPORT_PAYLOAD_BYTES)
		bytes = TRANSPORT_PAYLOAD_BYTES;
	if (w->entry || !read_lent(w, req, op, ino, bytes, (uint64_t)offset, touch)) {
		REQUEST_RUN(w, req, op, r, request_read(w, op, ino, (uint64_t)offset, bytes, touch, w->reply));
		if (r < 0)
			fuse_reply_err(req, -r);
		else
			fuse_reply_buf(req, w->reply, (size_t)r);
	}
	readahead_note(w->frontend->readahead, ino, (uint64_t)offset, bytes, op_missed(op));
	op_end(op);
}

void serve_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t bytes, off_t offset,
		 struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	struct frontend *f = w->frontend;
	bool kill = w->request.kill_suidgid, sync = fi->flags & (O_SYNC | O_DSYNC) && !f->persistent;
	struct op *op;
	int r, synced = 0;

	if (sync && request_defer(w, req))
		return;
	op = op_begin(w->lane);
	REQUEST_RUN(w, req, op, r, fs_write(op, f->fs, ino, data, bytes, (uint64_t)offset, kill));
	op_end(op);
	if (r > 0 && sync)
		synced = request_sync(f);
	if (r < 0 || synced)
		fuse_reply_err(req, r < 0 ? -r : -synced);
	else
		fuse_reply_write(req, (size_t)r);
}

// Also for directories. After ENOSYS the kernel does not ask again.
void serve_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	struct frontend *f = request_frontend(req);
	int r = -ENOSYS;

	if (!f->persistent) {
		if (request_defer(worker_self, req))
			return;
		r = request_sync(f);
	}
	// Nothing can be written, so nothing is left to be.
	fuse_reply_err(req, r == -EROFS ? 0 : -r);
}

// As much as is copied before an error counts.
void serve_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t offset, struct fuse_file_info *fi, fuse_ino_t to,
			   off_t to_offset, struct fuse_file_info *to_fi, size_t bytes, int flags)
{
	struct worker *w = worker_self;
	struct frontend *f = w->frontend;
	size_t done = 0;
	int r = flags ? -EINVAL : 1;

	if (request_defer(w, req))
		return;

	if (bytes > COPY_BYTES_MAX)
		bytes = COPY_BYTES_MAX;
	while (r > 0 && done < bytes) {
		struct op *op = op_begin(w->lane);

		REQUEST_RUN(w, req, op, r, fs_copy(op, f->fs, from, (uint64_t)offset + done, to, (uint64_t)to_offset + done,
						   bytes - done, w->reply));
		op_end(op);
		done += r > 0 ? (size_t)r : 0;
	}
	if (r >= 0 && to_fi->flags & (O_SYNC | O_DSYNC) && !f->persistent)
		r = request_sync(f);
	if (r < 0 && !done)
		fuse_reply_err(req, -r);
	else
		fuse_reply_write(req, done);
}

// In steps of a commit each. One that fails gives back what is past the end, and the size, of which the kernel has
// not been told; the kernel lets nobody else change it meanwhile.
static int allocate(struct worker *w, fuse_req_t req, object_t id, uint64_t offset, uint64_t end, bool keep_size)
{
	struct fs *fs = w->frontend->fs;
	struct fs_allocation allocation = { .next = offset, .end = end, .keep_size = keep_size }, before;
	struct op *op;
	int r, undone;

	do {
		before = allocation;
		op = op_begin(w->lane);
		REQUEST_RUN(w, req, op, r, fs_allocate(op, fs, id, &before, &allocation));
		op_end(op);
	} while (!r && allocation.next < end);
	if (r && before.begun) {
		op = op_begin(w->lane);
		REQUEST_RUN(w, req, op, undone, fs_allocate_undo(op, fs, id, &before));
		op_end(op);
	}
	return r;
}

void serve_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t bytes, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	uint64_t from = (uint64_t)offset, end = from + (uint64_t)bytes;
	bool keep_size = mode & FALLOC_FL_KEEP_SIZE;
	struct op *op;
	int r;

	switch (mode & ~FALLOC_FL_KEEP_SIZE) {
	case 0:
		if (request_defer(w, req))
			return;
		r = allocate(w, req, ino, from, end, keep_size);
		break;
	case FALLOC_FL_PUNCH_HOLE:
	case FALLOC_FL_ZERO_RANGE:
		op = op_begin(w->lane);
		REQUEST_RUN(w, req, op, r, fs_punch(op, w->frontend->fs, ino, from, end, keep_size));
		op_end(op);
		break;
	default:
		r = -EOPNOTSUPP;
	}
	fuse_reply_err(req, -r);
}

void serve_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	struct op *op;
	uint64_t found;
	int r;

	if (whence != SEEK_DATA && whence != SEEK_HOLE) { // the kernel does the others
		fuse_reply_err(req, EINVAL);
		return;
	}
	op = op_begin(w->lane);
	REQUEST_RUN(w, req, op, r, fs_seek(op, w->frontend->fs, ino, (uint64_t)offset, whence == SEEK_DATA, &found));
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_lseek(req, (off_t)found);
	op_end(op);
}

void serve_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t bytes, int flags)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	if (w->request.kill_suidgid)
		flags |= FS_XATTR_KILL_SGID;
	REQUEST_RUN(w, req, op, r, fs_setxattr(op, w->frontend->fs, ino, name, value, bytes, flags));
	fuse_reply_err(req, -r);
	op_end(op);
}

// cap 0 asks for the size.
static void reply_xattr(fuse_req_t req, int result, const char *data, size_t cap)
{
	if (result < 0)
		fuse_reply_err(req, -result);
	else if (!cap)
		fuse_reply_xattr(req, (size_t)result);
	else
		fuse_reply_buf(req, data, (size_t)result);
}

void serve_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t cap)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	if (cap > TRANSPORT_PAYLOAD_BYTES)
		cap = TRANSPORT_PAYLOAD_BYTES;
	REQUEST_RUN(w, req, op, r, fs_getxattr(op, w->frontend->fs, ino, name, w->reply, cap));
	reply_xattr(req, r, w->reply, cap);
	op_end(op);
}

void serve_listxattr(fuse_req_t req, fuse_ino_t ino, size_t cap)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	if (cap > TRANSPORT_PAYLOAD_BYTES)
		cap = TRANSPORT_PAYLOAD_BYTES;
	// Root, for want of the caller's capabilities.
	REQUEST_RUN(w, req, op, r, fs_listxattr(op, w->frontend->fs, ino, !fuse_req_ctx(req)->uid, w->reply, cap));
	reply_xattr(req, r, w->reply, cap);
	op_end(op);
}

void serve_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	REQUEST_RUN(w, req, op, r, fs_removexattr(op, w->frontend->fs, ino, name));
	fuse_reply_err(req, -r);
	op_end(op);
}
