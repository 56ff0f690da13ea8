"""A fixture for modules whose objects each load the backbone for themselves: they are handed the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from safe_retrieval.backbone.language_model import LanguageModel


@pytest.fixture(scope="module", autouse=True)
def one_backbone() -> Iterator[None]:
    """Weights take ten seconds to read; a module that imports this reads each model once, if it asks for it in a row.

    No two are held at once: that of 1.5B parameters alone takes over six gigabytes in float32.
    """
    load = LanguageModel.load.__func__  # type: ignore[attr-defined]  # a classmethod's function
    last: dict[tuple[object, ...], LanguageModel] = {}

    def shared(name: str, **options: object) -> LanguageModel:
        options = {"dtype": "auto", **options}
        options.pop("offline", None)  # says where a model comes from, not which one it is
        asked = (name, *sorted(options.items()))
        if asked not in last:
            last.clear()
            last[asked] = load(LanguageModel, name, **options)
        return last[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "load", shared)
        yield
