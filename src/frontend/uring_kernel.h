// SPDX-License-Identifier: GPL-2.0-or-later
// <linux/fuse.h>, and of what is younger than the headers of Debian 12 (7.38) that which is used: FUSE
// over io_uring is 7.42, Linux 6.14.
#ifndef FRONTEND_URING_KERNEL_H
#define FRONTEND_URING_KERNEL_H

#include <linux/fuse.h>
#include <stdint.h>

#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (UINT64_C(1) << 36)
#endif

#ifndef FUSE_OVER_IO_URING
#define FUSE_OVER_IO_URING (UINT64_C(1) << 41)

struct fuse_uring_ent_in_out {
	uint64_t flags;
	uint64_t commit_id;
	uint32_t payload_sz;
	uint32_t padding;
	uint64_t reserved;
};

struct fuse_uring_req_header {
	char in_out[128]; // struct fuse_in_header; struct fuse_out_header
	char op_in[128];  // the operation's own struct
	struct fuse_uring_ent_in_out ring_ent_in_out;
};

struct fuse_uring_cmd_req { // in the SQE
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t padding[6];
};

enum fuse_uring_cmd {
	FUSE_IO_URING_CMD_INVALID = 0,
	FUSE_IO_URING_CMD_REGISTER = 1,
	FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2,
};
#endif

_Static_assert(sizeof(struct fuse_uring_req_header) == 288, "kernel interface");
_Static_assert(sizeof(struct fuse_uring_cmd_req) == 24, "kernel interface");

#endif
