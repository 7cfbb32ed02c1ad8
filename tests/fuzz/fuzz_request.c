// SPDX-License-Identifier: GPL-2.0-or-later
// Requests as the kernel would send them, with whatever in them, through libfuse's dispatch to the
// handlers. What the kernel vouches for and libfuse takes for granted is granted here too: a length is
// not beyond the buffer, a name has an end.
//
// A pair lives for RUNS_MAX inputs: a crash may want those before it (-runs with the same -seed).
#include "worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pair.h"
#include "quick.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
const char *__asan_default_options(void);

#define RUNS_MAX 512u
#define BODY_MAX (TRANSPORT_BUFFER_BYTES - 4096u)

struct header { // fuse_in_header: <linux/fuse.h> does not go together with libfuse's headers
	uint32_t length, opcode;
	uint64_t unique, node;
	uint32_t uid, gid, pid, padding;
};
enum opcode { OP_WRITE = 16, OP_SETXATTR = 21, OP_INIT = 26, OP_INTERRUPT = 36, OP_DESTROY = 38, OP_IOCTL = 39, OP_BATCH_FORGET = 42,
	      OPCODES = 48 };

static struct fuzz_pair clean, dirty;
static struct frontend frontend;
static struct worker worker;
static _Alignas(4096) char request[TRANSPORT_BUFFER_BYTES + 8192];
static unsigned runs;
static uint64_t unique;

static ssize_t reply(int fd, struct iovec *iov, int count, void *userdata)
{
	volatile char sum = 0;
	ssize_t bytes = 0;
	for (int i = 0; i < count; i++) { // all of it must be there
		for (size_t b = 0; b < iov[i].iov_len; b += 512)
			sum += ((const char *)iov[i].iov_base)[b];
		if (iov[i].iov_len)
			sum += ((const char *)iov[i].iov_base)[iov[i].iov_len - 1];
		bytes += (ssize_t)iov[i].iov_len;
	}
	(void)sum;
	return bytes;
}

static ssize_t no_request(int fd, void *buffer, size_t bytes, void *userdata)
{
	return -ENODEV;
}

static void send(uint32_t opcode, uint64_t node, size_t body_bytes)
{
	struct header h = { (uint32_t)(sizeof h + body_bytes), opcode, ++unique, node, 1000, 1000, 1, 0 };
	struct fuse_buf buffer = { .size = h.length, .mem = request };
	memcpy(request, &h, sizeof h);
	worker.request = (struct transport_request){ .unique = unique, .opcode = opcode, .kill_suidgid = unique & 1 };
	fuse_session_process_buf(frontend.session, &buffer);
}

static void drop_orphans(void)
{
	for (object_t id; (id = fs_next_orphan(frontend.fs));) {
		struct op *op = op_begin(worker.lane);
		int r;
		do
			r = fs_drop(op, frontend.fs, id);
		while (op_again(op, &r));
		op_end(op);
		fs_dropped(frontend.fs, id, r);
	}
}

static void begin(void)
{
	static const struct store_config config = { 0 };
	static const struct fuse_custom_io io = { .writev = reply, .read = no_request };
	char *argv[] = { (char[]){ "fuzz" }, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	uint32_t init[16] = { 7, 36, 131072, 0xffffffffu & ~(1u << 30), 0 };
	if (fuzz_pair_open(&dirty, &config, &frontend.store) || fs_new(frontend.store, &frontend.fs) ||
	    fs_start(frontend.fs, 0, 0) || lane_new(frontend.store, &worker.lane))
		abort();
	frontend.persistent = true;
	frontend.wakeup = -1;
	worker.frontend = &frontend;
	worker.fd = -1;
	frontend.session = fuse_session_new(&args, &frontend_operations, sizeof frontend_operations, &frontend);
	if (!frontend.session || fuse_session_custom_io(frontend.session, &io, open("/dev/null", O_RDWR)))
		abort();
	fuse_opt_free_args(&args);
	memcpy(request + sizeof(struct header), init, sizeof init);
	send(OP_INIT, 0, sizeof init);
}

static void finish(void)
{
	fuse_session_destroy(frontend.session);
	lane_free(worker.lane);
	fs_free(frontend.fs);
	store_close(frontend.store);
	fuzz_pair_restore(&dirty);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_pair_make(&clean, &dirty);
	fuzz_pair_restore(&dirty);
	worker_self = &worker;
	pthread_mutex_init(&worker.lock, NULL);
	worker.reply = malloc(TRANSPORT_PAYLOAD_BYTES + 1);
	return worker.reply ? 0 : 1;
}

// An epoch may be under way when libFuzzer looks: the kernel alone knows its writes.
const char *__asan_default_options(void)
{
	return QUICK_ASAN ":detect_leaks=0";
}

static void limit(size_t offset, uint32_t most)
{
	uint32_t value;
	memcpy(&value, request + sizeof(struct header) + offset, sizeof value);
	if (value > most)
		value %= most + 1;
	memcpy(request + sizeof(struct header) + offset, &value, sizeof value);
}

static void one_request(struct input *in)
{
	uint32_t opcode = (uint32_t)input_take(in, 1) % OPCODES;
	unsigned which = (unsigned)input_take(in, 1);
	uint64_t node = which < 32 ? FUSE_ROOT_ID : which < 240 ? dirty.object[which % dirty.objects] : input_take(in, 8);
	size_t bytes = input_take(in, 1), used = sizeof(struct header) + bytes;
	if (opcode == OP_INTERRUPT || opcode == OP_DESTROY) // libfuse keeps, and ends
		return;
	memset(request, 0, used + 4096);
	input_bytes(in, request + sizeof(struct header), bytes);
	switch (opcode) {
	case OP_WRITE: limit(16, TRANSPORT_PAYLOAD_BYTES); break;
	case OP_SETXATTR: limit(0, XATTR_BYTES_MAX); break;
	case OP_IOCTL: limit(24, 4096); break;
	case OP_BATCH_FORGET: limit(0, 255); break;
	}
	send(opcode, node, bytes);
	drop_orphans();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };
	if (runs++ % RUNS_MAX == 0) {
		if (runs > 1)
			finish();
		begin();
	}
	while (in.left)
		one_request(&in);
	return 0;
}
