#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""policy-sim's policies beside short ones of another hand, after the papers: the same misses, to the last.

    policy_peers.py POLICY-SIM
"""
import random
import subprocess
import sys
from collections import OrderedDict


class Lru:
    def __init__(self, frames):
        self.frames, self.pages = frames, OrderedDict()

    def hit(self, page):
        if page in self.pages:
            self.pages.move_to_end(page)
            return True
        if len(self.pages) == self.frames:
            self.pages.popitem(last=False)
        self.pages[page] = 0
        return False


class Clock(Lru):
    def hit(self, page):
        if page in self.pages:
            self.pages[page] = 1
            return True
        while len(self.pages) == self.frames:
            oldest, used = self.pages.popitem(last=False)
            if used:
                self.pages[oldest] = 0
        self.pages[page] = 0
        return False


class Arc:
    """FAST 2003, figure 4."""

    def __init__(self, frames):
        self.c, self.p = frames, 0
        self.t1, self.t2, self.b1, self.b2 = (OrderedDict() for _ in range(4))

    def replace(self, page):
        if self.t1 and (len(self.t1) > self.p or (page in self.b2 and len(self.t1) == self.p)):
            self.b1[self.t1.popitem(last=False)[0]] = 0
        else:
            self.b2[self.t2.popitem(last=False)[0]] = 0

    def hit(self, page):
        for t in (self.t1, self.t2):
            if page in t:
                del t[page]
                self.t2[page] = 0
                return True
        if page in self.b1 or page in self.b2:
            if page in self.b1:
                self.p = min(self.c, self.p + max(len(self.b2) / len(self.b1), 1))
            else:
                self.p = max(0, self.p - max(len(self.b1) / len(self.b2), 1))
            self.replace(page)
            (self.b1 if page in self.b1 else self.b2).pop(page)
            self.t2[page] = 0
            return False
        if len(self.t1) + len(self.b1) == self.c:
            if len(self.t1) < self.c:
                self.b1.popitem(last=False)
                self.replace(page)
            else:
                self.t1.popitem(last=False)
        else:
            known = len(self.t1) + len(self.t2) + len(self.b1) + len(self.b2)
            if known == 2 * self.c:
                self.b2.popitem(last=False)
            if known >= self.c:
                self.replace(page)
        self.t1[page] = 0
        return False


class S3Fifo:
    """SOSP 2023; a search that begins in Small ends there."""

    promoted, counts = 2, 3

    def __init__(self, frames):
        self.frames, self.target = frames, int(frames * 0.10)
        self.small, self.main, self.ghost = OrderedDict(), OrderedDict(), OrderedDict()

    def evict(self):
        if self.small and len(self.small) >= self.target:
            while self.small:
                page, count = self.small.popitem(last=False)
                if count < self.promoted:
                    self.ghost[page] = 0
                    if len(self.ghost) > int(self.frames * 0.90):
                        self.ghost.popitem(last=False)
                    return
                self.main[page] = 0
        while True:
            page, count = self.main.popitem(last=False)
            if not count:
                return
            self.main[page] = count - 1

    def counted(self, page):
        return True

    def into_small(self, page):
        return True

    def hit(self, page):
        for queue in (self.small, self.main):
            if page in queue:
                if queue is self.main or self.counted(page):
                    queue[page] = min(queue[page] + 1, self.counts)
                return True
        known = self.ghost.pop(page, None) is not None
        if len(self.small) + len(self.main) == self.frames:
            self.evict()
        (self.small if not known and self.into_small(page) else self.main)[page] = 0
        return False


class Clock2QPlus(S3Fifo):
    """VLDB 2026: one bit, and none for hits in the younger half of Small."""

    promoted, counts = 1, 1

    def __init__(self, frames):
        super().__init__(frames)
        self.inserted, self.born, self.full = 0, {}, False

    def evict(self):
        self.full = True
        super().evict()

    def counted(self, page):
        return self.inserted - self.born[page] >= self.target / 2

    def into_small(self, page):
        if not self.full and len(self.small) >= self.target:
            return False
        self.inserted += 1
        self.born[page] = self.inserted
        return True


POLICIES = {"lru": Lru, "clock": Clock, "arc": Arc, "s3fifo": S3Fifo, "clock2qplus": Clock2QPlus}


def trace(rng, length):
    """Some of each: popular pages, loops, new ones that are used again soon."""
    loop, new = 0, 1000
    for _ in range(length):
        kind = rng.random()
        if kind < 0.4:
            yield min(int(rng.paretovariate(0.6)), 900)
        elif kind < 0.6:
            loop = (loop + 1) % 150
            yield 2000 + loop
        else:
            new += rng.random() < 0.5
            yield 10000 + new - int(rng.expovariate(1 / 30))


def main():
    rng, wrong = random.Random(3), 0
    for frames in (16, 40, 100, 333):
        pages = list(trace(rng, 8000))
        lines = "".join("r 1 %d 1\n" % page for page in pages)
        for name, policy in POLICIES.items():
            said = subprocess.run([sys.argv[1], "--frames", str(frames), "--policy", name], input=lines, capture_output=True,
                                  text=True, check=True).stdout
            other = policy(frames)
            misses = sum(not other.hit(page) for page in pages)
            if "misses %d\n" % misses not in said:
                print("FAILED: %s, %d frames: %d misses, and policy-sim says\n%s" % (name, frames, misses, said))
                wrong += 1
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
