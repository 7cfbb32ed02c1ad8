// SPDX-License-Identifier: GPL-2.0-or-later
// FUSE: session, worker threads, operations, the control ioctl.
#ifndef FRONTEND_FRONTEND_H
#define FRONTEND_FRONTEND_H

#include "confine.h"
#include "fs.h"

enum frontend_transport { TRANSPORT_AUTO, TRANSPORT_URING, TRANSPORT_DEV };

struct frontend_config {
	const char *mountpoint;
	const char *source;       // shown in /proc/mounts
	const char *fuse_options; // comma-separated -o options for FUSE, NULL: none
	bool read_only;
	unsigned threads; // 0: default
	enum frontend_transport transport;
	bool switch_uring_on; // the kernel is asked to offer it; root only
	bool kernel_caches;   // read and write go through its page cache
	char *arguments; // of the command line, to be wiped where it would mislead; NULL: left alone
	size_t arguments_bytes;
};

// Before anything is opened: is it a directory, not a dead mount, is /dev/fuse there for us, and will
// fusermount3 let an ordinary user mount there with these options (NULL: none)? Reported with
// log_error, with what helps.
int frontend_check_mountpoint(const char *path, const char *fuse_options);
// The mount there goes on with other flags of mount(2): MS_RDONLY, MS_NOEXEC, ... Its daemon is not asked.
int frontend_remount(const char *path, unsigned long flags);

// Does first what takes privileges later: forks the process that will mount and unmount. No thread may
// have been started. Failures are reported with log_error, here and below.
struct frontend;
int frontend_new(const struct frontend_config *config, struct frontend **ret_frontend);
// What frontend_mount() and frontend_serve() open still: a list for confine().
extern const struct confine_path frontend_files[];
// Mounts; requests wait until frontend_serve().
int frontend_mount(struct frontend *f, struct store *store, struct fs *fs);
// Serves until unmounted or SIGTERM/SIGINT/SIGHUP; `ready` is called once the mount answers requests
// (INIT done). Returns 0 after a clean end. Afterwards no lane is left and no request is under way.
int frontend_serve(struct frontend *f, void (*ready)(void *arg), void *arg);
// Unmounts if mounted. From now on SIGTERM and SIGHUP are ignored and SIGINT ends the process:
// what is left to do is the store's last epoch.
void frontend_free(struct frontend *f);

#endif
