"""One thread per vCPU: KVM_RUN, look at why it came back, serve that, go back in.

For a reader who knows C: ``m32[2]`` is kvm_run.exit_reason (byte 8, as 32-bit
items), ``m32[8]`` the first word of kvm_run.io (byte 32: direction, size, port),
``m32[9]`` its count; for an MSR exit ``m8[32]`` is msr.error, ``m32[11]`` msr.index,
``m64[6]`` msr.data; for MMIO ``m64[4]`` is the address, ``m64[5]`` the data, ``m32[12]``
the length, ``m8[52]`` is_write. The loop is the hot path of the whole program, so it
reads the page this way and not through names (facts and figures: docs/architecture.md).

A *kick* makes KVM_RUN return: ``immediate_exit`` = 1, then a signal to the thread. So
the loop itself tests no flag; what others want from a vCPU waits in ``requests``.
"""

from __future__ import annotations

import _signal as signal  # signal itself brings enum: 4 ms of start-up
import ctypes
import sys
import threading
from _collections import deque

from .bus import Bus, PioTable
from .errors import GuestFault
from .kvm import uapi
from .kvm.ioctl import KVM_RUN, run_call
from .kvm.vcpu import Vcpu
from .memory import machine_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


EXITS_KEPT = 24
SWITCH_INTERVAL_S = 1e-4
KICK_SIGNAL = signal.SIGRTMIN + 5
_KICKS = (KICK_SIGNAL,)


_libc_signal = ctypes.CDLL(None).signal
_libc_signal.argtypes, _libc_signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p


class _Leave(BaseException):
    """Raised on the vCPU's own thread to end the loop; never seen outside."""


def install_kick_handler() -> None:
    """Give the kick signal a handler that does nothing, in machine code.

    ``signal.signal`` works only in the main thread and would run Python there at every
    kick; this works from any thread. SA_RESTART (glibc's signal) keeps other system
    calls of the process whole; KVM_RUN returns EINTR all the same.
    """
    _libc_signal(KICK_SIGNAL, machine_code("nop"))


