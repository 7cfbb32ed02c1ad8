// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "log.h"

static int ready_pipe = -1; // the child's end
static int terminal = -1;   // a pipe is let go of: whoever reads it waits for its end

static int child_failed(pid_t child, int exit_failed)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return exit_failed;
	if (WIFSIGNALED(status))
		log_error("ended by signal %d (%s) before the mount was ready", WTERMSIG(status),
			  strsignal(WTERMSIG(status)));
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : exit_failed;
}

static int wait_for_child(pid_t child, int fd, const char *mountpoint, int exit_failed)
{
	struct statvfs space;
	ssize_t n;
	char byte;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return child_failed(child, exit_failed);
	if (statvfs(mountpoint, &space)) {
		log_error("%s is mounted, but does not answer: %s", mountpoint, strerror(errno));
		return exit_failed;
	}
	return EXIT_SUCCESS;
}

void daemon_fork(const char *mountpoint, int exit_failed)
{
	int fds[2];
	pid_t child;

	if (pipe2(fds, O_CLOEXEC)) {
		log_error("pipe: %s", strerror(errno));
		exit(exit_failed);
	}
	child = fork();
	if (child < 0) {
		log_error("fork: %s", strerror(errno));
		exit(exit_failed);
	}
	if (child) {
		close(fds[1]);
		exit(wait_for_child(child, fds[0], mountpoint, exit_failed));
	}
	close(fds[0]);
	ready_pipe = fds[1];
	signal(SIGPIPE, SIG_IGN); // the parent may have been killed
}

void daemon_ready(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	ssize_t n;

	setsid();
	if (chdir("/"))
		log_warning("cannot leave the working directory: %s", strerror(errno));
	if (isatty(STDERR_FILENO))
		terminal = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	log_to_syslog();
	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	n = write(ready_pipe, "", 1);
	(void)n;
	close(ready_pipe);
}

void daemon_ending(void)
{
	log_also_to(terminal);
}
