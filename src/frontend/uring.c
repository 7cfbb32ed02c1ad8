// SPDX-License-Identifier: GPL-2.0-or-later
// Owns the rings by which the kernel hands over requests (FUSE-over-io_uring, Linux 6.14), and the
// entries that carry them.
//
// The kernel has a queue for each possible CPU, and puts a request into that of the CPU on which its
// caller runs. So a lane, a thread with a ring, is pinned to each core and serves it there: no other
// core has to wake up. Queues of CPUs that are not ours to run on, or not there, are spread over the lanes.
//
// 1. The states of an entry, with the function behind each transition:
//
//	the kernel's -- reap --> the lane's -- serve: answered ----------------------> commit: the kernel's
//	                                    -- serve: for blocks of the backing -----> waits
//	                                    -- serve: would wait for more, park -----> parked
//	waits -- its I/O has ended: entry_ready --> the lane's
//	parked -- uring_take --> a worker's -- uring_done --> in the mailbox -- collect --> commit
//	the kernel's, the lane's -- reap: the connection has ended, or refuses it --> dead
//
// 2. A lane alone touches its ring (SINGLE_ISSUER). Others put entries into its mailbox, and ring its
//    bell, an eventfd that the ring reads, when they find the mailbox empty.
// 3. A lane never waits but in its ring. Misses of requests that come all the time wait beside it (op_wait()),
//    with I/O of the lane's own, which its ring polls. What else would wait is abandoned without a trace
//    (op_try()), and run from the top by a worker that may. So requests that wait hold up the hits of their
//    core only when they have all the entries of its queue; that is counted.
// 4. After the kernel was told in the answer to INIT that it may use the rings, every request waits
//    until all queues are registered, or one is refused: then it goes on with /dev/fuse. So rings are made,
//    and tried, before; and if a lane cannot even ask, it asks for what is certain to be refused.
// 5. A payload is one mapping for good: what a READ brings is copied once, from the tier into it. It
//    is never populated: the kernel takes the entry that was returned last, so that the deep ones stay
//    untouched until there is a queue as deep.
#include "uring.h"
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cpus.h"
#include "hot.h"
#include "log.h"
#include "uring_kernel.h"

#define LANES_MAX 192u
#define ENTRIES_TOTAL 2048u // over all queues, within the bounds of one:
#define ENTRIES_MIN 16u
#define ENTRIES_MAX 128u
#define SQES_MAX 1024u
#define BATCH 32u
#define PAYLOADS_KEPT_BYTES (UINT64_C(16) << 20) // of a lane; what is beyond is given back when it can be

// Before a payload, so that the request can be put there as it would have come by /dev/fuse: header,
// the operation's struct, then at a page the rest.
#define FRONT_BYTES PAGE_BYTES
#define SLOT_BYTES (FRONT_BYTES + TRANSPORT_PAYLOAD_BYTES)

struct uring_entry {
	struct fuse_uring_req_header header;
	struct iovec iov[2]; // header, payload
	struct hot hot;
	struct uring_lane *lane;
	struct queue *queue;
	char *payload;
	uint32_t payload_bytes; // of the request
	size_t touched;         // of the payload, at most
	bool answered;
	bool again;               // has been registered twice
	bool interrupted;         /* under the lock of parked */
	struct uring_entry *next; // parked, or in the mailbox
};

struct queue {
	unsigned id;
	unsigned entries, taken;
	bool offline; // when it was registered, so with one entry
};

struct block { // of entries
	struct block *next;
	unsigned count;
	struct uring_entry *entry;
	char *slots;
};

struct uring_lane {
	struct uring *u;
	struct worker worker; // the lane of the store, and what handlers need
	int cpu;              // -1: not pinned
	struct io_uring ring;
	bool has_ring;
	struct queue *queue;
	unsigned queues;
	struct block *blocks;
	uint64_t touched;
	int bell;
	uint64_t bell_count;
	unsigned waiting; // entries
	_Atomic(struct uring_entry *) mailbox;
	bool started;
};

enum phase { PHASE_RINGS, PHASE_REGISTER, PHASE_STOP };

struct uring {
	struct frontend *f;
	struct cpus cpus;
	unsigned entries; // of a queue
	int refuse;       // tests: the queue to be registered wrongly; -1
	unsigned lanes;
	struct uring_lane *lane;
	_Atomic uint64_t waited_count, parked_count, full_count;

