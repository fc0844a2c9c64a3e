"""-display web before a Debian guest: the page's picture is the console, its keys arrive there."""

from __future__ import annotations

import http.client
import json
import time

import pytest
from conftest import COMMAND_S, drivers
from test_screen import start

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
KEYS = {" ": "Space", "\n": "Enter", ">": ("ShiftLeft", "Period"), "/": "Slash"}


def events(text: str) -> list[list[object]]:
    """The page's events for lower-case text."""
    found: list[list[object]] = []
    for char in text:
        codes = KEYS.get(char, f"Key{char.upper()}")
        held = codes if isinstance(codes, tuple) else (codes,)
        found += [["key", code, True] for code in held]
        found += [["key", code, False] for code in reversed(held)]
    return found


@pytest.mark.parametrize("hyperv", drivers())
def test_a_browser_sees_and_types(boot, hyperv: str) -> None:
    guest = start(boot, "trixie", hyperv)
    vm = guest.vm
    url = vm.serve_display()
    host, _, rest = url.removeprefix("http://").partition("/")
    client = http.client.HTTPConnection(host, timeout=COMMAND_S)

    def ask(method: str, path: str, body: str | None = None):
        client.request(method, f"/{rest}{path}", body)
        answer = client.getresponse()
        return answer, answer.read()

    guest.run("(setsid sh -c 'exec sh -i </dev/tty1 >/dev/tty1 2>&1' &)")
    guest.run("until grep -q '# ' /dev/vcs1; do sleep 1; done; printf '\\033[?25l' >/dev/tty1")
    first, before = ask("GET", "frame?after=0")
    assert (first.status, first.getheader("X-State")) == (200, "shown")
    line = "echo typed in a browser >/answer\n"
    assert ask("POST", "input", json.dumps(events(line)))[0].status == 204
    answer = guest.run("until test -s /answer; do sleep 1; done; cat /answer")
    assert answer == "typed in a browser\n"
    assert line.strip() in guest.run("cat /dev/vcs1")
    time.sleep(3)  # the guest draws
    after, picture = ask("GET", f"frame?after={first.getheader('X-Frame')}")
    assert after.status == 200
    assert picture == vm.screenshot().png() != before
    idle, nothing = ask("GET", f"frame?after={after.getheader('X-Frame')}")  # 20 s later
    print(f"frames {first.getheader('X-Frame')} {after.getheader('X-Frame')}",
          f"{idle.getheader('X-Frame')}, {len(picture)} bytes of PNG")  # fmt: skip
    assert (idle.status, nothing) == (204, b"")
    client.close()
    assert vm.board.vmbus.violation_count == 0
    guest.console.send("poweroff -f\n")
    assert vm.wait(timeout=COMMAND_S).status == 0
