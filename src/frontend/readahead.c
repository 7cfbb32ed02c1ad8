// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that read what a stream will want next, as anybody would: what they have read is admitted to the
// tier, where the reader finds it.
//
// 1. A stream begins with a second read in sequence that misses. Its window doubles with each half of it that
//    was read, so that a short one costs little.
// 2. It ends when somebody reads elsewhere, or when a piece that was to be read ahead was all there.
// 3. A stream is known by its file, in a table that forgets: two readers of one file, or two files in one
//    place, make each other's streams end, and nothing worse.
#include "readahead.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "hash.h"

#define STREAMS 1024u
#define THREADS 4u
#define JOBS 64u
#define PIECE_BYTES (UINT64_C(512) << 10) // read at a time, at most
#define WINDOW_BYTES (UINT64_C(8) << 20) // likewise
#define ORDER_BYTES (UINT64_C(256) << 10) // so far from its place a read is still in sequence: threads overtake

struct stream {
	_Alignas(64) atomic_flag busy;
	_Atomic object_t object;
	uint64_t next;   // where the reader is; all under busy
	uint64_t ahead;  // up to where pieces were asked for
	uint64_t window; // 0: none is
};

struct job {
	object_t object;
	uint64_t offset;
	size_t bytes;
};

struct ahead_thread {
	struct readahead *readahead;
	struct lane *lane;
	pthread_t thread;
};

struct readahead {
	struct fs *fs;
	uint64_t window_bytes, piece_bytes; // as the tier has room for them
	struct stream stream[STREAMS];
	pthread_mutex_t lock;
	pthread_cond_t wanted;
	struct job job[JOBS]; /* under lock, as are all below */
	uint64_t first, last; // jobs taken, jobs made
	bool stop;
	unsigned threads;
	struct ahead_thread thread[THREADS];
};

static struct stream *stream_of(struct readahead *r, object_t object)
{
	return &r->stream[hash_mix(object, 0x6168656164) % STREAMS];
}

// ---- jobs ---------------------------------------------------------------------------------------

static bool job_make(struct readahead *r, const struct job *job)
{
	if (pthread_mutex_trylock(&r->lock))
		return false; // a reader waits for nobody
	bool room = r->last - r->first < JOBS;
	if (room)
		r->job[r->last++ % JOBS] = *job;
	pthread_cond_signal(&r->wanted);
	pthread_mutex_unlock(&r->lock);
	return room;
}

static bool job_take(struct readahead *r, struct job *ret_job)
{
	pthread_mutex_lock(&r->lock);
	while (r->first == r->last && !r->stop)
		pthread_cond_wait(&r->wanted, &r->lock);
	bool taken = !r->stop;
	if (taken)
		*ret_job = r->job[r->first++ % JOBS];
	pthread_mutex_unlock(&r->lock);
	return taken;
}

static void stream_end(struct readahead *r, object_t object)
{
	struct stream *s = stream_of(r, object);

	if (atomic_flag_test_and_set(&s->busy))
		return;
	if (atomic_load(&s->object) == object)
		s->window = 0;
	atomic_flag_clear(&s->busy);
}

// False: there was nothing to be read from the backing.
static bool job_do(struct ahead_thread *t, const struct job *job)
{
	struct op *op = op_begin(t->lane);
	struct iovec iov[OP_PAGES_MAX];
	bool missed = true;
	int result, count;

	if (op_keep(op, (unsigned)(job->bytes / PAGE_BYTES) + 1)) {
		do
			result = (int)fs_read(op, t->readahead->fs, job->object, job->offset, job->bytes, false, iov, &count);
		while (op_again(op, &result));
		missed = result > 0 && op_missed(op);
	}
	op_end(op);
	return missed;
}

static void *thread_run(void *arg)
{
	struct ahead_thread *t = arg;
	struct job job;

	pthread_setname_np(pthread_self(), "vems-ahead");
	while (job_take(t->readahead, &job))
		if (!job_do(t, &job))
			stream_end(t->readahead, job.object);
	return NULL;
}

// ---- streams --------------------------------------------------------------------------------------

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static void stream_begin(struct stream *s, object_t object, uint64_t next)
{
	atomic_store(&s->object, object);
	s->next = s->ahead = next;
	s->window = 0;
}

static void stream_move(struct readahead *r, struct stream *s, uint64_t end, bool missed)
{
	if (end > s->next)
		s->next = end;
	if (s->window == 0 && !missed)
		return; // a sequence, but of what is there
	if (s->ahead < s->next)
		s->ahead = s->next;
	if (s->window == r->window_bytes ? s->ahead - s->next + r->piece_bytes > s->window // it is kept full
					 : s->window && s->ahead - s->next > s->window / 2)
		return;
	s->window = s->window == 0 ? r->window_bytes / 32 : s->window < r->window_bytes ? 2 * s->window : s->window;
	while (s->ahead < s->next + s->window) {
		uint64_t left = s->next + s->window - s->ahead;
		struct job job = { atomic_load(&s->object), s->ahead, left < r->piece_bytes ? left : r->piece_bytes };
		if (!job_make(r, &job))
			break;
		s->ahead += job.bytes;
	}
}

void readahead_note(struct readahead *r, object_t object, uint64_t offset, size_t bytes, bool missed)
{
	if (!r)
		return;
	struct stream *s = stream_of(r, object);
	bool known = atomic_load_explicit(&s->object, memory_order_relaxed) == object;

	if ((!missed && !known) || atomic_flag_test_and_set(&s->busy))
		return;
	if (atomic_load(&s->object) != object || distance(offset, s->next) > ORDER_BYTES)
		stream_begin(s, object, offset + bytes);
	else
		stream_move(r, s, offset + bytes, missed);
	atomic_flag_clear(&s->busy);
}

// ---- life cycle -------------------------------------------------------------------------------------

static int thread_start(struct readahead *r, struct store *store)
{
	struct ahead_thread *t = &r->thread[r->threads];
	int e = lane_new(store, &t->lane);

	if (e)
		return e;
	t->readahead = r;
	e = -pthread_create(&t->thread, NULL, thread_run, t);
	if (e)
		lane_free(t->lane);
	else
		r->threads++;
	return e;
}

int readahead_new(struct store *store, struct fs *fs, struct readahead **ret_readahead)
{
	uint64_t room = (uint64_t)(store_keeps(store) & ~31u) * PAGE_BYTES; // so that its parts are whole pages
	struct readahead *r = room ? aligned_alloc(64, (sizeof *r + 63) & ~(size_t)63) : NULL;
	int e = 0;

	if (!r)
		return room ? -ENOMEM : 0;
	*r = (struct readahead){ .fs = fs, .window_bytes = room < WINDOW_BYTES ? room : WINDOW_BYTES };
	r->piece_bytes = r->window_bytes / 4 < PIECE_BYTES ? r->window_bytes / 4 : PIECE_BYTES;
	for (unsigned i = 0; i < STREAMS; i++)
		atomic_flag_clear(&r->stream[i].busy);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->wanted, NULL);
	while (!e && r->threads < THREADS)
		e = thread_start(r, store);
	if (e) {
		readahead_free(r);
		return e;
	}
	*ret_readahead = r;
	return 0;
}

void readahead_free(struct readahead *r)
{
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_broadcast(&r->wanted);
	pthread_mutex_unlock(&r->lock);
	for (unsigned i = 0; i < r->threads; i++) {
		lane_interrupt(r->thread[i].lane, true);
		pthread_join(r->thread[i].thread, NULL);
		lane_free(r->thread[i].lane);
	}
	pthread_cond_destroy(&r->wanted);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
