from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.server.app import create_app
from safe_retrieval.server.engine import Served
from tests.server.support import served_by
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

Client = Callable[..., Any]
"""Makes a ``starlette.testclient.TestClient`` of what is served; further arguments are those of ``create_app``."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchableIndex]:
    build_index(small_corpus(20), HashEncoder(), tmp_path / "index")
    with load_index(tmp_path / "index") as opened:
        yield opened


@pytest.fixture
def client() -> Iterator[Client]:
    from starlette.testclient import TestClient

    with ExitStack() as stack:

        def make(
            served: Served | None = None,
            *,
            headers: dict[str, str] | None = None,
            caller: tuple[str, int] = ("127.0.0.1", 50000),
            **arguments: Any,
        ) -> Any:
            app = create_app(served or served_by(), **arguments)
            opened = TestClient(
                app,
                base_url="http://127.0.0.1",
                raise_server_exceptions=False,
                headers=headers or {},
                client=caller,
            )
            return stack.enter_context(opened)

        yield make
