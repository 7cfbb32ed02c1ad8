// SPDX-License-Identifier: GPL-2.0-or-later
// fsck.vemsfuse: checks a pair that is not mounted, and repairs it if told so.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "clock.h"
#include "distinct.h"
#include "fs_check.h"
#include "log.h"

enum { // of fsck(8); 1 and 4 may come together
	EXIT_CLEAN = 0, EXIT_MENDED = 1, EXIT_ERRORS_LEFT = 4, EXIT_OPERATIONAL = 8, EXIT_USAGE = 16, EXIT_CANCELLED = 32
};
enum { OPT_PMEM = 256, OPT_BACKING, OPT_LOSE_TIER, OPT_DROP_DAMAGED, OPT_VERSION };
enum mending { ASK, LOOK_ONLY, MEND_WHAT_IS_SAFE, MEND_ALL };

#define QUIET_MS 2000u // no progress before
#define PATHS_MAX 100u // findings with a path, and files that have lost something: each costs a scan of directories

static const struct option long_options[] = {
	{ "pmem", required_argument, NULL, OPT_PMEM },
	{ "backing", required_argument, NULL, OPT_BACKING },
	{ "lose-tier", no_argument, NULL, OPT_LOSE_TIER },
	{ "drop-damaged", no_argument, NULL, OPT_DROP_DAMAGED },
	{ "quick", no_argument, NULL, 'q' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

static const char help_text[] =
"Usage: fsck.vemsfuse [-n|-p|-y] [-q] [-v] --pmem=PATH --backing=PATH\n"
"       fsck.vemsfuse [-n] [-q] [-v] --backing=PATH\n"
"\n"
"Checks a file system that is not mounted, and repairs it if told so. Nothing is written before.\n"
"\n"
"  --pmem=PATH     the tier; not needed for a backing that was unmounted\n"
"  --backing=PATH  the block device or file\n"
"  --lose-tier     the backing alone, as of its last epoch, though its tier may hold newer data\n"
"  -q, --quick     do not read file data on the backing\n"
"  -v, --verbose   say what was looked at\n"
"  -n              check only\n"
"  -p, -a          repair, without asking, if nothing is lost by it and nothing has to be guessed\n"
"  -y              repair all that can be\n"
"                  (none of these: asks on a terminal, else checks only)\n"
"  --drop-damaged  repair: file pages that are damaged or lost become holes; else they read as errors\n"
"  -f              always checks in full anyway\n"
"  -h, --help      this text\n"
"  --version       the version\n"
"\n"
"Findings go to stdout, one a line.\n"
"\n"
"Example:\n"
"  fsck.vemsfuse --pmem=/dev/dax0.0 --backing=/dev/sdb\n"
"\n"
"Exit status: 0 clean; 1 repaired; 4 errors left; 5 repaired, but some are left; 8 cannot check (in use,\n"
"missing, ...); 16 wrong command line; 32 cancelled.\n";

static atomic_bool cancelled;

struct fsck {
	struct store_config store;
	bool quick, verbose, drop_damaged;
	enum mending mending;
	bool repairing;            // findings come up as others are mended
	uint64_t to_lose, to_stay; // findings that a repair drops something for; that it does nothing about
	uint64_t data_damaged;     // among the latter: pages with blocks, which stay as they are
	struct store *opened;
	bool show_progress, progress_shown;
	uint64_t began_ms;
	unsigned paths, lost_paths;
};

static void cancel(int signal_number)
{
	atomic_store(&cancelled, true);
}

#define wrong(...) (log_usage(__VA_ARGS__), EXIT_USAGE)

static bool set_mending(struct fsck *fsck, enum mending mending)
{
	bool other = fsck->mending != ASK && fsck->mending != mending;
	fsck->mending = mending;
	return !other;
}

// -1 to go on, or what to exit with.
static int parse(int argc, char **argv, struct fsck *ret_fsck)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":hnqvfpay", long_options, NULL)) != -1) {
		switch (c) {
		case OPT_PMEM:
			ret_fsck->store.tier_path = optarg;
			break;
		case OPT_BACKING:
			ret_fsck->store.backing_path = optarg;
			break;
		case OPT_LOSE_TIER:
			ret_fsck->store.lose_tier = true;
			break;
		case OPT_DROP_DAMAGED:
			ret_fsck->drop_damaged = true;
			break;
		case 'q':
			ret_fsck->quick = true;
			break;
		case 'v':
			ret_fsck->verbose = true;
			break;
		case 'n':
		case 'p':
		case 'a':
		case 'y':
			if (!set_mending(ret_fsck, c == 'n' ? LOOK_ONLY : c == 'y' ? MEND_ALL : MEND_WHAT_IS_SAFE))
				return wrong("only one of -n, -p and -y");
			break;
		case 'f':
			break;
		case OPT_VERSION:
			puts("fsck.vemsfuse " VEMS_RELEASE);
			return EXIT_CLEAN;
		case 'h':
			fputs(help_text, stdout);
			return EXIT_CLEAN;
		case ':':
			return wrong("'%s': a value is missing", argv[optind - 1]);
		default:
			if (optopt && optopt < 256)
				return wrong("unknown option '-%c'", optopt);
			return wrong("%s '%s'", optopt ? "no value is taken by" : "unknown option", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return wrong("one argument too many: '%s'", argv[optind]);
	if (!ret_fsck->store.backing_path || !*ret_fsck->store.backing_path)
		return wrong("--backing=PATH is missing");
	if (ret_fsck->store.tier_path && !*ret_fsck->store.tier_path)
		return wrong("--pmem=PATH is empty");
	if (ret_fsck->mending == ASK && !(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)))
		ret_fsck->mending = LOOK_ONLY;
	return -1;
}

// ---- what is shown ---------------------------------------------------------------------------------

static void progress_clear(struct fsck *fsck)
{
	if (fsck->progress_shown)
		fputs("\r\033[K", stderr);
	fsck->progress_shown = false;
}

static void progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
	struct fsck *fsck = arg;

	if (!fsck->show_progress || now_ms() - fsck->began_ms < QUIET_MS)
		return;
	if (total)
		fprintf(stderr, "\r%s: %.1f %%\033[K", what, 100.0 * (double)(done < total ? done : total) / (double)total);
	else
		fprintf(stderr, "\r%s: %llu\033[K", what, (unsigned long long)done);
	fsck->progress_shown = true;
}

