// SPDX-License-Identifier: GPL-2.0-or-later
// libfuse parses and dispatches; the bytes pass here. Three things are added to what it can say:
//
//   INIT    flags that it does not know, of those that the kernel has offered
//   OPEN, CREATE    FOPEN_PARALLEL_DIRECT_WRITES
//   WRITE, OPEN     whether setuid and setgid must go, which it drops on the way in
#include "transport.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "uring_kernel.h"

#define URING_PARAMETER "/sys/module/fuse/parameters/enable_uring"

// PARALLEL_DIROPS: libfuse 3.14 lets a server want it and then forgets to say so.
// KILLPRIV_V2: the kernel tells when setuid and setgid go, and asks for no security.capability
// before each write.
#define INIT_WANTED (FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2)
#define INIT2_WANTED ((uint32_t)(FUSE_DIRECT_IO_ALLOW_MMAP >> 32)) // shared mappings past the page cache
#define INIT2_URING ((uint32_t)(FUSE_OVER_IO_URING >> 32))

_Static_assert(sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) == TRANSPORT_WRITE_HEADER_BYTES, "");

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
void transport_note(const void *buffer, size_t bytes, struct transport_request *request)
{
	union {
		struct fuse_init_in init;
		struct fuse_open_in open;
		struct fuse_write_in write;
		struct fuse_interrupt_in interrupt;
	} body = { 0 };
	struct fuse_in_header header;

	*request = (struct transport_request){ 0 };
	if (bytes < sizeof header)
		return;
	memcpy(&header, buffer, sizeof header);
	bytes -= sizeof header;
	memcpy(&body, (const char *)buffer + sizeof header, bytes < sizeof body ? bytes : sizeof body);
	request->unique = header.unique;
	request->opcode = header.opcode;
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
		transport_note(buffer, (size_t)n, request);
	return n;
}

static void amend_init(struct fuse_init_out *out, struct transport_request *request)
{
	out->flags |= request->offered & INIT_WANTED;
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
	const struct fuse_out_header *header = iov[0].iov_base;

	if (count == 2 && !header->error && header->unique == request->unique)
		amend_reply(&iov[1], request);
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
