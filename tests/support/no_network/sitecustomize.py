"""Python imports this at its start where PYTHONPATH names this folder: programs that a test starts are cut off too."""

from __future__ import annotations

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent.parent / "network.py"))["close_network"]()
