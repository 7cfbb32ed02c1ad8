// SPDX-License-Identifier: GPL-2.0-or-later
// libfuse mounts and unmounts here, by itself or by fusermount3, and does neither in the daemon.
#define FUSE_USE_VERSION 314
#include "mounter.h"
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "log.h"

enum command { COMMAND_MOUNT = 'm', COMMAND_UNMOUNT = 'u' };

struct mounter {
	pid_t pid;
	int socket;
};

union control { // room for a descriptor
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr aligned;
};

// ---- in the process of its own ------------------------------------------------------------------------

// An answer: 0 with a descriptor, 0, or a negative errno.
static void answer(int socket, int result, int fd)
{
	union control control = { 0 };
	struct iovec iov = { &result, sizeof result };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof control.bytes;
		control.aligned = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.aligned), &fd, sizeof fd);
	}
	if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
		_exit(1); // nobody is there any more
}

static bool next_command(int socket, char *ret_command)
{
	ssize_t n;

	do
		n = read(socket, ret_command, 1);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

// Nobody else's business ends this process, and it keeps nothing of the daemon's from ending.
static void stand_apart(int socket)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGTERM, SIGPIPE };

	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		signal(ignored[i], SIG_IGN);
	setsid();
	prctl(PR_SET_NAME, "vems-mounter");
	if (socket > 3)
		close_range(3, (unsigned)socket - 1, 0);
	close_range((unsigned)socket + 1, ~0u, 0);
}

static void let_go_of_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		dup2(null, fd);
	if (chdir("/"))
		log_warning("cannot leave the working directory: %s", strerror(errno));
}

// The descriptor is the daemon's alone: when the daemon ends, so does the connection.
static int mount_and_pass(struct fuse_session *session, const char *mountpoint, int socket)
{
	if (fuse_session_mount(session, mountpoint)) {
		answer(socket, -EIO, -1); // libfuse or fusermount3 has said why
		return -EIO;
	}
	let_go_of_terminal();
	answer(socket, 0, fuse_session_fd(session));
	close(fuse_session_fd(session));
	return 0;
}

static void run(struct fuse_session *session, const char *mountpoint, int socket)
{
	char command;

	if (!next_command(socket, &command) || command != COMMAND_MOUNT || mount_and_pass(session, mountpoint, socket))
		return;
	if (!next_command(socket, &command) || command != COMMAND_UNMOUNT)
		return;
	fuse_session_unmount(session);
	answer(socket, 0, -1);
}

__attribute__((noreturn)) static void mounter_main(const struct frontend_config *config, struct fuse_session *session, int socket)
{
	char *mountpoint = strdup(config->mountpoint);

	stand_apart(socket);
	if (mountpoint) {
		// Whoever looks for the daemon by its arguments finds the daemon.
		if (config->arguments)
			memset(config->arguments, 0, config->arguments_bytes);
		run(session, mountpoint, socket);
	}
	_exit(0);
}

// ---- in the daemon ----------------------------------------------------------------------------------

int mounter_new(const struct frontend_config *config, struct fuse_session *session, struct mounter **ret_mounter)
{
	struct mounter *m = calloc(1, sizeof *m);
	int fds[2], r;

	if (!m)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		r = -errno;
		free(m);
		return r;
	}
	m->pid = fork();
	if (m->pid < 0) {
		r = -errno;
		close(fds[0]);
		close(fds[1]);
		free(m);
		return r;
	}
	if (!m->pid)
		mounter_main(config, session, fds[1]);
	close(fds[1]);
	m->socket = fds[0];
	*ret_mounter = m;
	return 0;
}

static int ask(struct mounter *m, enum command command, int *ret_fd)
{
	union control control = { 0 };
	char byte = (char)command;
	int result;
	struct iovec iov = { &result, sizeof result };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
	ssize_t n;

	if (send(m->socket, &byte, 1, MSG_NOSIGNAL) < 0)
		return -errno;
	do
		n = recvmsg(m->socket, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != sizeof result)
		return n < 0 ? -errno : -EPIPE;
	if (!result && ret_fd && (message.msg_flags & MSG_CTRUNC || !CMSG_FIRSTHDR(&message)))
		return -EMFILE;
	if (!result && ret_fd)
		memcpy(ret_fd, CMSG_DATA(&control.aligned), sizeof *ret_fd);
	return result;
}

int mounter_mount(struct mounter *m)
{
	int fd, r = ask(m, COMMAND_MOUNT, &fd);

	return r ? r : fd;
}

int mounter_unmount(struct mounter *m)
{
	return ask(m, COMMAND_UNMOUNT, NULL);
}

void mounter_free(struct mounter *m)
{
	if (!m)
		return;
	close(m->socket);
	while (waitpid(m->pid, NULL, 0) < 0 && errno == EINTR)
		;
	free(m);
}
