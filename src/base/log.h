// SPDX-License-Identifier: GPL-2.0-or-later
// Messages for people: one line each, to stderr with the program's name, or to syslog once the
// daemon has let go of the terminal.
#ifndef BASE_LOG_H
#define BASE_LOG_H

void log_init(const char *program);
void log_to_syslog(void); // from now on
// Also to that descriptor, from now on: a terminal that is still there. The log owns it.
void log_also_to(int fd);
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
// A command line that is wrong: with where to read on.
void log_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_quiet(int quiet); // tests: drop everything (nonzero)

#endif
