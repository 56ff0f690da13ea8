"""What holds for all tests: those in tests/real are marked ``real``, all others stay off the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network import closed_network

_TESTS = Path(__file__).resolve().parent
_REAL = _TESTS / "real"
_NO_NETWORK = _TESTS / "support" / "no_network"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_REAL):
            item.add_marker("real")


@pytest.fixture(autouse=True)
def loopback_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No connection but to the loopback interface, here and in every Python that the test starts."""
    if request.node.get_closest_marker("real"):
        yield
        return
    paths = [str(_NO_NETWORK), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with closed_network():
        yield
