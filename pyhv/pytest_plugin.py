"""Machines as pytest fixtures; pytest finds this by its entry point once pyhv is installed.

``vm_factory(**options)`` makes machines, ``vm`` is one, of the options in ``@pytest.mark.pyhv``,
``booted_vm`` the same, which runs already: booted once, each test's is a clone of that moment.
What a failed test leaves (leftovers.py) is in its report, and in files under ``--pyhv-artifacts``:
written by the process that the user started, also for tests on workers of pytest-xdist.
"""

from __future__ import annotations

import os
import pathlib
import re
import time

import pytest

from .leftovers import Recorder, command, left, registers, screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .leftovers import Left
    from .machine import Machine
    from .snapshot import Snapshot
    from .stop import Stop

MARKER = "pyhv(**options): the machine of the fixture vm, in Machine's own keywords"
#: what a machine costs beside its RAM; the rest is the test's own
OVERHEAD_BYTES = 32 << 20
BUDGET_POLL_S = 0.1
STOP_S = 30.0
BOOT_S = 300.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("pyhv", "virtual machines")
    group.addoption("--pyhv-require-kvm", action="store_true",
                    help="without KVM, tests with machines fail instead of being skipped "
                    "(also PYHV_REQUIRE_KVM=1)")  # fmt: skip
    group.addoption("--pyhv-hyperv", choices=("auto", "kernel", "user"), default="auto",
                    help="who serves Hyper-V to machines that do not say it")  # fmt: skip
    group.addoption("--pyhv-artifacts", metavar="DIR",
                    help="keep what machines of failed tests left in folders here")  # fmt: skip
    group.addoption("--pyhv-trace", metavar="CATEGORY,...",
                    help="trace machines as --trace does, and keep that, too")  # fmt: skip
    group.addoption("--pyhv-budget", metavar="SIZE",
                    help="RAM that all machines of this host's workers have at most")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and who writes the artifacts."""
    config.addinivalue_line("markers", MARKER)
    folder = config.getoption("--pyhv-artifacts")
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Artifacts(config.invocation_params.dir / folder))


def no_kvm() -> str:
    """Return why no machine can run here; "" if one can."""
    from .errors import HostError
    from .kvm.system import Kvm

    try:
        Kvm().close()
    except HostError as error:
        return str(error)
    return ""


class Budget:
    """RAM shared by the pytest-xdist workers of this host: files in *folder*, a lock around them.

    A worker that died holds nothing: its file is locked by nobody, and counts no more.
    """

    def __init__(self, folder: pathlib.Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._size = folder, size

    def take(self, amount: int, timeout: float) -> int:
        """Wait until *amount* bytes are free; return what gives them back when it is closed.

        :raises TimeoutError: others keep too much for too long.
        """
        import fcntl

        if amount > self._size:
            raise ValueError(f"a machine of {amount} bytes; --pyhv-budget is {self._size}")
        deadline = time.monotonic() + timeout
        with open(self._folder / "lock", "a") as gate:
            while True:
                fcntl.flock(gate, fcntl.LOCK_EX)
                try:
                    if self._used() + amount <= self._size:
                        return self._hold(amount)
                finally:
                    fcntl.flock(gate, fcntl.LOCK_UN)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no {amount} bytes of --pyhv-budget in {timeout:g} s")
                time.sleep(BUDGET_POLL_S)

    def _hold(self, amount: int) -> int:
        import fcntl

        path = self._folder / f"{amount}-{os.getpid()}-{time.monotonic_ns()}"
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def _used(self) -> int:
        import fcntl

        used = 0
        for path in self._folder.glob("*-*-*"):
            with open(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    used += int(path.name.partition("-")[0])
                else:
                    path.unlink(missing_ok=True)
        return used


class Factory:
    """What the fixture vm_factory gives: ``vm_factory(**options)`` makes a machine.

    It is closed after the test. ``machines`` has all that were made.
    """

    def __init__(self, config: pytest.Config, budget: Budget | None) -> None:
        self._hyperv, self._budget = config.getoption("--pyhv-hyperv"), budget
        self._trace = config.getoption("--pyhv-trace")
        self._held: list[int] = []
        self._recorders: dict[Machine, Recorder] = {}
        self.machines: list[Machine] = []

    def __call__(self, **options: Any) -> Machine:
        """Return ``Machine(**options)``, not started."""
        from .config import machine_config
        from .machine import Machine

        options.setdefault("hyperv", self._hyperv)
        self._take(machine_config(**options).memory_bytes)
        return self._add(Machine(**options))

    def clone(self, snapshot: Snapshot) -> Machine:
        """Return a machine that goes on from *snapshot*, not started."""
        self._take(snapshot.memory_bytes)
        return self._add(snapshot.clone())

    def _take(self, size: int) -> None:
        if self._budget is not None:
            self._held.append(self._budget.take(size + OVERHEAD_BYTES, 600.0))

    def _add(self, machine: Machine) -> Machine:
        self.machines.append(machine)
        if self._trace is not None:
            self._recorders[machine] = Recorder(machine, self._trace)
        return machine

    def left(self) -> list[Left]:
        """Stop every machine and return what each leaves."""
        live = [(registers(machine), screen(machine)) for machine in self.machines]
        return [
            left(machine, stop, text, self._recorders.get(machine), picture)
            for machine, stop, (text, picture) in zip(
                self.machines, self.stops(), live, strict=True
            )
        ]

    def stops(self) -> list[Stop | None]:
        """Return why each machine stopped, None if it was not started; the rest is stopped."""
        for machine in self.machines:
            if machine.started:
                machine.kill("quit", "it still ran when the test ended")
        return [_end(machine) if machine.started else None for machine in self.machines]

    def close(self) -> None:
        """Close every machine, then give the RAM back."""
        for machine in self.machines:
            machine.close()
        while self._held:
            os.close(self._held.pop())


def _end(machine: Machine) -> Stop:
    from .stop import Stop

    try:
        return machine.wait(STOP_S)
    except TimeoutError:
        return Stop("error", 1, f"it was told to stop, and did not in {STOP_S:g} s", {})


#: a test's factory, also when a fixture that uses it failed
FACTORY = pytest.StashKey[Factory]()


@pytest.fixture(scope="session")
def pyhv_budget(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Budget | None:
    """The RAM that all workers share; None without ``--pyhv-budget``."""
    text = request.config.getoption("--pyhv-budget")
    if text is None:
        return None
    from .config import parse_size

    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        base = base.parent  # the folder that xdist's workers have in common
    return Budget(base / "pyhv-budget", parse_size(text, option="--pyhv-budget"))


@pytest.fixture
def vm_factory(
    request: pytest.FixtureRequest, pyhv_budget: Budget | None, record_property: Any
) -> Iterator[Factory]:
    """Make machines with ``vm_factory(**options)``; they are closed after the test."""
    why = no_kvm()
    config = request.config
    if why:
        required = config.getoption("--pyhv-require-kvm")
        if required or os.environ.get("PYHV_REQUIRE_KVM") == "1":
            pytest.fail(f"KVM is required: {why}", pytrace=False)
        pytest.skip(why)
    factory = request.node.stash[FACTORY] = Factory(config, pyhv_budget)
    try:
        yield factory
    finally:
        for machine, stop in zip(factory.machines, factory.stops(), strict=True):
            record_property("pyhv_command", command(machine.config))
            record_property("pyhv_driver", machine.driver_name)
            record_property("pyhv_stop", stop.kind if stop is not None else "not started")
        factory.close()


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("pyhv"))):  # the test's own comes last
        options |= mark.kwargs
    return options


@pytest.fixture
def vm(request: pytest.FixtureRequest, vm_factory: Factory) -> Machine:
    """A machine as ``@pytest.mark.pyhv(...)`` describes it, not started."""
    return vm_factory(**_marked(request))


@pytest.fixture(scope="session")
def pyhv_boot() -> Callable[[Machine], object]:
    """What brings a started machine to where each test with booted_vm begins; for overriding."""
    return lambda vm: vm.console.expect("login: ", timeout=BOOT_S)


@pytest.fixture(scope="session")
def pyhv_snapshots() -> Iterator[dict[str, Snapshot]]:
    """Snapshots of booted machines, by their options."""
    snapshots: dict[str, Snapshot] = {}
    yield snapshots
    for snapshot in snapshots.values():
        snapshot.close()


@pytest.fixture
def booted_vm(
    request: pytest.FixtureRequest, vm_factory: Factory, pyhv_snapshots: dict[str, Snapshot],
    pyhv_boot: Callable[[Machine], object],
) -> Machine:  # fmt: skip
    """A machine as the marker describes it, which runs; once booted, then a clone for each test."""
    options = _marked(request)
    key = repr(sorted(options.items()))
    if key not in pyhv_snapshots:
        first = vm_factory(**options)
        first.start()
        pyhv_boot(first)
        pyhv_snapshots[key] = first.snapshot()
        first.close()
    machine = vm_factory.clone(pyhv_snapshots[key])
    machine.start()
    return machine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Add to the report of a failed test what its machines left; they still exist."""
    outcome = yield
    report = outcome.get_result()
    factory = item.stash.get(FACTORY, None)
    if report.when == "teardown" or not report.failed or factory is None:
        return
    found = factory.left()
    for number, one in enumerate(found):
        report.sections.append((f"machine {number}", one.text))
    # an attribute of plain values travels with the report from a worker to the controller
    report.pyhv_files = [one.files for one in found]


class Artifacts:
    """Writes the files of failed tests into *folder*; pytest-xdist's workers have none of it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write what came with the report: a folder per machine."""
        for number, files in enumerate(getattr(report, "pyhv_files", ())):
            name = re.sub(r"[^\w.-]+", "_", report.nodeid)[-100:]
            place = self._folder / f"{name}-{number}"
            place.mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                (place / file).write_bytes(data)
                if file.endswith(".sh"):
                    (place / file).chmod(0o755)
