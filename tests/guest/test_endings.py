"""Every way a machine ends: its kind, its status, and what it tells about the guest."""

from __future__ import annotations

import pathlib

import guestcode
import pytest
from libguest import SECONDS, descriptors, drivers, rss_kib

from pyhv import Machine
from pyhv.errors import Exit
from pyhv.stop import Stop

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]


def run(path: str, **options: object) -> Stop:
    """Run a guest to its end."""
    options = {"cpu": "host", "memory": "4M"} | options
    with Machine(kernel=path, **options) as vm:
        vm.start()
        return vm.wait(SECONDS)


# name: (real-mode code, options, kind, status, text)
ENDINGS = {
    "ACPI S5": ("power_off", {}, "poweroff", Exit.POWER_OFF, "the guest powered off"),
    "exit port, 0": ("exit 0", {}, "exit", 1, "status 1"),
    "exit port, 21": ("exit 21", {}, "exit", 43, "status 43"),
    "exit port, 32 bits": (
        "mov $0x1ff, %eax\n mov $0xf4, %dx\n out %eax, %dx", {}, "exit", 0xFF, "status 1023",
    ),
    "exit port, rep outsb": (
        "mov $2, %cx\n mov $0xf4, %dx\n mov $data, %si\n rep outsb\n jmp 1f\n data: .byte 3, 9\n1:",
        {}, "exit", 7, "status 7",
    ),
    "i8042 pulse": ("outb 0x64, 0xfe", {"no_reboot": True}, "reset", 0, "i8042 command 0xfe"),
    "port 0x92": ("outb 0x92, 1", {"no_reboot": True}, "reset", 0, "port 0x92"),
    "port 0xcf9": ("outb 0xcf9, 6", {"no_reboot": True}, "reset", 0, "port 0xcf9"),
    "cli; hlt": ("cli\n hlt", {}, "stuck", Exit.STUCK, "every vCPU is halted"),
    "cli; hlt beside vCPUs that never started": (
        "cli\n hlt", {"smp": 3}, "stuck", Exit.STUCK, "every vCPU is halted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_ending(name: str) -> None:
    """The guest ends in this way; nothing it would print afterwards is seen."""
    body, options, kind, status, text = ENDINGS[name]
    stop = run(guestcode.sector(body), **options)
    assert (stop.kind, stop.status) == (kind, status)
    assert text in stop.text


@pytest.mark.parametrize("name", [n for n, row in ENDINGS.items() if row[2] in ("exit", "reset")])
def test_nothing_runs_after_the_end(name: str) -> None:
    """The vCPU does not go on while the machine is being stopped: no byte leaves it any more."""
    body, options, kind, *_ = ENDINGS[name]
    more = "\n 2: outb 0x3f8, 'x'\n outb 0x3fb, 3\n jmp 2b"
    with Machine(kernel=guestcode.sector(body + more), cpu="host", memory="4M", **options) as vm:
        vm.start()
        assert vm.wait(SECONDS).kind == kind
        assert not vm.console.data()


def test_triple_fault_tells_exits_and_registers() -> None:
    """The last exits, oldest first, and the registers at the fault."""
    body = """
        mov $0x1122334455667788, %r12
        outb 0x80, 7
        in $0x71, %al
        movw $0, idtr
        lidt idtr
        ud2
"""
    stop = run(guestcode.kernel(body))
    assert (stop.kind, stop.status) == ("triple-fault", Exit.TRIPLE_FAULT)
    assert stop.text.startswith("vcpu 0: triple fault")
    assert stop.details["vcpu"] == 0
    exits = stop.details["exits"]
    assert exits[-3:-1] == ["out port 0x80, 1 bytes", "in port 0x71, 1 bytes"]
    assert exits[-1] == "SHUTDOWN"
    registers = stop.details.get("registers")
    if registers is None:
        assert stop.text.endswith("; AMD's SVM lost its registers")
        return
    assert registers["r12"] == 0x1122334455667788
    assert guestcode.KERNEL < registers["rip"] < guestcode.KERNEL + 0x10000


@pytest.mark.parametrize("target", [0xFED00000, 0xC0000000])
def test_jump_into_mmio(target: int) -> None:
    """Code cannot be fetched from where there is no RAM: KVM gives up, the machine says so."""
    stop = run(guestcode.kernel(f"mov ${target:#x}, %eax\n jmp *%rax"))
    assert (stop.kind, stop.status) == ("kvm-error", Exit.KVM_ERROR)
    assert "KVM internal error" in stop.text
    assert stop.details["suberror"] == 1  # KVM_INTERNAL_ERROR_EMULATION
    assert stop.details["exits"][-1] == "INTERNAL_ERROR 0x1"
    assert stop.details["registers"]["rip"] == target


CRASH = "".join(
    f"mov ${0x40000100 + n:#x}, %ecx\n mov ${0xA0 + n:#x}, %eax\n mov $0, %edx\n wrmsr\n"
    for n in range(5)
)
CRASH += "mov $0x40000105, %ecx\n mov $0, %eax\n mov $0x80000000, %edx\n wrmsr\n"


@pytest.mark.parametrize("driver", drivers())
def test_hyperv_crash(driver: str) -> None:
    """HV_X64_MSR_CRASH_CTL: the five parameters come out, under either driver."""
    stop = run(guestcode.kernel(CRASH + "exit 1"), cpu="host,hv_crash", hyperv=driver)
    assert (stop.kind, stop.status) == ("hv-crash", Exit.HV_CRASH)
    assert stop.details["parameters"] == (0xA0, 0xA1, 0xA2, 0xA3, 0xA4)


@pytest.mark.parametrize("driver", drivers())
def test_crash_control_without_notify_goes_on(driver: str) -> None:
    """Only bit 63 reports a crash."""
    body = "mov $0x40000105, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n exit 4"
    assert run(guestcode.kernel(body), cpu="host,hv_crash", hyperv=driver).status == 9


@pytest.mark.parametrize("driver", drivers())
def test_hyperv_reset(driver: str) -> None:
    """HV_X64_MSR_RESET resets."""
    body = "mov $0x40000003, %ecx\n mov $1, %eax\n xor %edx, %edx\n wrmsr\n exit 1"
    stop = run(guestcode.kernel(body), cpu="host,hv_reset", hyperv=driver, no_reboot=True)
    assert stop.kind == "reset"
    assert "HV_X64_MSR_RESET" in stop.text


#: RAM is kept over a reset: count in it, reset by the port given, power off in the end.
COUNT = """
        incw 0x600
        cmpw ${count}, 0x600
        jae 1f
        {reset}
1:      power_off
"""
RESETS = {
    "port 0xcf9": "outb 0xcf9, 6",
    "i8042": "outb 0x64, 0xfe",
    "port 0x92, timers and COM1 at work": """
        outb 0x3fb, 3
        outb 0x3f9, 2
        outb 0x43, 0x34
        outb 0x40, 2
        outb 0x40, 0
        outb 0x70, 0xb
        outb 0x71, 0x72
        outb 0x92, 1""",
}


@pytest.mark.parametrize(("name", "lives"), list(zip(RESETS, (50, 12, 12), strict=True)))
def test_reset_loop(name: str, lives: int) -> None:
    """Many lives, and no descriptor, thread or memory more than after a few."""
    with Machine(
        kernel=guestcode.sector(COUNT.format(count=lives, reset=RESETS[name])),
        cpu="host", memory="4M",
    ) as vm:  # fmt: skip
        counts, sizes = [], []
        make_board = vm._reset

        def counted(board: object) -> None:
            make_board(board)
            counts.append(len(descriptors()))
            if len(counts) % 10 == 0:
                sizes.append(rss_kib())

        vm._reset = counted
        vm.start()
        assert vm.wait(SECONDS).kind == "poweroff"
        assert vm.memory.read(0x600, 2) == lives.to_bytes(2, "little")
    assert len(counts) == lives - 1
    assert len(set(counts)) == 1
    # 8 to 12 KiB a life until the allocator is warm, then none (over 300 lives, measured)
    assert sizes[-1] - sizes[0] < 512


def test_reset_button(neighbour: Machine) -> None:
    """Machine.reset() starts a guest again that hangs; one that had ended stays ended."""
    body = "incw 0x600\n cmpw $3, 0x600\n jb 1f\n exit 1\n1: outb 0x3f8, 'r'\n 2: jmp 2b"
    with Machine(kernel=guestcode.sector(body), cpu="host", memory="4M") as vm:
        vm.start()
        for _ in range(2):
            vm.console.expect("r", timeout=SECONDS)
            vm.reset()
        assert vm.wait(SECONDS).status == 3
        vm.reset()
        assert vm.wait(SECONDS).status == 3


def test_kernel_gone_at_a_reset(tmp_path: pathlib.Path) -> None:
    """What cannot be loaded again ends the machine in one line, not in a traceback."""
    path = tmp_path / "kernel"
    path.write_bytes(pathlib.Path(guestcode.sector("outb 0x3f8, 'k'\n 1: jmp 1b")).read_bytes())
    with Machine(kernel=str(path), cpu="host", memory="4M") as vm:
        vm.start()
        vm.console.expect("k", timeout=SECONDS)
        path.unlink()
        vm.reset()
        stop = vm.wait(SECONDS)
    assert (stop.kind, stop.status) == ("error", Exit.ERROR)
    assert str(path) in stop.text
    assert "\n" not in stop.text
    assert "traceback" not in stop.details


@pytest.mark.parametrize("smp", [1, 2])
def test_error_in_a_device(smp: int, neighbour: Machine) -> None:
    """A bug of ours ends this machine, with a traceback for the report; the others live on."""
    body = "outb 0x80, 1\n 1: jmp 1b"

    class Broken:
        def pio_out(self, offset: int, size: int, value: int) -> None:
            raise ZeroDivisionError("a broken device")

    with Machine(kernel=guestcode.sector(body), cpu="host", memory="4M", smp=smp) as vm:
        vm.board.bus.claim_pio(0x80, 1, Broken())
        vm.start()
        stop = vm.wait(SECONDS)
    assert (stop.kind, stop.status) == ("error", Exit.ERROR)
    assert "a broken device" in stop.text
    assert "pio_out" in stop.details["traceback"]


def test_error_on_the_event_loop(neighbour: Machine) -> None:
    """So does one in a callback; even if burying the board fails as well, wait() returns."""
    with Machine(kernel=guestcode.sector("1: jmp 1b"), cpu="host", memory="4M") as vm:
        vm.start()
        close = vm.board.driver.close

        def broken_close() -> None:
            close()
            raise ZeroDivisionError("a broken driver")

        vm.board.driver.close = broken_close
        vm.events.call(lambda: {}["a broken callback"])
        stop = vm.wait(SECONDS)
    assert stop.kind == "error"
    assert "a broken callback" in stop.text


def test_quit_tells_where_the_guest_was() -> None:
    """A machine killed from outside shows the registers of a guest that hangs."""
    with Machine(kernel=guestcode.sector("mov $0x77, %cx\n 1: jmp 1b"), cpu="host") as vm:
        vm.start()
        with pytest.raises(TimeoutError):
            vm.wait(0.3)
        vm.kill("time-limit", "too slow")
        stop = vm.wait(SECONDS)
    assert (stop.kind, stop.status, stop.text) == ("time-limit", Exit.TIME_LIMIT, "too slow")
    assert stop.details["registers"]["rcx"] & 0xFFFF == 0x77


def test_first_reason_counts() -> None:
    """Two vCPUs, or a user and a guest, may end it at once."""
    with Machine(kernel=guestcode.sector("exit 1"), cpu="host", memory="4M") as vm:
        vm.kill("quit", "first")
        vm.kill("time-limit", "second")
        vm.start()
        assert vm.wait(SECONDS).text == "first"
