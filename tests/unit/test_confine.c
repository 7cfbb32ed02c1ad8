// SPDX-License-Identifier: GPL-2.0-or-later
// Each case runs in a process of its own, which is confined for good.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "confine.h"

static const struct confine_path allowed[] = { { "/proc", false }, { "/dev/null", true }, { "/not there", true }, { NULL, false } };

// What is wrong is said by the line, as the exit status cannot hold more.
#define CHECK(condition)                  \
	do {                              \
		if (!(condition))         \
			_exit(__LINE__ % 251 + 1); \
	} while (0)

static void run_confined(void (*body)(void))
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (!child) {
		body();
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void need_landlock(void)
{
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1)
		skip();
}

static bool has_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	CHECK(!syscall(SYS_capget, &header, data));
	return data[0].effective || data[1].effective || data[0].permitted || data[1].permitted;
}

static void *look_from_thread(void *arg)
{
	CHECK(!has_capabilities());
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	return NULL;
}

static void privileges_body(void)
{
	pthread_t thread;

	CHECK(!confine(allowed));
	CHECK(!has_capabilities());
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	CHECK(!pthread_create(&thread, NULL, look_from_thread, NULL));
	pthread_join(thread, NULL);
	CHECK(mount("none", "/mnt", "tmpfs", 0, NULL) < 0 && errno == EPERM);
	CHECK(umount2("/proc", 0) < 0 && errno == EPERM);
}

static void privileges_are_gone_in_threads_too(void **state)
{
	run_confined(privileges_body);
}

static bool is_refused(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	return fd < 0 && errno == EACCES;
}

static void files_body(void)
{
	char path[] = "/tmp/test-confine-XXXXXX", byte = 'x';
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	CHECK(!confine(allowed));
	CHECK(is_refused("/etc/passwd", O_RDONLY));
	CHECK(is_refused(path, O_RDWR));
	CHECK(is_refused("/tmp/test-confine-new", O_WRONLY | O_CREAT));
	CHECK(is_refused("/proc/sys/kernel/core_pattern", O_WRONLY));
	CHECK(unlink(path) < 0 && errno == EACCES);
	CHECK(mkdir("/tmp/test-confine-directory", 0700) < 0 && errno == EACCES);
	CHECK(execl("/bin/true", "true", NULL) < 0 && errno == EACCES);
	CHECK(open("/proc/self/status", O_RDONLY | O_CLOEXEC) >= 0);
	CHECK(open("/dev/null", O_RDWR | O_CLOEXEC) >= 0);
	// What is open stays open.
	CHECK(pwrite(fd, &byte, 1, 0) == 1 && pread(fd, &byte, 1, 0) == 1 && !ftruncate(fd, 0));
	_exit(0);
}

static void no_file_is_opened_but_those_allowed(void **state)
{
	need_landlock();
	run_confined(files_body);
	assert_int_equal(system("rm -f /tmp/test-confine-??????"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(privileges_are_gone_in_threads_too),
		cmocka_unit_test(no_file_is_opened_but_those_allowed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
