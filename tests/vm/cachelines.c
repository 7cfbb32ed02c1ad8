// SPDX-License-Identifier: GPL-2.0-or-later
// A plugin of QEMU's TCG (API 4, QEMU 10): what of an NVDIMM a power cut may not take away.
//
// QEMU writes each store of the guest to the NVDIMM's file, `live`, at once. Here a second file, `durable`,
// gets only what the program has made durable by the rules of x86: a non-temporal store, or a line flushed
// by clwb, clflushopt or clflush, once the same thread has passed an sfence or mfence. What differs between
// the two files is what a power cut may lose.
//
// It is stricter than the hardware, in two points. Locked instructions and the kernel's fences drain
// nothing here, because a program that needs them does so by luck. And a line is never written back
// unasked; who cuts the power does that (devices.py).
//
// Only instructions of user space are looked at: the kernel writes to the namespace when it is made,
// and never again. A thread is known by its FS base, so that it may change its processor between store and
// fence.
//
// Behind `size` bytes, `durable` has a page of switches and counters.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// ---- QEMU's side, as far as it is used; Debian ships no header for it ------------------------------

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
struct qemu_plugin_register;
struct qemu_info;
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct { uint8_t *data; unsigned len; } GByteArray;
typedef struct { char *data; unsigned len; } GArray;
struct register_descriptor { struct qemu_plugin_register *handle; const char *name, *feature; };
enum { CB_NO_REGS, CB_R_REGS };
enum { MEM_W = 2 };

void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
				      void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *),
				      int, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t, uint64_t);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *);
GArray *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(struct qemu_plugin_register *, GByteArray *);
GByteArray *g_byte_array_new(void);
GByteArray *g_byte_array_set_size(GByteArray *, unsigned);

#define EXPORT __attribute__((visibility("default")))
extern EXPORT int qemu_plugin_version;
EXPORT int qemu_plugin_install(qemu_plugin_id_t, const struct qemu_info *, int, char **);

int qemu_plugin_version = 4;

// ---- state -------------------------------------------------------------------------------------------

#define LINE_BYTES UINT64_C(64)
enum { STORE_MAX_BYTES = 16, VCPUS_MAX = 8, THREADS_MAX = 1024, PAGES_KNOWN = 1 << 16, NO_REGISTER = 16 };

struct counters { // behind the durable bytes; devices.py has the same order
	// Set by the host:
	_Atomic uint64_t fences_ignored; // from now on no fence counts
	_Atomic uint64_t fences_left;    // if not 0: the power goes just before so many more fences have drained something
	_Atomic uint64_t stores_left;    // if not 0: just after so many more non-temporal stores
	// Counted here:
	_Atomic uint64_t stores, nontemporal, flushes, fences;
	_Atomic uint64_t unknown_flushes; // of an address that was never stored to: must stay 0
};

struct pending { // on its way: durable at this thread's next fence
	uint64_t offset;
	uint32_t bytes; // LINE_BYTES: a flushed line, taken as it is then; else `data`
	uint8_t data[STORE_MAX_BYTES];
};

struct thread {
	uint64_t fs_base;
	struct pending *pending;
	size_t count, capacity;
};

static struct thread threads[THREADS_MAX];
static unsigned thread_count;
// Where a page of the NVDIMM was last mapped: a flush has a virtual address alone, and has always been
// preceded by a store.
static struct { uint64_t page; uint64_t offset; } known[PAGES_KNOWN];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of all above

static const char *const register_names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8",
					      "r9", "r10", "r11", "r12", "r13", "r14", "r15", "fs_base" };
enum { REGISTERS = sizeof register_names / sizeof *register_names, FS_BASE = 16 };
static struct vcpu {
	struct qemu_plugin_register *registers[REGISTERS];
	GByteArray *buffer;
} vcpus[VCPUS_MAX];

static uint64_t base, size;
static const uint8_t *live;
static uint8_t *durable;
static struct counters *counters;

static uint64_t read_register(unsigned vcpu, unsigned number)
{
	struct vcpu *v = &vcpus[vcpu];
	uint64_t value;

	g_byte_array_set_size(v->buffer, 0);
	if (qemu_plugin_read_register(v->registers[number], v->buffer) < (int)sizeof value)
		abort();
	memcpy(&value, v->buffer->data, sizeof value);
	return value;
}

static struct thread *find_thread(uint64_t fs_base)
{
	unsigned i;

	for (i = 0; i < thread_count; i++)
		if (threads[i].fs_base == fs_base)
			return &threads[i];
	if (i == THREADS_MAX) {
		fprintf(stderr, "cachelines: too many threads\n");
		abort();
	}
	threads[i].fs_base = fs_base;
	thread_count++;
	return &threads[i];
}

