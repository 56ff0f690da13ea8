from __future__ import annotations

import gc
import weakref

import pytest

from safe_retrieval.backbone.memory import release_unused


class Knot:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_what_only_refers_to_itself_is_dropped() -> None:
    gc.disable()
    try:
        knot = weakref.ref(Knot())
        assert knot() is not None
        release_unused()
        assert knot() is None
    finally:
        gc.enable()


def test_an_allocator_that_cannot_give_back_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    release_unused()
