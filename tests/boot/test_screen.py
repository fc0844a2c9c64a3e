"""The console of a Debian guest: typed at from the host, seen in a screenshot, pointed at."""

from __future__ import annotations

import struct

import pytest
from conftest import COMMAND_S, Guest, drivers, image

from pyhv.errors import HostError
from pyhv.picture import Picture

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
BTN_LEFT, REL_WHEEL, ABS_X, ABS_Y = 0x110, 8, 0, 1
DRIVER = "/sys/bus/vmbus/drivers/hyperv_drm"


def start(boot, suite: str, hyperv: str) -> Guest:
    """A guest whose shell on ttyS0 looks at what happens on tty1."""
    kernel, initrd = image("screen", suite)
    guest = boot(
        kernel=kernel, initrd=initrd, append="console=ttyS0 quiet logo.nologo", memory="512M",
        hyperv=hyperv, vga="hyperv", no_reboot=True,
    )  # fmt: skip
    guest.prompt()
    return guest


def check_glyphs(picture: Picture, text: str, rows: int, columns: int) -> None:
    """Whatever the font is: each character has one glyph in all its places, and it is its own."""
    width, height = picture.width // columns, picture.height // rows
    glyphs: dict[str, bytes] = {}
    for place in range(rows * columns):
        x, y = place % columns * width, place // columns * height
        starts = [3 * ((y + line) * picture.width + x) for line in range(height)]
        glyph = b"".join(picture.rgb[at : at + 3 * width] for at in starts)
        assert glyphs.setdefault(text[place], glyph) == glyph, (text[place], place)
    assert len(set(glyphs.values())) == len(glyphs)
    assert len(glyphs) > 20


def pointed(guest: Guest) -> list[tuple[int, int, int]]:
    """What the guest's event device told: type, code, value."""
    raw = guest.run("hexdump -v -e '24/1 \"%02x\" \"\\n\"' /mouse").split()
    return [struct.unpack("<qqHHi", bytes.fromhex(line))[2:] for line in raw]


@pytest.mark.parametrize(
    ("suite", "hyperv"),
    [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()],
)
def test_keyboard_screen_and_mouse(boot, tmp_path, suite: str, hyperv: str) -> None:
    guest = start(boot, suite, hyperv)
    vm = guest.vm
    print(guest.run("dmesg | grep -i -E 'drm|fb0|hid|hv_vmbus|synthvid|keyboard|console'"))
    guest.run("(setsid sh -c 'exec sh -i </dev/tty1 >/dev/tty1 2>&1' &)")
    # nobody had tty1 open until now: a key would have gone nowhere
    guest.run("until grep -q '# ' /dev/vcs1; do sleep 1; done")
    vm.keyboard.type("printf '\\033[H\\033[2J\\033[?25l'; cat /proc/version\n", timeout=COMMAND_S)
    vm.keyboard.type('echo "$((6*7))" >/answer; echo the quick brown fox\n', timeout=COMMAND_S)
    assert guest.run("sleep 3; cat /answer").strip() == "42"

    assert vm.screen_size == (1024, 768)
    picture = vm.screenshot(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes() == picture.png()
    rows, columns = map(int, guest.run("stty size </dev/tty1").split())
    text = guest.run("tr -c ' -~' '?' </dev/vcs1").strip("\n")
    assert "the quick brown fox" in text
    assert "Linux version 6." in text
    check_glyphs(picture, text, rows, columns)
    assert vm.board.offered["screen"].dirts > 0

    device = guest.run("grep -l 'Vmbus HID' /sys/class/input/event*/device/name").split("/")[4]
    guest.run(f"(dd if=/dev/input/{device} of=/mouse bs=24 2>/dev/null &)")
    vm.mouse.move(256, 192)
    vm.mouse.click("left")
    vm.mouse.wheel(-1)
    guest.run("sleep 2")
    events = pointed(guest)
    quarter = 0x7FFF // 4
    assert [(t, c) for t, c, _ in events if t in (EV_KEY, EV_ABS)] == [
        (EV_ABS, ABS_X), (EV_ABS, ABS_Y), (EV_KEY, BTN_LEFT), (EV_KEY, BTN_LEFT),
    ]  # fmt: skip
    assert all(abs(value - quarter) < 32 for kind, _, value in events if kind == EV_ABS)
    assert [value for kind, _, value in events if kind == EV_KEY] == [1, 0]
    assert (EV_REL, REL_WHEEL, -1) in events

    vmbus_id = guest.run(f"ls {DRIVER} | grep -- -").strip()
    guest.run(f"echo {vmbus_id} >{DRIVER}/unbind")
    with pytest.raises(HostError, match="the guest shows nothing"):
        vm.screenshot()
    guest.run(f"echo {vmbus_id} >{DRIVER}/bind; echo again >/dev/tty1; sleep 3")
    assert len(set(vm.screenshot().rgb)) > 1
    assert vm.board.vmbus.violation_count == 0
    vm.keyboard.press("ctrl", "alt", "delete", timeout=COMMAND_S)
    assert vm.wait(timeout=COMMAND_S).status == 0
