"""The named CPU models (Haswell, EPYC-v4 ...) of cpu_models.txt, which QEMU's own words made."""

from __future__ import annotations

import os

from .errors import HostError
from .record import Record

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cpu_models.txt")
Caches = dict[tuple[int, int], tuple[int, ...]]  # (leaf, index) -> eax ebx ecx edx


class Model(Record):
    """A model as a KVM guest of QEMU 10 gets it; its vendor is the host's.

    ``level`` and ``xlevel``: the highest leaves; ``caches``: a key of :attr:`Catalogue.caches`.
    """

    name: str
    family: int
    model: int
    stepping: int
    level: int
    xlevel: int
    caches: str
    text: str
    features: frozenset[str]


class Catalogue:
    """All of the file: *models* and *aliases* by name, *caches* by (name, "i" or "a")."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.aliases: dict[str, str] = {}
        self.caches: dict[tuple[str, str], Caches] = {}
        try:
            with open(FILE, encoding="ascii") as file:
                text = file.read()
        except OSError as error:
            raise HostError(f"{FILE}: {error.strerror}; install pyhv again") from error
        head: list[str] = []
        for line in text.splitlines():
            kind, *words = line.split(maxsplit=1)
            rest = words[0] if words else ""
            if line.startswith("#"):
                continue
            if not line.startswith(" "):
                head = rest.split(" ", 7)
                if kind == "alias":
                    self.aliases[head[0]] = head[1]
            elif kind in ("i", "a"):
                where, *registers = rest.split()
                leaf, index = (int(part, 16) for part in where.split("."))
                values = tuple(int(word, 16) for word in registers)
                self.caches.setdefault((head[0], kind), {})[leaf, index] = values
            else:
                self._model(head, line.split())

    def _model(self, head: list[str], words: list[str]) -> None:
        features: set[str] = set()
        if words[0] == "=":
            features |= self.models[words[1]].features
            words = words[2:]
        features -= {word[1:] for word in words if word[0] == "-"}
        features |= {word[1:] for word in words if word[0] == "+"}
        name, family, model, stepping, level, xlevel, caches = head[:7]
        self.models[name] = Model(
            name, int(family), int(model), int(stepping), int(level, 16), int(xlevel, 16), caches,
            head[7] if len(head) > 7 else "", frozenset(features),
        )  # fmt: skip

    def find(self, name: str) -> Model | None:
        """Return a model by its name or alias."""
        return self.models.get(self.aliases.get(name, name))

    def names(self) -> list[str]:
        """Return every name there is, aliases too."""
        return sorted([*self.models, *self.aliases])


_catalogue: list[Catalogue] = []


def catalogue() -> Catalogue:
    """Return the file's contents, read at the first call."""
    if not _catalogue:
        _catalogue.append(Catalogue())
    return _catalogue[0]