static void add_pending(struct thread *t, uint64_t offset, uint32_t bytes)
{
	struct pending *p;

	if (t->count == t->capacity) {
		t->capacity = t->capacity ? 2 * t->capacity : 256;
		t->pending = realloc(t->pending, t->capacity * sizeof *t->pending);
		if (!t->pending)
			abort();
	}
	p = &t->pending[t->count++];
	p->offset = offset;
	p->bytes = bytes;
	if (bytes <= STORE_MAX_BYTES)
		memcpy(p->data, live + offset, bytes);
}

static void cut_at_zero(_Atomic uint64_t *left)
{
	if (*left && --*left == 0)
		kill(getpid(), SIGKILL);
}

// ---- what the guest does -----------------------------------------------------------------------------

// After a store of user space. `arg` is not NULL for a non-temporal one.
static void on_store(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *arg)
{
	struct qemu_plugin_hwaddr *hw = qemu_plugin_get_hwaddr(info, address);
	uint64_t offset, bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info), page = address >> 12;

	if (!hw)
		return;
	offset = qemu_plugin_hwaddr_phys_addr(hw) - base;
	if (offset >= size)
		return;
	if (bytes > STORE_MAX_BYTES)
		abort();
	pthread_mutex_lock(&lock);
	known[page % PAGES_KNOWN].page = page;
	known[page % PAGES_KNOWN].offset = offset & ~UINT64_C(4095);
	counters->stores++;
	if (arg) {
		counters->nontemporal++;
		add_pending(find_thread(read_register(vcpu, FS_BASE)), offset, (uint32_t)bytes);
		cut_at_zero(&counters->stores_left);
	}
	pthread_mutex_unlock(&lock);
}

static void on_fence(unsigned vcpu, void *arg)
{
	struct thread *t;

	if (counters->fences_ignored)
		return;
	pthread_mutex_lock(&lock);
	t = find_thread(read_register(vcpu, FS_BASE));
	if (t->count) {
		counters->fences++;
		cut_at_zero(&counters->fences_left);
	}
	for (size_t i = 0; i < t->count; i++) {
		const struct pending *p = &t->pending[i];

		memcpy(durable + p->offset, p->bytes == LINE_BYTES ? live + p->offset : p->data, p->bytes);
	}
	t->count = 0;
	pthread_mutex_unlock(&lock);
}

struct operand { // of a flush: base + index << scale + displacement
	uint8_t base, index, scale; // NO_REGISTER: none
	int64_t displacement;
};

static void on_flush(unsigned vcpu, void *arg)
{
	const struct operand *o = arg;
	uint64_t address = (uint64_t)o->displacement, page;

	if (o->base != NO_REGISTER)
		address += read_register(vcpu, o->base);
	if (o->index != NO_REGISTER)
		address += read_register(vcpu, o->index) << o->scale;
	page = address >> 12;
	pthread_mutex_lock(&lock);
	counters->flushes++;
	if (known[page % PAGES_KNOWN].page == page)
		add_pending(find_thread(read_register(vcpu, FS_BASE)),
			    known[page % PAGES_KNOWN].offset | (address & 4095 & ~(LINE_BYTES - 1)), LINE_BYTES);
	else
		counters->unknown_flushes++;
	pthread_mutex_unlock(&lock);
}

// ---- decoding ------------------------------------------------------------------------------------------

struct code { // an instruction behind its prefixes
	const uint8_t *bytes;
	uint8_t rex;
	bool operand_size; // prefix 66
};

static struct code skip_prefixes(const uint8_t *bytes)
{
	struct code c = { .bytes = bytes };

	while (memchr("\x66\xf2\xf3\xf0\x2e\x3e", *c.bytes, 6)) {
		if (*c.bytes == 0x66)
			c.operand_size = true;
		c.bytes++;
	}
	if ((*c.bytes & 0xf0) == 0x40)
		c.rex = *c.bytes++;
	return c;
}

static bool is_nontemporal(const uint8_t *c)
{
	uint8_t opcode;

	if (c[0] == 0x0f && c[1] == 0xc3) // movnti
		return true;
	if (c[0] == 0x0f)
		opcode = c[1];
	else if (c[0] == 0xc5) // VEX of two bytes
		opcode = c[2];
	else if (c[0] == 0xc4 && (c[1] & 31) == 1) // of three, map 0f
		opcode = c[3];
	else
		return false;
	return opcode == 0xe7 || opcode == 0x2b; // movntq, movntdq; movntps, movntpd
}

