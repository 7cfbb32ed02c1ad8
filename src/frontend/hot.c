// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that come all the time, decoded from the entry of a ring and answered in it, past libfuse,
// which takes a calloc and two global locks for each.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "hot.h"
#include "readahead.h"
#include "uring_kernel.h"

// Runs `call`, the body of an operation, until it is final or would wait.
#define HOT_RUN(op, result, call)       \
	do                              \
		(result) = (int)(call); \
	while (op_try(op, &(result)))

// All return the bytes of the answer, or a negative errno; -EAGAIN: the request would wait. They may be called
// again, with the op resumed.
static int hot_read(struct worker *w, struct hot *h)
{
	const struct fuse_read_in *arg = h->arg;
	size_t bytes = arg->size < TRANSPORT_PAYLOAD_BYTES ? arg->size : TRANSPORT_PAYLOAD_BYTES;
	int r;

	HOT_RUN(h->op, r, request_read(w, h->op, h->in->nodeid, arg->offset, bytes, !(arg->flags & O_NOATIME), h->payload));
	if (r >= 0)
		readahead_note(w->frontend->readahead, h->in->nodeid, arg->offset, bytes, op_missed(h->op));
	return r;
}

static int hot_write(struct worker *w, struct hot *h)
{
	const struct fuse_write_in *arg = h->arg;
	bool kill = arg->write_flags & FUSE_WRITE_KILL_SUIDGID;
	int r;

	if (arg->size > h->payload_bytes)
		return -EIO;
	if (arg->flags & (O_SYNC | O_DSYNC) && !w->frontend->persistent) // an epoch is to be waited for
		return -EAGAIN;
	HOT_RUN(h->op, r, fs_write(h->op, w->frontend->fs, h->in->nodeid, h->payload, arg->size, arg->offset, kill));
	if (r < 0)
		return r;
	*(struct fuse_write_out *)h->payload = (struct fuse_write_out){ .size = (uint32_t)r };
	return sizeof(struct fuse_write_out);
}

static void fill_attr(const struct stat *of, struct fuse_attr *ret_attr)
{
	const struct stat known = attr_to_kernel(of), *attr = &known;

	*ret_attr = (struct fuse_attr){
		.ino = attr->st_ino,
		.size = (uint64_t)attr->st_size,
		.blocks = (uint64_t)attr->st_blocks,
		.atime = (uint64_t)attr->st_atim.tv_sec,
		.mtime = (uint64_t)attr->st_mtim.tv_sec,
		.ctime = (uint64_t)attr->st_ctim.tv_sec,
		.atimensec = (uint32_t)attr->st_atim.tv_nsec,
		.mtimensec = (uint32_t)attr->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)attr->st_ctim.tv_nsec,
		.mode = attr->st_mode,
		.nlink = (uint32_t)attr->st_nlink,
		.uid = attr->st_uid,
		.gid = attr->st_gid,
		.rdev = (uint32_t)attr->st_rdev,
		.blksize = (uint32_t)attr->st_blksize,
	};
}

static int hot_getattr(struct worker *w, struct hot *h)
{
	struct fuse_attr_out *out = (void *)h->payload;
	struct stat attr;
	int r;

	HOT_RUN(h->op, r, fs_getattr(h->op, w->frontend->fs, h->in->nodeid, &attr));
	if (!r && attr.st_blocks == FS_BLOCKS_UNKNOWN) // they are to be counted
		r = -EAGAIN;
	if (r)
		return r;
	*out = (struct fuse_attr_out){ .attr_valid = (uint64_t)attr_timeout_s(&attr) };
	fill_attr(&attr, &out->attr);
	return sizeof *out;
}

static int hot_lookup(struct worker *w, struct hot *h)
{
	struct fuse_entry_out *out = (void *)h->payload;
	struct stat attr;
	int r;

	if (!h->payload_bytes || h->payload[h->payload_bytes - 1])
		return -EIO;
	HOT_RUN(h->op, r, fs_lookup(h->op, w->frontend->fs, h->in->nodeid, h->payload, &attr));
	if (r && r != -ENOENT)
		return r;
	*out = (struct fuse_entry_out){ .entry_valid = (uint64_t)FOREVER_S };
	if (r) // that there is no such name is remembered, too
		return sizeof *out;
	out->nodeid = attr.st_ino;
	out->attr_valid = (uint64_t)attr_timeout_s(&attr);
	fill_attr(&attr, &out->attr);
	return sizeof *out;
}

typedef int (*hot_function)(struct worker *w, struct hot *h);

static hot_function function_of(const struct frontend *f, uint32_t opcode)
{
	switch (opcode) {
	case FUSE_READ:
		return hot_read;
	case FUSE_WRITE:
		return hot_write;
	case FUSE_LOOKUP:
		return f->libfuse_checks_owner ? NULL : hot_lookup;
	case FUSE_GETATTR:
		return f->libfuse_checks_owner ? NULL : hot_getattr;
	default:
		return NULL;
	}
}

enum hot_result hot_serve(struct worker *w, struct hot *h, void (*ready)(void *arg), void *arg)
{
	hot_function function = function_of(w->frontend, h->in->opcode);
	int r;

	if (!function)
		return HOT_IS_NOT;
	if (h->op)
		op_resume(h->op);
	else
		h->op = op_begin(w->lane);
	r = function(w, h);
	if (r == -EAGAIN && op_wait(h->op, ready, arg))
		return HOT_WAITS;
	op_end(h->op);
	h->op = NULL;
	if (r == -EAGAIN)
		return HOT_WOULD_WAIT;
	h->error = r < 0 ? -r : 0;
	h->bytes = r < 0 ? 0 : (size_t)r;
	return HOT_ANSWERED;
}
