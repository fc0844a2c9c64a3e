"""The pytest plugin without KVM: whole pytest runs with a Machine that is none."""

from __future__ import annotations

import fcntl
import pathlib
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest

from pyhv.pytest_plugin import Budget

pytest_plugins = ["pytester"]

FAKE = """
import pyhv.machine, pyhv.pytest_plugin
from pyhv.config import machine_config
from pyhv.console import Console
from pyhv.stop import Stop

class FakeMachine:
    driver_name = "in_user"
    def __init__(self, **options):
        self.config = machine_config(**options)
        self.console, self.started, self.ended = Console(), False, None
    def start(self):
        self.started = True
        self.console.write(b"hello from the guest\\x1b[2J\\r\\n")
    def kill(self, kind="quit", text="stopped"):
        details = {"exits": ["out port 0x80, 1 bytes"], "registers": {"rip": 0x1234}}
        self.ended = self.ended or Stop(kind, 130, text, details)
    def wait(self, timeout):
        return self.ended
    def close(self):
        with open("closed", "a") as file:
            print(self.config.memory_bytes >> 20, file=file)

pyhv.machine.Machine = FakeMachine
pyhv.pytest_plugin.no_kvm = lambda: WHY
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest on *tests*; ``why``: why KVM is not there."""

    def go(tests: str, *options: str, why: str = "") -> pytest.RunResult:
        pytester.makeconftest(FAKE.replace("WHY", repr(why)))
        pytester.makepyfile(tests)
        return pytester.runpytest_subprocess("-p", "pyhv.pytest_plugin", *options)

    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    return go


def test_vm_and_marker(run, pytester: pytest.Pytester) -> None:
    """The test's marker beats its class's; the machine is closed; the driver is the option's."""
    found = run(
        """
        import pytest

        @pytest.mark.pyhv(memory="64M", smp=2)
        class TestIt:
            def test_class(self, vm):
                assert (vm.config.memory_bytes >> 20, vm.config.smp.cpus) == (64, 2)

            @pytest.mark.pyhv(memory="32M")
            def test_own(self, vm):
                assert (vm.config.memory_bytes >> 20, vm.config.smp.cpus) == (32, 2)
                assert vm.config.hyperv == "user"

        def test_factory(vm_factory):
            one, two = vm_factory(memory="16M"), vm_factory(memory="8M", hyperv="kernel")
            assert two.config.hyperv == "kernel"
        """,
        "--pyhv-hyperv=user", "--strict-markers",
    )  # fmt: skip
    found.assert_outcomes(passed=3)
    assert (pytester.path / "closed").read_text().split() == ["64", "32", "16", "8"]


FAILS = """
def test_it(vm):
    vm.start()
    assert False, "as it must"
"""


def test_what_a_failure_leaves(run, pytester: pytest.Pytester) -> None:
    """In the report, in files, and as JUnit properties; guest text cannot reach the terminal."""
    found = run(FAILS, "--pyhv-artifacts=kept", "--junitxml=j.xml", "-o", "junit_family=xunit1")
    found.assert_outcomes(failed=1)
    text = found.stdout.str()
    for line in (
        "machine 0", "command: pyhv run -m 262144K -smp cpus=1", "rip 0000000000001234",
        "out port 0x80, 1 bytes", "| hello from the guest", "it still ran when the test",
    ):  # fmt: skip
        assert line in text, text
    assert "\x1b[2J" not in text
    (place,) = (pytester.path / "kept").iterdir()
    assert (place / "console.log").read_bytes().startswith(b"hello from the guest")
    assert "command: pyhv run" in (place / "report.txt").read_text()
    properties = {
        item.get("name"): item.get("value")
        for item in ElementTree.parse(pytester.path / "j.xml").iter("property")
    }
    assert properties["pyhv_stop"] == "quit"
    assert properties["pyhv_driver"] == "in_user"
    assert properties["pyhv_command"].startswith("pyhv run -m")


def test_a_pass_leaves_nothing(run, pytester: pytest.Pytester) -> None:
    found = run("def test_it(vm):\n    vm.start()\n", "--pyhv-artifacts=kept")
    found.assert_outcomes(passed=1)
    assert not (pytester.path / "kept").exists()


def test_without_kvm(run) -> None:
    """A skip that says why; a failure under the switch."""
    why = "open /dev/kvm: no such device"
    found = run("def test_it(vm):\n    pass\n", "-rs", why=why)
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines([f"*SKIPPED*{why}*"])
    found = run("def test_it(vm):\n    pass\n", "--pyhv-require-kvm", why=why)
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines([f"*KVM is required: {why}*"])


def test_budget(tmp_path: pathlib.Path) -> None:
    """Who comes too late waits; what a dead worker held is free; too much is refused at once."""
    budget = Budget(tmp_path / "b", 100)
    first, _second = budget.take(60, 1), budget.take(40, 1)
    with pytest.raises(TimeoutError, match="no 1 bytes of --pyhv-budget in 0.2 s"):
        budget.take(1, 0.2)
    with pytest.raises(ValueError, match="a machine of 101 bytes"):
        budget.take(101, 1)
    other = Budget(tmp_path / "b", 100)
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(other.take(50, 10)))
    thread.start()
    time.sleep(0.2)
    assert not taken
    fcntl.flock(first, fcntl.LOCK_UN)  # as the kernel does when its process dies
    thread.join(10)
    assert taken
    assert other._used() == 90


def test_budget_option(run) -> None:
    found = run("def test_it(vm):\n    pass\n", "--pyhv-budget=128M")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*a machine of 301989888 bytes; --pyhv-budget is 134217728*"])
    run("def test_it(vm):\n    pass\n", "--pyhv-budget=1G").assert_outcomes(passed=1)
