// SPDX-License-Identifier: GPL-2.0-or-later
// vemsctl: asks a mounted vemsfuse for its counters, an epoch or a scrub, by ioctl on its root directory.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include "log.h"
#include "vems/stats.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_DAMAGE = 3 };
enum { OPT_JSON = 256, OPT_VERSION };

static const struct option long_options[] = {
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

static const char help_text[] =
"Usage: vemsctl stats [--json] MOUNTPOINT\n"
"       vemsctl sync MOUNTPOINT\n"
"       vemsctl scrub MOUNTPOINT\n"
"\n"
"Looks at, or acts on, a mounted vemsfuse. For root and for whoever has mounted it.\n"
"\n"
"  stats       what the tier did since the mount, and what is in it\n"
"    --json    every counter by its name, as one flat object\n"
"  sync        returns once the backing alone, without the tier, holds all that was written before\n"
"  scrub       verifies every checksum of tier and backing, in the background of other work, and heals\n"
"              what it can; each error has a line in the log. Ctrl-C ends it\n"
"  -h, --help  this text\n"
"  --version   the version\n"
"\n"
"Examples:\n"
"  vemsctl stats /mnt\n"
"  vemsctl stats --json /mnt | jq .read_hits\n"
"  vemsctl sync /mnt && echo 'the tier may be taken away'\n"
"\n"
"Exit status: 0; 1 if it failed or was stopped, with the reason on stderr; 2 if the command line is\n"
"wrong; 3 if scrub found damage that it could not heal.\n";

struct request {
	bool json;
	const char *command, *mountpoint;
};

// ---- text -------------------------------------------------------------------------------------

#define PAGE_BYTES 4096u // pages, frames and blocks

struct text {
	char s[32];
};

static struct text bytes_text(uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	unsigned unit = 0;
	struct text t;

	for (; value >= 1024; unit++)
		value /= 1024;
	snprintf(t.s, sizeof t.s, unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return t;
}

static struct text pages_text(uint64_t pages)
{
	return bytes_text(pages * PAGE_BYTES);
}

static struct text share_text(uint64_t part, uint64_t whole)
{
	struct text t;

	if (whole)
		snprintf(t.s, sizeof t.s, "%.1f %%", 100.0 * (double)part / (double)whole);
	else
		snprintf(t.s, sizeof t.s, "-");
	return t;
}

// The answers to what is asked most.
static void print_summary(const struct vems_stats *s)
{
	static const char *const states[] = { "well", "the backing fails: new data is refused", "read-only" };
	static const char *const reasons[] = {
#define X(name, text) text,
		VEMS_TRANSPORT_REASONS(X)
#undef X
	};

	printf("state           %s\n", s->degraded < 3 ? states[s->degraded] : "unknown");
	printf("read hit rate   %s\n", share_text(s->read_hits, s->read_hits + s->read_misses).s);
	printf("tree hit rate   %s\n", share_text(s->node_hits, s->node_hits + s->node_misses).s);
	printf("tier            %s, %s dirty, %s free\n", pages_text(s->frames_total).s,
	       share_text(s->frames_dirty, s->frames_total).s, share_text(s->frames_free, s->frames_total).s);
	printf("backing         %s, %s free\n", pages_text(s->blocks_total).s,
	       share_text(s->blocks_free, s->blocks_total).s);
	printf("transport       %s: %s\n", s->transport ? "io_uring" : "/dev/fuse",
	       s->transport_reason < VEMS_TRANSPORT_REASON_COUNT ? reasons[s->transport_reason] : "unknown");
	printf("losing the tier would cost %.1f s\n", (double)s->epoch_age_ms / 1e3);
}

// A heading stands before the counter that it names.
static void print_heading(const char *counter)
{
	static const char *const headings[][2] = {
		{ "read_hits", "Reads and writes" }, { "node_hits", "Metadata" },
		{ "pages_filled", "Between tier and backing" }, { "backing_reads", "Backing" },
		{ "frames_total", "Tier" }, { "epochs", "Epochs" },
		{ "log_bytes", "Log and overlay" }, { "commits", "Operations" },
		{ "blocks_total", "Space" }, { "recovery_ms", "State" },
		{ "transport", "Requests" }, { "scrub_state", "Last scrub" },
	};

	for (size_t i = 0; i < sizeof headings / sizeof *headings; i++)
		if (!strcmp(counter, headings[i][0]))
			printf("\n%s\n", headings[i][1]);
}

static void print_counter(const char *name, uint64_t value, const char *unit, const char *what)
{
	bool is_page = !strcmp(unit, "pages") || !strcmp(unit, "frames") || !strcmp(unit, "blocks");
	bool is_bytes = !strcmp(unit, "bytes");

	print_heading(name);
	printf("  %-20s %14llu", name, (unsigned long long)value);
	if (*unit)
		printf(" %s", unit);
	if (*what)
		printf(" %s", what);
	if (value && (is_page || (is_bytes && value >= 1024)))
		printf(" (%s)", is_page ? pages_text(value).s : bytes_text(value).s);
	putchar('\n');
}

static void print_text(const struct vems_stats *s)
{
	print_summary(s);
#define X(name, unit, what) print_counter(#name, s->name, unit, what);
	VEMS_STATS(X)
#undef X
}

// ---- JSON -------------------------------------------------------------------------------------

static int print_json(const struct vems_stats *s)
{
	struct json_object *object = json_object_new_object();
	const char *text = NULL;
	int failed = !object;

#define X(name, unit, what) \
	failed = failed || json_object_object_add(object, #name, json_object_new_uint64(s->name));
	VEMS_STATS(X)
#undef X
	if (!failed)
		text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
	if (text)
		puts(text);
	else
		log_error("out of memory");
	json_object_put(object);
	return text ? EXIT_OK : EXIT_FAILED;
}

// ---- commands ---------------------------------------------------------------------------------

static int explain(const char *mountpoint, int error)
{
	if (error == ENOTTY || error == ENOSYS || error == EOPNOTSUPP || error == ENOTDIR)
		log_error("%s: not the mount point of a vemsfuse", mountpoint);
	else if (error == EPERM)
		log_error("%s: only root and whoever has mounted it may ask", mountpoint);
	else if (error == ENOTCONN || error == ECONNABORTED)
		log_error("%s: a dead mount, its daemon is gone; clear it with: fusermount3 -u %s", mountpoint,
			  mountpoint);
	else
		log_error("%s: %s", mountpoint, strerror(error));
	return EXIT_FAILED;
}

static int stats(const struct request *request, int fd)
{
	struct vems_stats s;

	if (ioctl(fd, VEMS_IOC_STATS, &s))
		return explain(request->mountpoint, errno);
	if (request->json)
		return print_json(&s);
	print_text(&s);
	return EXIT_OK;
}

static int sync_mount(const struct request *request, int fd)
{
	return ioctl(fd, VEMS_IOC_SYNC) ? explain(request->mountpoint, errno) : EXIT_OK;
}

// ---- scrub ------------------------------------------------------------------------------------

#define QUIET_MS 2000u // no progress before
#define LOOK_MS 100u

static volatile sig_atomic_t stopped;

static void on_stop(int signal)
{
	stopped = signal;
}

static void show_progress(const struct vems_stats *s)
{
	unsigned long long done = s->scrub_checked < s->scrub_total ? s->scrub_checked : s->scrub_total;

	fprintf(stderr, "\rscrub: %3.0f %%, %llu errors ", s->scrub_total ? 100.0 * (double)done / (double)s->scrub_total : 0,
		(unsigned long long)s->scrub_errors);
}

// Until it has ended; a signal ends it.
static int follow_scrub(int fd, struct vems_stats *ret_stats)
{
	const struct timespec look = { .tv_nsec = LOOK_MS * 1000000 };
	bool shown = false;
	int r;

	for (unsigned ms = 0; !(r = ioctl(fd, VEMS_IOC_STATS, ret_stats)) && ret_stats->scrub_state == 1; ms += LOOK_MS) {
		if (stopped)
			ioctl(fd, VEMS_IOC_SCRUB_STOP);
		else
			nanosleep(&look, NULL);
		if (ms >= QUIET_MS && isatty(STDERR_FILENO)) {
			show_progress(ret_stats);
			shown = true;
		}
	}
	if (shown)
		fputc('\n', stderr);
	return r;
}

static int scrub(const struct request *request, int fd)
{
	struct sigaction stop = { .sa_handler = on_stop };
	struct vems_stats s;

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	if (ioctl(fd, VEMS_IOC_SCRUB)) {
		if (errno != EBUSY)
			return explain(request->mountpoint, errno);
		log_error("%s: a scrub is under way", request->mountpoint);
		return EXIT_FAILED;
	}
	if (follow_scrub(fd, &s))
		return explain(request->mountpoint, errno);
	printf("%llu blocks checked, %llu errors, %llu healed\n", (unsigned long long)s.scrub_checked,
	       (unsigned long long)s.scrub_errors, (unsigned long long)s.scrub_healed);
	if (s.scrub_state != 2) {
		log_error("%s: the scrub was stopped before its end", request->mountpoint);
		return EXIT_FAILED;
	}
	return s.scrub_errors > s.scrub_healed ? EXIT_DAMAGE : EXIT_OK;
}

static const struct {
	const char *name;
	int (*run)(const struct request *request, int fd);
} commands[] = { { "stats", stats }, { "sync", sync_mount }, { "scrub", scrub } };
#define COMMANDS (sizeof commands / sizeof *commands)

#define wrong(...) (log_usage(__VA_ARGS__), EXIT_USAGE)

// -1 to go on, or what to exit with.
static int parse(int argc, char **argv, struct request *ret_request)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		switch (c) {
		case OPT_JSON:
			ret_request->json = true;
			break;
		case OPT_VERSION:
			puts("vemsctl " VEMS_RELEASE);
			return EXIT_OK;
		case 'h':
			fputs(help_text, stdout);
			return EXIT_OK;
		default:
			if (optopt && optopt != 'h' && optopt < 256)
				return wrong("unknown option '-%c'", optopt);
			return wrong("%s '%s'", optopt ? "no value is taken by" : "unknown option", argv[optind - 1]);
		}
	}
	if (argc - optind < 1)
		return wrong("a command is missing: stats, sync or scrub");
	if (argc - optind < 2)
		return wrong("MOUNTPOINT is missing");
	if (argc - optind > 2)
		return wrong("one argument too many: '%s'", argv[optind + 2]);
	ret_request->command = argv[optind];
	ret_request->mountpoint = argv[optind + 1];
	return -1;
}

int main(int argc, char **argv)
{
	struct request request = { 0 };
	int fd, r;
	size_t i;

	log_init("vemsctl");
	r = parse(argc, argv, &request);
	if (r >= 0)
		return r;
	for (i = 0; i < COMMANDS && strcmp(request.command, commands[i].name); i++)
		;
	if (i == COMMANDS)
		return wrong("unknown command '%s'", request.command);
	if (request.json && commands[i].run != stats)
		return wrong("--json is for stats");
	fd = open(request.mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return explain(request.mountpoint, errno);
	r = commands[i].run(&request, fd);
	close(fd);
	if (fflush(stdout) || ferror(stdout)) {
		log_error("cannot write: %s", strerror(errno));
		r = EXIT_FAILED;
	}
	return r;
}
