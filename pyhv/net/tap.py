"""A tap interface of the host: frames to and from its kernel, which does the guest's offloads.

Sources: linux Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h, virtio_net.h. Every
frame has a virtio-net header; large and unfinished frames are given to the kernel, and none are
asked of it (no TUNSETOFFLOAD).
"""

from __future__ import annotations

import fcntl
import os
from struct import Struct

from ..errors import ConfigError, HostError
from . import frames
from .backend import READ_FRAMES, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..hyperv.driver import Events

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
IFNAMSIZ = 16
_ifreq = Struct("16sH22x")
# virtio_net_hdr: 0:1 flags, 1:1 GSO type, 2:2 header bytes, 4:2 GSO size, 6:2 sum from, 8:2 sum at
_header = Struct("<BBHHHH")
HEADER = _header.size
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_ECN = 0, 1, 4, 0x80
PLAIN = _header.pack(0, GSO_NONE, 0, 0, 0, 0)


class Tap(Backend):
    """The interface *name*, made if it is not there (needs CAP_NET_ADMIN); "" is any.

    Bridges, addresses and scripts are the user's.
    """

    kind = "tap"

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self._fd = -1
        self._paused = False
        self._buffer = bytearray(frames.ETH_MAX + HEADER)

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
        events.add(fd, self._readable)
        self.set_link(True)

    def close(self) -> None:
        """Close it; the kernel removes an interface that is not persistent."""
        super().close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._paused:
                self.events.remove(fd)
            os.close(fd)

    def _readable(self) -> None:
        sink, buffer, fd = self.sink, self._buffer, self._fd
        room = READ_FRAMES if sink is None else min(sink.room(), READ_FRAMES)
        found: list[bytes] = []
        while len(found) < room:
            try:
                size = os.readv(fd, [buffer])
            except BlockingIOError:
                break
            except OSError as error:  # EBADFD: the interface was deleted
                self._lost(str(error.strerror))
                break
            if size > HEADER + frames.ETH_HEADER:
                found.append(bytes(buffer[HEADER:size]))
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
            return [PLAIN + frame]
        at = frames.layout(frame)
        payload = frames.tcp_headers_end(frame, at)
        if mss and (not payload or not frames.LEAST_MSS <= mss <= 0xFFFF):
            return []
        if at is None:
            return [PLAIN + frame]
        done, end = bytearray(frame), at.end or len(frame)
        if mss:
            if len(frame) - at.ip > 0xFFFF:
                return []
            frames.put_length(done, at)
            end = len(frame)
        if mss or requested & frames.CSUM_IP_HEADER:
            frames.put_ip_checksum(done, at)
        if not mss and not frames.wants_transport(requested, at.protocol):
            return [PLAIN + bytes(done)]
        frames.put_pseudo(done, at, end - at.transport)
        kind = GSO_NONE
        if mss:
            kind = GSO_TCPV4 if at.version == 4 else GSO_TCPV6
            if frame[at.transport + 13] & frames.TCP_CWR:
                kind |= GSO_ECN
        head = _header.pack(
            NEEDS_CSUM, kind, payload if mss else 0, mss, at.transport,
            frames.CHECKSUM_AT[at.protocol],
        )  # fmt: skip
        return [head + bytes(done)]

    def send(self, prepared: list[bytes]) -> bool:
        """Write frames; the kernel takes or drops each at once."""
        fd = self._fd
        if not self.link:
            self.dropped += len(prepared)
            return True
        for frame in prepared:
            try:
                os.write(fd, frame)
                self.sent += 1
            except OSError:  # EIO: the interface is down; EINVAL: a header it does not believe
                self.dropped += 1
        return True
