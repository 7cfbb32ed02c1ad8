// SPDX-License-Identifier: GPL-2.0-or-later
// The mount and its life: libfuse's session, worker threads, signals.
//
// 1. A worker takes a request, runs it to its end and answers it; then takes the next. No thread is
//    made for a request. With more workers than cores a miss, which sleeps, holds up no hit as long
//    as one worker is left; when all of them wait, more are made, which stay.
// 2. The thread of frontend_serve() serves nothing. It sleeps on the eventfd and sees to what has
//    changed: the handshake is done, a signal has come, a worker has left, the caller of a request
//    that waits has a signal.
// 3. The end: an unmount gives each worker ENODEV; a signal makes libfuse's session "exited". A worker
//    that sleeps in read() is woken by SIGUSR1, again and again until it has left, since one that is
//    just about to sleep misses it. One that has begun a request ends and answers it first.
// 4. Nobody needs the mount once the workers have left: unmounting closes the descriptor, and the
//    kernel gives an error to whoever still asks. All that was acknowledged is durable in the tier.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "clock.h"
#include "log.h"
#include "mounter.h"
#include "readahead.h"
#include "uring.h"
#include "worker.h"

#define THREADS_DEFAULT 16u
#define FORGETS_REST_NS 1000000u
#define READERS 2u // of /dev/fuse, where requests come by io_uring
#define CREW_MAX 128u
#define ATIMES_AT_ONCE 64u
#define WAKE_AGAIN_MS 10
#define LOOK_AGAIN_MS 200
#define PATIENCE_ROUNDS 200 // of WAKE_AGAIN_MS; then what still waits is interrupted

// A request begins at BUFFER_SKEW, so that the payload of a WRITE begins at a page.
#define BUFFER_SKEW (PAGE_BYTES - TRANSPORT_WRITE_HEADER_BYTES)
#define BUFFER_MAP_BYTES (TRANSPORT_BUFFER_BYTES + PAGE_BYTES)

_Thread_local struct worker *worker_self;

// ---- signals ----------------------------------------------------------------------------------

static int stop_wakeup = -1; // the eventfd of the one frontend
static volatile sig_atomic_t stop_signal;
static const int stop_signals[] = { SIGTERM, SIGINT, SIGHUP };
#define STOP_SIGNALS (sizeof stop_signals / sizeof *stop_signals)

static void on_stop(int signal)
{
	int saved = errno;
	uint64_t one = 1;
	ssize_t n;

	stop_signal = signal;
	n = write(stop_wakeup, &one, sizeof one);
	(void)n;
	errno = saved;
}

static void on_wake(int signal)
{
}

static void set_handler(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };

	sigemptyset(&action.sa_mask);
	sigaction(signal, &action, NULL);
}

static void take_signals(int wakeup)
{
	struct sigaction old;

	stop_wakeup = wakeup;
	for (size_t i = 0; i < STOP_SIGNALS; i++) {
		sigaction(stop_signals[i], NULL, &old);
		if (old.sa_handler != SIG_IGN) // nohup
			set_handler(stop_signals[i], on_stop, SA_RESTART);
	}
	set_handler(SIGPIPE, SIG_IGN, 0);
	set_handler(SIGUSR1, on_wake, 0); // no SA_RESTART: read() is to return
}

// The last epoch is still to come. An impatient ^C may leave it to the next mount, which finds all
// in the tier; a system that goes down, or a terminal, may not.
static void leave_signals(void)
{
	for (size_t i = 0; i < STOP_SIGNALS; i++)
		set_handler(stop_signals[i], stop_signals[i] == SIGINT ? SIG_DFL : SIG_IGN, 0);
	set_handler(SIGUSR1, SIG_IGN, 0);
}

void frontend_wake(struct frontend *f)
{
	uint64_t one = 1;

	if (write(f->wakeup, &one, sizeof one) < 0)
		log_error("eventfd: %s", strerror(errno));
}

// ---- libfuse ----------------------------------------------------------------------------------

static ssize_t session_read(int fd, void *buffer, size_t bytes, void *frontend)
{
	struct worker *w = worker_self;
	ssize_t n;

	atomic_store(&w->reading, true);
	n = transport_read(w->fd, buffer, bytes, &w->request);
	atomic_store(&w->reading, false);
	w->request.want_uring = w->frontend->uring;
	return n;
}

static ssize_t iov_bytes(const struct iovec *iov, int count)
{
	ssize_t bytes = 0;

	while (count--)
		bytes += (ssize_t)iov[count].iov_len;
	return bytes;
}

