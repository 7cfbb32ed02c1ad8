// SPDX-License-Identifier: GPL-2.0-or-later
// libfuse parses and dispatches; the bytes pass here. What it does not know or cannot say is added:
//
//   TMPFILE comes to it as CREATE, which has the same body and the same answer
//   STATX   as GETATTR, of which the body is the beginning; the answer is made of that to GETATTR
//   SETXATTR is given back its older form, without the flags, which are noted
//   INIT    flags that it does not know, of those that the kernel has offered
//   OPEN, CREATE    FOPEN_PARALLEL_DIRECT_WRITES
//   WRITE, OPEN     whether setuid and setgid must go, which it drops on the way in
#include "transport.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "uring_kernel.h"

#define URING_PARAMETER "/sys/module/fuse/parameters/enable_uring"
#define OPCODE_STATX 52u

struct statx_time {
	int64_t sec;
	uint32_t nsec;
	int32_t reserved;
};
struct statx_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec, flags;
	uint64_t spare[2];
	struct {
		uint32_t mask, blksize;
		uint64_t attributes;
		uint32_t nlink, uid, gid;
		uint16_t mode, spare0;
		uint64_t ino, size, blocks, attributes_mask;
		struct statx_time atime, btime, ctime, mtime;
		uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
		uint64_t spare2[14];
	} stat;
};
_Static_assert(sizeof(struct statx_out) == 32 + 256, "as the kernel has it");
#define STATX_MASK 0xfffu // all basic ones and the birth

// PARALLEL_DIROPS: libfuse 3.14 lets a server want it and then forgets to say so.
// KILLPRIV_V2: the kernel tells when setuid and setgid go, and asks for no security.capability
// before each write.
// SETXATTR_EXT: an access ACL may have to take setgid away.
#define INIT_WANTED (FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT)
#define INIT2_WANTED ((uint32_t)(FUSE_DIRECT_IO_ALLOW_MMAP >> 32)) // shared mappings past the page cache
#define INIT2_URING ((uint32_t)(FUSE_OVER_IO_URING >> 32))

_Static_assert(sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) == TRANSPORT_WRITE_HEADER_BYTES, "");

static atomic_bool setxattr_ext; // of the one connection: SETXATTR has flags

bool transport_may_map(const struct transport_request *request)
{
	return request->offered & FUSE_INIT_EXT && request->offered2 & INIT2_WANTED;
}

bool transport_kernel_offers_uring(void)
{
	int fd = open(URING_PARAMETER, O_RDONLY | O_CLOEXEC);
	char value = 'N';

	if (fd < 0)
		return false;
	if (read(fd, &value, 1) != 1)
		value = 'N';
	close(fd);
	return value == 'Y';
}

int transport_switch_uring_on(void)
{
	int fd, r = 0;

	if (transport_kernel_offers_uring())
		return 1;
	fd = open(URING_PARAMETER, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, "Y", 1) != 1)
		r = -errno;
	close(fd);
	return r;
}

int transport_clone(int fd)
{
	uint32_t session = (uint32_t)fd;
	int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (clone < 0)
		return -1;
	if (ioctl(clone, FUSE_DEV_IOC_CLONE, &session)) {
		close(clone);
		return -1;
	}
	return clone;
}

// A body cut short by an old kernel reads as flags not set.
void transport_note(void *buffer, size_t bytes, struct transport_request *request)
{
	union {
		struct fuse_init_in init;
		struct fuse_open_in open;
		struct fuse_setxattr_in setxattr;
		struct fuse_write_in write;
		struct fuse_interrupt_in interrupt;
	} body = { 0 };
	struct fuse_in_header header;
	size_t rest;

	*request = (struct transport_request){ 0 };
	if (bytes < sizeof header)
		return;
	memcpy(&header, buffer, sizeof header);
	rest = bytes - sizeof header;
	memcpy(&body, (const char *)buffer + sizeof header, rest < sizeof body ? rest : sizeof body);
	request->unique = header.unique;
	request->tmpfile = header.opcode == FUSE_TMPFILE;
	request->statx = header.opcode == OPCODE_STATX;
	if (request->tmpfile)
		header.opcode = FUSE_CREATE;
	if (request->statx)
		header.opcode = FUSE_GETATTR;
	request->opcode = header.opcode;
	memcpy(buffer, &header, sizeof header);
	switch (header.opcode) {
	case FUSE_INIT:
		request->offered = body.init.flags;
		request->offered2 = body.init.flags & FUSE_INIT_EXT ? body.init.flags2 : 0;
		break;
	case FUSE_INTERRUPT:
		request->interrupted = body.interrupt.unique;
		break;
	case FUSE_OPEN:
		request->kill_suidgid = body.open.open_flags & FUSE_OPEN_KILL_SUIDGID;
		break;
	case FUSE_SETXATTR:
		if (!atomic_load(&setxattr_ext) || rest < sizeof body.setxattr)
			break;
		request->kill_suidgid = body.setxattr.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID;
		request->cut = sizeof body.setxattr - FUSE_COMPAT_SETXATTR_IN_SIZE;
		break;
	case FUSE_WRITE:
		request->kill_suidgid = body.write.write_flags & FUSE_WRITE_KILL_SUIDGID;
		break;
	}
}

// What stays of a SETXATTR before the cut.
#define CUT_AT (sizeof(struct fuse_in_header) + FUSE_COMPAT_SETXATTR_IN_SIZE)

