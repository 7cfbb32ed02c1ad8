// SPDX-License-Identifier: GPL-2.0-or-later
// mkfs.vemsfuse: a new, empty file system on a tier and a backing.
#include <getopt.h>
#include <stdio.h>
#include "distinct.h"
#include "log.h"
#include "store.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { OPT_PMEM = 256, OPT_BACKING, OPT_FORCE, OPT_VERSION };

static const struct option long_options[] = {
	{ "pmem", required_argument, NULL, OPT_PMEM },
	{ "backing", required_argument, NULL, OPT_BACKING },
	{ "force", no_argument, NULL, OPT_FORCE },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

static const char help_text[] =
"Usage: mkfs.vemsfuse [--force] --pmem=PATH --backing=PATH\n"
"\n"
"Makes a new, empty file system on a tier of persistent memory and a backing device. A blank pair\n"
"needs no mkfs: its first mount does the same.\n"
"\n"
"  --pmem=PATH     the tier: a device-DAX node or a file, 32 MiB or more\n"
"  --backing=PATH  a block device or a file, 64 MiB or more\n"
"  --force         whatever is on either of them is given up; without it they must be blank\n"
"  -h, --help      this text\n"
"  --version       the version\n"
"\n"
"Example:\n"
"  mkfs.vemsfuse --force --pmem=/dev/dax0.0 --backing=/dev/sdb\n"
"\n"
"Exit status: 0; 1 if it failed, with the reason on stderr; 2 if the command line is wrong.\n";

#define wrong(...) (log_usage(__VA_ARGS__), EXIT_USAGE)

// -1 to go on, or what to exit with.
static int parse(int argc, char **argv, struct store_format_config *ret_config)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		switch (c) {
		case OPT_PMEM:
			ret_config->tier_path = optarg;
			break;
		case OPT_BACKING:
			ret_config->backing_path = optarg;
			break;
		case OPT_FORCE:
			ret_config->force = true;
			break;
		case OPT_VERSION:
			puts("mkfs.vemsfuse " VEMS_RELEASE);
			return EXIT_OK;
		case 'h':
			fputs(help_text, stdout);
			return EXIT_OK;
		case ':':
			return wrong("'%s': a value is missing", argv[optind - 1]);
		default:
			if (optopt && optopt != 'h' && optopt < 256)
				return wrong("unknown option '-%c'", optopt);
			return wrong("%s '%s'", optopt ? "no value is taken by" : "unknown option", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return wrong("one argument too many: '%s'", argv[optind]);
	if (!ret_config->tier_path || !*ret_config->tier_path)
		return wrong("--pmem=PATH is missing");
	if (!ret_config->backing_path || !*ret_config->backing_path)
		return wrong("--backing=PATH is missing");
	return -1;
}

int main(int argc, char **argv)
{
	struct store_format_config config = { 0 };
	int r;

	log_init("mkfs.vemsfuse");
	r = parse(argc, argv, &config);
	if (r >= 0)
		return r;
	if (distinct_check(config.tier_path, config.backing_path))
		return EXIT_FAILED;
	return store_format(&config) ? EXIT_FAILED : EXIT_OK;
}
