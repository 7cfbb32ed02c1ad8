// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on names and directories.
#include <errno.h>
#include <string.h>
#include "worker.h"

static struct fuse_entry_param entry_of(const struct stat *attr)
{
	return (struct fuse_entry_param){
		.ino = attr->st_ino, // object ids are never reused: no generation
		.attr = attr_to_kernel(attr),
		.attr_timeout = attr_timeout_s(attr),
		.entry_timeout = FOREVER_S,
	};
}

static void reply_entry(fuse_req_t req, int result, const struct stat *attr)
{
	struct fuse_entry_param entry;

	if (result) {
		fuse_reply_err(req, -result);
		return;
	}
	entry = entry_of(attr);
	fuse_reply_entry(req, &entry);
}

static struct fs_cred cred_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct fs_cred){ ctx->uid, ctx->gid, ctx->umask };
}

void serve_lookup(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	// That there is no such name is remembered, too.
	static const struct fuse_entry_param none = { .entry_timeout = FOREVER_S };
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct stat attr;
	int r;

	REQUEST_RUN(w, req, op, r, fs_lookup(op, w->frontend->fs, dir, name, &attr));
	if (r == -ENOENT)
		fuse_reply_entry(req, &none);
	else
		reply_entry(req, r, &attr);
	op_end(op);
}

void serve_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	fs_forgotten(request_frontend(req)->fs, ino);
	fuse_reply_none(req);
}

void serve_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		fs_forgotten(request_frontend(req)->fs, forgets[i].ino);
	fuse_reply_none(req);
}

static int make(struct worker *w, fuse_req_t req, struct op *op, object_t dir, const char *name, mode_t mode,
		dev_t rdev, const char *target, struct stat *ret_attr)
{
	struct fs_cred cred = cred_of(req);
	int r;

	REQUEST_RUN(w, req, op, r, fs_make(op, w->frontend->fs, &cred, dir, name, mode, rdev, target, ret_attr));
	return r;
}

static void make_and_reply(fuse_req_t req, object_t dir, const char *name, mode_t mode, dev_t rdev,
			   const char *target)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct stat attr;
	int r = make(w, req, op, dir, name, mode, rdev, target, &attr);

	reply_entry(req, r, &attr);
	op_end(op);
}

void serve_mknod(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t rdev)
{
	make_and_reply(req, dir, name, mode, rdev, NULL);
}

void serve_mkdir(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode)
{
	make_and_reply(req, dir, name, (mode & ~(mode_t)S_IFMT) | S_IFDIR, 0, NULL);
}

void serve_symlink(fuse_req_t req, const char *target, fuse_ino_t dir, const char *name)
{
	make_and_reply(req, dir, name, S_IFLNK | 0777, 0, target);
}

void serve_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct fuse_entry_param entry;
	struct stat attr;
	struct fs_cred cred = cred_of(req);
	int r;

	mode = (mode & ~(mode_t)S_IFMT) | S_IFREG;
	if (w->request.tmpfile)
		REQUEST_RUN(w, req, op, r, fs_tmpfile(op, w->frontend->fs, &cred, dir, mode, &attr));
	else
		r = make(w, req, op, dir, name, mode, 0, NULL, &attr);

	if (r) {
		fuse_reply_err(req, -r);
	} else {
		// Too late for an error: the file is there, and the kernel would go on knowing that it is not. Without memory
		// for the count it is dropped, once unlinked, when the kernel forgets it, which is after its last use.
		(void)fs_opened(w->frontend->fs, attr.st_ino);
		file_info_set(w->frontend, fi);
		entry = entry_of(&attr);
		// Nobody waits: there is no file to be released.
		if (fuse_reply_create(req, &entry, fi) == -ENOENT) {
			fs_forgotten(w->frontend->fs, attr.st_ino); // matters to what has no name
			fs_released(w->frontend->fs, attr.st_ino);
		}
	}
	op_end(op);
}

void serve_unlink(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	REQUEST_RUN(w, req, op, r, fs_unlink(op, w->frontend->fs, dir, name));
	fuse_reply_err(req, -r);
	op_end(op);
}

void serve_rmdir(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	REQUEST_RUN(w, req, op, r, fs_rmdir(op, w->frontend->fs, dir, name));
	fuse_reply_err(req, -r);
	op_end(op);
}

void serve_rename(fuse_req_t req, fuse_ino_t dir, const char *name, fuse_ino_t newdir, const char *newname,
		  unsigned flags)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct fs_cred cred = cred_of(req);
	int r;

	REQUEST_RUN(w, req, op, r, fs_rename(op, w->frontend->fs, &cred, dir, name, newdir, newname, flags));
	fuse_reply_err(req, -r);
	op_end(op);
}

void serve_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newdir, const char *newname)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct stat attr;
	int r;

	REQUEST_RUN(w, req, op, r, fs_link(op, w->frontend->fs, ino, newdir, newname, &attr));
	reply_entry(req, r, &attr);
	op_end(op);
}

void serve_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	int r;

	REQUEST_RUN(w, req, op, r, fs_readlink(op, w->frontend->fs, ino, w->reply, PAGE_BYTES));
	if (r < 0) {
		fuse_reply_err(req, -r);
	} else {
		w->reply[r] = 0;
		fuse_reply_readlink(req, w->reply);
	}
	op_end(op);
}

// Not asked any more after the first time: the kernel then opens directories by itself and keeps
// their listings, until it has them changed. One that is removed while it is open stays known to
// the kernel, so no open count is missed.
void serve_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (request_frontend(req)->opendir_is_free) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

struct listing {
	fuse_req_t req;
	char *data;
	size_t bytes, cap;
	bool plus;
};

static size_t add_plus(struct listing *l, const char *name, const struct stat *attr, uint64_t cookie)
{
	struct fuse_entry_param entry = entry_of(attr);

	// The kernel knows these two, and does not count them as looked up.
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		entry.ino = 0;
	return fuse_add_direntry_plus(l->req, l->data + l->bytes, l->cap - l->bytes, name, &entry, (off_t)cookie);
}

static int add(void *arg, const char *name, const struct stat *attr, uint64_t cookie)
{
	struct listing *l = arg;
	size_t needed;

	if (l->plus)
		needed = add_plus(l, name, attr, cookie);
	else
		needed = fuse_add_direntry(l->req, l->data + l->bytes, l->cap - l->bytes, name, attr, (off_t)cookie);
	if (needed > l->cap - l->bytes)
		return 1;
	l->bytes += needed;
	return 0;
}

static int list(struct op *op, struct fs *fs, object_t dir, uint64_t cookie, struct listing *l)
{
	l->bytes = 0;
	return fs_readdir(op, fs, dir, cookie, l->plus, add, l);
}

static void list_and_reply(fuse_req_t req, object_t dir, size_t bytes, off_t offset, bool plus)
{
	struct worker *w = worker_self;
	struct op *op = op_begin(w->lane);
	struct listing l = { .req = req, .data = w->reply, .plus = plus };
	int r;

	l.cap = bytes < TRANSPORT_PAYLOAD_BYTES ? bytes : TRANSPORT_PAYLOAD_BYTES;
	REQUEST_RUN(w, req, op, r, list(op, w->frontend->fs, dir, (uint64_t)offset, &l));
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, l.data, l.bytes);
	op_end(op);
}

void serve_readdir(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset, struct fuse_file_info *fi)
{
	list_and_reply(req, ino, bytes, offset, false);
}

void serve_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset, struct fuse_file_info *fi)
{
	list_and_reply(req, ino, bytes, offset, true);
}
