"""The synthetic video device: the guest names its VRAM, a resolution, and what it has drawn.

It draws with the CPU into memory of the host that is mapped where it asked (``Placement``), so no
picture goes through the rings. Messages and limits: linux drivers/gpu/drm/hyperv, the guest:
hyperv_drm_proto.c, and hyperv_drm_drv.c (``mmio_megabytes`` is what it reserves for VRAM).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, Protocol

from ..errors import HostError
from ..saving import fields, put
from . import protocol as p
from .device import Device, check_inband
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel

SYNTHVID_VERSION_REQUEST, SYNTHVID_VERSION_RESPONSE = 1, 2
SYNTHVID_VRAM_LOCATION, SYNTHVID_VRAM_LOCATION_ACK = 3, 4
SYNTHVID_SITUATION_UPDATE, SYNTHVID_SITUATION_UPDATE_ACK = 5, 6
SYNTHVID_POINTER_POSITION, SYNTHVID_POINTER_SHAPE = 7, 8
SYNTHVID_FEATURE_CHANGE, SYNTHVID_DIRT = 9, 10
SYNTHVID_RESOLUTION_REQUEST, SYNTHVID_RESOLUTION_RESPONSE = 13, 14

VERSIONS = (5 << 16 | 3, 2 << 16 | 3)  # 3.5 (Windows 10) and 3.2 (Windows 8): the minor is high
PIPE_MSG_DATA = 1
VRAM_MEGABYTES = 8
VRAM_BYTES = VRAM_MEGABYTES << 20
FASTEST = 1  # zlib's level, for snapshots: a console is small anyway
SAVED = ("version", "situation", "dirts")
DEPTH_BITS = 32  # x8r8g8b8, the only one since 3.2
#: width and height; the first is the one to start with, and VRAM holds the largest
RESOLUTIONS = ((1024, 768), (640, 480), (800, 600), (1280, 720), (1280, 1024), (1600, 900),
               (1920, 1080))  # fmt: skip
EDID_BYTES, RESOLUTIONS_SENT = 128, 64

# 0:4 pipe type, 4:4 its size (without these 8), 8:4 message, 12:4 its size (with these 8)
_header = Struct("<IIII")
_u32, _context = Struct("<I"), Struct("<Q")
_version_response = Struct("<IBB")  # version, accepted, outputs
_vram_location = Struct("<QBQ")  # context, specified, gpa
_situation = Struct("<QB")  # context, outputs
_output = Struct("<BIBIII")  # active, offset, depth, width, height, pitch
_dirt = Struct("<BB")  # output, rectangles
_features = Struct("<4B")  # wanted: dirt, pointer position, pointer shape, situation
RECTANGLE_BYTES = 16
#: message -> bytes its body has at least; who is not here is refused
BODIES = {
    SYNTHVID_VERSION_REQUEST: _u32.size,
    SYNTHVID_VRAM_LOCATION: _vram_location.size,
    SYNTHVID_SITUATION_UPDATE: _situation.size,
    SYNTHVID_POINTER_POSITION: 0,  # the guest draws its own pointer
    SYNTHVID_POINTER_SHAPE: 0,
    SYNTHVID_DIRT: _dirt.size,
    SYNTHVID_RESOLUTION_REQUEST: 1,
}


class Situation(NamedTuple):
    """What VRAM shows: *offset* and *pitch* in bytes, *width* and *height* in pixels."""

    offset: int
    width: int
    height: int
    pitch: int


class Placement(Protocol):
    """Memory that is VRAM, and a way to let the guest see it (pyhv/vram.py).

    ``gpa`` is where it is seen, None while it is not.
    """

    gpa: int | None

    def place(self, gpa: int) -> bool:
        """Show it at *gpa* and nowhere else; False: it cannot be there, and is nowhere."""

    def remove(self) -> None:
        """Show it no more."""

    def copy(self, offset: int, length: int) -> bytes:
        """Return some of it."""

    def fill(self, data: bytes) -> None:
        """Put *data* into it, from its beginning; it is placed."""


class SynthVideo(Device):
    """One screen; ``situation`` is None while the guest shows nothing, ``dirts`` counts updates."""

    class_guid = p.GUID_VIDEO
    instance_guid = "5620e0c7-8062-4dce-aeb7-520c7ef76171"  # Hyper-V's own
    offer_flags = p.VMBUS_CHANNEL_NAMED_PIPE_MODE
    user_data = p.VMBUS_PIPE_TYPE_MESSAGE.to_bytes(4, "little")
    mmio_megabytes = VRAM_MEGABYTES
    kept = True

    def __init__(self, vram: Placement) -> None:
        self.vram = vram
        self.situation: Situation | None = None
        self.version: int | None = None
        self.dirts = 0

    def closed(self, channel: Channel) -> None:
        """No driver, no picture; its memory goes."""
        self.situation = self.version = None
        self.vram.remove()

    def save(self) -> dict[str, Any]:
        """Return the protocol's state and, compressed, what is in VRAM."""
        import zlib

        gpa = self.vram.gpa
        seen = zlib.compress(self.vram.copy(0, VRAM_BYTES), FASTEST) if gpa is not None else b""
        return {**fields(self, SAVED), "gpa": gpa, "vram": seen}

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`. :raises HostError: this host has no memory for it."""
        put(self, SAVED, state)
        if self.situation is not None:
            self.situation = Situation(*self.situation)
        if state["gpa"] is None:
            return
        import zlib

        if not self.vram.place(state["gpa"]):
            raise HostError(f"restore: VRAM cannot be at {state['gpa']:#x}")
        self.vram.fill(zlib.decompress(state["vram"]))

    def picture(self) -> tuple[Situation, bytes] | None:
        """Return what is shown, rows from the top, and its bytes; None: nothing is shown."""
        shown = self.situation
        if shown is None:
            return None
        return shown, self.vram.copy(shown.offset, shown.pitch * shown.height)

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Serve one message."""
        check_inband(kind, end - body, _header.size)
        pipe, _, message, _ = _header.unpack_from(batch, body)
        if pipe != PIPE_MSG_DATA or message not in BODIES:
            raise BrokenRule("packet-type", f"pipe message {pipe}, video message {message}")
        data = batch[body + _header.size : end]
        if len(data) < BODIES[message]:
            raise BrokenRule("packet-short", f"{len(data)} bytes of {BODIES[message]}")
        serve = _SERVERS.get(message)
        if serve is not None:
            serve(self, channel, data)

    def _send(self, channel: Channel, message: int, body: bytes) -> None:
        size = 8 + len(body)
        channel.send_inband(_header.pack(PIPE_MSG_DATA, size, message, size) + body)

    def _version(self, channel: Channel, data: bytes) -> None:
        (version,) = _u32.unpack_from(data)
        accepted = version in VERSIONS
        self.version = version if accepted else None
        self._send(channel, SYNTHVID_VERSION_RESPONSE, _version_response.pack(version, accepted, 1))

    def _resolutions(self, channel: Channel, data: bytes) -> None:
        sizes = b"".join(w.to_bytes(2, "little") + h.to_bytes(2, "little") for w, h in RESOLUTIONS)
        body = bytes(EDID_BYTES) + bytes((len(RESOLUTIONS), 0, 0))
        body += sizes.ljust(4 * RESOLUTIONS_SENT, b"\0")
        self._send(channel, SYNTHVID_RESOLUTION_RESPONSE, body)

    def _locate(self, channel: Channel, data: bytes) -> None:
        context, specified, gpa = _vram_location.unpack_from(data)
        if self.version is None:
            raise BrokenRule("device-state", "VRAM before a version")
        self.situation = None
        if not specified:
            self.vram.remove()
        elif not self.vram.place(gpa):
            raise BrokenRule("vram-place", f"VRAM at {gpa:#x}")
        self._send(channel, SYNTHVID_VRAM_LOCATION_ACK, _context.pack(context))
        self._send(channel, SYNTHVID_FEATURE_CHANGE, _features.pack(1, 0, 0, 1))

    def _situate(self, channel: Channel, data: bytes) -> None:
        context, outputs = _situation.unpack_from(data)
        if outputs > 1 or len(data) < _situation.size + outputs * _output.size:
            raise BrokenRule("video-situation", f"{outputs} outputs in {len(data)} bytes")
        shown = None
        if outputs:
            active, offset, depth, width, height, pitch = _output.unpack_from(data, _situation.size)
            if active:
                shown = self._checked(Situation(offset, width, height, pitch), depth)
        self.situation = shown
        self._send(channel, SYNTHVID_SITUATION_UPDATE_ACK, _context.pack(context))

    def _checked(self, shown: Situation, depth: int) -> Situation:
        """Return *shown*: with VRAM in place, and all of it inside."""
        offset, width, height, pitch = shown
        end = offset + pitch * height
        if (
            self.vram.gpa is None or depth != DEPTH_BITS or not width or not height
            or pitch < width * (DEPTH_BITS // 8) or end > VRAM_BYTES
        ):  # fmt: skip
            text = f"{width}x{height}, depth {depth}, pitch {pitch}, from {offset:#x}"
            raise BrokenRule("video-situation", text)
        return shown

    def _dirty(self, channel: Channel, data: bytes) -> None:
        rectangles = _dirt.unpack_from(data)[1]
        if len(data) < _dirt.size + rectangles * RECTANGLE_BYTES:
            raise BrokenRule("packet-short", f"{rectangles} rectangles in {len(data)} bytes")
        self.dirts += 1


_SERVERS: dict[int, Callable[[SynthVideo, Channel, bytes], None]] = {
    SYNTHVID_VERSION_REQUEST: SynthVideo._version,
    SYNTHVID_VRAM_LOCATION: SynthVideo._locate,
    SYNTHVID_SITUATION_UPDATE: SynthVideo._situate,
    SYNTHVID_DIRT: SynthVideo._dirty,
    SYNTHVID_RESOLUTION_REQUEST: SynthVideo._resolutions,
}
