"""The pytest plugin's booted machine: booted once for a whole pytest run, fresh for each test."""

from __future__ import annotations

import pathlib

import guestcode
import pytest
from test_snapshot import READS

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.kvm

RUN = '''
import pytest

BOOTS = []

@pytest.fixture(scope="session")
def pyhv_boot():
    def boot(vm):
        BOOTS.append(vm.config.memory_bytes >> 20)
        vm.console.expect("?", timeout=60)
    return boot

OPTIONS = dict(kernel=KERNEL, cpu="host", memory="2M")

@pytest.mark.pyhv(**OPTIONS)
class TestFresh:
    @pytest.mark.parametrize("number", range(5))
    def test_it(self, booted_vm, number):
        assert booted_vm.memory[0x1000] == 0
        assert booted_vm.console.data() == b""
        booted_vm.memory[0x1000] = number + 1
        booted_vm.console.send("x%d\\n" % number)
        booted_vm.memory[0x80008] = 1
        booted_vm.console.expect("x%d" % number, timeout=60)
        booted_vm.wait(60)

    @pytest.mark.pyhv(memory="3M")
    def test_another_kind(self, booted_vm):
        assert booted_vm.config.memory_bytes == 3 << 20

    def test_fails(self, booted_vm):
        booted_vm.console.send("seen in the report\\n")
        booted_vm.memory[0x80008] = 1
        booted_vm.wait(60)
        assert False

def test_booted_once():
    assert BOOTS == [2, 3]
'''


def test_booted_once_and_fresh(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    pytester.makepyfile(RUN.replace("KERNEL", repr(guestcode.sector(READS))))
    found = pytester.runpytest_subprocess("-p", "pyhv.pytest_plugin", "-W", "error")
    found.assert_outcomes(passed=7, failed=1)
    found.stdout.fnmatch_lines(["*the guest ended with status*", "*| seen in the report*"])
