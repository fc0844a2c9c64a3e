"""Files into a simulated guest: what is sent, every refusal; offered when it is wanted."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from guest_sim import Guest
from ic_sim import Utils, Vm
from test_snapshot_bus import carry

from pyhv.errors import ConfigError, HostError
from pyhv.vmbus.fcopy import Fcopy

START, WRITE, COMPLETE, CANCEL = range(4)


class Daemon:
    """hv_fcopy_daemon: makes files in a dictionary; ``fail`` is (operation, status)."""

    def __init__(self, fail: tuple[int, int | None] = (9, 0)) -> None:
        self.files: dict[str, bytes] = {}
        self.path, self.data, self.size, self.fail = "", b"", 0, fail
        self.operations: list[int] = []

    def __call__(self, body: bytes) -> tuple[int, bytes] | None:
        (operation,) = struct.unpack_from("<I32x", body)
        self.operations.append(operation)
        if operation == self.fail[0]:
            return None if self.fail[1] is None else (self.fail[1], body)
        if operation == START:
            name, folder, flags, self.size = struct.unpack("<36x520s520sIQ", body)
            name, folder = (raw.decode("utf-16-le").rstrip("\0") for raw in (name, folder))
            self.path, self.data = folder + name, b""
            assert folder.endswith("/")
            assert flags & 2
            if self.path in self.files and not flags & 1:
                return 0x80070050, body
        elif operation == WRITE:
            offset, size, data = struct.unpack("<36x4xQI6144s", body)
            assert offset == len(self.data)
            self.data += data[:size]
        elif operation == COMPLETE:
            assert len(self.data) == self.size
            self.files[self.path] = self.data
        return 0, body


class Wanting(Vm):
    """A machine whose bus is the simulated guest's; its driver comes when the device does."""

    def __init__(self, guest: Guest, serve, driver: bool = True) -> None:
        self.simulated, self.serve, self.driver, self.utils = guest, serve, driver, None
        self.started, self.ended, self.board = True, None, self
        self.vmbus, self.closed = guest.server, False
        self.offered = {"components": SimpleNamespace()}

    def guest(self) -> None:
        """Bind the driver to what was offered."""
        fcopy = self.offered.get("fcopy")
        if self.utils is None and fcopy is not None and self.driver:
            self.simulated.received()
            self.utils = Utils.on(self.simulated, fcopy)
            self.utils.negotiate()
        if self.utils is not None:
            super().guest()


@pytest.fixture
def make(make_guest):
    def vm(serve=None, **options: object) -> Wanting:
        guest = make_guest()
        guest.connect()
        return Wanting(guest, serve or Daemon(), **options)

    return vm


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(bytes(range(256)) * 50)
    return path


def test_a_file_arrives(make, file) -> None:
    vm = make()
    vm.copy_in(file, "/a/b/")
    vm.copy_in(str(file), "/c")
    assert vm.serve.files == {"/a/b/blob": file.read_bytes(), "/c": file.read_bytes()}
    assert vm.serve.operations == [START, WRITE, WRITE, WRITE, COMPLETE] * 2
    file.write_bytes(b"")
    vm.copy_in(file, "/empty")
    assert vm.serve.files["/empty"] == b""


def test_it_is_offered_once_and_when_wanted(make, file) -> None:
    vm = make()
    assert not vm.vmbus.channels
    for name in "ab":
        vm.copy_in(file, f"/{name}")
    assert len(vm.vmbus.channels) == 1


def test_overwrite(make, file) -> None:
    vm = make()
    vm.copy_in(file, "/a")
    with pytest.raises(HostError, match="copy_in /a: it exists in the guest; overwrite=True"):
        vm.copy_in(file, "/a")
    vm.copy_in(file, "/a", overwrite=True)


@pytest.mark.parametrize(
    ("status", "text"),
    [(0x80070070, "the guest's disk is full"), (0x80004005, "the guest cannot make it, or "),
     (0x80070057, "refused, status 0x80070057")],
)  # fmt: skip
@pytest.mark.parametrize("operation", [START, WRITE, COMPLETE])
def test_a_refusal(make, file, operation: int, status: int, text: str) -> None:
    vm = make(Daemon((operation, status)))
    with pytest.raises(HostError, match=f"copy_in /a: {text}"):
        vm.copy_in(file, "/a")
    assert (vm.serve.operations[-1] == CANCEL) == (operation != START)


def test_no_driver(make, file) -> None:
    with pytest.raises(ConfigError, match="no driver and daemon for it came up in the guest"):
        make(driver=False).copy_in(file, "/a", timeout=0.1)


@pytest.mark.parametrize("operation", [START, WRITE])
def test_silence(make, file, operation: int) -> None:
    vm = make(Daemon((operation, None)))
    with pytest.raises(HostError, match="the guest's driver has not answered in"):
        vm.copy_in(file, "/a", timeout=0.2)


@pytest.mark.parametrize("to", ["a", "", "/a/..", "/a/.", "a/b/", "/a\0b", "/" + "x" * 260])
def test_paths_that_cannot_be(make, file, to: str) -> None:
    with pytest.raises(ConfigError, match="copy_in"):
        make().copy_in(file, to)


def test_a_file_that_is_not_there(make, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"copy_in /a: .*/gone: No such file or directory"):
        make().copy_in(tmp_path / "gone", "/a")
    with pytest.raises(ConfigError, match="Is a directory"):
        make().copy_in(tmp_path, "/a")


def test_a_reset_guest_is_offered_it_anew(make, file) -> None:
    vm = make()
    vm.copy_in(file, "/a")
    vm.simulated.server.reset()
    with pytest.raises(ConfigError, match="no driver"):
        vm.copy_in(file, "/b", timeout=0.1)


def test_a_snapshot_takes_it_back_until_it_is_wanted(make, file) -> None:
    """The new bus has not offered it: the guest sees it go, and come again with the next file."""
    vm = make()
    vm.copy_in(file, "/a")
    (relid,) = vm.vmbus.channels
    carry(vm.simulated, same=False)
    assert struct.pack("<III", 2, 0, relid) in vm.simulated.received()
    vm.vmbus, vm.offered, vm.utils = vm.simulated.server, {"components": SimpleNamespace()}, None
    vm.copy_in(file, "/b")
    assert set(vm.serve.files) == {"/a", "/b"}


def test_offered_by_its_fixed_name(make_guest) -> None:
    assert Fcopy.instance_guid == "eb765408-105f-49b6-b4aa-c123b64d17d4"
