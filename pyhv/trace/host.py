"""The tracer's half without exits: SynIC, VMBus, timers, the console, and what the machine is."""

from __future__ import annotations

import time

from ..hyperv import tlfs
from ..hyperv.stimer import FULL, Stimer
from . import names, packets
from .event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..board import Board
    from ..vmbus.channel import Channel

    Emit = Callable[[Event], None]

LINE_LIMIT = 500  # bytes of a console line that go into one event
GATHER_NS = 1_000_000_000  # an unfinished line that nothing follows for so long is a prompt
now = time.monotonic_ns


class HostTracer:
    """Wraps what a board does by itself; a category that is not wanted touches nothing."""

    def __init__(self, wanted: frozenset[str], emit: Emit) -> None:
        self.wanted, self.emit = wanted, emit
        self.contents = None
        if "bytes" in wanted:
            from . import contents

            self.contents = contents

    def install(self, board: Board) -> None:
        """Wrap; before the board's vCPUs start."""
        wanted = self.wanted
        if "machine" in wanted:
            self._machine(board)
        if "console" in wanted:
            _console(board, self.emit)
        if wanted & {"synic", "vmbus"}:
            self._synic(board)
        if "vmbus" in wanted:
            connections = getattr(board.driver, "connections", None)
            if connections is None:
                connections = board.driver.partition.connections
            connections.wrap_messages(self._from_guest)
        if "ring" in wanted and board.vmbus is not None:
            board.vmbus.new_channel.append(self._channel)
            for channel in board.vmbus.channels.values():
                self._channel(channel)
        if "stimer" in wanted and hasattr(board.driver, "partition"):
            self._stimers(board)

    def _machine(self, board: Board) -> None:
        from ..boot import e820

        machine, emit = board.machine, self.emit
        given = machine.config
        fields: dict[str, object] = {
            "driver": machine.driver_name, "cpus": given.smp.cpus,
            "memory": given.memory_bytes, "cpu": machine.guest_cpuid.spec.text,
            "boots": given.kernel or (given.drives[0].path if given.drives else "-"),
        }  # fmt: skip
        if self.contents is not None:
            fields |= self.contents.of_board(board)
        emit(Event(now(), -1, "machine", "board", fields))
        for entry in e820.build(machine.memory):
            kind = "RAM" if entry.kind == e820.RAM else "reserved"
            place: dict[str, object] = {"gpa": entry.base, "bytes": entry.size, "kind": kind}
            emit(Event(now(), -1, "machine", "memory", place))
        for (leaf, sub), words in sorted(machine.cpuid_for(0).table.items()):
            row: dict[str, object] = {"leaf": leaf, "subleaf": sub}
            row |= zip(("eax", "ebx", "ecx", "edx"), words, strict=True)
            emit(Event(now(), -1, "machine", "cpuid", row))

    def _synic(self, board: Board) -> None:
        """Wrap the driver's SynicPort; VMBus and in_user's core call it by name."""
        emit, wanted, driver, contents = self.emit, self.wanted, board.driver, self.contents
        post, raise_sint, signaller = (
            driver.post_message, driver.raise_sint, driver.event_signaller
        )  # fmt: skip

        def post_message(vp: int, sint: int, message_type: int, payload: bytes) -> None:
            fields: dict[str, object]
            if message_type == tlfs.HVMSG_VMBUS and "vmbus" in wanted:
                name, fields = names.channel_message(payload)
                if contents is not None:
                    fields |= contents.of_message(payload)
                emit(Event(now(), -1, "vmbus", name, {"to": "guest"} | fields))
            elif "synic" in wanted:
                kind = names.MESSAGE_TYPES.get(message_type, hex(message_type))
                fields = {"vp": vp, "sint": sint, "type": kind, "bytes": len(payload)}
                emit(Event(now(), -1, "synic", "post_message", fields))
            post(vp, sint, message_type, payload)

        driver.post_message = post_message  # type: ignore[method-assign]
        if "synic" not in wanted:
            return

        def traced_sint(vp: int, sint: int) -> None:
            emit(Event(now(), -1, "synic", "raise_sint", {"vp": vp, "sint": sint}))
            raise_sint(vp, sint)

        def event_signaller(vp: int, sint: int, flag: int) -> Callable[[], None]:
            plain = signaller(vp, sint, flag)
            fields: dict[str, object] = {"vp": vp, "sint": sint, "flag": flag}

            def signal() -> None:
                emit(Event(now(), -1, "synic", "set_event", fields))
                plain()

            return signal

        driver.raise_sint, driver.event_signaller = traced_sint, event_signaller
        interrupt = getattr(driver, "interrupt", None)
        if interrupt is not None:  # in_user: SINTs and direct timers

            def traced_interrupt(vp: int, vector: int) -> bool:
                sent: bool = interrupt(vp, vector)
                fields: dict[str, object] = {"vp": vp, "vector": vector}
                emit(Event(now(), -1, "synic", "interrupt", fields, "sent" if sent else "lost"))
                return sent

            driver.interrupt = traced_interrupt

    def _from_guest(self, handler: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
        emit, contents = self.emit, self.contents

        def traced(message_type: int, payload: bytes) -> int:
            begin = now()
            name, fields = names.channel_message(payload)
            if contents is not None:
                fields |= contents.of_message(payload)
            status = handler(message_type, payload)
            fields = {"from": "guest"} | fields
            emit(Event(begin, -1, "vmbus", name, fields, names.status(status), now() - begin))
            return status

        return traced

    def _channel(self, channel: Channel) -> None:
        """Wrap both ways of a channel's rings."""
        emit, serve, send = self.emit, channel.packet, channel.send
        guid, relid, contents = channel.device.class_guid, channel.relid, self.contents

        def packet(
            channel: Channel, kind: int, flags: int, transaction: int,
            batch: bytes, start: int, body: int, end: int,
        ) -> None:  # fmt: skip
            begin = now()
            name, fields = packets.packet(guid, kind, transaction, batch[body:end])
            after = None
            if contents is not None:
                after = contents.of_guest(channel, kind, batch, start, body, end)
            try:
                serve(channel, kind, flags, transaction, batch, start, body, end)
            finally:
                if after is not None:
                    fields |= after()
                fields = {"from": "guest", "relid": relid} | fields
                emit(Event(begin, -1, "ring", name, fields, None, now() - begin))

        def traced_send(data: bytes) -> bool:
            name, fields = packets.sent(guid, data)
            if contents is not None:
                fields |= contents.of_host(channel, data)
            done: bool = send(data)
            fields = {"to": "guest", "relid": relid} | fields
            emit(Event(now(), -1, "ring", name, fields, None if done else "dropped"))
            return done

        channel.packet, channel.send = packet, traced_send  # type: ignore[method-assign]

    def _stimers(self, board: Board) -> None:
        emit, partition = self.emit, board.driver.partition

        class TracedStimer(Stimer):
            __slots__ = ()

            def _fire(self, now_ticks: int) -> bool:
                sint = self.config >> tlfs.HV_STIMER_SINT_SHIFT & 0xF
                direct = self.config & tlfs.HV_STIMER_DIRECT
                full = not direct and self._synic.slot(sint, False) == FULL
                done = super()._fire(now_ticks)
                fields: dict[str, object] = {"vp": self._vp_index, "timer": self._index}
                if not direct:
                    fields["sint"] = sint
                result = ("lost" if full else "sent") if done else "waits"
                emit(Event(now(), -1, "stimer", "expired", fields, result))
                return done

        def wrapped(vp: int, index: int, plain: Callable[[int | None], None]) -> Any:
            def arm(due_ticks: int | None) -> None:
                fields: dict[str, object] = {"vp": vp, "timer": index}
                if due_ticks is None:
                    emit(Event(now(), -1, "stimer", "disarm", fields))
                else:
                    wait_ns = (due_ticks - partition.clock.ticks()) * 100
                    emit(Event(now(), -1, "stimer", "arm", fields | {"in_ns": wait_ns}))
                plain(due_ticks)

            return arm

        for vp in partition.vps:
            for index, timer in enumerate(vp.stimers):
                timer._arm = wrapped(vp.index, index, timer._arm)
                timer.__class__ = TracedStimer


def _console(board: Board, emit: Emit) -> None:
    """Wrap the way to the machine's console, which outlives a board: once for all its lives."""
    console = board.machine.console
    lines = console.__dict__.get("write")
    if not isinstance(lines, ConsoleLines):
        lines = ConsoleLines(console.write, emit)
        console.write = lines  # for a next board
    board.uart._out = lines
    if board.machine.bios is not None:
        board.machine.bios.screen._write = lines


class ConsoleLines:
    """Makes an event of each line that goes to *write*, with the time of its first byte."""

    def __init__(self, write: Callable[[bytes], None], emit: Emit) -> None:
        self._write, self._emit = write, emit
        self._line, self._begin, self._last = bytearray(), 0, 0

    def __call__(self, data: bytes) -> None:
        self._write(data)
        when, line = now(), self._line
        if line and when - self._last > GATHER_NS:
            self._tell()
        self._last = when
        for byte in data:
            if byte == 10:
                self._tell()
            elif byte != 13:
                if not line:
                    self._begin = when
                line.append(byte)
                if len(line) >= LINE_LIMIT:
                    self._tell()

    def _tell(self) -> None:
        text = bytes(self._line).decode(errors="replace")
        self._line.clear()
        if text.strip():
            self._emit(Event(self._begin, -1, "console", "line", {"text": text}))