	pthread_mutex_t lock; // of what the lanes are told and report
	pthread_cond_t changed;
	enum phase phase;        /* under lock */
	unsigned reports;        /* under lock */
	int error;               /* under lock */ // the first, of all reports
	atomic_bool stop;

	pthread_mutex_t parked_lock;
	pthread_cond_t parked_some;
	struct uring_entry *parked, **parked_end; /* under parked_lock */
	bool look; /* under parked_lock */        // a worker is to look for chores
};

// ---- submitting ---------------------------------------------------------------------------------

static struct io_uring_sqe *get_sqe(struct uring_lane *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

	while (!sqe) {
		io_uring_submit(&l->ring);
		sqe = io_uring_get_sqe(&l->ring);
	}
	return sqe;
}

static struct io_uring_sqe *prepare_command(struct uring_lane *l, struct uring_entry *e, unsigned qid, uint32_t command)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, 0, NULL, 0, 0);
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->cmd_op = command;
	if (command == FUSE_IO_URING_CMD_REGISTER) {
		sqe->addr = (uintptr_t)e->iov;
		sqe->len = 2;
	}
	*(struct fuse_uring_cmd_req *)sqe->cmd = (struct fuse_uring_cmd_req){
		.qid = (uint16_t)qid,
		.commit_id = e->header.ring_ent_in_out.commit_id,
	};
	io_uring_sqe_set_data(sqe, e);
	return sqe;
}

// What completes and is no entry of a queue; by their addresses.
static char bell_rung, blocks_there, queue_refused;

static void prepare_bell(struct uring_lane *l)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	io_uring_prep_read(sqe, l->bell, &l->bell_count, sizeof l->bell_count, 0);
	io_uring_sqe_set_data(sqe, &bell_rung);
}

// Of the I/O of those that wait.
static void prepare_poll(struct uring_lane *l)
{
	struct io_uring_sqe *sqe;

	if (lane_fd(l->worker.lane) < 0)
		return;
	sqe = get_sqe(l);
	io_uring_prep_poll_add(sqe, lane_fd(l->worker.lane), POLLIN);
	io_uring_sqe_set_data(sqe, &blocks_there);
}

static void ring_bell(struct uring_lane *l)
{
	uint64_t one = 1;

	if (write(l->bell, &one, sizeof one) < 0)
		log_error("eventfd: %s", strerror(errno));
}

