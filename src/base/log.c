// SPDX-License-Identifier: GPL-2.0-or-later
#include "log.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <syslog.h>

static const char *program_name = "vemsfuse";
static bool to_syslog, quiet;
static int also_to = -1;

void log_init(const char *program)
{
	program_name = program;
}

void log_to_syslog(void)
{
	openlog(program_name, LOG_PID, LOG_DAEMON);
	to_syslog = true;
}

void log_also_to(int fd)
{
	also_to = fd;
}

void log_quiet(int be_quiet)
{
	quiet = be_quiet;
}

static void write_line(int priority, const char *prefix, const char *format, va_list args)
{
	char line[1024];
	if (quiet)
		return;
	vsnprintf(line, sizeof line, format, args);
	if (to_syslog)
		syslog(priority, "%s%s", prefix, line);
	else
		fprintf(stderr, "%s: %s%s\n", program_name, prefix, line);
	if (also_to >= 0)
		dprintf(also_to, "%s: %s%s\n", program_name, prefix, line);
}

#define LOG_FUNCTION(name, priority, prefix)            \
	void name(const char *format, ...)              \
	{                                               \
		va_list args;                           \
		va_start(args, format);                 \
		write_line(priority, prefix, format, args); \
		va_end(args);                           \
	}

LOG_FUNCTION(log_error, LOG_ERR, "")
LOG_FUNCTION(log_warning, LOG_WARNING, "warning: ")
LOG_FUNCTION(log_info, LOG_INFO, "")

void log_usage(const char *format, ...)
{
	char line[512];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	log_error("%s. Try '%s --help'", line, program_name);
}
