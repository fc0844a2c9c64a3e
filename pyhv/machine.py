"""The public Machine: what outlives a reset, and the calls a test or the command line makes.

Threads: one per vCPU, the event loop (which also builds and buries boards at a reset), and
with in_user one per synthetic timer that is used. ``with Machine(...) as vm`` leaves none of
them behind.
"""

from __future__ import annotations

import os
import sys
import threading

from . import loading, runloop
from .board import Board
from .control import PATIENCE_S, Control
from .endings import Endings
from .errors import ConfigError, HostError, PyhvError
from .events import EventLoop
from .kvm.cpuid import Cpuid
from .kvm.system import Kvm
from .memory import GuestMemory
from .parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .boot.entry import EntryState
    from .config import MachineConfig
    from .console import Console
    from .devices.cmos import Cmos
    from .snapshot import Snapshot
    from .stop import Stop
    from .vmbus.device import Device

RTC_IRQ = 8


class Machine(Endings, Parts):
    """A virtual machine.

    :param config: a MachineConfig, or None and its fields as keywords
        (``Machine(memory="256M", disk="x.img", cpu="host,hv_time")``).
    :param console: where COM1 goes; a new :class:`~pyhv.console.Console` if None.
    :param snapshot: go on from there, as its machine; of *options* only time_limit and no_reboot.
    :raises PyhvError: it cannot be built; nothing is left open.

    ::

        with Machine(disk="debian.img", smp=2) as vm:
            vm.start()
            vm.console.expect("login:", timeout=120)
            stop = vm.wait(timeout=60)
    """

    _closed = True  # until there is something to close

    def __init__(
        self, config: MachineConfig | None = None, console: Console | None = None,
        snapshot: Snapshot | None = None, **options: object,
    ) -> None:  # fmt: skip
        from .config import machine_config

        if snapshot is not None and config is None:
            config = snapshot.machine_config(**options)
        self.config = config if config is not None else machine_config(**options)
        if console is None:
            from .console import Console

            console = Console()
        self.console = console
        self.luns: dict = {}  # see Drives
        self.plugged = False
        self.sockets = None  # see Streams
        self.display = None  # see Seat
        self.own_devices: Sequence[Device] = ()  # see Offering
        self.nics: list = []  # (backend, MAC) of each network card
        self.notice: Callable[[str], None] | None = None  # told what goes wrong while it runs
        self.bios = None
        self.cmos: Cmos | None = None  # the battery keeps the clock and its RAM over resets
        self.generation_id = os.urandom(16)  # another one after a restore
        self.clock_zero_ns: int | None = None  # CLOCK_MONOTONIC when the first life's clock was 0
        self.board: Board | None = None
        self.result: Stop | None = None
        self.control = Control(self)
        self.instruments: list[Callable[[Board], None]] = []
        self._stop_lock = threading.RLock()  # a signal handler may call kill() inside kill()
        self._board_lock = threading.Lock()  # a board is not buried while input goes into it
        self._close_lock = threading.Lock()
        self._stopping: Stop | None = None
        self._guest_asked = False  # for the reset that is on its way
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self.kvm = Kvm()
        self.memory: GuestMemory | None = None
        self.events: EventLoop | None = None
        self._closed = False
        try:
            self._choose_driver()
            if self.config.drives:
                self._open_drives()
            self.memory = GuestMemory(
                self.config.memory_bytes, self.config.max_memory_bytes or 0
            )
            self.events = EventLoop(self.internal_error)
            self._open_nics()
            runloop.install_kick_handler()
            if snapshot is not None:
                self.restore(snapshot)
            else:
                self.board = Board(self)
        except OSError as error:
            self.close()
            if isinstance(error, PyhvError):
                raise
            raise HostError(
                f"building a machine: {os.strerror(error.errno or 0)}{loading.remedy(error)}"
            ) from error
        except BaseException:
            self.close()
            raise

    # what a board asks for

    def _choose_driver(self) -> None:
        self.in_kernel = loading.in_kernel(self.config, self.kvm)
        self.guest_cpuid = loading.guest_cpuid(self.config, self.kvm, self.in_kernel)
        self.features = self.guest_cpuid.features

    @property
    def driver_name(self) -> str:
        """``in_kernel`` or ``in_user``: who serves Hyper-V; ``none`` when the guest sees none."""
        if not self.features.enabled:
            return "none"
        return "in_kernel" if self.in_kernel else "in_user"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of ``-cpu``, a sentence each."""
        return self.guest_cpuid.warnings

    @property
    def notes(self) -> tuple[str, ...]:
        """What a preset stands for, a sentence; nothing without one."""
        return self.guest_cpuid.notes

    def _open_nics(self) -> None:
        if self.config.nics and not self.features.synic:
            raise ConfigError("-nic: the card is on VMBus, which needs hv_synic; see docs/flags.md")
        for number, nic in enumerate(self.config.nics):
            from .net.config import mac_of
            from .net.kinds import backend

            opened = backend(nic)
            opened.notice = self._notice
            opened.open(self.events)
            self.nics.append((opened, mac_of(nic, number)))

    def _notice(self, text: str) -> None:
        if self.notice is not None:
            self.notice(text)

    def cpuid_for(self, index: int) -> Cpuid:
        """Return the CPUID of vCPU *index*."""
        return self.guest_cpuid.for_vcpu(index)

    def load(self, board: Board, boot: bool = True) -> EntryState | None:
        """Put firmware or a kernel into RAM and say where the boot vCPU starts.

        :param boot: False: RAM has it already, only what serves the firmware is made.
        """
        if not boot:
            self.bios = loading.bios_services(self, board)
            return None
        self.bios, state = loading.load(self, board)
        return state

    def clock_line(self, level: bool) -> None:
        """Drive the RTC's interrupt line on whatever board is in."""
        if self.board is not None:
            self.board.vm.irq_line(RTC_IRQ, level)

    # resets

    def _reset(self, board: Board | None) -> None:
        if board is not self.board or board is None or self._stopping is not None:
            return  # a second request of the same life
        board.halt()
        self.clock_zero_ns = board.vm.clock_zero_ns()
        self._bury()
        if self._stopping is not None:
            self._finish()
            return
        if self.config.agent:
            self.renew_shells()
        self.board = Board(self)
        self.board.start()
        self.control.notify("RESET", guest=self._guest_asked)
        self._guest_asked = False

    def _bury(self) -> None:
        """Close the board, whose vCPUs have been halted."""
        with self._board_lock:
            board, self.board = self.board, None
        if board is not None:
            board.close()

    def _finish(self) -> None:
        """End the loop, whatever fails on the way: :meth:`wait` must return."""
        try:
            board = self.board
            if board is not None:
                board.halt()
                if self._stopping.kind in ("quit", "time-limit"):
                    for thread in board.threads[:1]:
                        self._stopping.details.update(board.details(thread))
            self._bury()
        finally:
            self.events.end()

    # for callers

    @property
    def started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread is not None

    @property
    def ended(self) -> Stop | None:
        """Why it stops or has stopped, known before :meth:`wait` returns; None while it runs."""
        return self._stopping

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` was called, and not :meth:`resume`."""
        return self.control.paused

    def pause(self, timeout: float = PATIENCE_S) -> None:
        """Stop every vCPU and the partition's time; returns when they stand, see control.py.

        Before :meth:`start`: the machine will stand before its first instruction.

        :raises ConfigError: it has stopped. HostError: a vCPU did not come out in *timeout* s.
        """
        self.control.pause(timeout)

    def resume(self, timeout: float = PATIENCE_S) -> None:
        """Go on after :meth:`pause`. :raises ConfigError: it has stopped."""
        self.control.resume(timeout)

    def start(self) -> None:
        """Run the machine; returns at once."""
        with self._close_lock:
            if self._closed:
                raise ConfigError("start: this machine is closed")
            if self._thread is not None:
                raise ConfigError("start: this machine was started already; make a new one")
            thread = threading.Thread(target=self._main, name="events", daemon=True)
            with self._stop_lock:
                self._thread = thread
            self.console.connect(self._console_input)
            runloop.quick_switching(+1)
            try:
                thread.start()
            except RuntimeError as error:
                self._thread = None
                runloop.quick_switching(-1)
                raise HostError(
                    f"start: {error}; the limit of threads (ulimit -u) is reached"
                ) from error

    def _main(self) -> None:
        try:
            if self._stopping is not None:  # killed before it began
                self._finish()
            else:
                self.board.start()
                self._limit_time()
            self.events.run()
        except BaseException as error:
            self.internal_error(error)
        finally:
            try:
                self._clear_up()
            except Exception as error:
                self.internal_error(error)
            self.result = self._stopping
            self.control.notify("SHUTDOWN")
            self._done.set()
            self.console.finish()

    def _limit_time(self) -> None:
        limit = self.config.time_limit
        if limit is not None:
            text = f"the time limit of {limit:g} s ran out"
            self.events.after(limit, lambda: self.stop("time-limit", text))

    def _clear_up(self) -> None:
        """Close what a machine that stopped needs no more: the board, if still there, and disks."""
        for disk in self.luns.values():
            if disk is not None:
                disk.close()
        if self.board is not None:
            self.board.halt()
            self._bury()
        for nic, _ in self.nics:
            nic.close()
        if self.sockets is not None:
            self.sockets.close()

    def wait(self, timeout: float | None = None) -> Stop:
        """Return why the machine stopped.

        :param timeout: seconds; None waits for ever.
        :raises TimeoutError: it still runs.
        :raises ConfigError: it was never started.
        """
        if self._thread is None:
            raise ConfigError("wait: this machine was not started")
        if not self._done.wait(timeout):
            raise TimeoutError(f"the machine still runs after {timeout} s")
        return self.result

    def reset(self) -> None:
        """Press the reset button."""
        board = self.board
        self.call(lambda: self._reset(board))

    def kill(self, kind: str = "quit", text: str = "stopped from outside") -> None:
        """Stop at once, without the guest's help; :meth:`wait` then returns."""
        self.stop(kind, text)

    def _console_input(self, data: bytes) -> int:
        with self._board_lock:
            board = self.board
            if board is None:
                return 0
            if self.bios is not None and not board.serial.programmed:
                self.bios.key_input(data)
                return len(data)
            return board.uart.receive(data)

    def close(self) -> None:
        """Stop if it runs, and give back every thread, descriptor and page. Idempotent.

        Any thread but the machine's own may call; :meth:`wait` tells the result afterwards, too.
        """
        if self._thread is threading.current_thread():
            raise ConfigError("close: not from the machine's own thread; call kill() there")
        with self._close_lock:
            if self._closed:
                return
            self._closed, thread = True, self._thread
            if thread is not None:
                self.kill()
                thread.join()
                runloop.quick_switching(-1)
            with self._stop_lock:
                events, self.events = self.events, None
            if self.display is not None:
                self.display.close()
            try:
                self._clear_up()
            finally:
                if events is not None:
                    events.close()
                self.bios = self.cmos = None
                self.control.close()
                if self.memory is not None:
                    self.memory.close()
                self.kvm.close()

    def __del__(self) -> None:
        """A machine that was dropped unclosed, before it ran or after, leaves nothing either."""
        if not self._closed and not sys.is_finalizing():
            self.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
