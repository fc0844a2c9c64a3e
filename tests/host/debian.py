"""Debian roots by debootstrap and everything made from them, built once into a cache folder."""

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

DEBIAN_NAMES = {"stable", "testing", "unstable", "sid"}


class SetupError(Exception):
    """Something is missing on this machine; the message is one line."""


def cache() -> Path:
    """Return the cache folder, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.environ.get("PYHV_CACHE") or Path(base, "pyhv")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _only_builder() -> Iterator[None]:
    """Hold the cache's lock, so that two runs never download the same thing at once."""
    with open(cache() / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("pyhv: waiting for another setup of the cache", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever made these is dead: it would hold the lock.
        for stale in cache().glob(".build-*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield


def digest(*recipe: object) -> str:
    """Return a few letters for a name in the cache: another recipe, another thing."""
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]


def once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cached file or folder *name*; if it is not there, *build* makes it.

    *build* gets a path of the same name in a scratch folder, which is renamed
    when all is well: a broken setup leaves nothing behind. It must not call
    :func:`once` itself (the lock does not nest).
    """
    final = cache() / name
    if final.exists():
        return final
    with _only_builder():
        if final.exists():
            return final
        print(f"pyhv: making {name} in the cache (once)", file=sys.stderr)
        scratch = Path(tempfile.mkdtemp(dir=cache(), prefix=".build-"))
        try:
            build(scratch / name)
            (scratch / name).rename(final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return final


def run(*command: str | Path, log: Path | None = None, **options: object) -> None:
    """Run a command of the setup; raise :class:`SetupError` with its last line if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        if log:
            log.write_bytes(done.stdout)
        last = (done.stdout.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise SetupError(f"{Path(command[0]).name} exited with {done.returncode}: {last}")


def need(**packages: str) -> None:
    """Make sure that programs exist: ``need(debootstrap="debootstrap")``, program=package."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    os.environ["PATH"] = path  # a user's PATH often lacks sbin
    missing = sorted({pkg for program, pkg in packages.items() if not shutil.which(program)})
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise SetupError(f"please install as root: {' '.join(missing)}")
    print(f"pyhv: installing {' '.join(missing)}", file=sys.stderr)
    run("apt-get", "install", "-y", "--no-install-recommends", *missing)


def _sources(apt: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (URI, suites) of the enabled binary sources in the folder *apt*, in both formats."""
    for file in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]:
        for line in file.read_text().splitlines() if file.exists() else []:
            words = line.split("#")[0].split()
            if words[:1] != ["deb"]:
                continue
            if words[1].startswith("["):  # options, perhaps with blanks
                words = ["deb", *" ".join(words).partition("]")[2].split()]
            yield words[1], [words[2]]
    for file in sorted((apt / "sources.list.d").glob("*.sources")):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        for stanza in "\n".join(lines).split("\n\n"):
            fields: dict[str, list[str]] = {}
            key = ""
            for line in stanza.splitlines():
                if line[:1].isspace():  # continuation
                    fields.setdefault(key, []).extend(line.split())
                elif ":" in line:
                    key = line.partition(":")[0].strip().lower()
                    fields[key] = line.partition(":")[2].split()
            if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
                for uri in fields.get("uris", []):
                    yield uri, fields.get("suites", [])


def mirror() -> str:
    """Return the URI of the Debian archive that this machine itself uses."""
    if chosen := os.environ.get("PYHV_DEBIAN_MIRROR"):
        return chosen
    names = set(DEBIAN_NAMES)
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            names.add(line.partition("=")[2].strip('"'))
    for uri, suites in _sources(Path("/etc/apt")):
        plain = uri.rstrip("/").endswith("debian")  # not debian-security, not a vendor's
        if plain and names & set(suites) and uri.startswith(("http:", "https:", "file:")):
            return uri
    raise SetupError("no Debian mirror in this machine's apt sources; set PYHV_DEBIAN_MIRROR")


def debootstrap(root: Path, suite: str, packages: list[str]) -> None:
    """Install a minimal Debian with *packages* into the new folder *root*."""
    if os.geteuid():
        raise SetupError("the first setup needs root (debootstrap); run it once with --setup")
    need(debootstrap="debootstrap", unshare="util-linux")
    # Own namespaces: its mounts in ROOT and its children die with it, whatever happens.
    run(
        *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
        *("debootstrap", "--variant=minbase", "--include=" + ",".join(packages)),
        *(suite, root, mirror()),
        log=cache() / f"failed-{root.name}.log",
    )
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def in_root(root: Path, *command: str, cwd: str = "/") -> None:
    """Run *command* in *root*, in its folder *cwd*, with a /proc of its own."""
    inner = 'cd "$0" && exec "$@"'
    script = f'mount -t proc proc "$0/proc"; exec chroot "$0" /bin/sh -c {shlex.quote(inner)} "$@"'
    run(
        *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
        *("sh", "-c", script, root, cwd, *command),
        log=cache() / f"failed-{root.name}.log",
    )


@contextlib.contextmanager
def package_lists(root: Path) -> Iterator[None]:
    """Let packages of *root*'s suite be downloaded; its lists are empty again afterwards."""
    lists = root / "var/lib/apt/lists"
    try:
        in_root(root, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "update")
        yield
    finally:
        shutil.rmtree(lists, ignore_errors=True)
        lists.mkdir()


def unpack(root: Path, package: str, target: Path) -> None:
    """Download *package* of *root*'s suite and unpack it into *target*, without installing it."""
    folder = root / "tmp/unpack"
    folder.mkdir()
    get = "mkdir -p /var/cache/apt/archives/partial; exec apt-get -o APT::Sandbox::User=root "
    in_root(root, "sh", "-c", get + f"download {package}", cwd="/tmp/unpack")
    for file in folder.glob("*.deb"):
        run("dpkg-deb", "-x", file, target)
    shutil.rmtree(folder)


# What the metapackage depends on: the package with the kernel itself.
CLOUD_KERNEL = (
    "$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*: \\(linux-image-.*\\)/\\1/p')"
)


def kernel_image(root: Path) -> Path:
    """Return the kernel in *root*."""
    return sorted((root / "boot").glob("vmlinuz-*"))[-1]
