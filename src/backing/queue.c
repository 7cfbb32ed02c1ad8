// SPDX-License-Identifier: GPL-2.0-or-later
// Owns the I/O in flight to the backing.
//
// The states of an I/O, with the function behind each transition:
//
//	caller's -- ioq_submit --> prepared -- enter_kernel --> in the kernel -- reap --> finished
//	caller's -- ioq_submit: refused, or done without io_uring ---------------------> finished
//	finished -- deliver --> caller's
//
// Invariants:
// 1. prepared + in_kernel <= depth <= entries of the ring, so that neither a free SQE nor room for
//    a completion is ever lacking.
// 2. in_flight = prepared + in_kernel + finished.
// 3. done() is called by deliver() alone, for an I/O that is in no list any more: it may submit
//    again, wait, or free the I/O.
#include "backing.h"
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "log.h"

#define DEPTH_MAX 4096u

struct ioq {
	struct backing *b;
	struct io_uring ring; // if uses_uring
	bool uses_uring;
	unsigned depth;
	unsigned prepared, in_kernel, in_flight;
	unsigned finished_count;
	struct io *finished, **finished_end; // oldest first
};

// ---- ends --------------------------------------------------------------------------------------

static void count(struct backing *b, const struct io *io, uint64_t bytes)
{
	if (io->result) {
		atomic_fetch_add_explicit(&b->errors, 1, memory_order_relaxed);
		return;
	}
	switch (io->kind) {
	case 'r':
		atomic_fetch_add_explicit(&b->reads, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&b->read_bytes, bytes, memory_order_relaxed);
		break;
	case 'w':
	case 'W':
		atomic_fetch_add_explicit(&b->writes, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&b->write_bytes, bytes, memory_order_relaxed);
		break;
	default:
		atomic_fetch_add_explicit(&b->flushes, 1, memory_order_relaxed);
	}
}

static void finish(struct ioq *q, struct io *io, uint64_t bytes, int result)
{
	io->result = result;
	io->next = NULL;
	count(q->b, io, bytes);
	*q->finished_end = io;
	q->finished_end = &io->next;
	q->finished_count++;
}

// Those that had finished when it was called: a done() that submits for ever must not keep the
// caller here for ever.
static void deliver(struct ioq *q)
{
	for (unsigned n = q->finished_count; n && q->finished; n--) {
		struct io *io = q->finished;

		q->finished = io->next;
		if (!q->finished)
			q->finished_end = &q->finished;
		q->finished_count--;
		q->in_flight--;
		if (io->done)
			io->done(io);
	}
}

// ---- one I/O -----------------------------------------------------------------------------------

static uint64_t iov_bytes(const struct io *io)
{
	uint64_t bytes = 0;

	for (int i = 0; i < io->iovcnt; i++)
		bytes += io->iov[i].iov_len;
	return bytes;
}

static int validate(const struct backing *b, const struct io *io)
{
	uint64_t bytes;

	switch (io->kind) {
	case 'f':
		return 0;
	case 'w':
	case 'W':
		if (b->read_only)
			return -EROFS;
		break;
	case 'r':
		break;
	default:
		return -EINVAL;
	}
	if (io->iovcnt < 1 || io->iovcnt > IO_IOV_MAX)
		return -EINVAL;
	bytes = iov_bytes(io);
	if (!bytes || bytes % PAGE_BYTES)
		return -EINVAL;
	// Of a file, a write past the end would succeed and make it longer.
	if (io->block >= b->blocks || bytes >> PAGE_SHIFT > b->blocks - io->block)
		return -EIO;
	return 0;
}

// What remains of the iovecs behind the first done bytes; the number of them.
static int iov_rest(const struct io *io, uint64_t done, struct iovec rest[IO_IOV_MAX])
{
	int count_rest = 0;

	for (int i = 0; i < io->iovcnt; i++) {
		size_t length = io->iov[i].iov_len;

		if (done >= length) {
			done -= length;
			continue;
		}
		rest[count_rest++] = (struct iovec){ (uint8_t *)io->iov[i].iov_base + done, length - (size_t)done };
		done = 0;
	}
	return count_rest;
}

