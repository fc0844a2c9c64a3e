"""A guest's whole life by pyhv and by QEMU with its Python package, in one nested host: the table.

tools/spec.py --cycle is the command; docs/spec.md says what is compared.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import tempfile
import time

from . import meter, prepare, table
from .machines import LINUX_CPU, LINUX_MB, ROOT, Setup

HERE = pathlib.Path(__file__).resolve().parent
SCRATCH = pathlib.Path("/dev/shm")
#: seconds of this machine for all; of the nested host for one life
LIMIT_S, LIFE_S = 1500, 600.0
TRIES = 2  # the emulator loses a guest now and then: tests/host/README.md
APPEND = "console=ttyS0 quiet panic=-1"
#: key -> heading; each is compared with the first
COLUMNS = {
    "pyhv": "pyhv, in_kernel",
    "pyhv_user": "pyhv, in_user",
    "microvm": "QEMU microvm",
    "pc": "QEMU pc",
}
DRIVERS = {"pyhv": "kernel", "pyhv_user": "user"}
EMULATORS = ("microvm", "pc")
#: key -> title, unit; a thousandth of a second of CPU time is a million instructions
ROWS = {
    "imports": ("interpreter and imports", "MI"),
    "create": ("create", "MI"),
    "boot": ("boot, until user space prints", "MI"),
    "run": ("prompt, a command, its answer", "MI"),
    "close": ("close", "MI"),
    "process": ("the whole process, children included", "MI"),
    "guest": ("of that in guest code, by timer ticks", "MI"),
    "wall": ("wall time, in which -icount skips what is idle", "ms"),
}
#: where pyhv is to take at most what QEMU takes; wall time there is as long as its sleeps
HELD = ("process",)

Found = dict[str, dict[str, float]]  # row -> column -> value


def orders(setup: Setup, package: str) -> dict[str, dict[str, object]]:
    """Return column -> what life.py is told; *package* is the folder with qemu.qmp."""
    kernel, initramfs = setup.files["kernel"], setup.files["initramfs"]
    common = {"kernel": kernel, "initrd": initramfs, "append": APPEND, "cpu": LINUX_CPU,
              "memory": f"{LINUX_MB}M"}  # fmt: skip
    found: dict[str, dict[str, object]] = {}
    for column, driver in DRIVERS.items():
        found[column] = {"paths": [str(ROOT)], "options": {**common, "hyperv": driver}}
    sockets = ("-chardev", "socket,id=console,fd=CONSOLE",
               "-chardev", "socket,id=qmp,fd=QMP", "-mon", "chardev=qmp,mode=control")  # fmt: skip
    files = ("-kernel", kernel, "-initrd", initramfs, "-append", APPEND)
    for column in EMULATORS:
        command = setup.emulator(
            column, LINUX_CPU, LINUX_MB, *sockets, *files, serial="chardev:console"
        )
        found[column] = {"paths": [package], "qemu": [str(word) for word in command]}
    return found


def life(python: str, order: dict[str, object]) -> dict[str, float]:
    """Run life.py in a fresh interpreter; return row -> value.

    :raises meter.Failed: it did not end well.
    """
    output = SCRATCH / "life"
    begin = time.monotonic()
    process = meter.Process([python, "-I", "-S", HERE / "life.py", json.dumps(order)], output)
    cpu = process.finish(LIFE_S)
    seconds = {"process": cpu, "guest": process.guest_s, "wall": time.monotonic() - begin}
    seconds |= json.loads(output.read_bytes())
    return {name: value * 1e3 for name, value in seconds.items()}


def inside(file: pathlib.Path) -> int:
    """Measure in the nested host; the result lies beside *file*, as result.json."""
    work = json.loads(file.read_text())
    setup = Setup(**work["setup"])
    for name, path in setup.files.items():  # the share is slow
        copy = SCRATCH / name
        copy.write_bytes(pathlib.Path(path).read_bytes())
        setup.files[name] = str(copy)
    found: Found = {row: {} for row in ROWS}
    for column, order in orders(setup, work["package"]).items():
        for attempt in range(1, TRIES + 1):
            try:
                life(setup.python, {**order, "boot": False})  # brings the files into memory
                values = life(setup.python, order)
            except meter.Failed as error:
                print(f"  {COLUMNS[column]}, try {attempt}: {error}", flush=True)
                continue
            for row, value in values.items():
                found[row][column] = value
            print(f"  {COLUMNS[column]}: {table.number(values['process'])} MI", flush=True)
            break
    file.with_name("result.json").write_text(json.dumps(found))
    return 0


def measure(command: list[str]) -> Found:
    """Run *command* FILE, which calls :func:`inside`, in a nested host of its own.

    :raises meter.Failed: something is missing, or the nested host was lost.
    """
    spec = importlib.util.find_spec("qemu.qmp") if importlib.util.find_spec("qemu") else None
    if spec is None or spec.origin is None:
        raise meter.Failed("qemu.qmp is not there: take the Python of tests/run's environment")
    with tempfile.TemporaryDirectory(prefix="pyhv-cycle-") as folder:
        file = pathlib.Path(folder) / "work.json"
        setup = prepare.linux()
        package = str(pathlib.Path(spec.origin).parents[2])
        file.write_text(json.dumps({"setup": setup, "package": package}))
        nested = [ROOT / "tests/host/nested", "--icount", "--timeout", str(LIMIT_S)]
        done = subprocess.run([*nested, setup["python"], "-I", "-S", *command, file], cwd=ROOT)
        result = file.with_name("result.json")
        if done.returncode or not result.exists():
            raise meter.Failed(f"the nested host: exit status {done.returncode}")
        return json.loads(result.read_text())


def missed(found: Found) -> list[str]:
    """Return a sentence for each figure that is missing, or where pyhv takes more than QEMU."""
    text = [f"{COLUMNS[column]}: not measured" for column in COLUMNS
            if column not in found["process"]]  # fmt: skip
    for row in HELD:
        ours = found[row].get("pyhv", 0.0)
        text += [f"{ROWS[row][0]}: {table.number(ours)}, {COLUMNS[column]} "
                 f"{table.number(found[row][column])}"
                 for column in EMULATORS if ours > found[row].get(column, ours)]  # fmt: skip
    return text


def render(found: Found) -> str:
    """Return the table as Markdown."""
    heads = ["", "unit", *COLUMNS.values(), *(f"pyhv / {name}" for name in EMULATORS)]
    lines = [heads]
    for row, (title, unit) in ROWS.items():
        values = found[row]
        cells = [table.number(values.get(column)) for column in COLUMNS]
        lines.append([title, unit, *cells, *(table.ratio(values, name) for name in EMULATORS)])
    return table.aligned(lines, left=(0, 1))
