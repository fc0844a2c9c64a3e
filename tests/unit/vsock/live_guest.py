"""A simulated guest that lives on a thread: it accepts hv_sock calls and echoes, as programs do.

The thread is the machine's event loop, too, so a test's own thread stands where a user's does.
"""

from __future__ import annotations

import pathlib
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "vmbus"))

from guest_sim import Guest, GuestChannel  # noqa: E402
from sock_sim import payload, pipe  # noqa: E402

from pyhv.streams import Streams  # noqa: E402
from pyhv.vmbus.hvsock import port_of, service_guid  # noqa: E402
from pyhv.vmbus.server import guid_bytes  # noqa: E402


class Stream:
    """A guest's socket: echoes what it reads, and ends when the host does."""

    def __init__(self, live: LiveGuest, channel: GuestChannel, port: int) -> None:
        self.live, self.channel, self.port = live, channel, port
        self.read, self.out = bytearray(), bytearray()
        self.reads = self.echoes = True
        self.got_end = self.sent_end = False

    def step(self) -> None:
        if self.reads:
            data, end = payload(self.channel)
            self.read += data
            self.got_end |= end
            if self.echoes:
                self.out += data
        while self.out and self.channel.room() > 4200:
            piece = bytes(self.out[:4088])
            self.channel.send(pipe(piece))
            del self.out[: len(piece)]
        if self.got_end and self.echoes and not self.out and not self.sent_end:
            self.sent_end = True
            self.channel.send(pipe(b""))


class LiveGuest(Streams):
    """A machine and its guest.

    ``listening`` are the guest's ports; ``streams`` relid -> Stream, of both directions;
    ``rescinded`` counts.
    """

    def __init__(self) -> None:
        self.guest = Guest()
        self.events, self.features = self.guest.events, type("Features", (), {"synic": True})
        self.started, self.ended = True, None
        self._board_lock = threading.Lock()
        self.board = type("Board", (), {"vmbus": self.guest.server})()
        self.listening: set[int] = set()
        self.streams: dict[int, Stream] = {}
        self.rescinded = 0
        self.errors: list[BaseException] = []
        self._todo: list = []
        self._due: list = []
        self._ended = False
        received = self.guest.received

        def watched() -> list[bytes]:
            found = received()
            for message in found:
                if message[:4] == b"\2\0\0\0":
                    self._gone.append(struct.unpack_from("<I", message, 8)[0])
            return found

        self._gone: list[int] = []
        self.guest.received = watched
        self.guest.connect()
        self._seen: set[int] = set()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def call(self, function) -> None:
        self.events.call(function)

    def do(self, function) -> None:
        """Run *function* on the guest's thread and wait for it."""
        done = threading.Event()
        self._todo.append(lambda: (function(), done.set()))
        assert done.wait(20), self.errors

    def dial(self, port: int, own: int = 0xC0000001) -> None:
        """Call the host's *port*."""
        request = struct.pack("<II", 21, 0) + guid_bytes(service_guid(own))
        self.do(lambda: self.guest.post(request + guid_bytes(service_guid(port))))

    def stream(self, count: int = 1) -> Stream:
        """Wait for the newest of *count* streams."""
        end = time.monotonic() + 20
        while len(self.streams) < count:
            assert time.monotonic() < end, self.errors
            time.sleep(0.005)
        return self.streams[max(self.streams)]

    def _run(self) -> None:
        while not self._ended:
            try:
                self._step()
            except BaseException as error:
                self.errors.append(error)
                return
            time.sleep(0.001)

    def _step(self) -> None:
        guest = self.guest
        guest.events.run()
        now = time.monotonic()
        timers, guest.events.timers = guest.events.timers, []
        self._due += [(now + seconds, function) for seconds, function in timers]
        for one in [one for one in self._due if one[0] <= now]:
            self._due.remove(one)
            one[1]()
        for function in [self._todo.pop(0) for _ in self._todo]:
            function()
        guest.received()
        for relid, offer in [*guest.offers.items()]:
            if relid not in self._seen:
                self._seen.add(relid)
                self._offered(relid, offer)
        for stream in [*self.streams.values()]:
            if stream.channel.relid not in self._gone:
                stream.step()
        for relid in self._gone:
            self.rescinded += 1
            stream = self.streams.pop(relid, None)
            if stream is not None:
                data, end = payload(stream.channel)  # what was sent before is still there
                stream.read += data
                stream.got_end |= end
                guest.post(stream.channel.close_message())
                guest.post(struct.pack("<IIII", 11, 0, relid, stream.channel.gpadl))
            guest.post(struct.pack("<III", 13, 0, relid))
            del guest.offers[relid]
            self._seen.discard(relid)
        self._gone.clear()

    def _offered(self, relid: int, offer) -> None:
        port = port_of(offer.class_guid)
        if offer.user_data[4] and port not in self.listening:
            return
        guest = self.guest
        ring = guest.pages(14)
        gpadl, messages = guest.gpadl_messages(relid, [(14 * 4096, 0, ring)])
        for message in (*messages, guest.open_message(relid, gpadl, 7)):
            assert guest.post(message) == 0
        channel = GuestChannel(guest, relid, ring[:7], ring[7:], gpadl, 0)
        self.streams[relid] = Stream(self, channel, port)

    def close(self) -> None:
        """Stop as a machine does; nothing may be left."""
        self.ended = "stopped"
        self._ended = True
        self.thread.join()
        self.guest.server.close()
        if self.sockets is not None:
            self.sockets.close()
            assert not self.sockets._bridges
        self.guest.close()
        assert not self.errors
