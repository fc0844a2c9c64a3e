"""``python -m pyhv``: the same as the installed command ``pyhv``."""

from .cli import entry

if __name__ == "__main__":
    entry()
