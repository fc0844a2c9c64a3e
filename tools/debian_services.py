"""What the "services" initramfs of debian_image.py has beside the small one: Debian's daemons."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/host"))

import debian  # noqa: E402
import initramfs as archive  # noqa: E402

#: loaded by the tests that want them: with parameters, or because they cost a guest memory
LATER_MODULES = ["hv_balloon", "uio_hv_generic"]
#: Linux 6.10 moved fcopy to user space, and trixie's package has no daemon for that; sid's has
FCOPY_UIO = "usr/sbin/hv_fcopy_uio_daemon"
RECIPE = (LATER_MODULES, FCOPY_UIO)


def _sid_fcopy(base: Path, scratch: Path) -> bytes:
    """Return the daemon out of sid's hyperv-daemons, which the apt of trixie, in *base*, gets."""
    folder = base / "tmp/sid"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "list").write_text(f"deb {debian.mirror()} sid main\n")
    options = "-o Dir::Etc::sourcelist=/tmp/sid/list -o Dir::State::lists=/tmp/sid/lists"
    # a mirror that stands still is signed all the same
    options += " -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false"
    get = f"apt-get -qq {options}"
    command = f"{get} update && {get} download hyperv-daemons"
    try:
        debian.in_root(
            base, "sh", "-c", f"mkdir -p /var/cache/apt/archives/partial; {command}",
            cwd="/tmp/sid",
        )  # fmt: skip
        for package in folder.glob("*.deb"):
            debian.run("dpkg-deb", "-x", package, scratch)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    name = Path(FCOPY_UIO).name
    return next(path for path in scratch.rglob(name) if path.is_file()).read_bytes()


def files(
    base: Path, suite: str, modules: list[tuple[str, bytes]], scratch: Path
) -> dict[str, bytes]:
    """Return the files by path: daemons, the C library, modules that are not loaded at boot.

    :param base: the folder with *suite*. *modules*: those that are loaded.
    """
    loader, library = "ld-linux-x86-64.so.2", base / "usr/lib/x86_64-linux-gnu"
    found = {
        f"lib64/{loader}": (library / loader).read_bytes(),
        "lib/x86_64-linux-gnu/libc.so.6": (library / "libc.so.6").read_bytes(),
        "var/lib/hyperv/.made": b"",
        "mnt/.made": b"",
    }
    for daemon in sorted((base / "usr/sbin").glob("hv_*_daemon")):
        found[f"usr/sbin/{daemon.name}"] = daemon.read_bytes()
    if suite == "trixie":
        found[FCOPY_UIO] = _sid_fcopy(base, scratch)
    for name, elf in archive.find_modules(base, LATER_MODULES):
        if name not in dict(modules):
            found[f"later/{name}.ko"] = elf
    return found
