"""One thread per vCPU: KVM_RUN, look at why it came back, serve that, go back in.

For a reader who knows C: ``item(m8, 8, "I")`` is a pointer to the 32-bit number at byte 8 of
kvm_run (``B`` 8 bits, ``Q`` 64), and ``[()]`` dereferences it. The names in the loop are the
fields of ``struct kvm_run``. ``table[key]`` is a hash table of function pointers, and ``except
KeyError`` is the way of a key that is not there; on the usual way a ``try`` costs nothing. The
loop is the hot path of the whole program (facts and figures: docs/performance.md).

A *kick* makes KVM_RUN return: ``immediate_exit`` = 1, then a signal to the thread. So
the loop itself tests no flag; what others want from a vCPU waits in ``requests``.
"""

from __future__ import annotations

import _signal as signal  # signal itself brings enum: 4 ms of start-up
import ctypes
import sys
import threading
from _collections import deque

from .bus import CACHE_LIMIT, Bus, PioHandlers, item
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
        self.history: deque[int | tuple[int, ...]] = deque(maxlen=EXITS_KEPT)
        #: io word -> function(io word), and what makes those that are not there yet
        self.pio: dict[int, Callable[[int], None]] = {}
        self.pio_handlers = PioHandlers(bus, vcpu.m8, self.history.append)
        #: guest physical address -> function(address) that serves a store there
        self.mmio_stores: dict[int, Callable[[int], None]] = {}
        self.rdmsr: dict[int, Callable[[], int]] = {}
        self.wrmsr: dict[int, Callable[[int], None]] = {}
        self.exits: dict[int, Callable[[], None]] = {}
        self.requests: deque[Callable[[], None]] = deque()
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
        self.pio_handlers.release()
        for table in (
            self.pio, self.mmio_stores, self.rdmsr, self.wrmsr, self.exits, self.requests,
        ):  # fmt: skip
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
        m8 = self.vcpu.m8
        exit_reason, io = item(m8, 8, "I"), item(m8, 32, "Q")  # io: direction, size, port, count
        mmio_phys_addr, mmio_is_write = item(m8, 32, "Q"), item(m8, 52, "B")
        msr_index, msr_data = item(m8, 44, "I"), item(m8, 48, "Q")
        run, fd, request = run_call(), self.vcpu.fd, KVM_RUN
        pio, stores, rdmsr, wrmsr = self.pio, self.mmio_stores, self.rdmsr, self.wrmsr
        while True:
            run(fd, request)
            reason = exit_reason[()]
            if reason == 2:  # KVM_EXIT_IO
                word = io[()]
                try:
                    serve = pio[word]
                except KeyError:
                    serve = self.new_port(word)
                serve(word)
            elif reason == 30:  # KVM_EXIT_X86_WRMSR
                try:
                    wrmsr[msr_index[()]](msr_data[()])
                except (KeyError, GuestFault) as error:
                    self._msr_fault(error, wrmsr, (30, msr_index[()], msr_data[()]))
            elif reason == 29:  # KVM_EXIT_X86_RDMSR
                try:
                    msr_data[()] = rdmsr[msr_index[()]]()
                except (KeyError, GuestFault) as error:
                    self._msr_fault(error, rdmsr, (29, msr_index[()]))
            elif reason == 6:  # KVM_EXIT_MMIO
                if mmio_is_write[()]:
                    address = mmio_phys_addr[()]
                    try:
                        serve = stores[address]
                    except KeyError:
                        serve = self.new_store(address)
                    serve(address)
                else:
                    self.load()
            else:
                self.history.append((reason, io[()]))
                self.exits[reason]()

    def new_port(self, word: int) -> Callable[[int], None]:
        """Return what serves a port access that is not in the table; put it there."""
        serve = self.pio_handlers.make(word)
        # a guest that walks all ports must not fill our memory; a string has a word for each count
        if len(self.pio) < CACHE_LIMIT and word >> 32 == 1:
            self.pio[word] = serve
        return serve

    def new_store(self, gpa: int) -> Callable[[int], None]:
        """Return what serves an MMIO store that is not in the table; put it there."""
        # in the history a number below 4 GiB alone is such a store: an io word has its count above
        hole = gpa < 1 << 32 and not self.bus.mmio_claimed(gpa)
        serve = self.history.append if hole else self.store
        if len(self.mmio_stores) < CACHE_LIMIT:
            self.mmio_stores[gpa] = serve
        return serve

    def store(self, gpa: int) -> None:
        """Serve an MMIO store."""
        self.history.append((6, gpa, 1))
        data, size = self.vcpu.m64[5], self.vcpu.m32[12]
        self.bus.mmio_write(gpa, size, data & ((1 << size * 8) - 1))

    def load(self) -> None:
        """Serve an MMIO load."""
        gpa, size = self.vcpu.m64[4], self.vcpu.m32[12]
        self.history.append((6, gpa, 0))
        self.vcpu.m64[5] = self.bus.mmio_read(gpa, size)

    def _msr_fault(self, error: Exception, table: dict, entry: tuple[int, ...]) -> None:
        """Give the guest #GP, unless the KeyError is a bug in the MSR's own handler."""
        if isinstance(error, KeyError) and entry[1] in table:
            raise error
        self.history.append(entry)
        self.vcpu.m8[32] = 1

    def last_exits(self) -> list[str]:
        """Return the last exits in words, oldest first."""
        return [describe_exit(entry) for entry in list(self.history)]


def describe_exit(entry: int | tuple[int, ...]) -> str:
    """Say in words what ``VcpuThread.history`` keeps in numbers."""
    if isinstance(entry, int):
        if not entry >> 32:
            return f"mmio write {entry:#x}"
        way, count = "out" if entry & 1 else "in", entry >> 32
        times = f", {count} times" if count > 1 else ""
        return f"{way} port {entry >> 16 & 0xFFFF:#x}, {entry >> 8 & 0xFF} bytes{times}"
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
