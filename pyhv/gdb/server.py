"""What gdb asks, packet by packet, and what it is told: all-stop, a thread for each vCPU.

GDB manual, appendix E. Thread ids are vCPU index + 1. An empty reply says "not here".
"""

from __future__ import annotations

from ..errors import PyhvError
from ..listening import Server
from .monitor import monitor
from .packets import PACKET_BYTES, Stream, escape, unescape
from .probe import probe
from .registers import read_all, target_xml, write
from .target import Stopped, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..machine import Machine

OK, BAD, FAILED = b"OK", b"E22", b"E01"  # E22: EINVAL
SIGNALS = {"interrupt": 2}  # else SIGTRAP
SIGTRAP = 5


class GdbServer(Server):
    """Serves gdb at an address like ``tcp::1234``; :meth:`start` before the machine does.

    A client stops the machine when it comes, and lets it run when it goes.
    """

    name = "gdb"

    def __init__(self, machine: Machine, text: str, say: Callable[[str], None]) -> None:
        able = probe(machine.kvm)
        super().__init__("-gdb", text)
        self.machine, self._say = machine, say
        if not {"software", "hardware"} <= able:
            say(
                "gdb: this KVM does not stop a guest at breakpoints (emulated?); "
                "with breakpoints it is single-stepped: slow"
            )
        self.target = Target(machine, lambda: self.call(self._stopped), able)
        self._running = self._over = False
        self._thread = 0
        self._xml = target_xml()
        self.stream = self._new_stream()
        machine.control.listeners.append(self._event)

    def _new_stream(self) -> Stream:
        return Stream(self.send, self._packet, self._interrupt)

    def _event(self, event: str, data: dict[str, Any]) -> None:
        if event == "SHUTDOWN":
            self.call(self._exited)

    # the connection

    def opened(self) -> None:
        """Stop the machine: gdb takes for granted that its target stands."""
        self.stream, self._thread, self._running = self._new_stream(), 0, False
        try:
            self.target.attach()
        except PyhvError:
            self._over = True

    def received(self, data: bytes) -> None:
        """Take gdb's bytes."""
        self.stream.feed(data)

    def closed(self) -> None:
        """Without a debugger no breakpoint stays, and the machine runs."""
        self.target.detach()

    def _exited(self) -> None:
        self._over = True
        if self._running and self.connection is not None:
            self._running = False
            self.stream.reply(self._exit_reply())

    def _exit_reply(self) -> bytes:
        ended = self.machine.ended
        return b"W%02x" % (ended.status & 0xFF if ended is not None else 0)

    # stops

    def _stopped(self) -> None:
        """A vCPU stopped by itself: bring the others to a stand, and tell gdb."""
        if self._running and self.connection is not None and self.target.stops:
            self._report()

    def _interrupt(self) -> None:
        if self._running:
            self._report()

    def _report(self) -> None:
        try:
            stop = self.target.halt()
        except PyhvError:
            return  # it has ended: that is told by _exited
        self._running = False
        self._thread = stop.vcpu
        self.stream.reply(self._stop_reply(stop))

    def _stop_reply(self, stop: Stopped) -> bytes:
        reply = b"T%02xthread:%x;" % (SIGNALS.get(stop.reason, SIGTRAP), stop.vcpu + 1)
        if stop.reason in ("swbreak", "hwbreak"):
            return reply + stop.reason.encode() + b":;"
        if stop.reason.endswith("watch"):
            return reply + b"%s:%x;" % (stop.reason.encode(), stop.address)
        return reply

    # packets

    def _packet(self, body: bytes) -> None:
        if self._running:
            return  # all-stop: only Ctrl-C may come
        text = body[:64].decode("latin-1")
        handler = next((f for name, f in _LONG.items() if text.startswith(name)), None)
        if handler is None:
            handler = _SHORT.get(text[:1])
        if handler is None:
            self.stream.reply(b"")
            return
        try:
            reply = handler(self, body)
        except (ValueError, IndexError, OverflowError):
            reply = BAD
        except PyhvError:
            reply = FAILED
        if reply is not None:
            self.stream.reply(reply)

    def _supported(self, body: bytes) -> bytes:
        return (
            b"PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;"
            b"hwbreak+" % PACKET_BYTES
        )

    def _no_acks(self, body: bytes) -> None:
        self.stream.reply(OK)
        self.stream.acks = False

    def _features(self, body: bytes) -> bytes:
        name, _, window = body.removeprefix(b"qXfer:features:read:").partition(b":")
        if name != b"target.xml":
            return b"E00"
        at, size = (int(word, 16) for word in window.split(b","))
        part = self._xml[at : at + size]
        return (b"m" if at + size < len(self._xml) else b"l") + escape(part)

    def _why(self, body: bytes) -> bytes:
        return self._exit_reply() if self._over else self._stop_reply(Stopped(self._thread, "step"))

    def _cpus(self) -> range:
        return range(self.machine.config.smp.cpus)

    def _threads(self, body: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % (n + 1) for n in self._cpus())

    def _thread_name(self, body: bytes) -> bytes:
        index = int(body.partition(b",")[2], 16) - 1
        return f"vCPU {index}, {self.machine.vcpus[index].state}".encode().hex().encode()

    def _alive(self, body: bytes) -> bytes:
        return OK if int(body[1:], 16) - 1 in self._cpus() else FAILED

    def _choose(self, body: bytes) -> bytes:
        number = int(body[2:], 16)
        if number > 0:
            if number - 1 not in self._cpus():
                return BAD
            if body[1:2] == b"g":
                self._thread = number - 1
        return OK

    def _read_registers(self, body: bytes) -> bytes:
        return b"".join(self.machine.vcpus[self._thread].ask(read_all)).hex().encode()

    def _read_register(self, body: bytes) -> bytes:
        every = self.machine.vcpus[self._thread].ask(read_all)
        number = int(body[1:], 16)
        return every[number].hex().encode() if number < len(every) else BAD

    def _write_register(self, body: bytes) -> bytes:
        number, _, data = body[1:].partition(b"=")
        value = bytes.fromhex(data.decode("ascii"))
        view = self.machine.vcpus[self._thread]
        return OK if view.ask(lambda vcpu: write(vcpu, int(number, 16), value)) else FAILED

    def _write_registers(self, body: bytes) -> bytes:
        data = bytes.fromhex(body[1:].decode("ascii"))

        def change(vcpu: Any) -> None:
            at = 0
            for number, old in enumerate(read_all(vcpu)):
                new = data[at : at + len(old)]
                at += len(old)
                if len(new) == len(old) and new != old:
                    write(vcpu, number, new)

        self.machine.vcpus[self._thread].ask(change)
        return OK

    def _read_memory(self, body: bytes) -> bytes:
        at, size = (int(word, 16) for word in body[1:].split(b","))
        data = self.machine.vcpus[self._thread].read(at, min(size, PACKET_BYTES // 2))
        if not data and size:
            return b"E14"  # EFAULT
        return self.target.hide(at, data).hex().encode()

    def _write_memory(self, body: bytes) -> bytes:
        head, _, data = body[1:].partition(b":")
        at, size = (int(word, 16) for word in head.split(b","))
        raw = unescape(data) if body[:1] == b"X" else bytes.fromhex(data.decode("ascii"))
        if len(raw) != size:
            return BAD
        return OK if self.machine.vcpus[self._thread].write(at, raw) else b"E14"

    def _breakpoint(self, body: bytes) -> bytes:
        kind, address, length = (int(word, 16) for word in body[1:].split(b";")[0].split(b","))
        if kind > 4:
            return b""
        if body[:1] == b"Z":
            done = self.target.insert(kind, self._thread, address, length)
        else:
            done = self.target.remove(kind, address, length)
        return OK if done else FAILED

    def _resumes(self, body: bytes) -> bytes:
        return b"vCont;c;C;s;S"

    def _continue(self, body: bytes) -> bytes | None:
        """``vCont;s:1;c``: the first action that names a thread, or none, is its."""
        actions = body.removeprefix(b"vCont;").split(b";")
        if body[:1] in b"cs":  # the old packets; an address is never given
            actions = [body[:1] + (b":%x" % (self._thread + 1) if body[:1] == b"s" else b"")]
        chosen: dict[int, bytes] = {}
        for action in actions:
            what, _, thread = action.partition(b":")
            number = int(thread, 16) if thread else -1
            for index in self._cpus() if number <= 0 else (number - 1,):
                chosen.setdefault(index, what[:1].lower())
        stepping = frozenset(index for index, what in chosen.items() if what == b"s")
        running = frozenset(index for index, what in chosen.items() if what == b"c")
        if not stepping | running or not stepping | running <= set(self._cpus()):
            return BAD
        if self._over:
            return self._exit_reply()
        self._running = True
        try:
            self.target.go(stepping, running)
        except PyhvError:
            self._exited()
        return None

    def _detach(self, body: bytes) -> None:
        self.stream.reply(OK)
        self.target.detach()

    def _kill(self, body: bytes) -> bytes | None:
        self.machine.kill("quit", "killed by gdb")
        if body.startswith(b"vKill"):
            return OK
        return None

    def _command(self, body: bytes) -> bytes:
        text = bytes.fromhex(body.removeprefix(b"qRcmd,").decode("ascii")).decode(errors="replace")
        answer = monitor(self.machine, self._thread, text) + "\n"
        return answer.encode()[: PACKET_BYTES // 2 - 16].hex().encode()


#: beginning of a packet -> method(server, packet); the first that fits
_LONG: dict[str, Callable[[GdbServer, bytes], bytes | None]] = {
    "qSupported": GdbServer._supported,
    "QStartNoAckMode": GdbServer._no_acks,
    "qXfer:features:read:": GdbServer._features,
    "qfThreadInfo": GdbServer._threads,
    "qsThreadInfo": lambda server, body: b"l",
    "qThreadExtraInfo,": GdbServer._thread_name,
    "qC": lambda server, body: b"QC%x" % (server._thread + 1),
    "qAttached": lambda server, body: b"1",
    "qSymbol::": lambda server, body: OK,
    "qRcmd,": GdbServer._command,
    "vCont?": GdbServer._resumes,
    "vCont;": GdbServer._continue,
    "vKill": GdbServer._kill,
}
#: the packet's letter
_SHORT: dict[str, Callable[[GdbServer, bytes], bytes | None]] = {
    "?": GdbServer._why,
    "g": GdbServer._read_registers,
    "G": GdbServer._write_registers,
    "p": GdbServer._read_register,
    "P": GdbServer._write_register,
    "m": GdbServer._read_memory,
    "M": GdbServer._write_memory,
    "X": GdbServer._write_memory,
    "Z": GdbServer._breakpoint,
    "z": GdbServer._breakpoint,
    "H": GdbServer._choose,
    "T": GdbServer._alive,
    "c": GdbServer._continue,
    "s": GdbServer._continue,
    "D": GdbServer._detach,
    "k": GdbServer._kill,
}
