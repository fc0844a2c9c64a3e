"""A simulated hv_utils: what the tests of integration components answer with."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace

from guest_sim import Guest, GuestChannel, packet

from pyhv.daemons import Daemons
from pyhv.vmbus.ic import Service

HEAD = struct.Struct("<IIHHHHHHIBBH")


class Utils:
    """hv_utils on one channel: answers in place, as Linux does."""

    def __init__(self, make_guest, service: Service) -> None:
        self.service = service
        self.guest: Guest = make_guest(service)
        self.offer = self.guest.connect()[0]
        self.channel: GuestChannel = self.guest.open(self.offer.relid, (4, 4))

    @classmethod
    def on(cls, guest: Guest, service: Service) -> Utils:
        """Open the last device that was offered to *guest*, which has contact."""
        utils = cls.__new__(cls)
        utils.service, utils.guest = service, guest
        utils.offer = list(guest.offers.values())[-1]
        utils.channel = guest.open(utils.offer.relid, (4, 4))
        return utils

    def take(self) -> tuple[list, bytes]:
        (request,) = self.channel.receive()
        assert request.kind == 6
        head = list(HEAD.unpack_from(request.data))
        assert head[0] == 1
        assert head[1] == 20 + head[7]
        assert head[10] == 3  # transaction, request
        return head, request.data[28 : 28 + head[7]]

    def answer(self, head: list, body: bytes, status: int = 0, flags: int = 5) -> None:
        head = [*head[:7], len(body), status, head[9], flags, 0]
        self.channel.send(packet(6, HEAD.pack(*head) + body, flags=0))

    def negotiate(self, version: tuple[int, int] | None = None) -> None:
        head, body = self.take()
        assert head[4] == 0
        frameworks, messages = struct.unpack_from("<HH", body)
        offered = list(struct.iter_unpack("<HH", body[8:]))
        assert len(offered) == frameworks + messages
        assert offered[:2] == [(3, 0), (1, 0)]
        chosen = version or offered[frameworks]
        self.answer(head, struct.pack("<HHIHHHH", 1, 1, 0, *offered[0], *chosen))

    def rule(self) -> str:
        return self.guest.server.violations[-1].rule


class Vm(Daemons):
    """A machine whose loop is the simulated guest's, with a driver that answers at once.

    *serve* gets a request's body and returns (status, body); None: it never answers.
    """

    def __init__(
        self, utils: Utils, name: str, serve: Callable[[bytes], tuple[int, bytes] | None]
    ) -> None:
        self.utils, self.serve = utils, serve
        self.started, self.ended, self.board = True, None, self
        self.offered = {"components": SimpleNamespace(**{name: utils.service})}

    def call(self, function: Callable[[], None]) -> None:
        """Do what the host side wants, then what the guest does."""
        function()
        self.guest()

    def guest(self) -> None:
        """Answer what lies in the ring."""
        for request in self.utils.channel.receive():
            head = list(HEAD.unpack_from(request.data))
            body = request.data[28 : 28 + head[7]]
            self.utils.last = head, body
            answer = self.serve(body)
            if answer is not None:
                self.utils.answer(head, answer[1], answer[0])
