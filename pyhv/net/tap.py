"""A tap interface of the host: frames to and from its kernel, which does the guest's offloads.

Sources: linux Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h. Every frame has a
virtio-net header. Large and unfinished frames are given to the kernel, and taken from it
(TUNSETOFFLOAD) while the sink's guest takes them.
"""

from __future__ import annotations

import fcntl
import os
from struct import Struct

from ..errors import ConfigError, HostError
from . import frames, vnet
from .backend import READ_FRAMES, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..hyperv.driver import Events
    from .backend import Sink

DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
IFNAMSIZ = 16
_ifreq = Struct("16sH22x")
HEADER = vnet.HEADER.size
LARGE = 4096  # a frame of more bytes is likely followed by another
HEADERS = 64  # bytes of a frame that say what it is and whose


class Tap(Backend):
    """The interface *name*, made if it is not there (needs CAP_NET_ADMIN); "" is any.

    Bridges, addresses and scripts are the user's.
    """

    kind = "tap"
    coalesces = True

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self._fd = -1
        self._paused = False
        self._buffer = bytearray(frames.ETH_MAX + HEADER)
        self._head = bytearray(HEADER)
        self._rest = memoryview(bytearray(frames.ETH_MAX))
        self._large = False  # the last frame was
        self._alone = False  # frames come one by one: seen at each eighth

    def open(self, events: Events) -> None:
        """Open the interface.

        :raises HostError: no /dev/net/tun, no permission, the interface is in use.
        """
        super().open(events)
        if len(self.name.encode()) >= IFNAMSIZ:
            raise ConfigError(f"-nic tap: ifname={self.name}: at most {IFNAMSIZ - 1} characters")
        try:
            fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"-nic tap: {DEVICE}: {error.strerror}; modprobe tun") from None
        request = _ifreq.pack(self.name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        try:
            answer = fcntl.ioctl(fd, TUNSETIFF, request)
        except OSError as error:
            os.close(fd)
            name = self.name or "a new one"
            raise HostError(
                f"-nic tap: interface {name}: {error.strerror}; make it with "
                "ip tuntap add mode tap user $USER name NAME, or run as root"
            ) from None
        self.name = _ifreq.unpack(answer)[0].rstrip(b"\0").decode()
        self._fd = fd
        self.coalesce(False)  # an interface that stays keeps what its last user asked for
        events.add(fd, self._readable)
        self.set_link(True)

    def close(self) -> None:
        """Close it; the kernel removes an interface that is not persistent."""
        super().close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._paused:
                self.events.remove(fd)
            self._offload(fd, 0)
            os.close(fd)

    def coalesce(self, on: bool) -> None:
        """Take large and unfinished frames from the kernel, or have it finish them."""
        if self._fd >= 0:
            self._offload(self._fd, OFFLOADS if on else 0)

    def _offload(self, fd: int, what: int) -> None:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, what)
        except OSError:
            pass  # the interface was deleted: nothing comes any more

    def _readable(self) -> None:
        sink, room = self.sink, READ_FRAMES
        if sink is not None:
            room = min(sink.room(), READ_FRAMES)
            if room and self._land(sink, room):
                return
        self._read(room)

    def _land(self, sink: Sink, room: int) -> bool:
        """Read frames to where the sink wants them; False: nowhere.

        Until one is large, only the first pieces are named to the kernel: each costs.
        """
        head, fd, large = self._head, self._fd, self._large
        if not (pieces := sink.landing(large)):
            return False
        begin = room
        while room and pieces:
            try:
                size = os.readv(fd, [head, *pieces] if large else [head, *pieces, self._rest])
            except BlockingIOError:
                self._alone = begin - room == 1
                break
            except OSError as error:  # EBADFD: the interface was deleted
                self._lost(str(error.strerror))
                break
            size -= HEADER
            if size <= frames.ETH_HEADER:
                continue
            room -= 1
            self.received += 1
            first = sum(map(len, pieces)) if not large else size
            if size > first:
                pieces = vnet.spread(self._rest[: size - first], first, sink.landing(True))
            start = bytes(pieces[0][:HEADERS])[:size]
            if head == vnet.PLAIN:
                sink.landed(start, size, False)
            elif frames.plain_protocol(start) == frames.TCP:
                sink.landed(start, size, bool(head[0] & vnet.CHECKED))
            else:  # UDP: a DHCP client looks at the sum past its kernel; VLAN tags and others
                sink.landed_all()
                sink.receive(vnet.finished(head, b"".join(pieces)[:size]))
            large = size > LARGE
            if self._alone and self.received & 7:
                break  # as lately: the next read would say that there is none, and costs as much
            pieces = sink.landing(large)
        self._large = large
        sink.landed_all()
        return True

    def _read(self, room: int) -> None:
        sink, buffer, fd = self.sink, self._buffer, self._fd
        found: list[bytes] = []
        while len(found) < room:
            try:
                size = os.readv(fd, [buffer])
            except BlockingIOError:
                break
            except OSError as error:  # EBADFD: the interface was deleted
                self._lost(str(error.strerror))
                break
            if size <= HEADER + frames.ETH_HEADER:
                continue
            frame = bytes(buffer[HEADER:size])
            if buffer.startswith(vnet.PLAIN):
                found.append(frame)
            else:  # it lay there before the kernel was told to finish them
                found += vnet.finished(buffer[:HEADER], frame)
        if not room:
            self._paused = True
            self.events.remove(fd)
        self.received += len(found)
        if sink is None:
            self.dropped += len(found)
        elif found:
            sink.receive(found)

    def _lost(self, why: str) -> None:
        if self._fd >= 0 and not self._paused:
            self._paused = True
            self.events.remove(self._fd)
        self.say(f"network: tap {self.name}: {why}; the guest's link is down")
        self.set_link(False)

    def resume(self) -> None:
        """Read on."""
        if self._paused and self.link:
            self._paused = False
            self.events.add(self._fd, self._readable)

    def prepare(self, frame: bytes, requested: int, mss: int) -> list[bytes]:
        """Put the header in front that makes the kernel do the offloads."""
        if not requested and not mss:
            return [vnet.PLAIN + frame]
        begin = vnet.headed(frame, len(frame), requested, mss)
        return [begin] if begin else []

    def prepare_pieces(
        self, begin: bytes, pieces: list[memoryview], size: int, requested: int, mss: int
    ) -> list[list[bytes | memoryview]]:
        """The same; only the headers are copied, the rest is the kernel's to fetch."""
        begin = vnet.headed(begin, size, requested, mss)
        return [[begin, *pieces]] if begin else []

    def send(self, prepared: list[bytes | list[bytes | memoryview]]) -> bool:
        """Write frames; the kernel takes or drops each at once."""
        fd = self._fd
        if not self.link:
            self.dropped += len(prepared)
            return True
        for frame in prepared:
            try:
                if type(frame) is bytes:
                    os.write(fd, frame)
                else:
                    os.writev(fd, frame)
                self.sent += 1
            except OSError:  # EIO: the interface is down; EINVAL: a header it does not believe
                self.dropped += 1
        return True
