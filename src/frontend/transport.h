// SPDX-License-Identifier: GPL-2.0-or-later
// Reading requests from /dev/fuse and writing replies to it, and what libfuse 3.14 cannot express
// in either.
#ifndef FRONTEND_TRANSPORT_H
#define FRONTEND_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define TRANSPORT_PAYLOAD_BYTES (1u << 20) // the most that one READ or WRITE carries
#define TRANSPORT_BUFFER_BYTES (TRANSPORT_PAYLOAD_BYTES + 4096u)
#define TRANSPORT_WRITE_HEADER_BYTES 80u // before the payload of a WRITE

// The request that a worker has read last, as far as libfuse does not tell.
struct transport_request {
	uint64_t unique;
	uint32_t opcode; // as libfuse gets it
	bool tmpfile;    // CREATE without a name: O_TMPFILE
	bool statx;      // GETATTR that wants the birth, too: to be put here
	int64_t birth_sec;
	uint32_t birth_nsec;
	bool kill_suidgid; // WRITE, OPEN: the caller may not keep setuid and setgid; SETXATTR of an ACL: setgid
	uint32_t cut;      // SETXATTR: bytes of its struct that libfuse does not know
	uint64_t interrupted;       // INTERRUPT: which request
	uint32_t offered, offered2; // INIT: flags of the kernel
	bool want_uring;            // INIT: to be set before the answer
	bool uring;                 // INIT was answered with it
	bool init_done;             // INIT has been answered, well
};

// INIT: will files that are read and written past the page cache be mapped for shared writing?
bool transport_may_map(const struct transport_request *request);
// Has the kernel FUSE-over-io_uring, and offers it?
bool transport_kernel_offers_uring(void);
// Has it offered to all who mount from now on, until the module is unloaded; root only. 1: it already
// was; 0: done; or a negative errno.
int transport_switch_uring_on(void);

// A descriptor of its own for a worker, on the connection of fd: requests are handed out and
// answered without contention. -1 if there is none to be had (fd will do).
int transport_clone(int fd);
// As read(2) and writev(2), with the two above. An answer that nobody waits for any more fails with ENOENT.
// Changes the opcode in the buffer, too, to one that libfuse knows.
void transport_note(void *buffer, size_t bytes, struct transport_request *ret_request);
// Where the request begins without what is to be cut; what is behind the struct stays in its place. (Read by
// transport_read() it is cut already.)
void *transport_cut(void *buffer, const struct transport_request *request);
// Adds what libfuse cannot say to its answer.
void transport_amend(struct iovec *iov, int count, struct transport_request *request);
ssize_t transport_read(int fd, void *buffer, size_t bytes, struct transport_request *request);
ssize_t transport_writev(int fd, struct iovec *iov, int count, struct transport_request *request);
// The same without libfuse: iov[1 .. count] are the body, iov[0] is for its header.
ssize_t transport_answer(int fd, struct iovec *iov, int count, struct transport_request *request);

#endif
