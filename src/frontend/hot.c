// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that come all the time, decoded from the entry of a ring and answered in it, past libfuse,
// which takes a calloc and two global locks for each.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "readahead.h"
#include "uring.h"
#include "uring_kernel.h"

// Runs `call`, the body of an operation, until it is final or would wait.
#define HOT_RUN(worker, op, result, call)            \
	do                                           \
		(result) = (int)(call);              \
	while (request_try(worker, op, &(result)))

struct hot {
	struct worker *w;
	const struct fuse_in_header *in;
	const void *arg;
	char *payload;
	size_t bytes; // of the request in payload
};

// All return the bytes of the answer, or a negative errno.
static int hot_read(struct hot *h)
{
	const struct fuse_read_in *arg = h->arg;
	struct worker *w = h->w;
	size_t bytes = arg->size < TRANSPORT_PAYLOAD_BYTES ? arg->size : TRANSPORT_PAYLOAD_BYTES;
	struct op *op = op_begin(w->lane);
	int r;

	HOT_RUN(w, op, r, request_read(w, op, h->in->nodeid, arg->offset, bytes, !(arg->flags & O_NOATIME), h->payload));
	if (r >= 0)
		readahead_note(w->frontend->readahead, h->in->nodeid, arg->offset, bytes, op_missed(op));
	op_end(op);
	return r;
}

static int hot_write(struct hot *h)
{
	const struct fuse_write_in *arg = h->arg;
	bool kill = arg->write_flags & FUSE_WRITE_KILL_SUIDGID;
	struct worker *w = h->w;
	struct op *op;
	int r;

	if (arg->size > h->bytes)
		return -EIO;
	if (arg->flags & (O_SYNC | O_DSYNC) && !w->frontend->persistent) { // an epoch is to be waited for
		w->deferred = true;
		return -EAGAIN;
	}
	op = op_begin(w->lane);
	HOT_RUN(w, op, r, fs_write(op, w->frontend->fs, h->in->nodeid, h->payload, arg->size, arg->offset, kill));
	op_end(op);
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

static int hot_getattr(struct hot *h)
{
	struct fuse_attr_out *out = (void *)h->payload;
	struct worker *w = h->w;
	struct op *op = op_begin(w->lane);
	struct stat attr;
	int r;

	HOT_RUN(w, op, r, fs_getattr(op, w->frontend->fs, h->in->nodeid, &attr));
	op_end(op);
	if (!r && attr.st_blocks == FS_BLOCKS_UNKNOWN) { // they are to be counted
		w->deferred = true;
		r = -EAGAIN;
	}
	if (r)
		return r;
	*out = (struct fuse_attr_out){ .attr_valid = (uint64_t)attr_timeout_s(&attr) };
	fill_attr(&attr, &out->attr);
	return sizeof *out;
}

static int hot_lookup(struct hot *h)
{
	struct fuse_entry_out *out = (void *)h->payload;
	struct worker *w = h->w;
	struct stat attr;
	struct op *op;
	int r;

	if (!h->bytes || h->payload[h->bytes - 1])
		return -EIO;
	op = op_begin(w->lane);
	HOT_RUN(w, op, r, fs_lookup(op, w->frontend->fs, h->in->nodeid, h->payload, &attr));
	op_end(op);
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

static bool is_hot(const struct frontend *f, uint32_t opcode)
{
	switch (opcode) {
	case FUSE_READ:
	case FUSE_WRITE:
		return true;
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
		return !f->libfuse_checks_owner;
	default:
		return false;
	}
}

bool hot_serve(struct worker *w, const void *header, const void *arg, char *payload, size_t payload_bytes,
	       int *ret_error, size_t *ret_bytes)
{
	struct hot h = { w, header, arg, payload, payload_bytes };
	int r;

	if (!is_hot(w->frontend, h.in->opcode))
		return false;
	switch (h.in->opcode) {
	case FUSE_READ:
		r = hot_read(&h);
		break;
	case FUSE_WRITE:
		r = hot_write(&h);
		break;
	case FUSE_LOOKUP:
		r = hot_lookup(&h);
		break;
	default:
		r = hot_getattr(&h);
	}
	*ret_error = r < 0 ? -r : 0;
	*ret_bytes = r < 0 ? 0 : (size_t)r;
	return true;
}
