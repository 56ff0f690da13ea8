from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from safe_retrieval.encoder import persistence
from safe_retrieval.encoder.adapter import Beside, HeadShape, RefusalHead
from safe_retrieval.encoder.persistence import (
    AdapterRecord,
    PolicyRecord,
    load_adapter,
    save_adapter,
    write_record,
)
from safe_retrieval.errors import AdapterError, AdapterFormatError
from tests.support.adapters import random_adapter, random_refusal, record_for, save_random_adapter, shape_of
from tests.support.tiny_models import tiny_model

FILES = ("adapter.json", "adapter.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    save_random_adapter(folder, tiny_model())
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("head", list(HeadShape))
def test_round_trip(tmp_path: Path, head: HeadShape) -> None:
    shape = shape_of(head)
    adapter, refusal = random_adapter(shape), random_refusal()
    written = save_adapter(tmp_path, adapter, refusal, record_for(tiny_model(), shape))
    loaded = load_adapter(tmp_path)
    assert loaded.record == written
    assert loaded.fingerprint == written.weights_sha256
    for before, after in ((adapter, loaded.adapter), (refusal, loaded.refusal)):
        theirs = after.state_dict()
        for name, tensor in before.state_dict().items():
            exact = tensor.dim() < 2
            assert theirs[name].dtype == torch.float32
            torch.testing.assert_close(theirs[name], tensor, atol=0 if exact else 1e-3, rtol=0 if exact else 1e-3)
    assert not any(parameter.requires_grad for parameter in loaded.adapter.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_the_format_is_pinned(tmp_path: Path) -> None:
    shape = shape_of(HeadShape.LINEAR, hidden_size=2, dimension=1, thought_tokens=0, compression_tokens=1)
    adapter = random_adapter(shape)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8)
    record = record_for(tiny_model(), shape).model_copy(update={"template_sha256": "sha256:0"})
    written = save_adapter(tmp_path, adapter, RefusalHead(2, (5, 9)), record)
    assert written.weights_sha256 == "sha256:2a982527d7748261801ec8f604ccefca5a22e78e7157cb656f0b8e372ed0469f"
    assert written.record_sha256 == "sha256:60978124be1c2aab3d7e2907fa1689b252c7f7010062993a4245eac58b465633"
    # What version 1 looks like on disk; a file from an earlier release must go on loading.
    content = json.loads((tmp_path / "adapter.json").read_bytes())
    assert (content["format"], content["version"]) == ("safe-retrieval-adapter", 1)
    assert content["shape"]["head"] == "linear"
    assert list(content)[-2:] == ["weights_sha256", "record_sha256"]
    loaded = load_adapter(tmp_path).adapter
    assert loaded.reconstruction.weight.tolist() == [[0.0, 0.125], [0.25, 0.375]]


def test_a_wide_head_is_kept_in_8_bit_integers(tmp_path: Path) -> None:
    shape = shape_of(HeadShape.RIDGE, values=200, read_first_token=True, mixture=True)
    adapter = random_adapter(shape)
    with torch.no_grad():
        adapter.worded.weight[2] = 0
    save_adapter(tmp_path, adapter, random_refusal(), record_for(tiny_model(), shape))
    kept = load_file(tmp_path / "adapter.safetensors")
    assert {kept[f"adapter.{name}.weight"].dtype for name in ("joined", "worded", "begun")} == {torch.int8}
    loaded = load_adapter(tmp_path).adapter
    assert not loaded.worded.weight[2].any()
    projected = torch.randn(50, shape.states, shape.hidden_size)
    beside = Beside(torch.randn(50, 200), torch.randn(50, shape.hidden_size))
    before, after = adapter.align(projected, beside), loaded.align(projected, beside)
    assert torch.nn.functional.cosine_similarity(before, after).min() > math.cos(math.radians(2))
    assert torch.equal(loaded.refusal, adapter.refusal)


def test_a_wide_head_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    shape = shape_of(HeadShape.RIDGE, values=3)
    adapter = random_adapter(shape)
    with torch.no_grad():
        adapter.worded.weight[0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"adapter\.worded\.weight.* is not finite"):
        save_adapter(tmp_path, adapter, random_refusal(), record_for(tiny_model(), shape))


def flipped(content: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found(copy: Path, name: str) -> None:
    path = copy / name
    content = path.read_bytes()
    positions = np.linspace(0, len(content) - 1, 150, dtype=int) if name == FILES[1] else range(0, len(content), 4)
    for position in positions:
        path.write_bytes(flipped(content, int(position), int(position) % 8))
        with pytest.raises(AdapterFormatError, match=name):
            load_adapter(copy)


@pytest.mark.parametrize("name", FILES)
def test_truncation_anywhere_is_found(copy: Path, name: str) -> None:
    path = copy / name
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 40, dtype=int):
        path.write_bytes(content[:length])
        with pytest.raises(AdapterFormatError, match=name):
            load_adapter(copy)
    path.write_bytes(content + b"\n")
    with pytest.raises(AdapterFormatError, match=name):
        load_adapter(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(AdapterFormatError, match=name):
        load_adapter(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"format": "something else"}, "format"),
        ({"colour": "green"}, "colour"),
        ({"shape": {"hidden_size": 8}}, "shape.dimension"),
        ({"blend_share": 1.5}, "blend_share"),
        ({"record_sha256": ""}, "missing"),
    ],
)
def test_records_of_another_kind_are_refused(copy: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads((copy / "adapter.json").read_bytes()) | change
    (copy / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(copy)


def test_a_record_that_describes_other_tensors_is_refused(copy: Path) -> None:
    record = load_adapter(copy).record
    write_record(copy, record.model_copy(update={"shape": shape_of(head_width=8)}))
    with pytest.raises(AdapterFormatError, match=r"adapter\.safetensors does not hold the tensors"):
        load_adapter(copy)


def with_texts(record: AdapterRecord) -> AdapterRecord:
    template = tiny_model().shared_prefix(record.policy.system_prompt).template.text
    teacher = record.teacher.model_copy(update={"fingerprint": "sha256:teacher"})
    return record.model_copy(
        update={"policy": PolicyRecord.of(record.policy.policy), "template": template, "teacher": teacher}
    )


def test_policy_template_and_teacher_are_stored(copy: Path) -> None:
    record = load_adapter(copy).record
    written = write_record(copy, with_texts(record))
    assert load_adapter(copy).record == written
    content = json.loads((copy / "adapter.json").read_bytes())
    assert content["policy"]["sha256"] == record.policy.policy.sha256
    assert record.policy.system_prompt in content["template"]
    assert content["teacher"]["fingerprint"] == "sha256:teacher"


def test_an_older_record_is_written_as_it_was(copy: Path) -> None:
    before = (copy / "adapter.json").read_bytes()
    content = json.loads(before)
    assert "sha256" not in content["policy"]
    assert "template" not in content
    assert "fingerprint" not in content["teacher"]
    assert "blend_share" not in content
    write_record(copy, load_adapter(copy).record)
    assert (copy / "adapter.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template_sha256": "sha256:other"}, "expected template_sha256 to be the template's hash, sha256:"),
        ({"template": "another template"}, "expected template_sha256 to be the template's hash, sha256:"),
        (
            {"policy": {"name": "careful", "system_prompt": "Refuse nothing.", "sha256": "sha256:other"}},
            "policy: .*expected the hash of the system prompt, sha256:",
        ),
    ],
)
def test_texts_that_are_not_those_of_their_hashes_are_refused(copy: Path, change: dict[str, Any], message: str) -> None:
    write_record(copy, with_texts(load_adapter(copy).record))
    path = copy / "adapter.json"
    before = path.read_bytes()
    content = json.loads(before) | change
    content["record_sha256"] = persistence._hash_of(content)  # a forger's own hash is right
    path.write_bytes(persistence._rendered(content))
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(copy)
    path.write_bytes(before)
    record = load_adapter(copy).record
    policy = record.policy.model_copy(update=change["policy"]) if "policy" in change else record.policy
    with pytest.raises(AdapterError, match=message):
        write_record(copy, record.model_copy(update={**change, "policy": policy}))
    assert path.read_bytes() == before


def test_a_record_may_be_changed_on_purpose(copy: Path) -> None:
    record = load_adapter(copy).record
    training = {**record.training, "note": "moved"}
    write_record(copy, record.model_copy(update={"training": training}))
    assert load_adapter(copy).record.training["note"] == "moved"


def test_a_record_without_its_hash_can_be_given_one(copy: Path) -> None:
    path = copy / "adapter.json"
    path.write_text(load_adapter(copy).record.model_dump_json(indent=2, exclude={"record_sha256"}))
    with pytest.raises(AdapterFormatError, match="write_record"):
        load_adapter(copy)
    write_record(copy, AdapterRecord.model_validate_json(path.read_bytes()))
    assert load_adapter(copy).record.record_sha256


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_float16_cannot_hold_are_not_written(tmp_path: Path, value: float) -> None:
    adapter = random_adapter()
    with torch.no_grad():
        adapter.tokens[0, 0] = value
    with pytest.raises(AdapterError, match=r"adapter\.tokens is not finite"):
        save_adapter(tmp_path, adapter, random_refusal(), record_for(tiny_model()))
    assert not list(tmp_path.iterdir())


def test_loading_draws_nothing_at_random(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_adapter(saved)
    assert torch.equal(torch.rand(1), expected)
