"""A machine of two vCPUs that are none, and gdb's end of the socket: for the server's tests."""

from __future__ import annotations

import re
import socket
import types

from pyhv import cpustate
from pyhv.gdb.packets import frame
from pyhv.kvm import uapi
from pyhv.memory import GuestMemory
from pyhv.pagewalk import read_virtual, walk, write_virtual
from pyhv.stop import Stop

SECONDS = 10
CODE = 0x8000


class FakeVcpu:
    """Registers that are there without an ioctl."""

    def __init__(self, index: int) -> None:
        self.index = self.fd = index
        self.m8 = memoryview(bytearray(4096))
        self.m32, self.m64 = self.m8.cast("I"), self.m8.cast("Q")
        self.regs, self.sregs = uapi.Regs(), uapi.Sregs()
        self.regs.rip, self.regs.rbx = CODE, 0x1122334455667788 + index
        self.sregs.cr0 = 1

    def get_struct(self, request: object, kind: type) -> object:
        found = kind()
        found.fcw, found.ftwx, found.mxcsr = 0x37F, 0b1, 0x1F80
        found.fpr[0:10] = range(1, 11)
        return found

    def store(self, mask: int) -> None:
        pass


class FakeView:
    def __init__(self, machine: FakeMachine, index: int) -> None:
        self._machine, self.index, self.state = machine, index, "runnable"
        self.thread = machine.board.threads[index]

    def ask(self, function):
        return function(self.thread.vcpu)

    @property
    def registers(self) -> dict[str, int]:
        return cpustate.snapshot(self.thread.vcpu)

    def walk(self, gva: int):
        return walk(self._machine.memory, self.registers, gva)

    def read(self, gva: int, length: int) -> bytes:
        return read_virtual(self._machine.memory, self.registers, gva, length)

    def write(self, gva: int, data: bytes) -> bool:
        return write_virtual(self._machine.memory, self.registers, gva, data)


class FakeMachine:
    """Two vCPUs; what a resume does is put into ``runs``: (vcpu, exception, pc, dr6) or a call."""

    def __init__(self) -> None:
        self.memory = GuestMemory(1 << 20)
        self.memory.write(CODE, bytes(range(0x90, 0xA0)))
        self.control = types.SimpleNamespace(listeners=[], resume=self.resume)
        self.kvm = types.SimpleNamespace(check=lambda capability: uapi.KVM_GUESTDBG_BLOCKIRQ)
        self.config = types.SimpleNamespace(smp=types.SimpleNamespace(cpus=2))
        self.hyperv = types.SimpleNamespace(
            lines=lambda: ["Hyper-V by nobody"], msrs=lambda vp: {0x40000002: vp}
        )
        threads = [
            types.SimpleNamespace(
                vcpu=FakeVcpu(index), index=index, exits={}, hold=False,
                last_exits=lambda: ["out port 0x80, 1 bytes"],
            )
            for index in range(2)
        ]  # fmt: skip
        self.board = types.SimpleNamespace(threads=threads)
        self.vcpus = [FakeView(self, 0), FakeView(self, 1)]
        self.ended: Stop | None = None
        self.paused, self.calls, self.runs = False, [], []

    def add_instrument(self, install) -> None:
        install(self.board)

    def pause(self) -> None:
        self.paused = True

    def resume(self, only=None) -> None:
        self.paused = False
        self.calls.append(only)
        if self.runs:
            self.stop(*self.runs.pop(0))

    def stop(self, index: int, exception: int, pc: int, dr6: int = 0) -> None:
        """Let a vCPU come out with KVM_EXIT_DEBUG."""
        thread = self.board.threads[index]
        thread.vcpu.regs.rip = pc
        thread.vcpu.m32[8], thread.vcpu.m64[5], thread.vcpu.m64[6] = exception, pc, dr6
        thread.exits[uapi.KVM_EXIT_DEBUG]()

    def reset(self) -> None:
        self.calls.append("reset")

    def kill(self, kind: str, text: str) -> None:
        self.calls.append(text)


class Client:
    """As gdb: sends packets, checks sums, acknowledges."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(path)
        self.buffer = b""

    def ask(self, body: bytes) -> bytes:
        self.socket.sendall(frame(body))
        return self.reply()

    def reply(self) -> bytes:
        while True:
            found = re.match(rb"\+*\$([^#]*)#(..)", self.buffer)
            if found:
                self.buffer = self.buffer[found.end() :]
                assert int(found[2], 16) == sum(found[1]) & 0xFF
                self.socket.sendall(b"+")
                return found[1]
            data = self.socket.recv(65536)
            assert data, "the server hung up"
            self.buffer += data
