// SPDX-License-Identifier: GPL-2.0-or-later
// libfuse parses and dispatches; the bytes pass here. Three things are added to what it can say:
//
//   INIT    flags that it does not know, of those that the kernel has offered
//   OPEN, CREATE    FOPEN_PARALLEL_DIRECT_WRITES
//   WRITE, OPEN     whether setuid and setgid must go, which it drops on the way in
#include "transport.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Younger than the headers this is built with.
#define INIT2_DIRECT_IO_ALLOW_MMAP (UINT32_C(1) << (36 - 32))

// PARALLEL_DIROPS: libfuse 3.14 lets a server want it and then forgets to say so.
// KILLPRIV_V2: the kernel tells when setuid and setgid go, and asks for no security.capability
// before each write.
#define INIT_WANTED (FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2)
#define INIT2_WANTED INIT2_DIRECT_IO_ALLOW_MMAP // shared mappings of files that bypass the page cache

_Static_assert(sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) == TRANSPORT_WRITE_HEADER_BYTES, "");

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
static void note_request(const char *buffer, size_t bytes, struct transport_request *request)
{
	union {
		struct fuse_init_in init;
		struct fuse_open_in open;
		struct fuse_write_in write;
	} body = { 0 };
	struct fuse_in_header header;

	*request = (struct transport_request){ 0 };
	if (bytes < sizeof header)
		return;
	memcpy(&header, buffer, sizeof header);
	bytes -= sizeof header;
	memcpy(&body, buffer + sizeof header, bytes < sizeof body ? bytes : sizeof body);
	request->unique = header.unique;
	request->opcode = header.opcode;
	switch (header.opcode) {
	case FUSE_INIT:
		request->offered = body.init.flags;
		request->offered2 = body.init.flags & FUSE_INIT_EXT ? body.init.flags2 : 0;
		break;
	case FUSE_OPEN:
		request->kill_suidgid = body.open.open_flags & FUSE_OPEN_KILL_SUIDGID;
		break;
	case FUSE_WRITE:
		request->kill_suidgid = body.write.write_flags & FUSE_WRITE_KILL_SUIDGID;
		break;
	}
}

ssize_t transport_read(int fd, void *buffer, size_t bytes, struct transport_request *request)
{
	// Whatever libfuse believes: this is how long the worker's buffer is.
	ssize_t n = read(fd, buffer, bytes < TRANSPORT_BUFFER_BYTES ? bytes : TRANSPORT_BUFFER_BYTES);

	if (n >= 0)
		note_request(buffer, (size_t)n, request);
	return n;
}

static void amend_init(struct fuse_init_out *out, const struct transport_request *request)
{
	out->flags |= request->offered & INIT_WANTED;
	if (request->offered & FUSE_INIT_EXT) {
		out->flags |= FUSE_INIT_EXT;
		out->flags2 |= request->offered2 & INIT2_WANTED;
	}
}

// Two writers of one file need not wait for each other: a WRITE is all or nothing here.
static void amend_open(struct fuse_open_out *out)
{
	if (out->open_flags & FOPEN_DIRECT_IO)
		out->open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
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

ssize_t transport_writev(int fd, struct iovec *iov, int count, struct transport_request *request)
{
	const struct fuse_out_header *header = iov[0].iov_base;
	ssize_t n;

	if (count == 2 && !header->error && request && header->unique == request->unique)
		amend_reply(&iov[1], request);
	n = writev(fd, iov, count);
	// Unmounted or aborted meanwhile: as quiet as a caller that was killed.
	if (n < 0 && (errno == ENODEV || errno == ECONNABORTED))
		errno = ENOENT;
	return n;
}
