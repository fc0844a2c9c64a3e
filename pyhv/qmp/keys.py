"""QMP's send-key: QKeyCodes of QEMU's qapi/ui.json, for the keys that pyhv's keyboard has."""

from __future__ import annotations

from ..keyboard import KEYS
from .protocol import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..machine import Machine

DRIVER_S = 1.0  # QEMU's keyboard takes a key or loses it; a client is not kept waiting
#: QKeyCode -> name or character for Keyboard.press; those of the same name are not here
OTHER_NAMES = {
    "ret": "enter", "spc": "space", "alt_r": "altgr", "pgup": "pageup", "pgdn": "pagedown",
    "minus": "-", "equal": "=", "bracket_left": "[", "bracket_right": "]", "semicolon": ";",
    "apostrophe": "'", "grave_accent": "`", "backslash": "\\", "comma": ",", "dot": ".",
    "slash": "/",
}  # fmt: skip
SAME_NAMES = (set(KEYS) - set(OTHER_NAMES.values())) | set("abcdefghijklmnopqrstuvwxyz0123456789")


def send_key(machine: Machine, arguments: dict[str, Any]) -> object:
    """Press the keys together and let them go; "hold-time" changes nothing."""
    keys = arguments.get("keys")
    if not isinstance(keys, list) or not 0 < len(keys) <= len(KEYS):
        raise QmpError("Parameter 'keys' is a list of keys")
    try:
        machine.keyboard.press(*map(_name, keys), timeout=DRIVER_S)
    except TimeoutError as error:
        raise QmpError(str(error)) from error
    return {}


def _name(key: object) -> str:
    code = key.get("data") if isinstance(key, dict) and key.get("type") == "qcode" else None
    if isinstance(code, str) and (code in SAME_NAMES or code in OTHER_NAMES):
        return OTHER_NAMES.get(code, code)
    raise QmpError('a key is {"type": "qcode", "data": "a"}, or another QKeyCode of a US keyboard')
