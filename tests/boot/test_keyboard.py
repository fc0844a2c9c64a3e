"""The synthetic keyboard: what the host types arrives at the guest's first virtual terminal."""

from __future__ import annotations

import pytest
from conftest import COMMAND_S, drivers, image

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
TEXT = "The quick {brown} fox; 0123 ~ \"jumps\" | over_the = lazy? DOG!"


@pytest.mark.parametrize(
    ("suite", "hyperv"),
    [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()],
)
def test_typed_text_arrives(boot, suite: str, hyperv: str) -> None:
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite)[0],
        append="console=ttyS0 quiet", memory="512M", hyperv=hyperv,
    )  # fmt: skip
    guest.prompt()
    assert "hyperv_keyboard" in guest.run("ls /sys/bus/vmbus/drivers")
    guest.run("exec 3</dev/tty1")  # without a reader of tty1 keys go nowhere
    reader = "head -n 2 /dev/tty1 | sed 's/^/TYPED /'"
    guest.console.send(f"echo =$((5*5))=; {reader}; echo =$((3*3))=\n")
    guest.console.expect("=25=", timeout=COMMAND_S)
    guest.vm.keyboard.type(TEXT + "\n", timeout=COMMAND_S)
    guest.vm.keyboard.press("shift", "a", timeout=COMMAND_S)
    guest.vm.keyboard.press("enter", timeout=COMMAND_S)
    text = guest.console.expect("=9=", timeout=COMMAND_S)
    assert f"TYPED {TEXT}\r\n" in text
    assert "TYPED A\r\n" in text
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"
