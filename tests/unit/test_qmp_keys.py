"""QMP's send-key: QKeyCodes to the keys of vm.keyboard, and what is none."""

from __future__ import annotations

import types

import pytest

from pyhv.keyboard import KEYS, _strokes
from pyhv.qmp import keys
from pyhv.qmp.commands import ARGUMENTS, COMMANDS
from pyhv.qmp.protocol import QmpError


def qcodes(*codes: object) -> dict:
    return {"keys": [{"type": "qcode", "data": code} for code in codes]}


def machine(press) -> types.SimpleNamespace:
    return types.SimpleNamespace(keyboard=types.SimpleNamespace(press=press))


def test_keys_are_pressed_together() -> None:
    pressed: list = []
    vm = machine(lambda *names, timeout: pressed.append(names))
    send_key = COMMANDS["send-key"]
    assert send_key(vm, qcodes("ctrl", "alt", "delete") | {"hold-time": 9}) == {}
    send_key(vm, qcodes("shift", "a"))
    send_key(vm, qcodes("ret"))
    assert pressed == [("ctrl", "alt", "delete"), ("shift", "a"), ("enter",)]
    assert ARGUMENTS["send-key"] == {"keys", "hold-time"}


@pytest.mark.parametrize(
    "bad",
    [
        {}, {"keys": []}, {"keys": 3}, {"keys": ["a"]}, qcodes("enter"), qcodes("A"), qcodes(3),
        {"keys": [{"type": "number", "data": 30}]}, qcodes(*["a"] * 1000),
    ],
)  # fmt: skip
def test_what_is_no_key(bad: dict) -> None:
    with pytest.raises(QmpError, match="key"):
        keys.send_key(machine(None), bad)


def test_a_guest_without_a_driver() -> None:
    def late(*names: str, timeout: float) -> None:
        raise TimeoutError("keyboard: after 1 s the guest has no driver for it")

    with pytest.raises(QmpError, match="has no driver"):
        keys.send_key(machine(late), qcodes("a"))


@pytest.mark.parametrize("code", sorted(keys.SAME_NAMES | set(keys.OTHER_NAMES)))
def test_every_qcode_is_a_key(code: str) -> None:
    name = keys.OTHER_NAMES.get(code, code)
    assert name in KEYS or len(_strokes(name)) == 1