// Names are anything; a line on a terminal is not.
static void print_line(const char *line)
{
	for (; *line; line++)
		putchar((unsigned char)*line < 32 || *line == 127 ? '?' : *line);
	putchar('\n');
}

// Of the directory that the finding is about, or of the file by the directory that has it; "" if it cannot be told.
static void find_path(struct fsck *fsck, const struct check_finding *f, char *path, size_t path_bytes)
{
	bool directory = f->place == PLACE_NAME || f->kind == CHECK_ENTRIES || f->kind == CHECK_LINKS ||
			 f->kind == CHECK_PARENT;
	object_t at = directory ? f->object : f->parent;
	unsigned *told = directory ? &fsck->paths : &fsck->lost_paths; // what is lost comes last, and counts more
	struct lane *lane;

	path[0] = 0;
	if (!at || *told == PATHS_MAX || lane_new(fsck->opened, &lane))
		return;
	++*told;
	log_quiet(1); // that it cannot be told is no news here
	if (fs_check_path(lane, at, path, path_bytes))
		path[0] = 0;
	log_quiet(0);
	lane_free(lane);
	if (!directory && path[0]) {
		size_t length = strlen(path);
		snprintf(path + length, path_bytes - length, "%s%s", path[1] ? "/" : "", f->name);
	}
}