// The answer is in the entry; the kernel takes it, and the next request goes into it.
static void commit(struct uring_lane *l, struct uring_entry *e)
{
	l->touched -= e->touched;
	if (l->touched + e->touched > PAYLOADS_KEPT_BYTES && e->touched > 16 * PAGE_BYTES &&
	    e->header.ring_ent_in_out.payload_sz <= PAGE_BYTES) {
		madvise(e->payload + PAGE_BYTES, TRANSPORT_PAYLOAD_BYTES - PAGE_BYTES, MADV_DONTNEED);
		e->touched = PAGE_BYTES;
	}
	if (e->touched < e->header.ring_ent_in_out.payload_sz)
		e->touched = e->header.ring_ent_in_out.payload_sz;
	l->touched += e->touched;
	e->queue->taken--;
	prepare_command(l, e, e->queue->id, FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
}

// ---- entries ------------------------------------------------------------------------------------

static int add_block(struct uring_lane *l, struct queue *q, unsigned count)
{
	struct block *b = calloc(1, sizeof *b);
	size_t bytes = (size_t)count * SLOT_BYTES;

	if (!b)
		return -ENOMEM;
	b->entry = calloc(count, sizeof *b->entry);
	b->slots = b->entry ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
			    : MAP_FAILED;
	if (b->slots == MAP_FAILED) {
		free(b->entry);
		free(b);
		return -ENOMEM;
	}
	madvise(b->slots, bytes, MADV_NOHUGEPAGE); // of most payloads one page is used
	b->count = count;
	for (unsigned i = 0; i < count; i++) {
		struct uring_entry *e = &b->entry[i];

		e->lane = l;
		e->queue = q;
		e->payload = b->slots + (size_t)i * SLOT_BYTES + FRONT_BYTES;
		e->iov[0] = (struct iovec){ &e->header, sizeof e->header };
		e->iov[1] = (struct iovec){ e->payload, TRANSPORT_PAYLOAD_BYTES };
		if ((int)q->id == l->u->refuse)
			e->iov[1].iov_len = PAGE_BYTES;
	}
	b->next = l->blocks;
	l->blocks = b;
	return 0;
}

static void register_entries(struct uring_lane *l, struct queue *q, unsigned count)
{
	if (add_block(l, q, count))
		return;
	for (unsigned i = 0; i < count; i++)
		prepare_command(l, &l->blocks->entry[i], q->id, FUSE_IO_URING_CMD_REGISTER);
	q->entries += count;
}

// ---- a request ----------------------------------------------------------------------------------

static struct fuse_in_header *in_header(struct uring_entry *e)
{
	return (struct fuse_in_header *)e->header.in_out;
}

static uint64_t unique_of(const struct uring_entry *e)
{
	return ((const struct fuse_in_header *)e->header.in_out)->unique;
}

static void set_answer(struct uring_entry *e, int error, size_t bytes)
{
	*(struct fuse_out_header *)e->header.in_out = (struct fuse_out_header){
		.len = (uint32_t)(sizeof(struct fuse_out_header) + bytes),
		.error = -error,
		.unique = unique_of(e),
	};
	e->header.ring_ent_in_out.payload_sz = (uint32_t)bytes;
	e->answered = true;
}

bool uring_is_answer(const struct uring_entry *e, const struct iovec *iov)
{
	const struct fuse_out_header *header = iov[0].iov_base;

	return iov[0].iov_len >= sizeof *header && header->unique == unique_of(e);
}

ssize_t uring_answer(struct uring_entry *e, const struct iovec *iov, int count)
{
	const struct fuse_out_header header = *(const struct fuse_out_header *)iov[0].iov_base;
	size_t bytes = 0;

	for (int i = 1; i < count; i++) {
		if (iov[i].iov_len > TRANSPORT_PAYLOAD_BYTES - bytes) {
			errno = EINVAL;
			return -1;
		}
		memcpy(e->payload + bytes, iov[i].iov_base, iov[i].iov_len);
		bytes += iov[i].iov_len;
	}
	set_answer(e, -header.error, bytes);
	return (ssize_t)(sizeof header + bytes);
}

struct fuse_buf uring_request(struct uring_entry *e)
{
	const struct fuse_in_header *in = in_header(e);
	// What precedes the payload: the operation's struct, if it has one.
	size_t before = in->len - e->payload_bytes;
	char *start = e->payload - before;

	memcpy(start, in, sizeof *in);
	memcpy(start + sizeof *in, e->header.op_in, before - sizeof *in);
	return (struct fuse_buf){ .mem = start, .size = in->len };
}

static bool is_sane(struct uring_entry *e)
{
	uint32_t payload = e->header.ring_ent_in_out.payload_sz, len = in_header(e)->len;

	e->payload_bytes = payload;
	return payload <= TRANSPORT_PAYLOAD_BYTES && len >= sizeof(struct fuse_in_header) + payload &&
	       len - sizeof(struct fuse_in_header) - payload <= sizeof e->header.op_in;
}

static void serve_by_libfuse(struct worker *w, struct uring_entry *e)
{
	struct fuse_buf request = uring_request(e);

	transport_note(request.mem, request.size, &w->request);
	request.mem = transport_cut(request.mem, &w->request);
	request.size -= w->request.cut;
	fuse_session_process_buf(w->frontend->session, &request);
}

static void park(struct uring *u, struct uring_entry *e)
{
	atomic_fetch_add_explicit(&u->parked_count, 1, memory_order_relaxed);
	e->next = NULL;
	e->interrupted = false;
	pthread_mutex_lock(&u->parked_lock);
	*u->parked_end = e;
	u->parked_end = &e->next;
	pthread_cond_signal(&u->parked_some);
	pthread_mutex_unlock(&u->parked_lock);
}

void uring_look_for_chores(struct uring *u)
{
	pthread_mutex_lock(&u->parked_lock);
	u->look = true;
	pthread_cond_signal(&u->parked_some);
	pthread_mutex_unlock(&u->parked_lock);
}

// It is answered, or for one that may wait.
static void served(struct uring_lane *l, struct uring_entry *e, bool parks)
{
	bool release = in_header(e)->opcode == FUSE_RELEASE;

	if (parks) {
		park(l->u, e);
		return;
	}
	if (!e->answered) // one that libfuse does not answer should not come here
		set_answer(e, EIO, 0);
	commit(l, e);
	if ((release && fs_has_orphans(l->u->f->fs)) || fs_has_atimes(l->u->f->fs))
		uring_look_for_chores(l->u);
}

static void entry_ready(void *arg);

static void serve_sane(struct uring_lane *l, struct uring_entry *e)
{
	struct worker *w = &l->worker;
	bool parks = false;

	switch (hot_serve(w, &e->hot, entry_ready, e)) {
	case HOT_WAITS:
		l->waiting++;
		atomic_fetch_add_explicit(&l->u->waited_count, 1, memory_order_relaxed);
		return;
	case HOT_ANSWERED:
		set_answer(e, e->hot.error, e->hot.bytes);
		break;
	case HOT_WOULD_WAIT:
		parks = true;
		break;
	default:
		w->deferred = false;
		w->entry = e;
		serve_by_libfuse(w, e);
		w->entry = NULL;
		parks = w->deferred;
	}
	served(l, e, parks);
}

// In lane_poll().
static void entry_ready(void *arg)
{
	struct uring_entry *e = arg;

	e->lane->waiting--;
	serve_sane(e->lane, e);
}

static void serve(struct uring_lane *l, struct uring_entry *e)
{
	e->answered = false;
	if (!is_sane(e)) {
		set_answer(e, EIO, 0);
		served(l, e, false);
		return;
	}
	if (e->payload_bytes > e->touched) {
		l->touched += e->payload_bytes - e->touched;
		e->touched = e->payload_bytes;
	}
	e->hot = (struct hot){ .in = in_header(e), .arg = e->header.op_in, .payload = e->payload, .payload_bytes = e->payload_bytes };
	serve_sane(l, e);
}

// ---- a lane -------------------------------------------------------------------------------------

static bool has_ended(int error)
{
	return error == -ENOTCONN || error == -ECONNABORTED || error == -ENODEV || error == -ECANCELED;
}

static void took(struct uring_lane *l, struct uring_entry *e)
{
	struct queue *q = e->queue;

	if (++q->taken < q->entries)
		return;
	// Its CPU is there after all.
	if (q->offline) {
		q->offline = false;
		register_entries(l, q, l->u->entries);
		return;
	}
	atomic_fetch_add_explicit(&l->u->full_count, 1, memory_order_relaxed);
}

// The mount has ended; or the kernel does not want an entry back: that is offered to it as a new one, once.
static void lost(struct uring_lane *l, struct uring_entry *e, int error)
{
	if (!has_ended(error) && !e->again) {
		e->again = true;
		prepare_command(l, e, e->queue->id, FUSE_IO_URING_CMD_REGISTER);
		return;
	}
	e->queue->entries--;
	if (!has_ended(error))
		log_error("an entry of io_uring queue %u is lost, %u are left: %s", e->queue->id, e->queue->entries,
			  strerror(-error));
}

static void reap(struct uring_lane *l)
{
	struct io_uring_cqe *cqe[BATCH];
	struct uring_entry *taken[BATCH];
	struct { void *what; int result; } done[BATCH];
	unsigned count = io_uring_peek_batch_cqe(&l->ring, cqe, BATCH), takes = 0;

	for (unsigned i = 0; i < count; i++) {
		done[i].what = io_uring_cqe_get_data(cqe[i]);
		done[i].result = cqe[i]->res;
	}
	io_uring_cq_advance(&l->ring, count);
	for (unsigned i = 0; i < count; i++) {
		if (done[i].what == &bell_rung)
			prepare_bell(l);
		else if (done[i].what == &blocks_there)
			prepare_poll(l);
		else if (done[i].what == &queue_refused)
			continue;
		else if (!done[i].result)
			took(l, taken[takes++] = done[i].what);
		else
			lost(l, done[i].what, done[i].result);
	}
	for (unsigned i = 0; i < takes; i++)
		serve(l, taken[i]);
}

// What workers have finished, the oldest first.
static void collect(struct uring_lane *l)
{
	struct uring_entry *list = atomic_exchange(&l->mailbox, NULL), *oldest = NULL;

	while (list) {
		struct uring_entry *next = list->next;

		list->next = oldest;
		oldest = list;
		list = next;
	}
	while (oldest) {
		struct uring_entry *next = oldest->next;

		commit(l, oldest);
		oldest = next;
	}
}

// Entries that wait are answered before there is no lane.
static void end_waiting(struct uring_lane *l)
{
	struct pollfd pollfd = { .fd = lane_fd(l->worker.lane), .events = POLLIN };

	while (l->waiting) {
		poll(&pollfd, 1, -1);
		lane_poll(l->worker.lane);
	}
}

static void serve_until_stop(struct uring_lane *l)
{
	while (!atomic_load(&l->u->stop)) {
		int r;

		lane_poll(l->worker.lane);
		r = io_uring_submit_and_wait(&l->ring, 1);

		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
			log_error("io_uring: %s", strerror(-r));
			fuse_session_exit(l->u->f->session);
			frontend_wake(l->u->f);
			break;
		}
		reap(l);
		collect(l);
	}
	end_waiting(l);
	collect(l);
	io_uring_submit(&l->ring);
}

