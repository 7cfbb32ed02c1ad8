// SPDX-License-Identifier: GPL-2.0-or-later
// vemsfuse: mounts a tier and a backing as one file system.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "confine.h"
#include "daemon.h"
#include "distinct.h"
#include "log.h"
#include "options.h"

#define PROGRESS_S 2

// No file of ours may become what others take for stdin, stdout or stderr.
static void open_standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

// The working directory is left later. What does not exist is for the store to refuse.
static const char *absolute(const char *path)
{
	char *real = realpath(path, NULL);

	return real ? real : path;
}

// ---- the end ----------------------------------------------------------------------------------

struct progress {
	struct store *store;
	pthread_mutex_t lock;
	pthread_cond_t end;
	bool ended; /* under lock */
};

static void *report_progress(void *arg)
{
	struct progress *p = arg;
	struct vems_stats stats;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	pthread_mutex_lock(&p->lock);
	while (!p->ended) {
		until.tv_sec += PROGRESS_S;
		if (pthread_cond_clockwait(&p->end, &p->lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
			continue;
		store_stats(p->store, &stats);
		log_info("%llu MiB still to be written to the backing",
			 (unsigned long long)stats.frames_dirty * PAGE_BYTES >> 20);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

// The bulk goes to the backing before the store is closed, while it can still be asked how far it is.
static void write_back(struct store *store)
{
	struct progress p = { .store = store, .lock = PTHREAD_MUTEX_INITIALIZER, .end = PTHREAD_COND_INITIALIZER };
	pthread_t thread;
	bool reports = !pthread_create(&thread, NULL, report_progress, &p);

	store_sync(store); // what fails here fails, and is reported, in store_close()
	pthread_mutex_lock(&p.lock);
	p.ended = true;
	pthread_cond_signal(&p.end);
	pthread_mutex_unlock(&p.lock);
	if (reports)
		pthread_join(thread, NULL);
}

static int finish(struct store *store)
{
	daemon_ending();
	if (!store_read_only(store))
		write_back(store);
	return store_close(store);
}

// ---- the mount --------------------------------------------------------------------------------

struct mount {
	const struct options *options;
	char *arguments; // of the command line
	size_t arguments_bytes;
	bool ready;
};

static void on_ready(void *arg)
{
	struct mount *m = arg;

	m->ready = true;
	if (m->options->foreground)
		log_info("%s is mounted", m->options->mountpoint);
	else
		daemon_ready();
}

static int prepare(const struct mount *m, struct frontend **ret_frontend)
{
	const struct options *o = m->options;
	const struct frontend_config config = {
		.mountpoint = o->mountpoint,
		.source = o->store.backing_path,
		.fuse_options = o->fuse_options,
		.read_only = o->store.read_only,
		.threads = o->threads,
		.transport = o->transport,
		.switch_uring_on = o->switch_uring_on,
		.kernel_caches = o->kernel_caches,
		.arguments = m->arguments,
		.arguments_bytes = m->arguments_bytes,
	};

	return frontend_new(&config, ret_frontend);
}

// Whatever is on the devices: this process has nothing else any more.
static int on_devices_open(void)
{
	int r;

	tzset(); // syslog writes the time
	r = confine(frontend_files);
	if (r)
		log_error("cannot give up privileges: %s", strerror(-r));
	return r;
}

static int serve(struct mount *m, struct frontend *frontend, struct store *store, struct fs *fs)
{
	int r;

	fs_set_atime(fs, m->options->atime, !m->options->nodiratime);
	r = fs_start(fs, getuid(), getgid());
	if (r)
		log_error("cannot start the file system: %s", strerror(-r));
	if (!r)
		r = frontend_mount(frontend, store, fs);
	return r ? r : frontend_serve(frontend, on_ready, m);
}

static int run_on(struct mount *m, struct frontend *frontend, struct store *store)
{
	struct fs *fs = NULL;
	int r = fs_new(store, &fs);

	if (r)
		log_error("cannot start the file system: %s", strerror(-r));
	else
		r = serve(m, frontend, store, fs);
	frontend_free(frontend);
	if (fs)
		fs_stop(fs);
	fs_free(fs);
	return r;
}

static int run(struct mount *m)
{
	struct frontend *frontend;
	struct store *store;
	int closed, r = prepare(m, &frontend);

	if (r)
		return r;
	r = store_open(&m->options->store, &store);
	if (r) {
		frontend_free(frontend);
		return r;
	}
	r = run_on(m, frontend, store);
	closed = finish(store);
	return r ? r : closed;
}

int main(int argc, char **argv)
{
	static struct options options;
	struct mount m = { .options = &options };
	int r;

	if (argc) {
		m.arguments = argv[0]; // before getopt moves them about
		m.arguments_bytes = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
	}
	open_standard_files();
	log_init("vemsfuse");
	r = options_parse(argc, argv, &options);
	if (r < 0 && options.remount)
		return options.fake || !frontend_remount(options.mountpoint, options.mount_flags) ? EXIT_OK : options.exit_failed;
	if (r < 0 && distinct_check(options.store.tier_path, options.store.backing_path))
		r = options.exit_failed;
	if (r < 0 && frontend_check_mountpoint(options.mountpoint, options.fuse_options))
		r = options.exit_failed;
	if (r < 0 && options.fake)
		r = EXIT_OK;
	if (r >= 0)
		return r;
	options.mountpoint = absolute(options.mountpoint);
	options.store.tier_path = absolute(options.store.tier_path);
	options.store.backing_path = absolute(options.store.backing_path);
	options.store.devices_open = on_devices_open;
	close_range(STDERR_FILENO + 1, ~0u, 0); // whatever the caller has left open
	if (!options.foreground)
		daemon_fork(options.mountpoint, options.exit_failed);
	r = run(&m);
	if (!r && !m.ready) {
		log_error("ended by a signal before the mount was ready");
		r = -EINTR;
	}
	return r ? options.exit_failed : EXIT_OK;
}
