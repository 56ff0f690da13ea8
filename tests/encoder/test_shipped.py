from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.encoder import shipped
from safe_retrieval.encoder.shipped import shipped_adapter, shipped_adapters
from safe_retrieval.errors import AdapterError
from safe_retrieval.models.catalog import DEFAULT_BACKBONE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shipped, "_HOME", tmp_path)
    for backbone in (DEFAULT_BACKBONE, "qwen2.5-coder-0.5b-instruct"):
        folder = tmp_path / f"{backbone}--all-minilm-l6-v2"
        folder.mkdir()
        (folder / "adapter.json").touch()
    (tmp_path / "not-an-adapter").mkdir()
    return tmp_path


def test_by_backbone(home: Path) -> None:
    assert shipped_adapter() == home / f"{DEFAULT_BACKBONE}--all-minilm-l6-v2"
    small = home / "qwen2.5-coder-0.5b-instruct--all-minilm-l6-v2"
    assert shipped_adapter("qwen2.5-coder-0.5b-instruct") == small
    assert shipped_adapter("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF") == small
    assert len(shipped_adapters()) == 2


@pytest.mark.parametrize(
    "backbone", ["smollm2-135m-instruct", "/somewhere/else", "../not-an-adapter", "Qwen/Qwen3-0.6B"]
)
def test_none_for_others(home: Path, backbone: str) -> None:
    with pytest.raises(AdapterError, match=r"shipped: .*--all-minilm-l6-v2"):
        shipped_adapter(backbone)
    with pytest.raises(AdapterError, match="no adapter is shipped"):
        shipped_adapter(teacher="all-mpnet-base-v2")
