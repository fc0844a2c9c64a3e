"""The rules of VMBus that a guest can break, each with a name that tests and reports use."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import PyhvError

#: name -> what the guest did. By message: it is ignored or refused. By ring: the channel is closed.
RULES = {
    "message-short": "a message shorter than its type needs",
    "message-unknown": "a message type that guests do not send",
    "message-unexpected": "a message before INITIATE_CONTACT",
    "contact-target": "INITIATE_CONTACT with a VP or SINT that is not there",
    "relid-unknown": "a relid that was not offered",
    "relid-state": "a message that the channel's state does not allow",
    "open-gpadl": "OPENCHANNEL with no such GPADL of this channel, or not whole pages",
    "open-ring": "OPENCHANNEL with a ring of less than a header and a data page",
    "open-vp": "a channel's target VP that is not there",
    "gpadl-ranges": "GPADL ranges that do not add up",
    "gpadl-page": "a GPADL page that is not RAM",
    "gpadl-duplicate": "a GPADL id that is in use",
    "gpadl-unknown": "a GPADL id that is not in use, or is another channel's",
    "gpadl-quota": "more GPADL pages than a guest may lend",
    "ring-index": "a ring index outside the ring or not a multiple of 8",
    "ring-packet": "a packet longer than what is in the ring, or shorter than its header",
    "packet-type": "a packet type this device does not take",
    "packet-ranges": "a packet's page list that does not add up, or is not RAM",
    "packet-short": "a packet shorter than this device's messages",
    "vram-place": "VRAM outside the VMBus's MMIO windows, not on a page, or on other memory",
    "video-situation": "a picture that does not lie in VRAM, or is of no known kind",
    "device-state": "a request that the device's state does not allow",
}


class BrokenRule(PyhvError):
    """The guest broke :data:`RULES` ``[rule]``; caught where guest data is handled."""

    def __init__(self, rule: str, text: str = "") -> None:
        assert rule in RULES
        super().__init__(f"{rule}: {text or RULES[rule]}")
        self.rule, self.text = rule, text


class Violation(NamedTuple):
    """One entry of ``VmbusServer.violations``. *relid* 0: of no channel."""

    rule: str
    relid: int
    text: str
