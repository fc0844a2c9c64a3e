"""CPU models as QEMU describes them: query-cpu-definitions and query-cpu-model-expansion."""

from __future__ import annotations

import json
import subprocess


class Qmp:
    """QEMU, stopped before its first instruction, with QMP on its standard input and output."""

    def __init__(
        self, program: list[str], accel: str, *options: str, machine: str = "pc"
    ) -> None:
        command = [*program, "-M", machine, "-accel", accel, *options, "-S", "-nodefaults"]
        command += ["-no-user-config"]
        self.process = subprocess.Popen(
            [*command, "-display", "none", "-qmp", "stdio"],
            stderr=subprocess.DEVNULL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._line()
        self.call("qmp_capabilities")

    def _line(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def call(self, name: str, **arguments: object) -> object:
        """Return what a command returns.

        :raises RuntimeError: QEMU refused it.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        while True:
            answer = self._line()
            if "error" in answer:
                raise RuntimeError(f"{name} {arguments}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def models(program: list[str], accel: str) -> dict[str, dict[str, object]]:
    """Return name -> properties of each model with a version (Haswell-v2), and ``aliases``."""
    qmp = Qmp(program, accel)
    try:
        found: dict[str, dict[str, object]] = {"aliases": {}}
        for model in qmp.call("query-cpu-definitions"):  # type: ignore[attr-defined]
            name = model["name"]
            if model.get("alias-of"):
                found["aliases"][name] = model["alias-of"]
            elif name not in ("host", "max"):
                answer = qmp.call(
                    "query-cpu-model-expansion", type="full", model={"name": name}
                )
                found[name] = answer["model"]["props"]  # type: ignore[index]
        return found
    finally:
        qmp.close()
