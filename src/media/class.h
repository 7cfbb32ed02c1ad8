// SPDX-License-Identifier: GPL-2.0-or-later
// What kind of memory an open path is, found out before anything is mapped.
#ifndef MEDIA_CLASS_H
#define MEDIA_CLASS_H

#include "media.h"

#define DEVDAX_ALIGN_BYTES (UINT64_C(2) << 20) // the smallest page a device-DAX is mapped with

// MEDIA_DEVDAX, MEDIA_TMPFS or MEDIA_FILE: whether the last is DAX, only mmap can tell. The size is
// in whole pages and not 0. Reports a failure with log_error. 0, -EINVAL or what the kernel said.
int class_recognise(int fd, const char *path, enum media_class *ret_class, uint64_t *ret_size_bytes);

#endif
