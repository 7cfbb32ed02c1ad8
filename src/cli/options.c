// SPDX-License-Identifier: GPL-2.0-or-later
// One set of settings, said in three ways: as long options, as words of -o, and, for mount(8) and
// fstab, as `mount.vemsfuse BACKING DIR -o pmem=PATH,...`.
#include "options.h"
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include "log.h"

// What mount(8) expects of a helper.
enum { MOUNT_EXIT_USAGE = 1, MOUNT_EXIT_FAILED = 32 };

#define SECONDS_MAX 86400.0
#define THREADS_MAX 256

enum { OPT_PMEM = 256, OPT_BACKING, OPT_LOSE_TIER, OPT_DISCARD_TIER, OPT_ASSUME_PERSISTENT, OPT_INTERVAL,
       OPT_IO_TIMEOUT, OPT_CACHE, OPT_POLICY, OPT_THREADS, OPT_TRANSPORT, OPT_URING, OPT_VERSION };

// Also the words of -o, where they belong to us.
static const struct option long_options[] = {
	{ "pmem", required_argument, NULL, OPT_PMEM },
	{ "backing", required_argument, NULL, OPT_BACKING },
	{ "lose-tier", no_argument, NULL, OPT_LOSE_TIER },
	{ "discard-tier", no_argument, NULL, OPT_DISCARD_TIER },
	{ "assume-persistent", no_argument, NULL, OPT_ASSUME_PERSISTENT },
	{ "interval", required_argument, NULL, OPT_INTERVAL },
	{ "io-timeout", required_argument, NULL, OPT_IO_TIMEOUT },
	{ "cache", required_argument, NULL, OPT_CACHE },
	{ "policy", required_argument, NULL, OPT_POLICY },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "transport", required_argument, NULL, OPT_TRANSPORT },
	{ "uring", required_argument, NULL, OPT_URING },
	{ "foreground", no_argument, NULL, 'f' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

// A word that ends in '=' takes a value. Those for the kernel and fusermount3 are passed on as they
// are. Not among them: auto_unmount (a crashed mount would look like an empty directory), and what
// the mount sets by itself.
static const char *const fuse_words[] = {
	"allow_other", "allow_root", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async",
	"dirsync", "context=", "fscontext=", "defcontext=", "rootcontext=",
};
// For mount(8) and fstab, or how it is anyway.
static const char *const ignored_words[] = {
	"rw", "defaults", "default_permissions", "auto", "noauto", "user", "users", "nouser", "user=", "owner", "group",
	"nofail", "_netdev", "nolazytime", "comment=", "x-*", "user_id=", "group_id=",
};
// What a remount may change.
static const struct {
	const char *word;
	unsigned long set, clear;
} flag_words[] = {
	{ "ro", MS_RDONLY, 0 },        { "rw", 0, MS_RDONLY },
	{ "nosuid", MS_NOSUID, 0 },    { "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 },      { "dev", 0, MS_NODEV },
	{ "noexec", MS_NOEXEC, 0 },    { "exec", 0, MS_NOEXEC },
	{ "sync", MS_SYNCHRONOUS, 0 }, { "async", 0, MS_SYNCHRONOUS },
	{ "dirsync", MS_DIRSYNC, 0 },
};

static const char help_text[] =
"Usage: vemsfuse [options] --pmem=PATH --backing=PATH MOUNTPOINT\n"
"\n"
"Mounts a small, fast persistent memory (the tier) and a large, slow block device (the backing) as\n"
"one file system, with the access of the memory and the capacity of the device.\n"
"\n"
"  --pmem=PATH        the tier: a device-DAX node, a file on a DAX file system, or an ordinary file;\n"
"                     32 MiB or more. A file on tmpfs does, but does not survive a power cut\n"
"  --backing=PATH     the backing: a block device or a file, 64 MiB or more\n"
"  -f, --foreground   stay in the foreground; messages go to stderr\n"
"  -o WORD,...        ro, allow_other, noatime, strictatime and other mount options; also the options here, as in\n"
"                     -o pmem=/dev/dax0.0,backing=/dev/sdb\n"
"  --interval=SECONDS between two states of the backing that are complete without the tier: what\n"
"                     losing the tier may cost (default 30)\n"
"  --io-timeout=SECONDS\n"
"                     of a failing backing before new data is refused (default 30)\n"
"  --threads=N        that serve requests, or, with io_uring, those that have to wait, to begin with\n"
"                     (default 16); more are started, up to 128, when all of them wait\n"
"  --cache=none|kernel\n"
"                     kernel: what is read and written stays in the kernel's page cache as well (default none);\n"
"                     a write is durable when it returns all the same\n"
"  --policy=a2q|clock|lru\n"
"                     which pages leave the tier when it is full (default a2q; the others are to compare with)\n"
"  --transport=auto|uring|dev\n"
"                     how requests come: by io_uring (Linux 6.14, where it is switched on) or by\n"
"                     /dev/fuse; default auto: by io_uring where the kernel offers it\n"
"  --uring=on         as root: switch it on in the kernel, for all that mount from now on\n"
"  --lose-tier        the tier is lost: mount the last complete state of the backing\n"
"  --discard-tier     the tier holds another file system: give that up\n"
"  --assume-persistent\n"
"                     take a tier on tmpfs for persistent: for tests and measurements\n"
"  -h, --help         this text\n"
"  --version          the version\n"
"\n"
"A blank pair, both only zeroes, is formatted by its first mount; for anything else there is\n"
"mkfs.vemsfuse(8).\n"
"\n"
"Without such hardware, and without root:\n"
"  truncate -s 256M /dev/shm/pmem; truncate -s 2G ~/disk; mkdir ~/mnt\n"
"  vemsfuse --pmem=/dev/shm/pmem --backing=$HOME/disk ~/mnt\n"
"  vemsctl stats ~/mnt\n"
"  fusermount3 -u ~/mnt\n"
"\n"
"With persistent memory and a disk:\n"
"  vemsfuse --pmem=/dev/dax0.0 --backing=/dev/sdb -o allow_other /mnt\n"
"\n"
"The same as a line of /etc/fstab, and by mount(8):\n"
"  /dev/sdb  /mnt  vemsfuse  pmem=/dev/dax0.0,allow_other,nofail  0  0\n"
"  mount -t vemsfuse -o pmem=/dev/dax0.0 /dev/sdb /mnt\n"
"\n"
"Exit status: 0 once the mount serves requests (with -f, after a clean end); 1 if it failed, with the\n"
"reason on stderr; 2 if the command line is wrong. As mount.vemsfuse: 0, 32 and 1, as mount(8) says.\n";

struct parser {
	struct options *options;
	bool helper; // mount.vemsfuse
	bool sloppy; // mount -s: unknown words are ignored
};

#define wrong(p, ...) (log_usage(__VA_ARGS__), (p)->helper ? MOUNT_EXIT_USAGE : EXIT_USAGE)

static int parse_seconds(const struct parser *p, const char *name, const char *text, unsigned *ret_ms)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0.001 && seconds <= SECONDS_MAX))
		return wrong(p, "--%s=%s: not a number of seconds from 0.001 to %.0f", name, text, SECONDS_MAX);
	*ret_ms = (unsigned)lround(seconds * 1000);
	return -1;
}

