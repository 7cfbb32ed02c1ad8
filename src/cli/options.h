// SPDX-License-Identifier: GPL-2.0-or-later
// The command lines of vemsfuse and mount.vemsfuse.
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "frontend.h"
#include "store.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 }; // mount.vemsfuse: see options.c

struct options {
	struct store_config store;
	const char *mountpoint;
	char *fuse_options; // for frontend_config; NULL: none
	unsigned threads;   // 0: default
	enum frontend_transport transport;
	bool switch_uring_on, kernel_caches;
	enum fs_atime atime;
	bool nodiratime;
	bool foreground;
	bool fake;          // mount -f: all but the mount
	bool remount;       // mount -o remount: a mount that is there gets these flags
	unsigned long mount_flags; // of mount(2)
	int exit_failed;    // what a failure that is not one of usage exits with
};

// Returns -1 to go on, or what to exit with: 0 after --help, EXIT_USAGE after a line on stderr.
// The strings live as long as argv, fuse_options for good.
int options_parse(int argc, char **argv, struct options *ret_options);

#endif