static struct operand decode_operand(const struct code *c, uint64_t next_address)
{
	uint8_t mod = c->bytes[2] >> 6, rm = c->bytes[2] & 7;
	const uint8_t *rest = c->bytes + 3;
	struct operand o = { .base = rm | (c->rex & 1) << 3, .index = NO_REGISTER };
	int32_t displacement;

	if (rm == 4) {
		uint8_t sib = *rest++, index = (sib >> 3 & 7) | (c->rex & 2) << 2;

		o.scale = sib >> 6;
		o.index = index == 4 ? NO_REGISTER : index;
		o.base = (sib & 7) | (c->rex & 1) << 3;
		if ((sib & 7) == 5 && mod == 0) {
			o.base = NO_REGISTER;
			mod = 2;
		}
	} else if (rm == 5 && mod == 0) { // relative to the instruction
		o.base = NO_REGISTER;
		o.displacement = (int64_t)next_address;
		mod = 2;
	}
	if (mod == 1) {
		o.displacement += (int8_t)*rest;
	} else if (mod == 2) {
		memcpy(&displacement, rest, sizeof displacement);
		o.displacement += displacement;
	}
	return o;
}

// Group 15: fences and flushes.
static void watch_group15(struct qemu_plugin_insn *insn, const struct code *c)
{
	uint8_t mod = c->bytes[2] >> 6, which = c->bytes[2] >> 3 & 7;
	struct operand *o;

	if (mod == 3) {
		if (which >= 6 && !c->operand_size)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_fence, CB_R_REGS, NULL);
	} else if (which == 7 || (which == 6 && c->operand_size)) {
		o = malloc(sizeof *o); // lives as long as the translated code, which is for ever
		if (!o)
			abort();
		*o = decode_operand(c, qemu_plugin_insn_vaddr(insn) + qemu_plugin_insn_size(insn));
		qemu_plugin_register_vcpu_insn_exec_cb(insn, on_flush, CB_R_REGS, o);
	}
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t bytes[24] = { 0 };
		struct code c;

		if (qemu_plugin_insn_vaddr(insn) >> 63)
			return; // the kernel
		qemu_plugin_insn_data(insn, bytes, 15);
		c = skip_prefixes(bytes);
		if (c.bytes[0] == 0x0f && c.bytes[1] == 0xae)
			watch_group15(insn, &c);
		qemu_plugin_register_vcpu_mem_cb(insn, on_store, CB_R_REGS, MEM_W, is_nontemporal(c.bytes) ? insn : NULL);
	}
}

// ---- start ---------------------------------------------------------------------------------------------

static void on_vcpu(qemu_plugin_id_t id, unsigned vcpu)
{
	GArray *all = qemu_plugin_get_registers();
	const struct register_descriptor *found = (const void *)all->data;

	if (vcpu >= VCPUS_MAX)
		abort();
	vcpus[vcpu].buffer = g_byte_array_new();
	for (unsigned i = 0; i < REGISTERS; i++) {
		for (unsigned k = 0; k < all->len; k++)
			if (!strcmp(found[k].name, register_names[i]))
				vcpus[vcpu].registers[i] = found[k].handle;
		if (!vcpus[vcpu].registers[i]) {
			fprintf(stderr, "cachelines: QEMU does not show register %s\n", register_names[i]);
			abort();
		}
	}
}

static void *map_file(const char *path, size_t bytes, int protection)
{
	int fd = open(path, protection & PROT_WRITE ? O_RDWR : O_RDONLY);
	void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	if (mapped == MAP_FAILED) {
		perror(path);
		return NULL;
	}
	return mapped;
}

// Arguments: base=GUEST PHYSICAL ADDRESS, size=BYTES, live=FILE, durable=FILE.
int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
	const char *live_path = NULL, *durable_path = NULL;

	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "base=", 5))
			base = strtoull(argv[i] + 5, NULL, 0);
		else if (!strncmp(argv[i], "size=", 5))
			size = strtoull(argv[i] + 5, NULL, 0);
		else if (!strncmp(argv[i], "live=", 5))
			live_path = argv[i] + 5;
		else if (!strncmp(argv[i], "durable=", 8))
			durable_path = argv[i] + 8;
	}
	if (!base || !size || !live_path || !durable_path) {
		fprintf(stderr, "cachelines: base, size, live and durable are needed\n");
		return 1;
	}
	live = map_file(live_path, size, PROT_READ);
	durable = map_file(durable_path, size + 4096, PROT_READ | PROT_WRITE);
	if (!live || !durable)
		return 1;
	counters = (struct counters *)(durable + size);
	qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