static ssize_t session_writev(int fd, struct iovec *iov, int count, void *frontend)
{
	struct frontend *f = frontend;
	struct worker *w = worker_self;
	ssize_t n;

	if (w->entry && uring_is_answer(w->entry, iov)) {
		if (w->deferred)
			return iov_bytes(iov, count);
		transport_amend(iov, count, &w->request);
		return uring_answer(w->entry, iov, count);
	}
	n = transport_writev(w->fd, iov, count, &w->request);
	if (w->request.init_done && n >= 0) {
		w->request.init_done = false;
		if (!f->kernel_caches && !transport_may_map(&w->request))
			log_warning("this kernel maps no file for shared writing that bypasses its page cache, as Linux 6.6 does: "
				    "such an mmap fails with ENODEV; with --cache=kernel it does not");
		atomic_store(&f->uring_accepted, w->request.uring);
		atomic_store(&f->init_done, true);
		frontend_wake(f);
	}
	return n;
}

bool worker_reply_lent(struct worker *w, fuse_req_t req, struct op *op, int count)
{
	if (!op_lend(op))
		return false;
	transport_answer(w->fd, w->iov, count, &w->request);
	op_lend_end(op);
	fuse_reply_none(req); // answered; EFAULT the kernel has told its caller as EIO
	return true;
}

__attribute__((format(printf, 2, 0))) static void log_of_libfuse(enum fuse_log_level level, const char *format,
								 va_list args)
{
	char line[512];

	vsnprintf(line, sizeof line, format, args);
	line[strcspn(line, "\n")] = 0;
	if (level <= FUSE_LOG_ERR)
		log_error("%s", line);
	else if (level <= FUSE_LOG_WARNING)
		log_warning("%s", line);
	else
		log_info("%s", line);
}

static int build_arguments(const struct frontend_config *config, struct fuse_args *args)
{
	char *fsname = NULL, *options = NULL;
	int r = -1;

	if (asprintf(&fsname, "fsname=%s", config->source ? config->source : "vemsfuse") < 0)
		return -ENOMEM;
	if (!fuse_opt_add_opt_escaped(&options, fsname) &&
	    !fuse_opt_add_opt(&options, "subtype=vemsfuse,default_permissions") &&
	    (!config->read_only || !fuse_opt_add_opt(&options, "ro")) &&
	    (!config->fuse_options || !*config->fuse_options || !fuse_opt_add_opt(&options, config->fuse_options)) &&
	    !fuse_opt_add_arg(args, "vemsfuse") && !fuse_opt_add_arg(args, "-o") && !fuse_opt_add_arg(args, options))
		r = 0;
	free(fsname);
	free(options);
	return r ? -ENOMEM : 0;
}

static int session_new(struct frontend *f, const struct frontend_config *config)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int r = build_arguments(config, &args);

	if (r)
		goto out;
	fuse_set_log_func(log_of_libfuse);
	f->session = fuse_session_new(&args, &frontend_operations, sizeof frontend_operations, f);
	r = f->session ? 0 : -EINVAL; // libfuse has said why
out:
	fuse_opt_free_args(&args);
	return r;
}

// Somebody has unmounted it, or cut the connection.
static bool is_cut_off(int session_fd)
{
	struct pollfd pollfd = { .fd = session_fd };

	return poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLERR;
}

static void session_end(struct frontend *f)
{
	bool mounted = f->mounted && !is_cut_off(fuse_session_fd(f->session));
	int r;

	fuse_session_destroy(f->session);
	r = mounted ? mounter_unmount(f->mounter) : 0;
	if (r)
		log_error("cannot unmount: %s", strerror(-r));
}

// ---- workers ----------------------------------------------------------------------------------

// What was unlinked and is neither open nor known any more.
static void drop_orphans(struct worker *w)
{
	struct fs *fs = w->frontend->fs;
	object_t id;
	int r;

	while ((id = fs_next_orphan(fs))) {
		do {
			struct op *op = op_begin(w->lane);

			do
				r = fs_drop(op, fs, id);
			while (request_wait_again(w->frontend, op, &r));
			op_end(op);
		} while (r > 0);
		if (r == -EUCLEAN)
			log_warning("a deleted file (%llu) keeps its space until the next mount: %s",
				    (unsigned long long)id, strerror(-r));
		fs_dropped(fs, id, r);
	}
}

// The caller has its answer.
static void do_chores(struct worker *w)
{
	drop_orphans(w);
	for (unsigned i = 0; i < ATIMES_AT_ONCE && fs_write_atime(w->frontend->fs, w->lane, false); i++)
		;
}

