"""The synthetic mouse: a HID device whose reports say where the pointer is, not how it moved.

Linux drivers/hid/hid-hyperv.c is the guest: it asks for protocol 2.0, gets a HID report descriptor
(USB HID 1.11, 6.2.2), acknowledges it, and gives every report to its HID core.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from . import protocol as p
from .device import check_inband
from .inputs import InputDevice
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .channel import Channel

SYNTH_HID_PROTOCOL_REQUEST, SYNTH_HID_PROTOCOL_RESPONSE = 0, 1
SYNTH_HID_INITIAL_DEVICE_INFO, SYNTH_HID_INITIAL_DEVICE_INFO_ACK = 2, 3
SYNTH_HID_INPUT_REPORT = 4
SYNTHHID_INPUT_VERSION = 2 << 16
PIPE_MESSAGE_DATA = 1
VENDOR, PRODUCT, VERSION = 0x045E, 0x0621, 0  # Hyper-V's own
RANGE = 0x7FFF  # x and y are 0..RANGE, whatever the resolution

# 0:4 pipe type, 4:4 its size (without these 8), 8:4 message, 12:4 size of the body
_header = Struct("<IIII")
_u32 = Struct("<I")
_device = Struct("<IHHH22x")  # size of this, vendor, product, version
# HID descriptor: length, type 0x21, HID 1.01, country 0, one descriptor, of type 0x22, its length
_hid = Struct("<BBHBBBH")
_report = Struct("<BHHb")  # buttons, x, y, wheel

REPORT_DESCRIPTOR = bytes.fromhex(
    "0501 0902 a101"  # usage page: generic desktop; usage: mouse; collection: application
    "0901 a100"  # usage: pointer; collection: physical
    # Linux changes byte 14 from 0x25 to 0x29 in every descriptor, for an old host's sake
    "0509 1901 2905"  # usage page: buttons, 1 to 5
    "1500 2501 9505 7501 8102"  # 0 to 1, five of one bit: data, absolute
    "9501 7503 8101"  # three bits of nothing
    "0501 0930 0931"  # x and y
    "1500 26ff7f 7510 9502 8102"  # 0 to 0x7fff, two of 16 bits: data, absolute
    "0938 1581 257f 7508 9501 8106"  # wheel, -127 to 127: data, relative
    "c0 c0"
)


class Motion(NamedTuple):
    """One report's worth: the pointer goes to *x*, *y* (None: stays), buttons go down and up.

    *press* and *release* are masks of buttons, bit 0 the left one; *wheel* is -127..127.
    """

    x: int | None = None
    y: int | None = None
    press: int = 0
    release: int = 0
    wheel: int = 0


class SynthMouse(InputDevice):
    """One mouse with five buttons and a wheel."""

    class_guid = p.GUID_MOUSE
    instance_guid = "58f75a6d-d949-4320-99e1-a2a2576d581c"  # Hyper-V's own

    saved = (*InputDevice.saved, "_x", "_y", "_buttons", "_told")

    def __init__(self) -> None:
        super().__init__()
        self._x = self._y = self._buttons = 0
        self._told = False  # the driver was sent the descriptor

    def closed(self, channel: Channel) -> None:
        """The next driver finds no button down."""
        super().closed(channel)
        self._buttons, self._told = 0, False

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Take SYNTH_HID_PROTOCOL_REQUEST and the ACK of what follows it."""
        if kind == p.VM_PKT_COMP:
            return
        check_inband(kind, end - body, _header.size + _u32.size)
        pipe, _, message, _ = _header.unpack_from(batch, body)
        if pipe == PIPE_MESSAGE_DATA and message == SYNTH_HID_PROTOCOL_REQUEST:
            self._agree(channel, _u32.unpack_from(batch, body + _header.size)[0])
        elif pipe == PIPE_MESSAGE_DATA and message == SYNTH_HID_INITIAL_DEVICE_INFO_ACK:
            self.ready = self._told
        else:
            raise BrokenRule("packet-type", f"pipe message {pipe}, HID message {message}")

    def _agree(self, channel: Channel, version: int) -> None:
        self._told, self.ready = version == SYNTHHID_INPUT_VERSION, False
        channel.send_inband(
            _message(SYNTH_HID_PROTOCOL_RESPONSE, _u32.pack(version) + bytes((self._told,)))
        )
        if self._told:
            length = len(REPORT_DESCRIPTOR)
            body = _device.pack(_device.size, VENDOR, PRODUCT, VERSION)
            body += _hid.pack(_hid.size, 0x21, 0x0101, 0, 1, 0x22, length) + REPORT_DESCRIPTOR
            channel.send_inband(_message(SYNTH_HID_INITIAL_DEVICE_INFO, body))

    def move(self, motions: Sequence[Motion], taken: Callable[[], None]) -> bool:
        """Send a report for each of *motions*; then call *taken*. On the event loop.

        :return: False, nothing is sent: no driver is ready, or it has not taken the last ones.
        """
        if not self.ready or self._waiting:
            return False
        return self._hand([self._report(motion) for motion in motions], taken)

    def _report(self, motion: Motion) -> bytes:
        if motion.x is not None:
            self._x = motion.x
        if motion.y is not None:
            self._y = motion.y
        self._buttons = (self._buttons | motion.press) & ~motion.release
        report = _report.pack(self._buttons, self._x, self._y, motion.wheel)
        return _message(SYNTH_HID_INPUT_REPORT, report)


def _message(message: int, body: bytes) -> bytes:
    return _header.pack(PIPE_MESSAGE_DATA, 8 + len(body), message, len(body)) + body