static void finding(void *arg, const struct check_finding *f)
{
	struct fsck *fsck = arg;
	char line[1024], path[2048], whole[sizeof line + sizeof path + 32];

	if (!f->warning) {
		fsck->to_lose += check_mend(f) == MEND_LOSES;
		fsck->to_stay += check_mend(f) == MEND_NOT;
		fsck->data_damaged += !f->copied && (f->kind == CHECK_DATA_CONTENT || f->kind == CHECK_DATA_UNREADABLE);
	}
	check_describe(f, line, sizeof line);
	find_path(fsck, f, path, sizeof path);
	progress_clear(fsck);
	snprintf(whole, sizeof whole, "%s: %s%s%s%s", f->warning ? "warning" : fsck->repairing ? "then" : "error", line, path[0] ? " (" : "", path,
		 path[0] ? ")" : "");
	print_line(whole);
}

// ---- the check ---------------------------------------------------------------------------------------

static void summary(const struct fsck *fsck, const struct fs_check_result *result)
{
	const struct check_result *s = &result->store;

	if (fsck->verbose)
		printf("looked at %llu frames, %llu tree nodes, %llu items, %llu blocks in use, %llu of them read as data\n",
		       (unsigned long long)s->frames, (unsigned long long)s->nodes, (unsigned long long)s->items,
		       (unsigned long long)s->blocks_used, (unsigned long long)s->pages_read);
	printf("%s: %s: %llu directories, %llu files; %llu errors, %llu warnings%s\n", fsck->store.backing_path,
	       s->errors ? "NOT CLEAN" : "clean", (unsigned long long)result->directories, (unsigned long long)result->files,
	       (unsigned long long)s->errors, (unsigned long long)s->warnings,
	       fsck->quick ? "; file data was not read" : "");
}

static int cannot_go_on(struct fsck *fsck, int r)
{
	progress_clear(fsck);
	if (r == -ECANCELED) {
		log_error("cancelled; nothing was changed");
		return EXIT_CANCELLED;
	}
	log_error("cannot go on: %s; nothing was changed", strerror(-r));
	return EXIT_OPERATIONAL;
}

static struct check_config check_config(struct fsck *fsck)
{
	return (struct check_config){ .quick = fsck->quick, .report = finding, .progress = progress, .arg = fsck,
				      .cancelled = &cancelled };
}

static int check(struct fsck *fsck, struct store *store, struct fs_mends *mends, struct fs_check_result *ret_result)
{
	struct check_config config = check_config(fsck);
	fsck->opened = store;
	int r = fs_check_noting(store, &config, mends, ret_result);
	progress_clear(fsck);
	return r;
}

// ---- the repair ---------------------------------------------------------------------------------------

