// SPDX-License-Identifier: GPL-2.0-or-later
// Mounting and unmounting take privileges, serving takes none. So a process of its own does those, and
// nothing else: it is forked before anything is opened, mounts when it is told, and hands over the
// descriptor; it unmounts when it is told, and ends with the daemon.
#ifndef FRONTEND_MOUNTER_H
#define FRONTEND_MOUNTER_H

#include "frontend.h"

struct fuse_session;
struct mounter;
// Before the first thread. The session is what is to be mounted.
int mounter_new(const struct frontend_config *config, struct fuse_session *session, struct mounter **ret_mounter);
// Returns the descriptor of the connection, or a negative errno; the reason was reported.
int mounter_mount(struct mounter *m);
// Once no descriptor of the connection is open: whatever the kernel still wants would wait for ever.
int mounter_unmount(struct mounter *m);
void mounter_free(struct mounter *m); // the process ends; what is mounted stays mounted

#endif
