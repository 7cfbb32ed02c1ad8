// SPDX-License-Identifier: GPL-2.0-or-later
// The block device (or file) behind the tier, and queues of I/O to it on io_uring.
#ifndef BACKING_BACKING_H
#define BACKING_BACKING_H

#include <stdatomic.h>
#include <sys/uio.h>
#include "vems/types.h"

// Called before each I/O is issued: crash and fault tests. A negative errno fails it unissued.
struct backing_hook {
	// kind: r, w, W (FUA), f (flush)
	int (*before)(void *arg, char kind, block_t block, const struct iovec *iov, int iovcnt);
	void *arg;
};

struct backing {
	int fd;
	uint64_t size_bytes; // rounded down to whole blocks
	block_t blocks;
	bool read_only, is_device;
	const struct backing_hook *hook;
	_Atomic uint64_t reads, writes, flushes;   // I/Os completed well
	_Atomic uint64_t read_bytes, write_bytes, errors;
	char path[256];
};

// Opens (O_DIRECT where it works, O_EXCL on devices) and locks the very descriptor that does the
// I/O, so that it is held until a killed predecessor's last I/O has ended; waits up to 5 s.
// Reports a failure with log_error, naming the path. -EBUSY: in use.
int backing_open(const char *path, bool read_only, struct backing **ret_backing);
void backing_close(struct backing *b);

// What libblkid finds there (file system, RAID, partition table, ...): 1 with its name, 0 nothing.
// Also for tier files: the path decides. Knows nothing of vemsfuse's own signatures.
int backing_probe_foreign(int fd, char *ret_name, size_t name_bytes);
// 1: first and last MiB are zero; 0: not; or a negative errno.
int backing_is_blank(struct backing *b);

// ---- queues -----------------------------------------------------------------------------------

// One I/O. The caller owns it and the memory it points to until its completion: result is then
// 0 or a negative errno (a short transfer is -EIO, as is a block past the end). Memory is
// 512-byte aligned.
struct io {
	char kind; // r, w, W (write, durable on completion), f (flush: all writes completed before)
	block_t block;
	const struct iovec *iov; // whole blocks in total; at most IO_IOV_MAX entries
	int iovcnt;
	int result;
	void (*done)(struct io *io); // called from ioq_poll() and ioq_wait*(), may submit more; may be NULL
	void *arg;
	struct io *next; // the queue's own
};
#define IO_IOV_MAX 256

// A queue belongs to one thread at a time. Where io_uring is forbidden, I/O is done in
// ioq_submit() by pread/pwrite behind the same interface (logged once).
struct ioq;
int ioq_new(struct backing *b, unsigned depth, struct ioq **ret_queue);
void ioq_free(struct ioq *q); // waits for what is in flight
// Queues the I/O; goes to the kernel when depth are queued or at the next wait. Blocks only to
// reap completions when depth are in flight; calls no done().
void ioq_submit(struct ioq *q, struct io *io);
// Waits for nothing: the kernel gets what is queued, also by done() of what has finished, which is called.
void ioq_poll(struct ioq *q);
int ioq_fd(const struct ioq *q); // readable to poll(2) when ioq_poll() would find something finished; -1: without io_uring
unsigned ioq_room(const struct ioq *q); // so many can be submitted before one has to be waited for
void ioq_wait_all(struct ioq *q);
void ioq_wait_some(struct ioq *q); // at least one, if any is in flight
unsigned ioq_in_flight(const struct ioq *q); // submitted, done() not called yet
bool ioq_uses_uring(const struct ioq *q);

// One I/O, waited for. 0 or a negative errno.
int ioq_read(struct ioq *q, block_t block, void *buffer, size_t blocks);
int ioq_write(struct ioq *q, block_t block, const void *buffer, size_t blocks, bool durable);
int ioq_flush(struct ioq *q);

#endif
