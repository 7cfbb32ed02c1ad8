// SPDX-License-Identifier: GPL-2.0-or-later
// Which frame is given up when one is needed. A policy orders the frames that are in the index, in
// queues through frame.newer and frame.older; all calls but policy_hit() are under the table lock.
// A hit of the store does no more than frame.heat (0 to 3, relaxed).
#ifndef TIER_POLICY_H
#define TIER_POLICY_H

#include "ghost.h"
#include "tier.h"

#define POLICY_QUEUES 6

struct policy_queue {
	frame_t newest, oldest;
	uint32_t count;
};

struct policy {
	const struct policy_ops *ops;
	struct frame *frame; // frames of them, the caller's
	frame_t frames;
	// Takes the page out of the index if it may go now; asked of each victim before it leaves its queue.
	bool (*take)(void *arg, frame_t f);
	void *take_arg;
	struct policy_queue queue[POLICY_QUEUES]; // by frame.queue; [0], none, is unused
	struct ghost small_ghost, main_ghost;     // a2q
	bool filling;    // a2q: nothing was given up yet
	double target;   // a2q: frames of Small
	void *state;     // what else a policy keeps
};

struct policy_ops {
	const char *name;
	int (*init)(struct policy *p);   // 0 or -ENOMEM; may be NULL, as may fini and hit
	void (*fini)(struct policy *p);
	void (*hit)(struct policy *p, frame_t f); // where heat alone does not do
	void (*insert)(struct policy *p, frame_t f);
	frame_t (*victim)(struct policy *p);
};
extern const struct policy_ops policy_a2q, policy_clock, policy_lru;

int policy_init(struct policy *p, const struct policy_ops *ops, struct frame *frame, frame_t frames,
		bool (*take)(void *arg, frame_t f), void *take_arg);
void policy_fini(struct policy *p);

// The page has come into the tier: frame.object and frame.page are its key.
void policy_insert(struct policy *p, frame_t f);
// f has the page that old had: it takes its place.
void policy_replace(struct policy *p, frame_t old, frame_t f);
// It has left without being a victim, or never was in a queue.
void policy_remove(struct policy *p, frame_t f);
// The frame that was given up: taken, and in no queue. FRAME_NONE: none can be.
frame_t policy_victim(struct policy *p);
// Are the queues well linked, and is each frame in the one that it says? For tests.
bool policy_check(const struct policy *p);

// ---- for policies -----------------------------------------------------------------------------

void queue_push(struct policy *p, unsigned queue, frame_t f); // as the newest; f is in no queue
void queue_remove(struct policy *p, frame_t f);
static inline frame_t queue_oldest(const struct policy *p, unsigned queue) { return p->queue[queue].oldest; }
static inline uint32_t queue_count(const struct policy *p, unsigned queue) { return p->queue[queue].count; }

static inline uint8_t frame_heat(const struct frame *f) { return atomic_load_explicit(&f->heat, memory_order_relaxed); }
static inline void frame_set_heat(struct frame *f, uint8_t heat)
{
	atomic_store_explicit(&f->heat, heat, memory_order_relaxed);
}
// A hit. Two at once may count as one.
static inline void frame_warm(struct frame *f)
{
	uint8_t heat = frame_heat(f);
	if (heat < 3)
		frame_set_heat(f, heat + 1);
}

#endif
