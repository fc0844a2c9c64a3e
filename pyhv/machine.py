"""The public Machine: what outlives a reset, and the calls a test or the command line makes.

Threads: one per vCPU, the event loop (which also builds and buries boards at a reset), and
with in_user timers one more. ``with Machine(...) as vm`` leaves none of them behind.
"""

from __future__ import annotations

import sys
import threading

from . import runloop
from .board import Board
from .errors import ConfigError, Exit, HostError
from .events import EventLoop
from .kvm.cpuid import Cpuid
from .kvm.system import Kvm
from .memory import GuestMemory
from .stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .boot.entry import EntryState
    from .config import MachineConfig
    from .console import Console
    from .devices.cmos import Cmos

RTC_IRQ = 8
STATUS = {
    "poweroff": Exit.POWER_OFF,
    "reset": Exit.POWER_OFF,
    "triple-fault": Exit.TRIPLE_FAULT,
    "kvm-error": Exit.KVM_ERROR,
    "hv-crash": Exit.HV_CRASH,
    "stuck": Exit.STUCK,
    "time-limit": Exit.TIME_LIMIT,
    "quit": Exit.QUIT,
    "error": Exit.ERROR,
    "no-boot": Exit.ERROR,
}


class Machine:
    """A virtual machine.

    :param config: a MachineConfig, or None and its fields as keywords
        (``Machine(memory="256M", disk="x.img", cpu="host,hv_time")``).
    :param console: where COM1 goes; a new :class:`~pyhv.console.Console` if None.
    :raises PyhvError: it cannot be built; nothing is left open.

    ::

        with Machine(disk="debian.img", smp=2) as vm:
            vm.start()
            vm.console.expect("login:", timeout=120)
            vm.console.send(b"root\\n")
            stop = vm.wait(timeout=60)
    """

    def __init__(
        self, config: MachineConfig | None = None, console: Console | None = None, **options: object
    ) -> None:
        from .config import machine_config

        self.config = config if config is not None else machine_config(**options)
        if console is None:
            from .console import Console

            console = Console()
        self.console = console
        self.disks: list = []
        self.bios = None
        self.cmos: Cmos | None = None  # the battery keeps the clock and its RAM over resets
        self.board: Board | None = None
        self.result: Stop | None = None
        self._stop_lock = threading.Lock()
        self._stopping: Stop | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.kvm = Kvm()
        self.memory: GuestMemory | None = None
        self.events: EventLoop | None = None
        try:
            self._choose_driver()
            self._open_disks()
            self.memory = GuestMemory(self.config.memory_bytes)
            self.events = EventLoop(self.internal_error)
            runloop.install_kick_handler()
            self.board = Board(self)
        except BaseException:
            self.close()
            raise
        self.console.connect(self._console_input)

    # what a board asks for

    def _choose_driver(self) -> None:
        from .guestcpuid import GuestCpuid

        wanted, has_kernel = self.config.hyperv, self.kvm.has_hyperv()
        if wanted == "kernel" and not has_kernel:
            raise HostError("--hyperv kernel: this host's KVM has no Hyper-V (CONFIG_KVM_HYPERV); use --hyperv user")
        self.in_kernel = has_kernel and wanted != "user"
        if not self.in_kernel and not self.kvm.has_msr_exits():
            raise HostError(
                "Hyper-V in user space: this KVM cannot send MSR accesses to user space; Linux 5.10 or later can"
            )
        host = self.kvm.supported_hv_cpuid() if self.in_kernel else None
        self.guest_cpuid = GuestCpuid(
            self.config.cpu, self.kvm.supported_cpuid(), host, self.config.smp
        )
        self.features = self.guest_cpuid.features

    @property
    def driver_name(self) -> str:
        """``in_kernel`` or ``in_user``: who serves Hyper-V; ``none`` when the guest sees none."""
        if not self.features.enabled:
            return "none"
        return "in_kernel" if self.in_kernel else "in_user"

    def _open_disks(self) -> None:
        for drive in self.config.drives:
            from .disk import Disk

            self.disks.append(Disk(drive.path, readonly=drive.readonly, snapshot=drive.snapshot))

    def cpuid_for(self, index: int) -> Cpuid:
        """Return the CPUID of vCPU *index*."""
        return self.guest_cpuid.for_vcpu(index)

    def load(self, board: Board) -> EntryState:
        """Put firmware or a kernel into RAM and say where the boot vCPU starts."""
        from .boot import acpi

        rsdp = acpi.build(self.memory, self.config.smp.cpus)
        if self.config.kernel is not None:
            from .boot import detect

            self.bios = None
            return detect.load(
                self.memory, self.config.kernel, self.config.append, self.config.initrd, rsdp
            )
        from .boot import bios, e820

        serial = board.serial
        self.bios = bios.Bios(
            self.memory, self.disks, self.console, e820.build(self.memory), self.stop,
            lambda: serial.programmed, board.cmos,
        )  # fmt: skip
        return self.bios.install()

    def clock_line(self, level: bool) -> None:
        """Drive the RTC's interrupt line on whatever board is in."""
        if self.board is not None:
            self.board.vm.irq_line(RTC_IRQ, level)

    # endings

    def stop(self, kind: str, text: str, details: dict[str, object] | None = None, status: int | None = None) -> None:
        """End the machine; the first caller's reason counts. Any thread, returns at once."""
        if status is None:
            status = STATUS[kind]
        with self._stop_lock:
            if self._stopping is not None:
                return
            self._stopping = Stop(kind, status, text, details or {})
        if self._thread is not None:
            self.events.call(self._finish)

    def power_off(self) -> None:
        """The guest entered ACPI S5."""
        self.stop("poweroff", "the guest powered off")

    def exit(self, status: int) -> None:
        """The guest wrote the debug-exit port."""
        self.stop("exit", f"the guest ended with status {status}", status=status & 0xFF)

    def request_reset(self, why: str) -> None:
        """The guest asked for a reset."""
        if self.config.no_reboot:
            self.stop("reset", f"the guest reset ({why})")
            return
        board = self.board
        self.events.call(lambda: self._reset(board))

    def hv_crash(self, parameters: tuple[int, ...], control: int) -> None:
        """The guest wrote HV_X64_MSR_CRASH_CTL."""
        details: dict[str, object] = {"parameters": parameters, "control": control}
        self.stop("hv-crash", "the guest reported a crash", details)

    def internal_error(self, error: BaseException) -> None:
        """Something of ours failed; the machine stops, the process lives on."""
        import traceback

        text = "".join(traceback.format_exception(error))
        self.stop("error", f"internal error: {error!r}", {"traceback": text})

    def _reset(self, board: Board | None) -> None:
        if board is not self.board or board is None or self._stopping is not None:
            return  # a second request of the same life
        board.halt()
        board.close()
        self.board = None
        if self._stopping is not None:
            self._finish()
            return
        self.board = Board(self)
        self.board.start()

    def _finish(self) -> None:
        board, self.board = self.board, None
        if board is not None:
            board.halt()
            if self._stopping.kind in ("quit", "time-limit"):
                for thread in board.threads[:1]:
                    self._stopping.details.update(board.details(thread))
            board.close()
        self.events.end()

    # for callers

    def start(self) -> None:
        """Run the machine; returns at once."""
        if self._thread is not None:
            raise ConfigError("this machine was started already")
        # a computing thread must give the GIL to an exiting vCPU soon (measured: 9 times more exits)
        sys.setswitchinterval(1e-4)
        self._thread = threading.Thread(target=self._main, name="events", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.board.start()
            self.events.run()
        except BaseException as error:
            self.internal_error(error)
            if self.board is not None:
                self.board.halt()
        finally:
            self.result = self._stopping
            for disk in self.disks:
                disk.close()
            self._done.set()
            self.console.finish()

    def wait(self, timeout: float | None = None) -> Stop:
        """Return why the machine stopped.

        :param timeout: seconds; None waits for ever.
        :raises TimeoutError: it still runs.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"the machine still runs after {timeout} s")
        return self.result

    def reset(self) -> None:
        """Press the reset button."""
        board = self.board
        self.events.call(lambda: self._reset(board))

    def kill(self, kind: str = "quit", text: str = "stopped from outside") -> None:
        """Stop at once, without the guest's help; :meth:`wait` then returns."""
        self.stop(kind, text)

    def _console_input(self, data: bytes) -> int:
        board = self.board
        if board is None:
            return 0
        if self.bios is not None and not board.serial.programmed:
            self.bios.key_input(data)
            return len(data)
        return board.uart.receive(data)

    def close(self) -> None:
        """Stop if it runs, and give back every thread, descriptor and page. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self.kill()
            self._thread.join()
        elif self.board is not None:
            self.board.close()
            self.board = None
        for disk in self.disks:
            disk.close()
        if self.events is not None:
            self.events.close()
        self.bios = None
        if self.memory is not None:
            self.memory.close()
        self.kvm.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
