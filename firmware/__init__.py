"""Where the firmware images lie; installed, this folder is the package pyhv.firmware."""

from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
BIOS = os.path.join(FOLDER, "bios.bin")
DEMO = os.path.join(FOLDER, "demo.img")