class VcpuThread:
    """Runs one vCPU on a thread of its own.

    :param stop: called once with what ended the machine, from this thread.
    :param rdmsr, wrmsr: MSR number -> read() / write(value); a missing number or a GuestFault is
        #GP(0) in the guest. Only ``in_user`` gets MSR exits.
    :param exits: exit reason -> function(), for all but ports, MMIO and MSRs.
    """

    def __init__(
        self, vcpu: Vcpu, bus: Bus, failed: Callable[[VcpuThread, BaseException], None]
    ) -> None:
        self.vcpu, self.bus, self.index = vcpu, bus, vcpu.index
        self.pio = PioTable(bus, vcpu.m8)
        self.rdmsr: dict[int, Callable[[], int]] = {}
        self.wrmsr: dict[int, Callable[[int], None]] = {}
        self.exits: dict[int, Callable[[], None]] = {}
        self.requests: deque[Callable[[], None]] = deque()
        self.history: deque[int | tuple[int, ...]] = deque(maxlen=EXITS_KEPT)
        self.hold = False  # stand outside the guest; set it, then kick
        self.parked = threading.Event()  # it stands there, or has ended
        self._failed = failed
        self._kick_lock = threading.Lock()  # between a kick and the thread's end
        self._ended = False
        self.thread = threading.Thread(target=self._main, name=f"vcpu{self.index}", daemon=True)

    def start(self) -> None:
        """Start the thread; the vCPU's registers must be set."""
        self.thread.start()

    def request(self, function: Callable[[], None]) -> None:
        """Run *function* on the vCPU's thread, outside the guest, soon; any thread may call."""
        self.requests.append(function)
        self.kick()

    def kick(self) -> None:
        """Make the vCPU leave the guest, or not enter it."""
        # Python detaches its threads: pthread_kill after the end is a use after free
        with self._kick_lock:
            if self._ended:
                return
            self.vcpu.m8[uapi.RUN_IMMEDIATE_EXIT] = 1
            ident = self.thread.ident
            if ident is not None:
                signal.pthread_kill(ident, KICK_SIGNAL)

    def leave(self) -> None:
        """End the loop; on the vCPU's thread (put it into :meth:`request`)."""
        raise _Leave

    def _main(self) -> None:
        try:
            while True:
                if self.hold:
                    self._park()
                try:
                    self._run()
                except InterruptedError:
                    pass
                except BlockingIOError:
                    pass  # EAGAIN: an AP got its INIT or SIPI; go round (measured: once per AP)
                self.serve_requests()
        except _Leave:
            pass
        except BaseException as error:  # nothing a guest does may end in silence
            self._failed(self, error)
        finally:
            with self._kick_lock:
                self._ended = True
            self.parked.set()

    def _park(self) -> None:
        """Serve requests, outside the guest, until ``hold`` is off and a kick came."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _KICKS)  # a kick waits for sigwait: none is lost
        self.parked.set()
        try:
            while True:
                self.serve_requests()
                if not self.hold:
                    return
                if not self.requests:
                    signal.sigwait(_KICKS)
        finally:
            self.parked.clear()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _KICKS)

    def release(self) -> None:
        """Let go of kvm_run and of all that the tables refer to; the thread must have ended."""
        self._ended = True
        self.pio.release()
        for table in (self.rdmsr, self.wrmsr, self.exits, self.requests):
            table.clear()
        del self._failed

    def serve_requests(self) -> None:
        """Do what other threads asked for. immediate_exit is cleared first, so none is missed."""
        self.vcpu.m8[uapi.RUN_IMMEDIATE_EXIT] = 0
        requests = self.requests
        while requests:
            requests.popleft()()
        if self.hold:  # served inside an exit: KVM_RUN shall not go on after it
            self.vcpu.m8[uapi.RUN_IMMEDIATE_EXIT] = 1

    def _run(self) -> None:
        """Run the guest until a kick (InterruptedError) or an end."""
        m32, m64 = self.vcpu.m32, self.vcpu.m64
        run, fd, request = run_call(), self.vcpu.fd, KVM_RUN
        pio, string, note = self.pio, self.pio.string, self.history.append
        rdmsr, wrmsr, exits, mmio = self.rdmsr, self.wrmsr, self.exits, self._mmio
        fault = self._msr_fault
        while True:
            run(fd, request)
            reason = m32[2]
            if reason == 2:  # KVM_EXIT_IO
                word = m32[8]
                note(word)
                if m32[9] == 1:
                    pio[word]()
                else:
                    string(word, m32[9])
            elif reason == 30:  # KVM_EXIT_X86_WRMSR
                try:
                    wrmsr[m32[11]](m64[6])
                except (KeyError, GuestFault) as error:
                    fault(error, wrmsr, (30, m32[11], m64[6]))
            elif reason == 29:  # KVM_EXIT_X86_RDMSR
                try:
                    m64[6] = rdmsr[m32[11]]()
                except (KeyError, GuestFault) as error:
                    fault(error, rdmsr, (29, m32[11]))
            elif reason == 6:  # KVM_EXIT_MMIO
                mmio()
            else:
                note((reason, m64[4]))
                exits[reason]()

    def _msr_fault(self, error: Exception, table: dict, entry: tuple[int, ...]) -> None:
        """Give the guest #GP, unless the KeyError is a bug in the MSR's own handler."""
        if isinstance(error, KeyError) and entry[1] in table:
            raise error
        self.history.append(entry)
        self.vcpu.m8[32] = 1

    def _mmio(self) -> None:
        m8, m64 = self.vcpu.m8, self.vcpu.m64
        size = self.vcpu.m32[12]
        gpa = m64[4]
        self.history.append((6, gpa, m8[52]))
        if m8[52]:
            self.bus.mmio_write(gpa, size, m64[5] & ((1 << size * 8) - 1))
        else:
            m64[5] = self.bus.mmio_read(gpa, size)

    def last_exits(self) -> list[str]:
        """Return the last exits in words, oldest first."""
        return [describe_exit(entry) for entry in list(self.history)]


def describe_exit(entry: int | tuple[int, ...]) -> str:
    """Say in words what ``VcpuThread.history`` keeps in numbers."""
    if isinstance(entry, int):
        way = "out" if entry & 1 else "in"
        return f"{way} port {entry >> 16:#x}, {entry >> 8 & 0xFF} bytes"
    reason, *rest = entry
    if reason == uapi.KVM_EXIT_MMIO:
        return f"mmio {'write' if rest[1] else 'read'} {rest[0]:#x}"
    if reason == uapi.KVM_EXIT_X86_WRMSR:
        return f"wrmsr {rest[0]:#x} = {rest[1]:#x}: #GP"
    if reason == uapi.KVM_EXIT_X86_RDMSR:
        return f"rdmsr {rest[0]:#x}: #GP"
    name = str(uapi.EXIT_NAMES.get(reason, reason))
    # the union in kvm_run begins with a 32-bit number in these; in others it may be a leftover
    return f"{name} {rest[0] & 0xFFFFFFFF:#x}" if reason in _NUMBERED else name


_NUMBERED = (
    uapi.KVM_EXIT_INTERNAL_ERROR, uapi.KVM_EXIT_FAIL_ENTRY, uapi.KVM_EXIT_SYSTEM_EVENT,
    uapi.KVM_EXIT_HYPERV,
)  # fmt: skip


_switching = [0, 0.0]  # machines that were started, the interval before the first of them
_switching_lock = threading.Lock()


def quick_switching(change: int) -> None:
    """Count machines; while there is one, a computing thread gives the GIL up after 0.1 ms.

    An exiting vCPU needs it soon (measured: 9 times more exits); 5 ms is Python's default.
    """
    with _switching_lock:
        if not _switching[0]:
            _switching[1] = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        _switching[0] += change
        if not _switching[0]:
            sys.setswitchinterval(_switching[1])