static int ring_init(struct uring_lane *l, unsigned sqes)
{
	static const unsigned tries[] = {
		IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_SQE128,
	};
	int r = -EINVAL;

	for (size_t i = 0; i < sizeof tries / sizeof *tries && r == -EINVAL; i++)
		r = io_uring_queue_init(sqes, &l->ring, tries[i]);
	l->has_ring = !r;
	return r;
}

// Made by the thread that uses it, and shown to work.
static int ring_open(struct uring_lane *l)
{
	int fd = fuse_session_fd(l->u->f->session), r;
	unsigned sqes = 8, wanted = l->queues * l->u->entries + 2;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;

	while (sqes < wanted && sqes < SQES_MAX)
		sqes *= 2;
	r = ring_init(l, sqes);
	if (!r)
		r = io_uring_register_files(&l->ring, &fd, 1);
	if (r)
		return r;
	sqe = get_sqe(l);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	r = io_uring_submit_and_wait(&l->ring, 1);
	if (r >= 0)
		r = io_uring_wait_cqe(&l->ring, &cqe);
	if (!r)
		io_uring_cqe_seen(&l->ring, cqe);
	return r;
}

// Of commands that were refused, and not merely are under way, the first error.
static int refused(struct uring_lane *l)
{
	struct io_uring_cqe *cqe;
	int r = io_uring_submit(&l->ring);

	r = r < 0 ? r : 0;
	while (!r && !io_uring_peek_cqe(&l->ring, &cqe) && cqe->res < 0 && !has_ended(cqe->res)) {
		r = cqe->res;
		io_uring_cqe_seen(&l->ring, cqe);
	}
	return r;
}