static int parse_threads(const struct parser *p, const char *text, unsigned *ret_threads)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (end == text || *end || n < 1 || n > THREADS_MAX)
		return wrong(p, "--threads=%s: not a number from 1 to %d", text, THREADS_MAX);
	*ret_threads = (unsigned)n;
	return -1;
}

// One of three: its number.
static int parse_choice(const struct parser *p, const char *name, const char *text, const char *const names[3], unsigned *ret_choice)
{
	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(text, names[i])) {
			*ret_choice = i;
			return -1;
		}
	return wrong(p, "--%s=%s: not %s, %s or %s", name, text, names[0], names[1], names[2]);
}

static int parse_transport(const struct parser *p, const char *text, enum frontend_transport *ret_transport)
{
	static const char *const names[] = { "auto", "uring", "dev" }; // in the order of the enum
	unsigned choice = *ret_transport;
	int r = parse_choice(p, "transport", text, names, &choice);
	*ret_transport = (enum frontend_transport)choice;
	return r;
}

static int parse_policy(const struct parser *p, const char *text, enum store_policy *ret_policy)
{
	static const char *const names[] = { "a2q", "clock", "lru" }; // likewise
	unsigned choice = *ret_policy;
	int r = parse_choice(p, "policy", text, names, &choice);
	*ret_policy = (enum store_policy)choice;
	return r;
}

static int parse_cache(const struct parser *p, const char *text, bool *ret_kernel)
{
	*ret_kernel = !strcmp(text, "kernel");
	return *ret_kernel || !strcmp(text, "none") ? -1 : wrong(p, "--cache=%s: not none or kernel", text);
}

