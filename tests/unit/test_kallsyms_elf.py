"""The symbols tool: what it takes of a /proc/kallsyms, and an ELF file in which gdb finds it."""

from __future__ import annotations

import pathlib
import sys

import pytest
from elftools.elf.elffile import ELFFile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import kallsyms_elf  # noqa: E402

KALLSYMS = """0000000000000000 A fixed_percpu_data
ffffffffa1000000 T _text
ffffffffa1234560 t do_sys_openat2
ffffffffa1234560 T same_place
ffffffffa2300010 D some_data
ffffffffc0300010 t in_a_module\t[hv_vmbus]
"""


def test_symbols_at_their_addresses(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "kernel.syms"
    assert kallsyms_elf.make(KALLSYMS, output) == 5
    with open(output, "rb") as file:
        table = list(ELFFile(file).get_section_by_name(".symtab").iter_symbols())
    found = {s.name: s["st_value"] for s in table if s["st_info"]["type"] == "STT_FUNC"}
    data = {s.name: s["st_value"] for s in table if s["st_info"]["type"] == "STT_OBJECT"}
    assert data == {"some_data": 0xFFFFFFFFA2300010}
    assert found == {
        "_text": 0xFFFFFFFFA1000000, "do_sys_openat2": 0xFFFFFFFFA1234560,
        "same_place": 0xFFFFFFFFA1234560, "in_a_module": 0xFFFFFFFFC0300010,
    }  # fmt: skip
    assert output.stat().st_size < 4096


@pytest.mark.parametrize("text", ["", "nonsense\n", "0000000000000000 T do_sys_openat2\n"])
def test_nothing_to_see(
    text: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "k"
    table.write_text(text)
    assert kallsyms_elf.main([str(table), str(tmp_path / "out")]) == 2
    assert "root only" in capsys.readouterr().err
