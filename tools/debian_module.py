"""The small initramfs with kernel modules under test: it has them in /modules, not loaded."""

from __future__ import annotations

from pathlib import Path

import debian
import initramfs as archive


def initramfs(
    base: Path, suite: str, init: str, always: list[str], modules: list[str] | tuple,
    output: Path | None,
) -> Path:  # fmt: skip
    """Return it; made once, but for a module in a file, which goes to *output*.

    :param base: the root whose kernel it is for. *init*: its script, which loads *always* and what
        *modules* depend on.
    :param modules: names of modules of that kernel, or files ``*.ko``.
    :raises debian.SetupError: no such module, a file that cannot be read.
    """
    try:
        needed, tested = archive.under_test(base, modules)
    except OSError as error:
        raise debian.SetupError(f"--module {error.filename}: {error.strerror}") from error
    except LookupError as error:
        raise debian.SetupError(f"--module {error.args[0]}") from error
    loaded = [*always, *needed]

    def build(file: Path) -> None:
        program = next((base.parent / "busybox").glob("**/bin/busybox"))
        files = {f"modules/{name}.ko": elf for name, elf in tested}
        found = archive.find_modules(base, loaded)
        file.write_bytes(archive.build(program, init, found, files))

    if output is not None and any(module.endswith(".ko") for module in modules):
        build(output)
        return output
    recipe = debian.digest(init, loaded, archive.LINKS, base.parent.name, list(modules))
    return debian.once(f"initramfs-{suite}-{recipe}", build)
