"""The 16550A against the chip's own rules and against what Linux' 8250 driver tries at start."""

from __future__ import annotations

import threading

import pytest

from pyhv.devices import uart as u


class Host:
    """Collects what the UART does to the outside."""

    def __init__(self) -> None:
        self.out = b""
        self.line: list[bool] = []

    def uart(self) -> u.Uart:
        return u.Uart(self.write, self.line.append)

    def write(self, data: bytes) -> None:
        self.out += data


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def uart(host: Host) -> u.Uart:
    return host.uart()


def put(uart: u.Uart, offset: int, value: int) -> None:
    uart.pio_out(offset, 1, value)


def get(uart: u.Uart, offset: int) -> int:
    return uart.pio_in(offset, 1)


def test_bytes_go_out_one_by_one_and_in_bulk(uart: u.Uart, host: Host) -> None:
    for value in b"ab":
        put(uart, u.DATA, value)
    uart.transmit(b"cdef")
    uart.transmit(b"")
    assert host.out == b"abcdef"
    assert host.line == []
    assert get(uart, u.LSR) == u.LSR_EMPTY


@pytest.mark.parametrize("offset", range(u.PORTS))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_register_survives_every_width(uart: u.Uart, offset: int, size: int) -> None:
    """The bus keeps an access inside the claim; all else must be answered in range."""
    if offset + size > u.PORTS:
        size = 1
    for value in (0, 0xFFFFFFFF, 0xA5A5A5A5):
        uart.pio_out(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= uart.pio_in(offset, size) < 1 << 8 * size


def test_divisor_latch_hides_data_and_ier(uart: u.Uart, host: Host) -> None:
    put(uart, u.LCR, u.LCR_DLAB | 3)
    put(uart, u.DATA, 1)
    put(uart, u.IER, 2)
    assert (get(uart, u.DATA), get(uart, u.IER), host.out) == (1, 2, b"")
    uart.transmit(b"\x0c\x0d")  # from the coalesced ring: divisor writes too, the last counts
    assert get(uart, u.DATA) == 0x0D
    put(uart, u.LCR, 3)
    assert (get(uart, u.LCR), get(uart, u.IER), host.out) == (3, 0, b"")


def test_scratch_keeps_its_byte(uart: u.Uart) -> None:
    put(uart, u.SCR, 0x5A)
    assert get(uart, u.SCR) == 0x5A


def test_linux_autoconfig_finds_a_16550a(uart: u.Uart) -> None:
    """drivers/tty/serial/8250/8250_port.c, autoconfig and autoconfig_16550a, step by step."""
    put(uart, u.IER, 0)
    assert get(uart, u.IER) & 0x0F == 0
    put(uart, u.IER, 0x0F)
    assert get(uart, u.IER) & 0x0F == 0x0F
    put(uart, u.IER, 0)
    put(uart, u.MCR, u.MCR_LOOP | 0x0A)  # OUT2 and RTS
    assert get(uart, u.MSR) & 0xF0 == 0x90  # DCD and CTS
    put(uart, u.MCR, 0)
    put(uart, u.LCR, 0xBF)
    put(uart, u.IIR, 0)  # EFR, if it were a 16650
    put(uart, u.LCR, 0)
    put(uart, u.IIR, u.FCR_ENABLE)
    assert get(uart, u.IIR) >> 6 == 3
    put(uart, u.LCR, u.LCR_DLAB)
    assert get(uart, u.IIR) != 0  # no EFR at this place: not a 16650
    put(uart, u.LCR, 0)
    put(uart, u.IIR, 0x21)  # not a 16750 with 64 bytes
    assert get(uart, u.IIR) & 0x20 == 0
    put(uart, u.IER, 0x40)  # not an XScale
    assert get(uart, u.IER) == 0


def test_linux_thre_test_passes(uart: u.Uart) -> None:
    """serial8250_THRE_test: enabling THRI twice must raise it twice, or a timer is used."""
    put(uart, u.IER, u.IER_THRI)
    first = get(uart, u.IIR)
    put(uart, u.IER, 0)
    put(uart, u.IER, u.IER_THRI)
    second = get(uart, u.IIR)
    assert (first, second) == (u.IIR_THRI, u.IIR_THRI)


def test_linux_txen_test_passes(uart: u.Uart, host: Host) -> None:
    """serial8250_do_startup: with THRI on and the transmitter empty an interrupt is pending."""
    put(uart, u.IER, u.IER_THRI)
    assert get(uart, u.LSR) & u.LSR_EMPTY
    assert get(uart, u.IIR) & 1 == 0
    assert host.line == [True, False]  # reading IIR acknowledged it


def test_interrupt_driven_sender_gets_an_edge_per_burst(uart: u.Uart, host: Host) -> None:
    put(uart, u.IER, u.IER_THRI)
    for _ in range(3):
        assert host.line.pop() is True
        assert get(uart, u.IIR) == u.IIR_THRI
        assert host.line.pop() is False
        uart.transmit(b"0123456789abcdef")
    assert host.line == [True]
    put(uart, u.IER, 0)
    assert host.line == [True, False]
    assert len(host.out) == 48


def test_input_raises_and_reading_it_lowers(uart: u.Uart, host: Host) -> None:
    put(uart, u.IER, u.IER_RDI)
    assert uart.receive(b"xy") == 2
    assert host.line == [True]
    assert get(uart, u.IIR) == u.IIR_RDI
    assert get(uart, u.LSR) == u.LSR_EMPTY | u.LSR_DR
    assert get(uart, u.DATA) == ord("x")
    assert host.line == [True]
    assert get(uart, u.DATA) == ord("y")
    assert host.line == [True, False]
    assert get(uart, u.DATA) == 0
    assert get(uart, u.LSR) == u.LSR_EMPTY


def test_input_is_bounded(uart: u.Uart) -> None:
    assert uart.receive(bytes(u.QUEUE_BYTES - 1)) == u.QUEUE_BYTES - 1
    assert uart.receive(b"abc") == 1
    assert uart.receive(b"abc") == 0
    get(uart, u.DATA)
    assert uart.receive(b"abc") == 1


def test_fifo_clear_drops_a_fifo_full(uart: u.Uart) -> None:
    uart.receive(bytes(range(20)))
    put(uart, u.IIR, u.FCR_ENABLE)  # a change of the mode clears too
    assert get(uart, u.DATA) == 16
    put(uart, u.IIR, u.FCR_ENABLE | u.FCR_CLEAR_RECEIVE)
    assert get(uart, u.LSR) & u.LSR_DR == 0


def test_loopback_returns_bytes_and_keeps_them_inside(uart: u.Uart, host: Host) -> None:
    uart.receive(b"host")
    put(uart, u.MCR, u.MCR_LOOP)
    put(uart, u.DATA, 0x41)
    uart.transmit(b"BC")
    assert [get(uart, u.DATA) for _ in range(4)] == [0x41, 0x42, 0x43, 0]
    put(uart, u.MCR, 3)
    assert get(uart, u.DATA) == ord("h")
    assert host.out == b""


def test_loopback_overrun_is_reported_once_with_its_interrupt(uart: u.Uart, host: Host) -> None:
    put(uart, u.IER, u.IER_RLSI)
    put(uart, u.MCR, u.MCR_LOOP)
    uart.transmit(bytes(u.FIFO_BYTES + 1))
    assert get(uart, u.IIR) == u.IIR_RLS
    assert get(uart, u.LSR) == u.LSR_EMPTY | u.LSR_DR | u.LSR_OE
    assert get(uart, u.LSR) == u.LSR_EMPTY | u.LSR_DR
    assert host.line == [True, False]


def test_modem_lines_report_their_changes(uart: u.Uart, host: Host) -> None:
    assert get(uart, u.MSR) == u.MSR_READY
    put(uart, u.IER, u.IER_MSI)
    put(uart, u.MCR, u.MCR_LOOP | 4)  # OUT1 is RI; a ring that begins does not count
    assert get(uart, u.IIR) == u.IIR_MSI
    assert get(uart, u.MSR) == u.MSR_RI | 0x0B
    assert get(uart, u.MSR) == u.MSR_RI
    put(uart, u.MCR, u.MCR_LOOP)
    assert get(uart, u.MSR) == 0x04
    assert host.line == [True, False, True, False]


def test_interrupts_come_in_their_order(uart: u.Uart) -> None:
    put(uart, u.MCR, u.MCR_LOOP)
    put(uart, u.IER, 0x0F)
    uart.transmit(bytes(u.FIFO_BYTES + 1))
    seen = []
    for acknowledge in (u.LSR, u.DATA, None, u.MSR, None):
        seen.append(get(uart, u.IIR))
        for _ in range(u.FIFO_BYTES if acknowledge == u.DATA else 1):
            if acknowledge is not None:
                get(uart, acknowledge)
    assert seen == [u.IIR_RLS, u.IIR_RDI, u.IIR_THRI, u.IIR_MSI, u.IIR_NONE]


def test_reset_keeps_waiting_input(uart: u.Uart, host: Host) -> None:
    put(uart, u.IER, u.IER_RDI)
    uart.receive(b"k")
    uart.reset()
    assert host.line == [True, False]
    assert get(uart, u.IER) == 0
    assert get(uart, u.DATA) == ord("k")


def test_line_ends_right_when_host_and_guest_race(uart: u.Uart, host: Host) -> None:
    """Ten thousand bytes sent by one thread and read by another: the line ends low."""
    put(uart, u.IER, u.IER_RDI)
    total = 10_000
    sender = threading.Thread(target=lambda: [uart.receive(b"z") for _ in range(total)])
    sender.start()
    seen = 0
    while seen < total:
        if get(uart, u.LSR) & u.LSR_DR:
            get(uart, u.DATA)
            seen += 1
    sender.join()
    assert host.line[-1] is False
    assert all(a != b for a, b in zip(host.line, host.line[1:], strict=False))
