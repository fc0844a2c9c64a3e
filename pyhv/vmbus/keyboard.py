"""The synthetic keyboard: scan codes of set 1 go to the guest as events, one packet each.

Linux drivers/input/serio/hyperv-keyboard.c is the guest: it asks for protocol 1.0, then feeds what
comes to atkbd. Its messages have no pipe header, though the offer says pipe.
"""

from __future__ import annotations

import struct

from . import protocol as p
from .device import check_inband
from .inputs import InputDevice
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .channel import Channel

SYNTH_KBD_PROTOCOL_REQUEST, SYNTH_KBD_PROTOCOL_RESPONSE, SYNTH_KBD_EVENT = 1, 2, 3
SYNTH_KBD_LED_INDICATORS = 4
SYNTH_KBD_VERSION = 1 << 16
PROTOCOL_ACCEPTED = 1
IS_UNICODE, IS_BREAK, IS_E0, IS_E1 = 1, 2, 4, 8

_request = struct.Struct("<II")
_keystroke = struct.Struct("<IHHI").pack


class SynthKeyboard(InputDevice):
    """One keyboard."""

    class_guid = p.GUID_KEYBOARD
    instance_guid = "d34b2567-b9b6-42b9-8778-0a4ec0b955bf"  # Hyper-V's own

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Take SYNTH_KBD_PROTOCOL_REQUEST. LEDs may come too: no lamp here."""
        check_inband(kind, end - body, _request.size)
        message, version = _request.unpack_from(batch, body)
        if message == SYNTH_KBD_LED_INDICATORS:
            return
        if message != SYNTH_KBD_PROTOCOL_REQUEST:
            raise BrokenRule("packet-type", f"keyboard message {message}")
        self.ready = version == SYNTH_KBD_VERSION
        answer = _request.pack(SYNTH_KBD_PROTOCOL_RESPONSE, PROTOCOL_ACCEPTED * self.ready)
        channel.send_inband(answer, transaction)

    def strike(self, events: Sequence[tuple[int, int]], taken: Callable[[], None]) -> bool:
        """Send *events* (make code, IS_* bits) in order; then call *taken*. On the event loop.

        :return: False, nothing is sent: no driver is ready, or it has not taken the last ones.
        """
        return self._hand(
            [_keystroke(SYNTH_KBD_EVENT, code, 0, info) for code, info in events], taken
        )
