// SPDX-License-Identifier: GPL-2.0-or-later
// What the files of the frontend share: the mount, its worker threads, and how a request runs.
#ifndef FRONTEND_WORKER_H
#define FRONTEND_WORKER_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include "frontend.h"
#include "transport.h"

struct uring;
struct uring_entry;

enum worker_kind {
	WORKER_READS,   // requests from /dev/fuse
	WORKER_WAITS,   // serves what had to be parked by those that answer
	WORKER_ANSWERS, // is part of uring.c: serves what comes by a ring, and never waits
};

struct worker {
	struct frontend *frontend;
	enum worker_kind kind;
	pthread_t thread;
	atomic_bool running;
	atomic_bool reading; // sleeps, or is about to, until there is a request
	int fd; // of its own, or the session's
	struct lane *lane;
	struct transport_request request;
	struct uring_entry *entry; // whose request is under way; NULL: one of /dev/fuse
	bool nowait;   // what would wait is to be deferred
	bool deferred; // it is: the answer to the request under way is dropped
	bool may_interrupt; // the request under way has told libfuse whom to interrupt
	pthread_mutex_t lock;
	pid_t signalled; /* under lock */ // the caller, which has a signal pending; 0: none
	char *buffer;       // a request of /dev/fuse; a WRITE's payload is at a page boundary
	char *reply;        // TRANSPORT_PAYLOAD_BYTES, for those that do not answer from the tier
	struct iovec iov[OP_PAGES_MAX + 1];
};

struct frontend {
	struct store *store;
	struct fs *fs;
	struct fuse_session *session;
	struct mounter *mounter;
	uid_t owner;     // who has mounted
	bool mounted;         // by us; it may have been unmounted since
	bool persistent;      // what is acknowledged survives a power cut
	bool opendir_is_free; // the kernel can do without OPENDIR
	bool kernel_caches;   // read and write go through its page cache
	bool libfuse_checks_owner; // of requests but reads and writes: -o allow_root
	enum frontend_transport wish;
	struct uring *uring; // its threads; NULL: none
	struct readahead *readahead;
	atomic_bool uring_accepted; // in the answer to INIT
	atomic_uint transport, transport_reason; // as in struct vems_stats
	int wakeup;      // eventfd: something below has changed, or all workers wait
	atomic_bool init_done;
	atomic_uint running; // workers
	unsigned threads;    // to begin with
	unsigned workers;
	_Atomic enum worker_kind crew_kind; // of the workers whose operations may wait:
	atomic_uint crew, waiting;  // how many there are, and how many wait
	_Atomic uint64_t forgets_ns; // when some were read last
	struct worker *worker;
};

extern _Thread_local struct worker *worker_self; // NULL outside of workers
extern const struct fuse_lowlevel_ops frontend_operations;

// The daemon alone changes the file system, so what the kernel knows stays true until the kernel
// itself has it changed.
#define FOREVER_S 1e9

// But a WRITE may take setuid and setgid away, and the kernel goes on with the mode it knows. So it
// asks again each time for files that have them.
//
// It asks again for files whose blocks are still to be counted, too, if somebody asks it.
static inline double attr_timeout_s(const struct stat *attr)
{
	bool suid = S_ISREG(attr->st_mode) && attr->st_mode & (S_ISUID | S_ISGID);

	return suid || attr->st_blocks == FS_BLOCKS_UNKNOWN ? 0 : FOREVER_S;
}

// As the kernel is to have it.
static inline struct stat attr_to_kernel(const struct stat *attr)
{
	struct stat known = *attr;

	if (known.st_blocks == FS_BLOCKS_UNKNOWN)
		known.st_blocks = known.st_size / 512;
	return known;
}

// Runs `call`, the body of an operation (store.h), until it is final.
#define REQUEST_RUN(worker, req, op, result, call)          \
	do {                                                \
		do                                          \
			(result) = (int)(call);             \
		while (request_again(worker, req, op, &(result))); \
		request_settle(worker, req);                \
	} while (0)
bool request_again(struct worker *w, fuse_req_t req, struct op *op, int *result);
// True if w may not wait: the request is answered, to no effect; one that may will serve it.
bool request_defer(struct worker *w, fuse_req_t req);
// op_again() and store_sync(), of a worker that counts as waiting meanwhile.
bool request_wait_again(struct frontend *f, struct op *op, int *result);
int request_sync(struct frontend *f);
void request_settle(struct worker *w, fuse_req_t req); // before the reply: it frees req
// The body of an operation: reads into memory, which has the right bytes once the result is final.
ssize_t request_read(struct worker *w, struct op *op, object_t id, uint64_t offset, size_t bytes, bool touch, char *to);
// Likewise, but leaves it where it is: in w->iov[1 .. *ret_count].
ssize_t request_look(struct worker *w, struct op *op, object_t id, uint64_t offset, size_t bytes, bool touch, int *ret_count);
// Answers with that. False: not, since memory of the tier has failed meanwhile.
bool worker_reply_lent(struct worker *w, fuse_req_t req, struct op *op, int count);
// The caller of what w is about to serve has a signal.
void request_signalled(struct worker *w, pid_t caller);
void request_forget_signal(struct worker *w); // once it is served
// Of any thread: lets the caller of w's request go if it is being killed. True if there is a caller
// to be looked at again.
bool request_check_signalled(struct worker *w);

static inline struct frontend *request_frontend(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

int worker_init(struct worker *w, struct frontend *f, enum worker_kind kind); // fini also after a failure
void worker_fini(struct worker *w);

void frontend_wake(struct frontend *f); // the thread of frontend_serve(): there is something to see to

// Handlers, by file. names.c:
void serve_lookup(fuse_req_t req, fuse_ino_t dir, const char *name);
void serve_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count);
void serve_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void serve_mknod(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t rdev);
void serve_mkdir(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode);
void serve_symlink(fuse_req_t req, const char *target, fuse_ino_t dir, const char *name);
void serve_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, struct fuse_file_info *fi);
void serve_unlink(fuse_req_t req, fuse_ino_t dir, const char *name);
void serve_rmdir(fuse_req_t req, fuse_ino_t dir, const char *name);
void serve_rename(fuse_req_t req, fuse_ino_t dir, const char *name, fuse_ino_t newdir, const char *newname,
		  unsigned flags);
void serve_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newdir, const char *newname);
void serve_readlink(fuse_req_t req, fuse_ino_t ino);
void serve_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void serve_readdir(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset, struct fuse_file_info *fi);
void serve_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset, struct fuse_file_info *fi);
// files.c:
void serve_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void serve_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *fi);
void serve_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void serve_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void serve_read(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset, struct fuse_file_info *fi);
void serve_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t bytes, off_t offset,
		 struct fuse_file_info *fi);
void serve_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);
void serve_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t bytes, struct fuse_file_info *fi);
void serve_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t offset, struct fuse_file_info *fi, fuse_ino_t to,
			   off_t to_offset, struct fuse_file_info *to_fi, size_t bytes, int flags);
void serve_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi);
void serve_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t bytes, int flags);
void serve_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t cap);
void serve_listxattr(fuse_req_t req, fuse_ino_t ino, size_t cap);
void serve_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
// control.c:
void serve_init(void *frontend, struct fuse_conn_info *conn);
void serve_statfs(fuse_req_t req, fuse_ino_t ino);
void serve_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned command, void *arg, struct fuse_file_info *fi,
		 unsigned flags, const void *in, size_t in_bytes, size_t out_bytes);

void file_info_set(const struct frontend *f, struct fuse_file_info *fi); // how files are opened

#endif
