from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.encoder import shipped
from safe_retrieval.encoder.policy import BRIEF
from safe_retrieval.encoder.shipped import is_shipped, shipped_adapter, shipped_adapters
from safe_retrieval.errors import AdapterError, InputError
from safe_retrieval.models.catalog import DEFAULT_BACKBONE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shipped, "_HOME", tmp_path)
    for name in (
        f"{DEFAULT_BACKBONE}--all-minilm-l6-v2",
        "qwen2.5-coder-0.5b-instruct--all-minilm-l6-v2",
        "smollm2-135m-instruct--all-mpnet-base-v2",
        "smollm2-135m-instruct--pooled-smollm2-135m-instruct",
        "smollm2-135m-instruct--pooled-smollm2-135m-instruct--brief",
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter.json").touch()
    (tmp_path / "not-an-adapter").mkdir()
    return tmp_path


def test_by_backbone(home: Path) -> None:
    assert shipped_adapter() == home / f"{DEFAULT_BACKBONE}--all-minilm-l6-v2"
    small = home / "qwen2.5-coder-0.5b-instruct--all-minilm-l6-v2"
    assert shipped_adapter("qwen2.5-coder-0.5b-instruct") == small
    assert shipped_adapter("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF") == small
    assert len(shipped_adapters()) == 5


@pytest.mark.parametrize("backbone", [None, "smollm2-135m-instruct"])
def test_by_the_encoder_of_the_documents(home: Path, backbone: str | None) -> None:
    mpnet = home / "smollm2-135m-instruct--all-mpnet-base-v2"
    assert shipped_adapter(backbone, "all-mpnet-base-v2") == mpnet
    assert shipped_adapter(backbone, "sentence-transformers/all-mpnet-base-v2") == mpnet
    own = "pooled:smollm2-135m-instruct"
    assert shipped_adapter(backbone, own).name == "smollm2-135m-instruct--pooled-smollm2-135m-instruct"
    assert is_shipped("smollm2-135m-instruct", own)
    assert not is_shipped("smollm2-135m-instruct", "all-minilm-l6-v2")


def test_by_the_policy(home: Path) -> None:
    own, named = "pooled:smollm2-135m-instruct", home / "smollm2-135m-instruct--pooled-smollm2-135m-instruct"
    brief = home / f"{named.name}--brief"
    assert shipped_adapter(None, own, "brief") == shipped_adapter(None, own, BRIEF) == brief
    assert is_shipped("smollm2-135m-instruct", own, "brief")
    for other in (None, "careful", "concise", "Answer in French."):
        assert shipped_adapter(None, own, other) == named
    assert shipped_adapter(policy="brief") == home / f"{DEFAULT_BACKBONE}--all-minilm-l6-v2"
    assert not is_shipped(DEFAULT_BACKBONE, "all-minilm-l6-v2", "brief")
    with pytest.raises(InputError, match="brief, careful, concise"):
        shipped_adapter(policy="breif")


def test_a_name_that_nobody_knows_may_be_the_default_encoder_in_a_folder(home: Path) -> None:
    assert shipped_adapter(teacher="/a/folder") == home / f"{DEFAULT_BACKBONE}--all-minilm-l6-v2"


@pytest.mark.parametrize(
    "backbone", ["smollm2-135m-instruct", "/somewhere/else", "../not-an-adapter", "Qwen/Qwen3-0.6B"]
)
def test_none_for_others(home: Path, backbone: str) -> None:
    with pytest.raises(AdapterError, match=r"shipped: .*--all-minilm-l6-v2"):
        shipped_adapter(backbone)
    with pytest.raises(AdapterError, match="no adapter is shipped"):
        shipped_adapter(DEFAULT_BACKBONE, "all-mpnet-base-v2")
