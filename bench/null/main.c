// SPDX-License-Identifier: GPL-2.0-or-later
// The limit to measure against: vemsfuse's own frontend, and behind it a file system that does nothing.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "frontend.h"
#include "log.h"

static const char usage_text[] =
"Usage: bench-null [--transport=auto|uring|dev] [-o WORD,...] MOUNTPOINT\n"
"\n"
"Mounts a file system that keeps data in a mapping and names in a hash table, both in DRAM, by the same\n"
"transports as vemsfuse: what FUSE itself costs. Stays in the foreground. Nothing is kept.\n";

static void on_ready(void *arg)
{
	log_info("%s is mounted", (const char *)arg);
}

static int parse_transport(const char *text, enum frontend_transport *ret_transport)
{
	static const char *const names[] = { "auto", "uring", "dev" }; // in the order of the enum
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(text, names[i])) {
			*ret_transport = (enum frontend_transport)i;
			return 0;
		}
	return -1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "transport", required_argument, NULL, 't' }, { "help", no_argument, NULL, 'h' }, { 0 } };
	struct frontend_config config = { .source = "null" };
	struct frontend *frontend;
	struct fs *fs;
	int c, r = 0;

	log_init("bench-null");
	while (r == 0 && (c = getopt_long(argc, argv, "ho:", options, NULL)) != -1)
		switch (c) {
		case 't': r = parse_transport(optarg, &config.transport); break;
		case 'o': config.fuse_options = optarg; break;
		case 'h': return fputs(usage_text, stdout) < 0;
		default: r = -1;
		}
	if (r || optind + 1 != argc) {
		fputs(usage_text, stderr);
		return 2;
	}
	config.mountpoint = argv[optind];
	if (frontend_new(&config, &frontend))
		return 1;
	r = fs_new(NULL, &fs);
	if (!r)
		r = fs_start(fs, getuid(), getgid());
	if (!r)
		r = frontend_mount(frontend, NULL, fs);
	if (!r)
		r = frontend_serve(frontend, on_ready, argv[optind]);
	frontend_free(frontend);
	return r != 0;
}
