"""Who may import whom: the rows of docs/architecture.md, checked on the source of every module."""

from __future__ import annotations

import ast
import configparser
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "pyhv"

#: prefix of the module's name below pyhv -> row; the longest prefix counts
ROWS = {
    "errors": 0, "abi": 0, "record": 0, "reasons": 0, "registers": 0, "saving": 0, "stop": 1,
    "kvm": 1, "memory": 1, "iovec": 1, "bus": 1, "disk": 1, "config": 1, "cpu_options": 1,
    "cpu_features": 1,
    "cpu_models": 1, "cpu_named": 1, "pagewalk": 1, "cpu_topology": 1, "timerthread": 1,
    "snapshotfile": 1, "diskoverlay": 1, "imagedisk": 1, "nbd": 1, "qemunbd": 1, "syncer": 1,
    "hyperv.tlfs": 1, "hyperv.features": 1, "hyperv.flags": 1,
    "hyperv.privileges": 1, "hyperv.choose": 1, "hyperv.presets": 1, "hyperv.machine_types": 1,
    "vmbus.protocol": 1, "awaiting": 1,
    "net": 2, "net.config": 1,
    "hyperv": 2, "devices": 2, "boot": 2,
    "vmbus": 3,
    "hyperv.in_kernel": 4, "hyperv.in_user": 4, "hyperv.in_user_apic": 4,
    "machine": 5, "control": 5, "services": 5, "offers": 5, "inspection": 5, "parts": 5,
    "daemons": 5, "kvp": 5, "ballooning": 5,
    "agent": 5, "commands": 5, "vsock": 5, "streams": 5, "serialpair": 5,
    "endings": 5, "loading": 5, "boardstate": 5, "restoring": 5, "snapshot": 5,
    "runloop": 5, "events": 5, "board": 5,
    "seat": 5, "keyboard": 5, "mouse": 5, "vram": 5, "picture": 5, "webscreen": 5,
    "cpustate": 5, "vcpuview": 5, "causes": 5, "gdb": 5, "qmp": 5, "listening": 5,
    "hypervstate": 5, "trace": 5, "faults": 5, "replay": 5, "faulting": 5, "offering": 5,
    "serialring": 5, "serialwatch": 5, "drives": 5,
    "guestcpu": 5, "guestcpuid": 5, "console": 5, "outlet": 5, "firmware_files": 5,
    "aio": 6,
    "": 6, "cli": 6, "__main__": 6, "options": 6, "terminal": 6, "progress": 6, "report": 6,
    "crashes": 6, "listings": 6,
    "running": 6, "savedrun": 6, "lookup": 6, "page": 6, "watching": 6,
    "pytest_plugin": 6, "leftovers": 6, "shell": 6,
}  # fmt: skip
#: may be used by everybody: protocols without behaviour
FREE = {"hyperv.driver"}
NO_KVM = ("hyperv", "devices", "vmbus", "boot", "net")
DRIVERS = ("hyperv.in_kernel", "hyperv.in_user", "hyperv.in_user_apic")


def row(module: str) -> int:
    """Return the row of *module*, a dotted name below pyhv."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in ROWS:
            return ROWS[prefix]
    raise AssertionError(f"pyhv.{module}: no row in tests/unit/test_layers.py")


def modules() -> dict[str, pathlib.Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else ""] = path
    return found


MODULES = modules()


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(name: str, path: pathlib.Path) -> list[str]:
    """Return the pyhv modules imported at run time, as dotted names below pyhv."""
    package = name.split(".") if path.name == "__init__.py" and name else name.split(".")[:-1]
    found = []
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if _type_checking(node):
            todo += node.orelse  # type: ignore[attr-defined]
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                full = ".".join([*target, alias.name])
                found.append(full if full in MODULES else ".".join(target))
        todo += ast.iter_child_nodes(node)
    return [target for target in found if target]


@pytest.mark.parametrize("name", MODULES, ids=str)
def test_imports_go_down(name: str) -> None:
    for target in imports(name, MODULES[name]):
        if target in FREE or name == "":
            continue
        same_room = name.split(".")[0] == target.split(".")[0]
        allowed = (
            row(target) < row(name)
            or (row(target) == row(name) and (same_room or row(name) in (5, 6)))
            or (same_room and row(target) <= row(name))
            or row(name) == row(target) == 1
        )
        assert allowed, f"pyhv.{name} (row {row(name)}) imports pyhv.{target} (row {row(target)})"


@pytest.mark.parametrize("name", MODULES, ids=str)
def test_only_drivers_and_the_top_know_kvm(name: str) -> None:
    if name.split(".")[0] in NO_KVM and name not in DRIVERS:
        assert not [t for t in imports(name, MODULES[name]) if t.split(".")[0] == "kvm"]


@pytest.mark.parametrize("name", MODULES, ids=str)
def test_runtime_is_standard_library_only(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for imported in names:
            top = imported.split(".")[0]
            if name == "pytest_plugin" and top == "pytest":
                continue  # it is pytest that imports it, and nobody else
            if (name, top) == ("shell.disassembler", "capstone"):
                continue  # one of two ways, where it is installed; without it the shell works
            assert top == "pyhv" or top in sys.stdlib_module_names, f"pyhv.{name}: {imported}"


@pytest.mark.parametrize("name", MODULES, ids=str)
def test_a_file_says_what_it_is_and_stays_small(name: str) -> None:
    text = MODULES[name].read_text()
    assert ast.get_docstring(ast.parse(text)), f"pyhv.{name} has no opening sentence"
    assert len(text.splitlines()) <= 400


def test_setup_cfg_installs_every_package() -> None:
    """What it leaves out is missing only where pyhv is installed."""
    settings = configparser.ConfigParser()
    settings.read(PACKAGE.parent / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    folders = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")}
    assert listed - {"pyhv.firmware"} == {".".join(("pyhv", *one.parts)) for one in folders}