static int register_queues(struct uring_lane *l)
{
	int r = 0;

	for (unsigned i = 0; i < l->queues && !r; i++) {
		struct queue *q = &l->queue[i];

		register_entries(l, q, q->offline ? 1 : l->u->entries);
		r = q->entries ? refused(l) : -ENOMEM;
	}
	if (r) {
		// Whatever it was: the kernel is to know that it need not wait for the other queues.
		struct uring_entry nobody = { 0 };

		io_uring_sqe_set_data(prepare_command(l, &nobody, UINT16_MAX, FUSE_IO_URING_CMD_REGISTER), &queue_refused);
		io_uring_submit(&l->ring);
	}
	prepare_bell(l);
	prepare_poll(l);
	return r;
}

static void report(struct uring *u, int error)
{
	pthread_mutex_lock(&u->lock);
	u->reports++;
	if (!u->error)
		u->error = error;
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}

static enum phase next_phase(struct uring *u)
{
	enum phase phase;

	pthread_mutex_lock(&u->lock);
	while (u->phase == PHASE_RINGS)
		pthread_cond_wait(&u->changed, &u->lock);
	phase = u->phase;
	pthread_mutex_unlock(&u->lock);
	return phase;
}

static void *lane_run(void *arg)
{
	struct uring_lane *l = arg;
	cpu_set_t set;
	int r;

	worker_self = &l->worker;
	if (l->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(l->cpu, &set);
		sched_setaffinity(0, sizeof set, &set); // where it may not any more, it runs elsewhere
	}
	r = ring_open(l);
	report(l->u, r);
	if (!r && next_phase(l->u) == PHASE_REGISTER) {
		report(l->u, register_queues(l));
		serve_until_stop(l);
	}
	if (l->has_ring)
		io_uring_queue_exit(&l->ring);
	return NULL;
}

