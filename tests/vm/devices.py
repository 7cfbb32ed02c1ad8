# SPDX-License-Identifier: GPL-2.0-or-later
"""The two devices of the guest, and what a power cut leaves of each."""
import mmap
import os
import socket
import struct
import threading

LINE = 64
PAGE = 4096
SECTOR = 512


class Tier:
    """An NVDIMM in two files: `live` is what the guest sees, `durable` what it has flushed (cachelines.c)."""
    WORDS = ("fences_ignored", "fences_left", "stores_left",
             "stores", "nontemporal", "flushes", "fences", "unknown_flushes")

    def __init__(self, directory, mib):
        self.mib, self.live, self.durable = mib, f"{directory}/live", f"{directory}/durable"
        for path, more in (self.live, 0), (self.durable, PAGE):
            with open(path, "wb") as f:
                f.truncate((mib << 20) + more)

    def _map(self, path):
        with open(path, "r+b") as f:
            return mmap.mmap(f.fileno(), 0)

    def settle(self):
        """All that was stored is durable, as after an orderly end. The counters begin anew."""
        with self._map(self.live) as live, self._map(self.durable) as durable:
            durable[:] = live[:] + bytes(PAGE)

    def set(self, word, value):
        with self._map(self.durable) as durable:
            struct.pack_into("<Q", durable, (self.mib << 20) + 8 * self.WORDS.index(word), value)

    def get(self, word):
        with self._map(self.durable) as durable:
            return struct.unpack_from("<Q", durable, (self.mib << 20) + 8 * self.WORDS.index(word))[0]

    def cut(self, rng, share):
        """Each line not flushed is lost, or with that chance was written back by itself. Lost, of how many."""
        unflushed = lost = 0
        with self._map(self.live) as live, self._map(self.durable) as durable:
            for page in range(0, self.mib << 20, PAGE):
                if live[page:page + PAGE] == durable[page:page + PAGE]:
                    continue
                for at in range(page, page + PAGE, LINE):
                    if live[at:at + LINE] != durable[at:at + LINE]:
                        unflushed += 1
                        if rng.random() >= share:
                            lost += 1
                            live[at:at + LINE] = durable[at:at + LINE]
        self.settle()
        return lost, unflushed


class Disk:
    """A disk with a volatile write cache: an NBD server, in a thread for each guest that connects."""
    REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
    READ, WRITE, DISCONNECT, FLUSH = range(4)
    FUA = 1
    FLAGS = 1 | 1 << 2 | 1 << 3  # has flags, knows FLUSH, knows FUA

    def __init__(self, directory, mib):
        self.bytes, self.socket = mib << 20, f"{directory}/disk.socket"
        self.pending = []  # (offset, data, by FUA) of writes since the last flush, in their order
        self.flushes_ignored = False
        self.writes_left, self.at_zero = 0, None  # if not 0: what is done after so many more writes
        self.now, self.durable = (os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                                  for name in ("disk", "disk.durable"))
        for fd in self.now, self.durable:
            os.truncate(fd, self.bytes)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen(1)
        self.thread = None

    def attach(self):
        """Serves the next guest."""
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        connection = self.listener.accept()[0]
        try:
            with connection, connection.makefile("rwb") as stream:
                self._negotiate(stream)
                while self._request(stream):
                    pass
        except (ConnectionError, EOFError, struct.error):
            pass  # the guest has lost its power

    def _negotiate(self, stream):
        """Fixed newstyle, in its shortest form: one option at a time, INFO and GO alone are known."""
        option_magic = 0x49484156454F5054
        stream.write(struct.pack(">8sQH", b"NBDMAGIC", option_magic, 1 | 2))
        stream.flush()
        stream.read(4)
        while True:
            _, option, length = struct.unpack(">QII", stream.read(16))
            stream.read(length)
            reply = struct.Struct(">QIII")
            if option in (6, 7):  # INFO, GO
                info = struct.pack(">HQH", 0, self.bytes, self.FLAGS)
                stream.write(reply.pack(0x3E889045565A9, option, 3, len(info)) + info)
                stream.write(reply.pack(0x3E889045565A9, option, 1, 0))
            else:
                stream.write(reply.pack(0x3E889045565A9, option, 0x80000001, 0))
            stream.flush()
            if option == 7:
                return

    def _request(self, stream):
        magic, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", stream.read(28))
        if magic != self.REQUEST_MAGIC or kind == self.DISCONNECT:
            return False
        data = b""
        if kind == self.READ:
            data = os.pread(self.now, length, offset)
        elif kind == self.WRITE:
            self._write(stream.read(length), length, offset, flags & self.FUA)
        elif kind == self.FLUSH:
            self._flush()
        stream.write(struct.pack(">IIQ", self.REPLY_MAGIC, 0, handle) + data)
        stream.flush()
        return True

    def _write(self, data, length, offset, through):
        if len(data) != length:
            raise EOFError
        os.pwrite(self.now, data, offset)
        self.pending.append((offset, data, bool(through) and not self.flushes_ignored))
        if self.writes_left:
            self.writes_left -= 1
            if not self.writes_left:
                self.at_zero()

    def _flush(self):
        if self.flushes_ignored:
            return
        for offset, data, _ in self.pending:
            os.pwrite(self.durable, data, offset)
        self.pending.clear()

    def settle(self):
        """After an orderly end: nothing is under way."""
        self.thread.join()
        self._flush()

    def cut(self, rng, share):
        """Each write not flushed is lost, or with that chance on the medium, or torn. Lost, of how many."""
        self.thread.join()
        unflushed = lost = 0
        for offset, data, through in self.pending:
            kept = range(0, len(data), SECTOR)
            if not through:
                unflushed += 1
                if 0 < share < 1 and rng.random() < 0.2:
                    kept = [at for at in kept if rng.random() < share]
                elif rng.random() >= share:
                    kept = []
                    lost += 1
            for at in kept:
                os.pwrite(self.durable, data[at:at + SECTOR], offset + at)
        for offset, data, _ in self.pending:
            os.pwrite(self.now, os.pread(self.durable, len(data), offset), offset)
        self.pending.clear()
        self.writes_left = 0
        return lost, unflushed
