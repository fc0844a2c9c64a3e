"""State as JSON has it: what a part of the machine gives to a snapshot and takes back.

A part has ``save()``, which returns numbers, strings, bytes, lists and dicts with strings as keys,
and ``load(state)``, called on a new part that nobody uses yet. Most of it is attributes by name.
"""

from __future__ import annotations

from _collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

BYTES = "hex"  # bytes are {"hex": "00ff"}: no state has such a dict


def fields(thing: object, names: Iterable[str]) -> dict[str, Any]:
    """Return attributes of *thing* by name, queues and tuples as lists, a leading _ left out."""
    found = {}
    for name in names:
        value = getattr(thing, name)
        if isinstance(value, (deque, tuple)):
            value = list(value)
        elif isinstance(value, bytearray):
            value = bytes(value)
        found[name.lstrip("_")] = value
    return found


def put(thing: object, names: Iterable[str], state: dict[str, Any]) -> None:
    """Undo :func:`fields`: an attribute gets its value in the type that it has now."""
    for name in names:
        now, value = getattr(thing, name), state[name.lstrip("_")]
        setattr(thing, name, type(now)(value) if isinstance(now, (deque, tuple, bytearray))
                else value)  # fmt: skip


def to_json(state: object) -> str:
    """Return *state* as JSON.

    :raises TypeError: there is something in it that JSON has no word for.
    """
    import json

    def other(value: object) -> dict[str, str]:
        if isinstance(value, (bytes, bytearray)):
            return {BYTES: value.hex()}
        raise TypeError(f"{type(value).__name__} in a snapshot")

    return json.dumps(state, default=other, separators=(",", ":"))


def from_json(text: str | bytes) -> Any:
    """Undo :func:`to_json`. :raises ValueError: *text* is no JSON."""
    import json

    def known(found: dict[str, Any]) -> Any:
        return bytes.fromhex(found[BYTES]) if found.keys() == {BYTES} else found

    return json.loads(text, object_hook=known)