// Where requests come by io_uring, FORGET and INTERRUPT do not. A stream of FORGETs is read in batches: to wake up for
// each would take longer than to drop the file.
static void rest_between_forgets(struct frontend *f)
{
	if (now_ns() - atomic_load(&f->forgets_ns) < FORGETS_REST_NS)
		nanosleep(&(struct timespec){ .tv_nsec = FORGETS_REST_NS }, NULL);
	atomic_store(&f->forgets_ns, now_ns());
}

static void serve_device(struct worker *w)
{
	struct frontend *f = w->frontend;
	struct fuse_buf buffer = { .mem = w->buffer + BUFFER_SKEW };
	int r = fuse_session_receive_buf(f->session, &buffer);

	if (r > 0) {
		if (!f->uring || !w->request.interrupted || !uring_interrupt(f->uring, w->request.interrupted))
			fuse_session_process_buf(f->session, &buffer);
		if (f->crew_kind == WORKER_READS)
			do_chores(w);
		else if (fs_has_orphans(f->fs))
			uring_look_for_chores(f->uring); // who reads here must not wait
		if (f->crew_kind != WORKER_READS)
			rest_between_forgets(f);
	} else if (r < 0 && r != -EINTR && r != -EAGAIN) {
		log_error("/dev/fuse: %s", strerror(-r));
		fuse_session_exit(f->session);
	}
}

static void serve_parked(struct worker *w)
{
	struct frontend *f = w->frontend;
	struct fuse_buf buffer;

	w->entry = uring_take(f->uring);
	if (w->entry) {
		buffer = uring_request(w->entry);
		transport_note(buffer.mem, buffer.size, &w->request);
		buffer.mem = transport_cut(buffer.mem, &w->request);
		buffer.size -= w->request.cut;
		request_signalled(w, uring_signalled(w->entry));
		fuse_session_process_buf(f->session, &buffer);
		request_forget_signal(w);
		uring_done(w->entry);
		w->entry = NULL;
	}
	do_chores(w);
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	struct frontend *f = w->frontend;

	worker_self = w;
	while (!fuse_session_exited(f->session))
		if (w->kind == WORKER_READS)
			serve_device(w);
		else
			serve_parked(w);
	atomic_store(&w->running, false);
	atomic_fetch_sub(&f->running, 1);
	frontend_wake(f);
	return NULL;
}