// Does, or brings to an end, a transfer of which done bytes are done. 0 or a negative errno.
static int transfer_blocking(const struct backing *b, const struct io *io, uint64_t bytes, uint64_t done)
{
	struct iovec rest[IO_IOV_MAX];

	while (done < bytes) {
		off_t offset = (off_t)((io->block << PAGE_SHIFT) + done);
		int n = iov_rest(io, done, rest), err;
		ssize_t moved;

		if (io->kind == 'r')
			moved = preadv2(b->fd, rest, n, offset, 0);
		else
			moved = pwritev2(b->fd, rest, n, offset, io->kind == 'W' ? RWF_DSYNC : 0);
		err = moved < 0 ? errno : 0;
		if (err == EINTR)
			continue;
		if (err == EAGAIN) {
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
			continue;
		}
		if (err)
			return -err;
		if (!moved)
			return -EIO;
		done += (uint64_t)moved;
	}
	return 0;
}

static int flush_blocking(const struct backing *b)
{
	while (fdatasync(b->fd)) {
		int err = errno;

		if (err != EINTR)
			return -err;
	}
	return 0;
}

static int do_blocking(const struct backing *b, const struct io *io, uint64_t bytes, uint64_t done)
{
	return io->kind == 'f' ? flush_blocking(b) : transfer_blocking(b, io, bytes, done);
}

// ---- the ring ----------------------------------------------------------------------------------

static void prepare(struct ioq *q, struct io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);
	uint64_t offset = io->block << PAGE_SHIFT;

	switch (io->kind) {
	case 'r':
		io_uring_prep_readv(sqe, q->b->fd, io->iov, (unsigned)io->iovcnt, offset);
		break;
	case 'w':
		io_uring_prep_writev(sqe, q->b->fd, io->iov, (unsigned)io->iovcnt, offset);
		break;
	case 'W':
		io_uring_prep_writev2(sqe, q->b->fd, io->iov, (unsigned)io->iovcnt, offset, RWF_DSYNC);
		break;
	default:
		io_uring_prep_fsync(sqe, q->b->fd, IORING_FSYNC_DATASYNC);
	}
	io_uring_sqe_set_data(sqe, io);
	q->prepared++;
}

// What the kernel did half, or did not want to do asynchronously, is brought to an end here and
// now: too rare to be worth a state of its own.
static int settle(const struct ioq *q, const struct io *io, uint64_t bytes, int res)
{
	if (res == -EAGAIN || res == -EINTR)
		return do_blocking(q->b, io, bytes, 0);
	if (res < 0)
		return res;
	if (io->kind == 'f' || (uint64_t)res == bytes)
		return 0;
	if (!res)
		return -EIO;
	// From the last whole block on: O_DIRECT wants it aligned.
	return do_blocking(q->b, io, bytes, (uint64_t)res & ~(uint64_t)(PAGE_BYTES - 1));
}

static void reap(struct ioq *q)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&q->ring, &cqe)) {
		struct io *io = io_uring_cqe_get_data(cqe);
		uint64_t bytes = io->kind == 'f' ? 0 : iov_bytes(io);
		int res = cqe->res;

		io_uring_cqe_seen(&q->ring, cqe);
		q->in_kernel--;
		finish(q, io, bytes, settle(q, io, bytes, res));
	}
}

// Gives the kernel what is prepared and waits until `wait` completions are there to be reaped.
static void enter_kernel(struct ioq *q, unsigned wait)
{
	while (q->prepared || wait) {
		int submitted = io_uring_submit_and_wait(&q->ring, wait);

		if (submitted >= 0) {
			q->prepared -= (unsigned)submitted;
			q->in_kernel += (unsigned)submitted;
			if (!q->prepared)
				return;
		} else if (submitted == -EAGAIN || submitted == -EBUSY) {
			// Out of memory for requests: completions free some.
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
			reap(q);
			if (q->finished)
				wait = 0;
		} else if (submitted != -EINTR) {
			// A damaged ring: what the kernel has of the callers' memory is unknowable.
			log_error("%s: io_uring_enter: %s", q->b->path, strerror(-submitted));
			abort();
		}
	}
}

// ---- the queue ---------------------------------------------------------------------------------