// One of long_options, however it was said.
static int apply(struct parser *p, int option, const char *value)
{
	struct options *o = p->options;

	switch (option) {
	case OPT_PMEM:
		o->store.tier_path = value;
		return -1;
	case OPT_BACKING:
		o->store.backing_path = value;
		return -1;
	case OPT_LOSE_TIER:
		o->store.lose_tier = true;
		return -1;
	case OPT_DISCARD_TIER:
		o->store.discard_tier = true;
		return -1;
	case OPT_ASSUME_PERSISTENT:
		o->store.assume_persistent = true;
		return -1;
	case OPT_INTERVAL:
		return parse_seconds(p, "interval", value, &o->store.interval_ms);
	case OPT_IO_TIMEOUT:
		return parse_seconds(p, "io-timeout", value, &o->store.io_timeout_ms);
	case OPT_TRANSPORT:
		return parse_transport(p, value, &o->transport);
	case OPT_CACHE:
		return parse_cache(p, value, &o->kernel_caches);
	case OPT_POLICY:
		return parse_policy(p, value, &o->store.policy);
	case OPT_URING:
		if (strcmp(value, "on"))
			return wrong(p, "--uring=%s: only 'on'; not to use it: --transport=dev", value);
		o->switch_uring_on = true;
		return -1;
	case OPT_THREADS:
		return parse_threads(p, value, &o->threads);
	case 'f':
		o->foreground = true;
		return -1;
	case 'h':
		fputs(help_text, stdout);
		return EXIT_OK;
	default:
		puts("vemsfuse " VEMS_RELEASE);
		return EXIT_OK;
	}
}

// ---- -o ---------------------------------------------------------------------------------------

static bool word_is(const char *word, const char *pattern)
{
	size_t n = strlen(pattern);

	if (pattern[n - 1] == '=')
		return !strncmp(word, pattern, n) && word[n];
	if (pattern[n - 1] == '*')
		return !strncmp(word, pattern, n - 1);
	return !strcmp(word, pattern);
}

static bool word_among(const char *word, const char *const *patterns, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (word_is(word, patterns[i]))
			return true;
	return false;
}
#define WORD_AMONG(word, patterns) word_among(word, patterns, sizeof(patterns) / sizeof *(patterns))

// What was unescaped is escaped again.
static int pass_to_fuse(struct parser *p, const char *word)
{
	struct options *o = p->options;
	size_t n = o->fuse_options ? strlen(o->fuse_options) : 0;
	char *longer = realloc(o->fuse_options, n + 2 * strlen(word) + 2);

	if (!longer) {
		log_error("out of memory");
		return o->exit_failed;
	}
	o->fuse_options = longer;
	if (n)
		longer[n++] = ',';
	for (; *word; word++) {
		if (*word == ',' || *word == '\\')
			longer[n++] = '\\';
		longer[n++] = *word;
	}
	longer[n] = 0;
	return -1;
}

// Where the value of one of our own words begins: "" without one; NULL: it is not ours.
static const char *own_word(const char *word, const struct option **ret_option)
{
	size_t n = strcspn(word, "=");

	for (const struct option *l = long_options; l->name; l++) {
		if (strlen(l->name) != n || l->val == 'h' || l->val == OPT_VERSION)
			continue;
		for (size_t i = 0; i <= n; i++) {
			if (i == n) {
				*ret_option = l;
				return word + n + (word[n] == '=');
			}
			if (word[i] != l->name[i] && !(word[i] == '_' && l->name[i] == '-'))
				break;
		}
	}
	return NULL;
}

// Access times are ours: the kernel leaves them to a FUSE file system.
static bool is_atime_word(struct parser *p, const char *word)
{
	static const struct {
		const char *word;
		enum fs_atime atime;
	} words[] = {
		{ "relatime", FS_ATIME_RELATIVE }, { "atime", FS_ATIME_RELATIVE }, { "norelatime", FS_ATIME_ALWAYS },
		{ "strictatime", FS_ATIME_ALWAYS }, { "nostrictatime", FS_ATIME_RELATIVE }, { "noatime", FS_ATIME_NEVER },
	};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (!strcmp(word, words[i].word)) {
			p->options->atime = words[i].atime;
			return true;
		}
	if (strcmp(word, "nodiratime") && strcmp(word, "diratime"))
		return false;
	p->options->nodiratime = *word == 'n';
	return true;
}

