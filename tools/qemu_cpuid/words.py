"""Print tests/baseline/qemu10_cpu_words.json: where QEMU keeps each named CPUID bit.

    python3 tools/qemu_cpuid/words.py QEMU... > tests/baseline/qemu10_cpu_words.json
"""

from __future__ import annotations

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from qmp import Qmp  # noqa: E402

from pyhv.cpu_features import names  # noqa: E402

ORIGIN = (
    "QEMU 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1), -accel tcg -M microvm -cpu "
    "MODEL,x-force-features=on -S: QMP qom-get feature-words, and the names of its bool "
    "properties that read true; patternK: -cpu max with the Nth known name (sorted, from 1) "
    "switched on if N >> K & 1, else off; inverseK: the other way round"
)
CPU = "/machine/unattached/device[0]"
REGISTERS = ("EAX", "EBX", "ECX", "EDX")
MODELS = ("max", "qemu64")


def seen(program: list[str], cpu: str) -> dict[str, list]:
    """Return the feature words and the names that are on."""
    qmp = Qmp(program, "tcg", "-cpu", f"{cpu},x-force-features=on", machine="microvm")
    try:
        words = [
            [word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0),
             REGISTERS.index(word["cpuid-register"]), word["features"]]
            for word in qmp.call("qom-get", path=CPU, property="feature-words")
        ]  # fmt: skip
        on = [
            row["name"]
            for row in qmp.call("qom-list", path=CPU)
            if row["type"] == "bool" and qmp.call("qom-get", path=CPU, property=row["name"])
        ]
        return {"words": words, "on": sorted(on)}
    finally:
        qmp.close()


def main(program: list[str]) -> None:
    """Ask QEMU for two models and the patterns."""
    known = sorted(names())
    found = {"origin": ORIGIN, **{model: seen(program, model) for model in MODELS}}
    for bit in range(len(known).bit_length()):
        for kind, on in (("pattern", 1), ("inverse", 0)):
            items = [f"{x}={'on' if n >> bit & 1 == on else 'off'}" for n, x in enumerate(known, 1)]
            found[f"{kind}{bit}"] = seen(program, ",".join(["max", *items]))
    print(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"'))


if __name__ == "__main__":
    main(sys.argv[1:])
