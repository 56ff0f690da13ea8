from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.bench.ablations import ablation_config, load_ablations
from safe_retrieval.bench.arms import ARMS
from safe_retrieval.bench.tasks import TASKS
from safe_retrieval.encoder.adapter import HeadShape
from safe_retrieval.errors import ConfigError, InputError
from safe_retrieval.training.config import load_config
from tests.support.package_source import REPOSITORY

FILE = REPOSITORY / "benchmarks" / "ablations.yaml"


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", str(tmp_path))


def test_every_row_is_a_valid_configuration(tmp_path: Path) -> None:
    ablations = load_ablations(FILE)
    for name in ablations.rows:
        assert ablation_config(ablations, name, tmp_path).out == tmp_path / name
    assert set(ablations.tasks) <= set(TASKS)
    assert set(ablations.arms) <= set(ARMS)


def test_a_row_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    ablations = load_ablations(FILE)
    base = load_config(ablations.base)
    row = ablation_config(ablations, "linear-head", tmp_path)
    assert row.adapter.head is HeadShape.LINEAR
    changed = row.model_copy(
        update={
            "adapter": base.adapter,
            "optimiser": base.optimiser,
            "out": base.out,
            "responses_file": base.responses_file,
        }
    )
    assert changed == base
    assert ablation_config(ablations, "queries-all", tmp_path).queries.shares == {}


def test_all_rows_can_have_fewer_queries(tmp_path: Path) -> None:
    ablations = load_ablations(FILE)
    row = ablation_config(ablations, "mse", tmp_path, queries=600)
    assert row.queries.count == 600
    assert row.out == tmp_path / "mse-of-600"
    assert row.responses_file == ablation_config(ablations, "mse", tmp_path).responses_file
    assert ablation_config(ablations, "queries-4k", tmp_path, queries=600).queries.count == 4352


def test_responses_are_shared_where_they_would_be_the_same(tmp_path: Path) -> None:
    ablations = load_ablations(FILE)
    shared = load_config(ablations.base).out / "responses.jsonl"
    assert ablation_config(ablations, "mse", tmp_path).responses_file == shared
    for name in ("response-48", "policy-strict", "template-none", "answers-of-the-1.5b"):
        assert ablation_config(ablations, name, tmp_path).responses_file is None


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an ablation out of base, base-again, thought-tokens-10"):
        ablation_config(load_ablations(FILE), "nothing", tmp_path)
    file = tmp_path / "ablations.yaml"
    file.write_text(
        f"base: {FILE.parent / 'adapters' / 'qwen2.5-coder-0.5b-instruct.yaml'}\ntasks: [harm]\narms: [teacher]\n"
    )
    with pytest.raises(ConfigError, match="rows: Field required"):
        load_ablations(file)
    file.write_text(file.read_text() + "rows: {x: {adapter: {tokens: 1}}}\n")
    with pytest.raises(ConfigError, match=r"ablation x: adapter\.tokens"):
        ablation_config(load_ablations(file), "x", tmp_path)
    file.write_text("[" * 3_000)
    for broken in (file, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match="expected a YAML file"):
            load_ablations(broken)