// ---- lanes --------------------------------------------------------------------------------------

static void lane_fini(struct uring_lane *l)
{
	for (struct block *b = l->blocks, *next; b; b = next) {
		next = b->next;
		munmap(b->slots, (size_t)b->count * SLOT_BYTES);
		free(b->entry);
		free(b);
	}
	if (l->bell >= 0)
		close(l->bell);
	free(l->queue);
	if (l->worker.frontend)
		worker_fini(&l->worker);
}

static int lane_init(struct uring *u, struct uring_lane *l)
{
	l->u = u;
	l->bell = eventfd(0, EFD_CLOEXEC);
	l->queue = calloc(u->cpus.possible, sizeof *l->queue);
	if (l->bell < 0 || !l->queue)
		return l->bell < 0 ? -errno : -ENOMEM;
	l->worker.nowait = true;
	return worker_init(&l->worker, u->f, WORKER_ANSWERS);
}

// A lane on each core that is ours, for its queue; the others' queues go round.
static int make_lanes(struct uring *u)
{
	unsigned other = 0, lanes = 0;
	int cpu_of[LANES_MAX];

	for (unsigned cpu = 0; cpu < u->cpus.possible && lanes < LANES_MAX; cpu++)
		if (CPU_ISSET(cpu, &u->cpus.allowed) && CPU_ISSET(cpu, &u->cpus.online))
			cpu_of[lanes++] = (int)cpu;
	if (!lanes)
		cpu_of[lanes++] = -1;
	u->lane = calloc(lanes, sizeof *u->lane);
	if (!u->lane)
		return -ENOMEM;
	for (; u->lanes < lanes; u->lanes++) {
		u->lane[u->lanes].cpu = cpu_of[u->lanes];
		u->lane[u->lanes].bell = -1;
	}
	for (unsigned i = 0; i < lanes; i++) {
		int r = lane_init(u, &u->lane[i]);

		if (r)
			return r;
	}
	for (unsigned id = 0; id < u->cpus.possible; id++) {
		struct uring_lane *l = NULL;

		for (unsigned i = 0; i < lanes && !l; i++)
			if (u->lane[i].cpu == (int)id)
				l = &u->lane[i];
		if (!l)
			l = &u->lane[other++ % lanes];
		l->queue[l->queues++] = (struct queue){ .id = id, .offline = !CPU_ISSET(id, &u->cpus.online) };
	}
	return 0;
}

// Waits until all lanes that were started have reported; the first error.
static int await_reports(struct uring *u, unsigned count)
{
	int r;

	pthread_mutex_lock(&u->lock);
	while (u->reports < count)
		pthread_cond_wait(&u->changed, &u->lock);
	r = u->error;
	pthread_mutex_unlock(&u->lock);
	return r;
}

static int start_lanes(struct uring *u)
{
	unsigned started = 0;
	int r = 0, first;

	for (; started < u->lanes && !r; started++) {
		r = pthread_create(&u->lane[started].worker.thread, NULL, lane_run, &u->lane[started]);
		if (r)
			break;
		u->lane[started].started = true;
		pthread_setname_np(u->lane[started].worker.thread, "vems-lane");
	}
	first = await_reports(u, started);
	return first ? first : -r;
}

static enum vems_transport_reason reason_of(int error)
{
	switch (error) {
	case -EPERM:
	case -EACCES:
	case -ENOSYS:
		return VEMS_TRANSPORT_FORBIDDEN;
	case -ENOENT:
	case -E2BIG:
		return VEMS_TRANSPORT_CPUS_UNKNOWN;
	default:
		return VEMS_TRANSPORT_NO_RESOURCES;
	}
}

struct uring *uring_new(struct frontend *f, enum vems_transport_reason *ret_reason)
{
	const char *refuse = getenv("VEMSFUSE_TEST_REFUSE_QUEUE");
	struct uring *u = calloc(1, sizeof *u);
	int r;