static void note_flag(struct options *o, const char *word)
{
	for (size_t i = 0; i < sizeof flag_words / sizeof *flag_words; i++)
		if (!strcmp(word, flag_words[i].word))
			o->mount_flags = (o->mount_flags | flag_words[i].set) & ~flag_words[i].clear;
}

static int parse_word(struct parser *p, const char *word)
{
	const struct option *own = NULL;
	const char *value = own_word(word, &own);

	note_flag(p->options, word);
	if (p->helper && !strcmp(word, "remount")) {
		p->options->remount = true;
		return -1;
	}

	if (own && own->has_arg == required_argument && !*value)
		return wrong(p, "-o %s: a value is missing", word);
	if (own && own->has_arg == no_argument && *value)
		return wrong(p, "-o %s: takes no value", word);
	if (own)
		return apply(p, own->val, value);
	if (!*word || WORD_AMONG(word, ignored_words) || is_atime_word(p, word))
		return -1;
	if (!strcmp(word, "ro"))
		p->options->store.read_only = true;
	if (WORD_AMONG(word, fuse_words))
		return pass_to_fuse(p, word);
	return p->sloppy ? -1 : wrong(p, "-o %s: no such option", word);
}

// Words end at a comma, unless "\," or within quotes (SELinux contexts). `text` is of the command
// line: it is cut in place, and lives as long as the values in it.
static int parse_words(struct parser *p, char *text)
{
	bool more = true;

	while (more) {
		char *word = text, *out = text;
		bool quoted = false;
		int r;

		for (; *text && (quoted || *text != ','); text++) {
			quoted ^= *text == '"';
			if (*text == '\\' && text[1])
				text++;
			*out++ = *text;
		}
		more = *text++;
		*out = 0;
		r = parse_word(p, word);
		if (r >= 0)
			return r;
	}
	return -1;
}

// ---- command lines ----------------------------------------------------------------------------

static int parse_options(struct parser *p, int argc, char **argv)
{
	// mount(8) calls: mount.vemsfuse SPEC DIR [-sfnv] [-N namespace] [-o words] [-t type]
	const char *letters = p->helper ? ":fsnvho:t:" : ":fho:";
	int c, r = -1;

	opterr = 0;
	while (r < 0 && (c = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		const char *said = optind > 0 && optind <= argc ? argv[optind - 1] : "";

		if (c == '?' && optopt && optopt < 256 && !strchr(letters, optopt))
			r = wrong(p, "unknown option '-%c'", optopt);
		else if (c == '?')
			r = wrong(p, "%s '%s'", optopt ? "no value is taken by" : "unknown option", said);
		else if (c == ':')
			r = wrong(p, "'%s': a value is missing", said);
		else if (c == 'o')
			r = parse_words(p, optarg);
		else if (p->helper && c == 'f')
			p->options->fake = true;
		else if (c == 's')
			p->sloppy = true;
		else if (c != 'n' && c != 'v' && c != 't')
			r = optarg && !*optarg ? wrong(p, "'%s': a value is missing", said) : apply(p, c, optarg);
	}
	return r;
}

static int take_arguments(struct parser *p, int count, char **arguments)
{
	struct options *o = p->options;

	if (p->helper && count && !o->store.backing_path) {
		o->store.backing_path = *arguments++;
		count--;
	}
	if (!o->store.tier_path && !o->remount)
		return wrong(p, p->helper ? "-o pmem=PATH is missing" : "--pmem=PATH is missing");
	if (!o->store.backing_path)
		return wrong(p, "--backing=PATH is missing");
	if (!count)
		return wrong(p, "MOUNTPOINT is missing");
	if (count > 1)
		return wrong(p, "one argument too many: '%s'", arguments[1]);
	o->mountpoint = arguments[0];
	return -1;
}

int options_parse(int argc, char **argv, struct options *ret_options)
{
	const char *slash = argc ? strrchr(argv[0], '/') : NULL;
	const char *name = slash ? slash + 1 : argc ? argv[0] : "";
	struct parser p = { .options = ret_options, .helper = !strncmp(name, "mount.", 6) };
	int r;

	*ret_options = (struct options){ .store.format_blank = true, .mount_flags = MS_NOSUID | MS_NODEV }; // as libfuse has it
	ret_options->exit_failed = p.helper ? MOUNT_EXIT_FAILED : EXIT_FAILED;
	r = parse_options(&p, argc, argv);
	return r < 0 ? take_arguments(&p, argc - optind, argv + optind) : r;
}
