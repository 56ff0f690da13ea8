from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations import stand_ins


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders of hashed words in the place of those that are loaded by name."""
    stand_ins.install(monkeypatch)


@pytest.fixture
def folder(known: None, tmp_path: Path) -> Path:
    """An index folder of the three known documents."""
    return stand_ins.build(tmp_path / "index")