	*ret_reason = VEMS_TRANSPORT_NO_RESOURCES;
	if (!u)
		return NULL;
	u->f = f;
	u->refuse = refuse ? atoi(refuse) : -1;
	pthread_mutex_init(&u->lock, NULL);
	pthread_cond_init(&u->changed, NULL);
	pthread_mutex_init(&u->parked_lock, NULL);
	pthread_cond_init(&u->parked_some, NULL);
	u->parked_end = &u->parked;
	r = cpus_get(&u->cpus);
	if (!r) {
		u->entries = ENTRIES_TOTAL / u->cpus.possible;
		u->entries = u->entries < ENTRIES_MIN ? ENTRIES_MIN : u->entries > ENTRIES_MAX ? ENTRIES_MAX : u->entries;
		r = make_lanes(u);
	}
	if (!r)
		r = start_lanes(u);
	if (!r)
		return u;
	*ret_reason = reason_of(r);
	uring_free(u);
	return NULL;
}

static void tell(struct uring *u, enum phase phase)
{
	pthread_mutex_lock(&u->lock);
	u->phase = phase;
	u->reports = 0;
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}

int uring_register(struct uring *u)
{
	tell(u, PHASE_REGISTER);
	return await_reports(u, u->lanes);
}

void uring_free(struct uring *u)
{
	atomic_store(&u->stop, true);
	tell(u, PHASE_STOP);
	for (unsigned i = 0; i < u->lanes; i++)
		if (u->lane[i].started)
			ring_bell(&u->lane[i]);
	for (unsigned i = 0; i < u->lanes; i++) {
		if (u->lane[i].started)
			pthread_join(u->lane[i].worker.thread, NULL);
		if (u->lane[i].u)
			lane_fini(&u->lane[i]);
	}
	pthread_mutex_destroy(&u->lock);
	pthread_cond_destroy(&u->changed);
	pthread_mutex_destroy(&u->parked_lock);
	pthread_cond_destroy(&u->parked_some);
	free(u->lane);
	free(u);
}

void uring_stats(struct uring *u, struct vems_stats *ret_stats)
{
	ret_stats->requests_waited = atomic_load_explicit(&u->waited_count, memory_order_relaxed);
	ret_stats->requests_parked = atomic_load_explicit(&u->parked_count, memory_order_relaxed);
	ret_stats->queue_full = atomic_load_explicit(&u->full_count, memory_order_relaxed);
}

// ---- workers that may wait ------------------------------------------------------------------------

struct uring_entry *uring_take(struct uring *u)
{
	struct uring_entry *e;

	pthread_mutex_lock(&u->parked_lock);
	while (!u->parked && !u->look && !fuse_session_exited(u->f->session))
		pthread_cond_wait(&u->parked_some, &u->parked_lock);
	e = fuse_session_exited(u->f->session) ? NULL : u->parked;
	if (e) {
		u->parked = e->next;
		if (!u->parked)
			u->parked_end = &u->parked;
	}
	u->look = false;
	pthread_mutex_unlock(&u->parked_lock);
	return e;
}

void uring_wake(struct uring *u)
{
	pthread_mutex_lock(&u->parked_lock);
	pthread_cond_broadcast(&u->parked_some);
	pthread_mutex_unlock(&u->parked_lock);
}

bool uring_interrupt(struct uring *u, uint64_t unique)
{
	struct uring_entry *e;

	pthread_mutex_lock(&u->parked_lock);
	for (e = u->parked; e && unique_of(e) != unique; e = e->next)
		;
	if (e)
		e->interrupted = true;
	pthread_mutex_unlock(&u->parked_lock);
	return e;
}

pid_t uring_signalled(struct uring_entry *e)
{
	return e->interrupted ? (pid_t)in_header(e)->pid : 0;
}

void uring_done(struct uring_entry *e)
{
	struct uring_lane *l = e->lane;
	struct uring_entry *head = atomic_load(&l->mailbox);

	if (!e->answered)
		set_answer(e, EIO, 0);
	do
		e->next = head;
	while (!atomic_compare_exchange_weak(&l->mailbox, &head, e));
	if (!head)
		ring_bell(l);
}
