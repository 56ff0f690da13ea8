"""Pulls the stand-in model in a process of its own, so that a test can kill it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest import make_stand_in

from safe_retrieval.models import catalog
from safe_retrieval.models.fetch import resolve

made = make_stand_in()
catalog._RECORDS = (made.record,)
model = resolve(made.record.name)
sys.stdout.write(f"{model.fingerprint}\n")