static bool say_yes(const struct fsck *fsck)
{
	char answer[16];

	printf("Repair? %llu of these lose what they name or make up what is missing, %llu stay. [y/N] ",
	       (unsigned long long)fsck->to_lose, (unsigned long long)fsck->to_stay);
	fflush(stdout);
	return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

// Is it to be repaired? If not, why is said.
static bool wanted(const struct fsck *fsck, const struct fs_check_result *result)
{
	if (fsck->mending == LOOK_ONLY)
		return false;
	if (!fsck->drop_damaged && result->store.errors == fsck->to_stay) {
		puts("nothing to repair: damaged pages read as errors until they are overwritten; --drop-damaged makes holes of them");
		return false;
	}
	if (!fsck->store.tier_path && !fsck->store.lose_tier) {
		puts("not repaired: this needs the tier, --pmem=PATH, or --lose-tier if it is lost");
		return false;
	}
	if (fsck->mending == MEND_WHAT_IS_SAFE && (fsck->to_lose || fsck->drop_damaged)) {
		puts("not repaired: something would be lost, or has to be guessed: run fsck.vemsfuse by hand");
		return false;
	}
	return fsck->mending != ASK || say_yes(fsck);
}

struct left {
	uint64_t findings, pages;
};

static void count_left(void *arg, const struct check_finding *f)
{
	struct left *left = arg;

	if (f->warning || check_mend(f) != MEND_NOT)
		return;
	left->findings++;
	left->pages += f->kind == CHECK_PAGE_LOST ? f->found : 1;
}

// Of the new tree, before it is in force: nothing but what has to stay.
static int check_again(struct fsck *fsck, struct store *store, struct left *ret_left)
{
	struct check_config config = { .quick = true, .report = count_left, .arg = ret_left, .cancelled = &cancelled };
	struct fs_check_result result;
	int r;

	*ret_left = (struct left){ 0 };
	r = fs_check(store, &config, &result);
	if (!r && result.store.errors != ret_left->findings) {
		log_error("%s: the repair has come to no good end", fsck->store.backing_path);
		return -EUCLEAN;
	}
	return r;
}

static int repair(struct fsck *fsck, struct store *store, struct fs_mends *mends, uint64_t nodes_lost)
{
	struct check_config config = check_config(fsck);
	struct left left;

	fsck->repairing = true;
	int r = fs_mend(store, &config, mends);
	if (!r)
		r = store_rebuild(store, &config, nodes_lost);
	if (!r)
		r = check_again(fsck, store, &left);
	if (r)
		return cannot_go_on(fsck, r);
	progress_clear(fsck);
	if (store_put_in_force(store))
		return EXIT_OPERATIONAL;
	uint64_t stay = left.pages + (fsck->drop_damaged ? 0 : fsck->data_damaged); // of blocks the quick check knows nothing
	printf("%s: repaired", fsck->store.backing_path);
	if (fs_mends_brought(mends))
		printf("; %llu without a name are in /lost+found", (unsigned long long)fs_mends_brought(mends));
	if (stay)
		printf("; %llu damaged pages go on to read as errors, until they are overwritten", (unsigned long long)stay);
	putchar('\n');
	return EXIT_MENDED | (stay ? EXIT_ERRORS_LEFT : 0);
}

static int check_and_repair(struct fsck *fsck, struct store *store)
{
	struct fs_check_result result;
	struct fs_mends *mends;
	int r = fs_mends_new(fsck->drop_damaged, &mends);

	if (r)
		return cannot_go_on(fsck, r);
	r = check(fsck, store, mends, &result);
	if (r) {
		r = cannot_go_on(fsck, r);
	} else {
		summary(fsck, &result);
		if (result.store.errors == 0)
			r = EXIT_CLEAN;
		else if (!wanted(fsck, &result))
			r = EXIT_ERRORS_LEFT;
		else
			r = repair(fsck, store, mends, result.store.nodes_lost);
	}
	fs_mends_free(mends);
	return r;
}

int main(int argc, char **argv)
{
	struct fsck fsck = { .store = { .read_only = true, .salvage = true }, .show_progress = isatty(STDERR_FILENO),
			     .began_ms = now_ms() };
	struct sigaction action = { .sa_handler = cancel };
	struct store *store;
	int r;

	log_init("fsck.vemsfuse");
	r = parse(argc, argv, &fsck);
	if (r >= 0)
		return r;
	if (fsck.store.tier_path && distinct_check(fsck.store.tier_path, fsck.store.backing_path))
		return EXIT_OPERATIONAL;
	fsck.store.repair = fsck.mending != LOOK_ONLY;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	r = store_open(&fsck.store, &store); // why not is said there
	if (r && atomic_load(&cancelled))
		return EXIT_CANCELLED;
	if (r)
		return r == -EUCLEAN ? EXIT_ERRORS_LEFT : EXIT_OPERATIONAL;
	r = check_and_repair(&fsck, store);
	store_close(store);
	if (fflush(stdout) || ferror(stdout))
		return EXIT_OPERATIONAL;
	return r;
}