// Memory that is never touched costs nothing: large requests are rare, and so are large replies.
static char *map_buffer(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int worker_init(struct worker *w, struct frontend *f, enum worker_kind kind)
{
	int session_fd = fuse_session_fd(f->session);

	w->frontend = f;
	w->kind = kind;
	pthread_mutex_init(&w->lock, NULL);
	w->fd = kind == WORKER_READS ? transport_clone(session_fd) : -1;
	if (w->fd < 0)
		w->fd = session_fd;
	w->buffer = kind == WORKER_READS ? map_buffer(BUFFER_MAP_BYTES) : NULL;
	w->reply = map_buffer(TRANSPORT_PAYLOAD_BYTES + 1);
	if (!w->reply || (kind == WORKER_READS && !w->buffer))
		return -ENOMEM;
	return lane_new(f->store, &w->lane);
}

void worker_fini(struct worker *w)
{
	if (w->lane)
		lane_free(w->lane);
	pthread_mutex_destroy(&w->lock);
	if (w->buffer)
		munmap(w->buffer, BUFFER_MAP_BYTES);
	if (w->reply)
		munmap(w->reply, TRANSPORT_PAYLOAD_BYTES + 1);
	if (w->fd != fuse_session_fd(w->frontend->session))
		close(w->fd);
}

static int worker_start(struct worker *w)
{
	int r;

	atomic_store(&w->running, true);
	atomic_fetch_add(&w->frontend->running, 1);
	r = pthread_create(&w->thread, NULL, worker_run, w);
	if (r) {
		atomic_store(&w->running, false);
		atomic_fetch_sub(&w->frontend->running, 1);
		return -r;
	}
	pthread_setname_np(w->thread, "vems-worker");
	return 0;
}

static int add_workers(struct frontend *f, unsigned count, enum worker_kind kind)
{
	int r = 0;

	for (; count && !r; count--) {
		struct worker *w = &f->worker[f->workers];

		r = worker_init(w, f, kind);
		if (!r)
			r = worker_start(w);
		if (r)
			worker_fini(w);
		else
			f->workers++;
	}
	return r;
}

static int start_workers(struct frontend *f, unsigned count, enum worker_kind kind)
{
	int r = add_workers(f, count, kind);

	if (r) {
		log_error("cannot start %u threads: %s", f->threads, strerror(-r));
		fuse_session_exit(f->session);
	}
	return r;
}

static unsigned most_workers(const struct frontend *f)
{
	return READERS + (f->threads < CREW_MAX ? CREW_MAX : f->threads) + 1;
}

static void count_crew(struct frontend *f)
{
	unsigned crew = 0;

	for (unsigned i = 0; i < f->workers; i++)
		crew += f->worker[i].kind == f->crew_kind;
	atomic_store(&f->crew, crew);
}

// All of them wait, and nobody takes the next request, a hit perhaps. What cannot be had is done without.
static void relieve_workers(struct frontend *f)
{
	while (atomic_load(&f->waiting) >= atomic_load(&f->crew)) {
		unsigned room = most_workers(f) - f->workers;

		if (!room || add_workers(f, room < f->threads ? room : f->threads, f->crew_kind))
			break;
		count_crew(f);
	}
}

static void stop_workers(struct frontend *f)
{
	for (unsigned i = 0; i < f->workers; i++)
		pthread_join(f->worker[i].thread, NULL);
	for (unsigned i = 0; i < f->workers; i++)
		worker_fini(&f->worker[i]);
}

static void wake_workers(struct frontend *f, bool impatient)
{
	for (unsigned i = 0; i < f->workers; i++) {
		struct worker *w = &f->worker[i];

		if (!atomic_load(&w->running))
			continue;
		if (impatient)
			lane_interrupt(w->lane, true);
		if (atomic_load(&w->reading))
			pthread_kill(w->thread, SIGUSR1);
	}
	if (f->uring)
		uring_wake(f->uring);
}

static bool watch_signalled(struct frontend *f)
{
	bool again = false;

	for (unsigned i = 0; i < f->workers; i++)
		again |= request_check_signalled(&f->worker[i]);
	return again;
}

// ---- the transport ----------------------------------------------------------------------------

static void switch_uring_on(void)
{
	int r = transport_switch_uring_on();

	if (!r)
		log_info("FUSE-over-io_uring is switched on: the kernel offers it to all that mount from now on");
	else if (r < 0)
		log_warning("FUSE-over-io_uring cannot be switched on: %s",
			    r == -ENOENT ? "this kernel does not have it (Linux 6.14)" : strerror(-r));
}

static void choose(struct frontend *f, bool uring, enum vems_transport_reason reason)
{
	f->crew_kind = uring ? WORKER_WAITS : WORKER_READS;
	atomic_store(&f->transport, uring);
	atomic_store(&f->transport_reason, reason);
}

// Before the handshake. Without f->uring afterwards, requests come by /dev/fuse.
static void prepare_transport(struct frontend *f)
{
	enum vems_transport_reason reason = VEMS_TRANSPORT_ASKED_FOR;

	if (f->wish != TRANSPORT_DEV) {
		reason = VEMS_TRANSPORT_NOT_OFFERED;
		if (transport_kernel_offers_uring())
			f->uring = uring_new(f, &reason);
	}
	choose(f, false, reason);
}

static int refuse_transport(const struct frontend *f)
{
	static const char *const reasons[] = {
#define X(name, text) text,
		VEMS_TRANSPORT_REASONS(X)
#undef X
	};

	log_error("--transport=uring: %s", reasons[atomic_load(&f->transport_reason)]);
	return -EOPNOTSUPP;
}

// After the handshake, when requests wait for what it has promised.
static int settle_transport(struct frontend *f)
{
	unsigned readers = f->threads > f->workers ? f->threads - f->workers : 0;
	int r;

	if (!atomic_load(&f->uring_accepted)) {
		if (f->uring)
			choose(f, false, VEMS_TRANSPORT_NOT_OFFERED);
		return f->wish == TRANSPORT_URING ? refuse_transport(f) : start_workers(f, readers, WORKER_READS);
	}
	r = uring_register(f->uring);
	if (!r) {
		choose(f, true, f->wish == TRANSPORT_URING ? VEMS_TRANSPORT_ASKED_FOR : VEMS_TRANSPORT_OFFERED);
		return start_workers(f, f->threads, WORKER_WAITS);
	}
	choose(f, false, VEMS_TRANSPORT_REFUSED);
	log_warning("the kernel has refused a queue of FUSE-over-io_uring (%s): requests come by /dev/fuse", strerror(-r));
	// If all queues have come to be in spite of that, they are served, too.
	r = start_workers(f, readers, WORKER_READS);
	return r ? r : start_workers(f, 1, WORKER_WAITS);
}

// ---- the mount --------------------------------------------------------------------------------

int frontend_new(const struct frontend_config *config, struct frontend **ret_frontend)
{
	struct frontend *f = calloc(1, sizeof *f);
	int r = -ENOMEM;

	if (!f)
		return r;
	f->owner = getuid();
	f->threads = config->threads ? config->threads : THREADS_DEFAULT;
	f->wish = config->transport;
	f->kernel_caches = config->kernel_caches;
	f->libfuse_checks_owner = config->fuse_options && strstr(config->fuse_options, "allow_root");
	f->wakeup = eventfd(0, EFD_CLOEXEC);
	f->worker = calloc(most_workers(f), sizeof *f->worker);
	if (f->wakeup < 0 || !f->worker)
		goto fail;
	if (config->switch_uring_on)
		switch_uring_on();
	r = session_new(f, config);
	if (r)
		goto fail;
	r = mounter_new(config, f->session, &f->mounter);
	if (r) {
		log_error("cannot start the process that mounts: %s", strerror(-r));
		goto fail;
	}
	*ret_frontend = f;
	return 0;
fail:
	frontend_free(f);
	return r;
}

// /proc: has the caller of a request been killed? /sys: the CPUs, and what kind of device the backing is.
const struct confine_path frontend_files[] = {
	{ "/dev/fuse", true }, { "/dev/null", true }, { "/proc", false }, { "/sys", false },
#ifdef VEMS_COUNTERS // a build that counts lines alone
	{ VEMS_COUNTERS, true },
#endif
	{ NULL, false },
};

int frontend_mount(struct frontend *f, struct store *store, struct fs *fs)
{
	static const struct fuse_custom_io io = { .read = session_read, .writev = session_writev };
	int fd;

	f->store = store;
	f->fs = fs;
	f->persistent = store_is_persistent(store);
	take_signals(f->wakeup);
	fd = mounter_mount(f->mounter);
	if (fd < 0)
		return fd;
	f->mounted = true;
	return fuse_session_custom_io(f->session, &io, fd);
}

static int start_serving(struct frontend *f)
{
	int r = readahead_new(f->store, f->fs, &f->readahead);

	if (r) {
		log_error("cannot start the threads that read ahead: %s", strerror(-r));
		return r;
	}
	return start_workers(f, f->uring ? READERS : f->threads, WORKER_READS);
}

int frontend_serve(struct frontend *f, void (*ready)(void *arg), void *arg)
{
	struct pollfd pollfd = { .fd = f->wakeup, .events = POLLIN };
	bool settled = false, announced = false;
	uint64_t count;
	int r;

	prepare_transport(f);
	if (f->wish == TRANSPORT_URING && !f->uring)
		r = refuse_transport(f);
	else
		r = start_serving(f);
	for (unsigned round = 0; atomic_load(&f->running);) {
		int timeout_ms = watch_signalled(f) ? LOOK_AGAIN_MS : -1;

		if (fuse_session_exited(f->session)) {
			wake_workers(f, ++round > PATIENCE_ROUNDS);
			timeout_ms = WAKE_AGAIN_MS;
		}
		if (poll(&pollfd, 1, timeout_ms) > 0 && read(f->wakeup, &count, sizeof count) < 0)
			log_error("eventfd: %s", strerror(errno));
		if (atomic_load(&f->init_done) && !settled) {
			settled = true;
			r = settle_transport(f);
			if (r)
				fuse_session_exit(f->session);
			count_crew(f);
			announced = !r;
			if (announced)
				ready(arg);
		}
		if (settled)
			relieve_workers(f);
		if (stop_signal)
			fuse_session_exit(f->session);
	}
	stop_workers(f);
	if (f->uring)
		uring_free(f->uring);
	f->uring = NULL;
	if (f->readahead)
		readahead_free(f->readahead);
	f->readahead = NULL;
	if (!r && !announced && !stop_signal) {
		log_error("the kernel and libfuse do not agree on a protocol");
		r = -EPROTO;
	}
	return r;
}

void frontend_free(struct frontend *f)
{
	leave_signals();
	if (f->session)
		session_end(f);
	mounter_free(f->mounter);
	stop_wakeup = -1;
	if (f->wakeup >= 0)
		close(f->wakeup);
	free(f->worker);
	free(f);
}
