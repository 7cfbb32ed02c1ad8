// SPDX-License-Identifier: GPL-2.0-or-later
// How a request runs as an operation of its worker's lane, and how it is interrupted.
//
// The kernel sends INTERRUPT for any signal of the caller, and hands an EINTR on to it as it is. But
// a file system must not end a call for a signal with a handler: few programs expect EINTR from
// rename() or from read() of a file. So only a caller that is being killed is let go early. INTERRUPT
// comes once for each request: who has a signal is looked at from then on until the request ends.
//
// No interrupt is left behind for the next request: request_settle() takes the function back, which
// waits for one that is running (libfuse holds the request's lock over it), then the caller, under the
// lock under which the lane is interrupted for it, and then resets the lane.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "worker.h"

const struct fuse_lowlevel_ops frontend_operations = {
	.init = serve_init,
	.lookup = serve_lookup,
	.forget = serve_forget,
	.forget_multi = serve_forget_multi,
	.getattr = serve_getattr,
	.setattr = serve_setattr,
	.readlink = serve_readlink,
	.mknod = serve_mknod,
	.mkdir = serve_mkdir,
	.unlink = serve_unlink,
	.rmdir = serve_rmdir,
	.symlink = serve_symlink,
	.rename = serve_rename,
	.link = serve_link,
	.open = serve_open,
	.read = serve_read,
	.write = serve_write,
	.release = serve_release,
	.fsync = serve_fsync,
	.opendir = serve_opendir,
	.readdir = serve_readdir,
	.readdirplus = serve_readdirplus,
	.fsyncdir = serve_fsync,
	.statfs = serve_statfs,
	.setxattr = serve_setxattr,
	.getxattr = serve_getxattr,
	.listxattr = serve_listxattr,
	.removexattr = serve_removexattr,
	.create = serve_create,
	.ioctl = serve_ioctl,
	.fallocate = serve_fallocate,
	.copy_file_range = serve_copy_file_range,
	.lseek = serve_lseek,
	// Without a handler libfuse answers ENOSYS, and the kernel does not ask again:
	// flush, access: nothing to do; getlk, setlk, flock: the kernel does them alone.
};

// A thread that is being killed, by whatever signal, has SIGKILL pending until it is gone.
// The pid is 0 for a caller of another pid namespace: that one waits.
static bool is_being_killed(pid_t thread)
{
	unsigned long long pending = 0;
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/status", (int)thread);
	file = thread ? fopen(path, "re") : NULL;
	if (!file)
		return false;
	while (fgets(line, sizeof line, file))
		if (sscanf(line, "SigPnd: %llx", &pending) == 1)
			break;
	fclose(file);
	return pending >> (SIGKILL - 1) & 1;
}

bool request_check_signalled(struct worker *w)
{
	bool watched;

	pthread_mutex_lock(&w->lock);
	watched = w->signalled;
	if (watched && is_being_killed(w->signalled)) {
		lane_interrupt(w->lane, true);
		w->signalled = 0;
		watched = false;
	}
	pthread_mutex_unlock(&w->lock);
	return watched;
}

static void note_signalled(struct worker *w, pid_t caller)
{
	pthread_mutex_lock(&w->lock);
	w->signalled = caller;
	pthread_mutex_unlock(&w->lock);
	if (request_check_signalled(w))
		frontend_wake(w->frontend);
}

static void interrupt(fuse_req_t req, void *arg)
{
	note_signalled(arg, fuse_req_ctx(req)->pid);
}

bool request_defer(struct worker *w, fuse_req_t req)
{
	if (!w->nowait)
		return false;
	w->deferred = true;
	fuse_reply_err(req, EAGAIN);
	return true;
}

static void wait_begins(struct frontend *f)
{
	if (atomic_fetch_add(&f->waiting, 1) + 1 == atomic_load(&f->crew))
		frontend_wake(f); // nobody is left for the next request
}

static void wait_ends(struct frontend *f)
{
	atomic_fetch_sub(&f->waiting, 1);
}

bool request_wait_again(struct frontend *f, struct op *op, int *result)
{
	bool again;

	if (*result != -ERESTART)
		return op_again(op, result);
	wait_begins(f);
	again = op_again(op, result);
	wait_ends(f);
	return again;
}

int request_sync(struct frontend *f)
{
	int r;

	wait_begins(f);
	r = store_sync(f->store);
	wait_ends(f);
	return r;
}

// Only a request that is about to wait says that it can be interrupted: it costs two global locks.
bool request_again(struct worker *w, fuse_req_t req, struct op *op, int *result)
{
	if (w->nowait) {
		bool again = op_try(op, result);

		w->deferred |= !again && *result == -EAGAIN;
		return again;
	}
	if (*result == -ERESTART && !w->may_interrupt) {
		w->may_interrupt = true;
		fuse_req_interrupt_func(req, interrupt, w);
	}
	return request_wait_again(w->frontend, op, result);
}

ssize_t request_read(struct worker *w, struct op *op, object_t id, uint64_t offset, size_t bytes, bool touch, char *to)
{
	int count = 0;
	ssize_t r = fs_read(op, w->frontend->fs, id, offset, bytes, touch, w->iov, &count);

	for (int i = 0; r > 0 && i < count; i++)
		to = (char *)memcpy(to, w->iov[i].iov_base, w->iov[i].iov_len) + w->iov[i].iov_len;
	return r;
}

// One load a page: so a poisoned one is found here, and not by the kernel, which makes EIO of it.
ssize_t request_look(struct worker *w, struct op *op, object_t id, uint64_t offset, size_t bytes, bool touch, int *ret_count)
{
	ssize_t r = fs_read(op, w->frontend->fs, id, offset, bytes, touch, w->iov + 1, ret_count);

	for (int i = 1; r > 0 && i <= *ret_count; i++)
		for (size_t at = 0; at < w->iov[i].iov_len; at += PAGE_BYTES)
			(void)((const volatile char *)w->iov[i].iov_base)[at];
	return r;
}

void request_signalled(struct worker *w, pid_t caller)
{
	if (caller)
		note_signalled(w, caller);
}

void request_forget_signal(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->signalled = 0;
	pthread_mutex_unlock(&w->lock);
	lane_interrupt(w->lane, false);
}

void request_settle(struct worker *w, fuse_req_t req)
{
	if (!w->may_interrupt)
		return;
	fuse_req_interrupt_func(req, NULL, NULL);
	request_forget_signal(w);
	w->may_interrupt = false;
}