// No SINGLE_ISSUER: a queue may be made by one thread and used by another.
static int init_ring(struct ioq *q)
{
	int err = io_uring_queue_init(q->depth, &q->ring, IORING_SETUP_COOP_TASKRUN);

	if (err == -EINVAL) // before 5.19
		err = io_uring_queue_init(q->depth, &q->ring, 0);
	return err;
}

int ioq_new(struct backing *b, unsigned depth, struct ioq **ret_queue)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;
	struct ioq *q = calloc(1, sizeof *q);
	int err;

	if (!q)
		return -ENOMEM;
	q->b = b;
	q->depth = depth < 1 ? 1 : depth > DEPTH_MAX ? DEPTH_MAX : depth;
	q->finished_end = &q->finished;
	err = init_ring(q);
	q->uses_uring = !err;
	if (err && err != -ENOSYS && err != -EPERM && err != -EACCES && err != -ENOMEM) {
		log_error("%s: cannot make an io_uring: %s", b->path, strerror(-err));
		free(q);
		return err;
	}
	if (err && !atomic_flag_test_and_set(&told))
		log_info("%s: no io_uring (%s), using blocking I/O instead", b->path, strerror(-err));
	*ret_queue = q;
	return 0;
}

void ioq_free(struct ioq *q)
{
	if (!q)
		return;
	ioq_wait_all(q);
	if (q->uses_uring)
		io_uring_queue_exit(&q->ring);
	free(q);
}

void ioq_submit(struct ioq *q, struct io *io)
{
	uint64_t bytes;
	int err = validate(q->b, io);

	q->in_flight++;
	if (!err && q->b->hook)
		err = q->b->hook->before(q->b->hook->arg, io->kind, io->block, io->iov, io->iovcnt);
	if (err) {
		finish(q, io, 0, err);
		return;
	}
	if (!q->uses_uring) {
		bytes = io->kind == 'f' ? 0 : iov_bytes(io);
		finish(q, io, bytes, do_blocking(q->b, io, bytes, 0));
		return;
	}
	while (q->prepared + q->in_kernel >= q->depth) {
		enter_kernel(q, 1);
		reap(q);
	}
	prepare(q, io);
	if (q->prepared + q->in_kernel >= q->depth)
		enter_kernel(q, 0);
}

void ioq_poll(struct ioq *q)
{
	do {
		if (q->uses_uring) {
			enter_kernel(q, 0);
			reap(q);
		}
		deliver(q);
	} while (q->prepared || q->finished);
}

void ioq_wait_some(struct ioq *q)
{
	if (!q->in_flight)
		return;
	if (q->uses_uring) {
		enter_kernel(q, q->finished ? 0 : 1);
		reap(q);
	}
	deliver(q);
}

void ioq_wait_all(struct ioq *q)
{
	while (q->in_flight)
		ioq_wait_some(q);
}

unsigned ioq_in_flight(const struct ioq *q)
{
	return q->in_flight;
}

unsigned ioq_room(const struct ioq *q)
{
	return q->depth - q->prepared - q->in_kernel;
}

int ioq_fd(const struct ioq *q)
{
	return q->uses_uring ? q->ring.ring_fd : -1;
}

bool ioq_uses_uring(const struct ioq *q)
{
	return q->uses_uring;
}

// ---- one, waited for ---------------------------------------------------------------------------

static void mark_done(struct io *io)
{
	*(bool *)io->arg = true;
}

static int run(struct ioq *q, char kind, block_t block, void *memory, size_t blocks)
{
	struct iovec iov = { memory, blocks << PAGE_SHIFT };
	bool done = false;
	struct io io = { .kind = kind, .block = block, .iov = &iov, .iovcnt = kind == 'f' ? 0 : 1,
			 .done = mark_done, .arg = &done };

	ioq_submit(q, &io);
	while (!done)
		ioq_wait_some(q);
	return io.result;
}

int ioq_read(struct ioq *q, block_t block, void *buffer, size_t blocks)
{
	return run(q, 'r', block, buffer, blocks);
}

int ioq_write(struct ioq *q, block_t block, const void *buffer, size_t blocks, bool durable)
{
	return run(q, durable ? 'W' : 'w', block, (void *)(uintptr_t)buffer, blocks);
}

int ioq_flush(struct ioq *q)
{
	return run(q, 'f', 0, NULL, 0);
}
