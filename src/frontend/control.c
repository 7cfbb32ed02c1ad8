// SPDX-License-Identifier: GPL-2.0-or-later
// What is not about a file: the handshake, statfs, and the control interface of vemsctl.
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/statvfs.h>
#include "vems/stats.h"
#include "uring.h"
#include "worker.h"

#define BACKGROUND_MAX 256 // the default of 12 throttles clients with deep queues

// What else is wanted is in transport.c.
void serve_init(void *frontend, struct fuse_conn_info *conn)
{
	struct frontend *f = frontend;
	const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC |
				FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
				FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_IOCTL_DIR | FUSE_CAP_EXPLICIT_INVAL_DATA |
				FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;

	// Not KILLPRIV: version 2 says when; no splice: replies come from the tier as they are; no
	// write-back cache: what write(2) has returned is durable.
	conn->want = conn->capable & wanted;
	conn->max_write = TRANSPORT_PAYLOAD_BYTES;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX;
	conn->time_gran = 1;
	f->opendir_is_free = conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
}

void serve_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct store_space space;
	struct statvfs answer = { 0 };

	store_space(request_frontend(req)->store, &space);
	answer.f_bsize = answer.f_frsize = PAGE_BYTES;
	answer.f_blocks = space.total;
	answer.f_bfree = space.free_soon;
	answer.f_bavail = space.available_soon;
	answer.f_namemax = NAME_BYTES_MAX;
	// f_files stays 0, as in other file systems that make inodes as they are needed.
	fuse_reply_statfs(req, &answer);
}

static void reply_stats(fuse_req_t req, struct frontend *f, size_t out_bytes)
{
	struct vems_stats stats = { 0 };

	if (out_bytes < sizeof stats) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	store_stats(f->store, &stats);
	stats.transport = atomic_load(&f->transport);
	stats.transport_reason = atomic_load(&f->transport_reason);
	if (f->uring)
		uring_stats(f->uring, &stats);
	fuse_reply_ioctl(req, 0, &stats, sizeof stats);
}

// ---- chattr(1): the kernel asks in one of two ways

static const struct {
	unsigned flag, xflag;
} xflags[] = {
	{ FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE },
	{ FS_APPEND_FL, FS_XFLAG_APPEND },
	{ FS_NODUMP_FL, FS_XFLAG_NODUMP },
	{ FS_NOATIME_FL, FS_XFLAG_NOATIME },
};
#define XFLAGS (sizeof xflags / sizeof *xflags)

static int set_flags(struct worker *w, fuse_req_t req, object_t id, unsigned flags)
{
	struct op *op = op_begin(w->lane);
	int r;

	REQUEST_RUN(w, req, op, r, fs_setflags(op, w->frontend->fs, id, flags));
	op_end(op);
	if (!r) // the kernel keeps attributes, and does not know that an ioctl moves the ctime
		fuse_lowlevel_notify_inval_inode(w->frontend->session, id, -1, 0);
	return r;
}

static int set_xattr_flags(struct worker *w, fuse_req_t req, object_t id, const struct fsxattr *x)
{
	unsigned left = x->fsx_xflags, flags = 0;

	for (size_t i = 0; i < XFLAGS; i++) {
		if (left & xflags[i].xflag)
			flags |= xflags[i].flag;
		left &= ~xflags[i].xflag;
	}
	if (left || x->fsx_extsize || x->fsx_projid || x->fsx_cowextsize)
		return -EOPNOTSUPP;
	return set_flags(w, req, id, flags);
}

static void reply_flags(fuse_req_t req, unsigned flags, bool xattr)
{
	struct fsxattr x = { 0 };

	for (size_t i = 0; i < XFLAGS; i++)
		if (flags & xflags[i].flag)
			x.fsx_xflags |= xflags[i].xflag;
	if (xattr)
		fuse_reply_ioctl(req, 0, &x, sizeof x);
	else
		fuse_reply_ioctl(req, 0, &flags, sizeof flags);
}

static bool serve_flags(fuse_req_t req, fuse_ino_t ino, unsigned command, const void *in, size_t in_bytes)
{
	struct worker *w = worker_self;
	struct fsxattr x;
	unsigned flags;
	struct op *op;
	int r = -EINVAL;

	switch (command) {
	case FS_IOC_GETFLAGS:
	case FS_IOC_FSGETXATTR:
		op = op_begin(w->lane);
		REQUEST_RUN(w, req, op, r, fs_getflags(op, w->frontend->fs, ino, &flags));
		op_end(op);
		if (!r) {
			reply_flags(req, flags, command == FS_IOC_FSGETXATTR);
			return true;
		}
		break;
	case FS_IOC_SETFLAGS:
		if (in_bytes >= sizeof flags) {
			memcpy(&flags, in, sizeof flags);
			r = set_flags(w, req, ino, flags);
		}
		break;
	case FS_IOC_FSSETXATTR:
		if (in_bytes >= sizeof x) {
			memcpy(&x, in, sizeof x);
			r = set_xattr_flags(w, req, ino, &x);
		}
		break;
	default:
		return false;
	}
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
	return true;
}

static int act(struct frontend *f, unsigned command)
{
	struct store *store = f->store;

	if (command == VEMS_IOC_SYNC)
		return request_sync(f);
	if (command == VEMS_IOC_SCRUB)
		return store_scrub(store);
	store_scrub_stop(store);
	return 0;
}

// ---- ours: none of these runs in a lane, so they answer while every operation waits

void serve_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned command, void *arg, struct fuse_file_info *fi,
		 unsigned flags, const void *in, size_t in_bytes, size_t out_bytes)
{
	struct frontend *f = request_frontend(req);
	uid_t uid = fuse_req_ctx(req)->uid;
	bool known = command == VEMS_IOC_STATS || command == VEMS_IOC_SYNC || command == VEMS_IOC_SCRUB ||
		     command == VEMS_IOC_SCRUB_STOP;
	int r;

	if (serve_flags(req, ino, command, in, in_bytes))
		return;
	if (ino != FUSE_ROOT_ID || !known) {
		fuse_reply_err(req, ENOTTY);
	} else if (uid && uid != f->owner) {
		fuse_reply_err(req, EPERM);
	} else if (command == VEMS_IOC_STATS) {
		reply_stats(req, f, out_bytes);
	} else if (!request_defer(worker_self, req)) {
		r = act(f, command);
		if (r)
			fuse_reply_err(req, -r);
		else
			fuse_reply_ioctl(req, 0, NULL, 0);
	}
}
