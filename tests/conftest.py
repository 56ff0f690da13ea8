"""What holds for all tests: those in tests/real are marked ``real``; all others stay on the loopback interface.

The network is closed from the start of the session, the collection of tests included, and open for tests marked
``real`` and their fixtures alone. Connections to the loopback interface are allowed by design (``support/network.py``).
For them alone, too, are there the models that were downloaded before.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.network import close_network, open_network

_TESTS = Path(__file__).resolve().parent
_REAL = _TESTS / "real"
_NO_NETWORK = _TESTS / "support" / "no_network"


def pytest_configure() -> None:
    """Close the network before anything is collected, in a worker of pytest-xdist too."""
    close_network()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make test`` runs the two parts one after the other, and leaves ``-m`` and ``-k`` to whoever calls it."""
    parser.addoption("--part", choices=("real", "rest"), help="tests on real models alone, or all others alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_REAL):
            item.add_marker("real")
    part = config.getoption("part")
    if part is not None:
        real = [item for item in items if item.get_closest_marker("real")]
        rest = [item for item in items if not item.get_closest_marker("real")]
        items[:], others = (real, rest) if part == "real" else (rest, real)
        config.hook.pytest_deselected(items=others)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around the whole of a test: a fixture would come after those of a module or a session that the test asks for."""
    with open_network() if item.get_closest_marker("real") else _nothing_downloaded():
        return (yield)


@contextmanager
def _nothing_downloaded() -> Iterator[None]:
    """Close the network to every Python that is started from here, too, and hide the models that are here already.

    A test that asks for one of these would pass on a machine that has it, and on no other.
    """
    paths = [str(_NO_NETWORK), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("SAFE_RETRIEVAL_HOME", os.devnull)
        yield