static void lessen(char *buffer, uint32_t bytes)
{
	struct fuse_in_header header;

	memcpy(&header, buffer, sizeof header);
	header.len -= bytes;
	memcpy(buffer, &header, sizeof header);
}

static ssize_t cut_behind(char *buffer, size_t bytes, uint32_t cut)
{
	lessen(buffer, cut);
	memmove(buffer + CUT_AT, buffer + CUT_AT + cut, bytes - CUT_AT - cut);
	return (ssize_t)(bytes - cut);
}

void *transport_cut(void *buffer, const struct transport_request *request)
{
	char *start = (char *)buffer + request->cut;

	if (request->cut) {
		lessen(buffer, request->cut);
		memmove(start, buffer, CUT_AT);
	}
	return start;
}

ssize_t transport_read(int fd, void *buffer, size_t bytes, struct transport_request *request)
{
	// Whatever libfuse believes: this is how long the worker's buffer is.
	ssize_t n = read(fd, buffer, bytes < TRANSPORT_BUFFER_BYTES ? bytes : TRANSPORT_BUFFER_BYTES);

	if (n < 0)
		return n;
	transport_note(buffer, (size_t)n, request);
	return request->cut ? cut_behind(buffer, (size_t)n, request->cut) : n;
}

static void amend_init(struct fuse_init_out *out, struct transport_request *request)
{
	out->flags |= request->offered & INIT_WANTED;
	atomic_store(&setxattr_ext, request->offered & FUSE_SETXATTR_EXT);
	if (request->offered & FUSE_INIT_EXT) {
		out->flags |= FUSE_INIT_EXT;
		out->flags2 |= request->offered2 & INIT2_WANTED;
		request->uring = request->want_uring && request->offered2 & INIT2_URING;
		if (request->uring)
			out->flags2 |= INIT2_URING;
	}
}

// Two writers of one file need not wait for each other: a WRITE is all or nothing here.
static void amend_open(struct fuse_open_out *out)
{
	if (out->open_flags & FOPEN_DIRECT_IO)
		out->open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
}

static struct statx_time time_of(uint64_t sec, uint32_t nsec)
{
	return (struct statx_time){ .sec = (int64_t)sec, .nsec = nsec };
}

static void make_statx(const struct fuse_attr_out *in, const struct transport_request *request, struct statx_out *out)
{
	const struct fuse_attr *a = &in->attr;

	*out = (struct statx_out){ .attr_valid = in->attr_valid, .attr_valid_nsec = in->attr_valid_nsec };
	out->stat.mask = STATX_MASK;
	out->stat.blksize = a->blksize;
	out->stat.nlink = a->nlink;
	out->stat.uid = a->uid;
	out->stat.gid = a->gid;
	out->stat.mode = (uint16_t)a->mode;
	out->stat.ino = a->ino;
	out->stat.size = a->size;
	out->stat.blocks = a->blocks;
	out->stat.atime = time_of(a->atime, a->atimensec);
	out->stat.mtime = time_of(a->mtime, a->mtimensec);
	out->stat.ctime = time_of(a->ctime, a->ctimensec);
	out->stat.btime = time_of((uint64_t)request->birth_sec, request->birth_nsec);
	out->stat.rdev_major = (a->rdev & 0xfff00) >> 8;
	out->stat.rdev_minor = (a->rdev & 0xff) | (a->rdev >> 12 & 0xfff00);
}

static void amend_reply(struct iovec *body, struct transport_request *request)
{
	size_t before = sizeof(struct fuse_entry_out);

	switch (request->opcode) {
	case FUSE_INIT:
		if (body->iov_len == sizeof(struct fuse_init_out)) {
			amend_init(body->iov_base, request);
			request->init_done = true;
		}
		break;
	case FUSE_OPEN:
		if (body->iov_len == sizeof(struct fuse_open_out))
			amend_open(body->iov_base);
		break;
	case FUSE_CREATE:
		if (body->iov_len == before + sizeof(struct fuse_open_out))
			amend_open((struct fuse_open_out *)((char *)body->iov_base + before));
		break;
	}
}

void transport_amend(struct iovec *iov, int count, struct transport_request *request)
{
	static _Thread_local struct statx_out statx; // until it has been written
	struct fuse_out_header *header = iov[0].iov_base;
	bool ours = count == 2 && !header->error && header->unique == request->unique;

	if (ours && request->statx && iov[1].iov_len == sizeof(struct fuse_attr_out)) {
		make_statx(iov[1].iov_base, request, &statx);
		iov[1] = (struct iovec){ &statx, sizeof statx };
		header->len = sizeof *header + sizeof statx;
	} else if (ours) {
		amend_reply(&iov[1], request);
	}
}

ssize_t transport_writev(int fd, struct iovec *iov, int count, struct transport_request *request)
{
	ssize_t n;

	transport_amend(iov, count, request);
	n = writev(fd, iov, count);
	// Unmounted or aborted meanwhile: as quiet as a caller that was killed.
	if (n < 0 && (errno == ENODEV || errno == ECONNABORTED))
		errno = ENOENT;
	return n;
}

ssize_t transport_answer(int fd, struct iovec *iov, int count, struct transport_request *request)
{
	struct fuse_out_header header = { .len = sizeof header, .unique = request->unique };

	iov[0] = (struct iovec){ &header, sizeof header };
	for (int i = 1; i <= count; i++)
		header.len += (uint32_t)iov[i].iov_len;
	return transport_writev(fd, iov, count + 1, request);
}
