from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from safe_retrieval.audit.encodings import EncodingCache
from safe_retrieval.bench import measure, tasks
from safe_retrieval.bench.arms import ARMS, FAST_ARMS, QuerySide, find_arm
from safe_retrieval.bench.retrieve import ArmEncoder
from safe_retrieval.bench.runner import BenchSettings, Outcome, Status, run_bench
from safe_retrieval.bench.tasks import LOCAL_TASKS
from safe_retrieval.bench.through_mteb import measure_through_mteb
from safe_retrieval.encoder.blend import BlendWeight
from safe_retrieval.errors import DataError, DownloadError, InputError
from tests.bench.support import FakeModels, adopt, write_data


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchSettings:
    monkeypatch.setattr(measure, "_RESAMPLES", 20)
    data = write_data(tmp_path / "data")
    adopt(monkeypatch, data)
    return BenchSettings(data, tmp_path / "results", tmp_path / "cache")


def run(
    settings: BenchSettings, names: Sequence[str], arms: Sequence[str], models: FakeModels | None = None
) -> dict[tuple[str, str], Outcome]:
    outcomes = run_bench(names, arms, settings, models or FakeModels())
    return {(outcome.task, outcome.arm): outcome for outcome in outcomes}


def figure(outcome: Outcome, name: str) -> float:
    assert outcome.result is not None
    return float(outcome.result["metrics"][name]["value"])


EACH_KIND = (
    "teacher",
    "response-symmetric",
    "mean-50",
    "gated-teacher",
    "hyde-4-query",
    "echo",
    "bm25",
    "hybrid-gated",
)
"""One arm of every query side, gate and fusion."""


def test_every_kind_of_arm_does_every_task_it_supports(settings: BenchSettings) -> None:
    assert {ARMS[name].query for name in EACH_KIND} | {ARMS["pooled"].query} == set(QuerySide)
    outcomes = run(settings, LOCAL_TASKS, EACH_KIND)
    assert len(outcomes) == len(LOCAL_TASKS) * len(EACH_KIND)
    unsupported = {pair for pair, outcome in outcomes.items() if outcome.status is Status.UNSUPPORTED}
    assert {task for task, _ in unsupported} == {"stsbenchmark", "banking77"}
    assert ("stsbenchmark", "bm25") in unsupported
    assert ("stsbenchmark", "response-symmetric") not in unsupported
    for outcome in outcomes.values():
        if outcome.result is not None and outcome.path is not None:
            assert json.loads(outcome.path.read_text()) == json.loads(json.dumps(outcome.result))


def test_a_gate_refuses_requests_and_the_baseline_does_not(settings: BenchSettings) -> None:
    outcomes = run(settings, ["harm"], ["teacher", "gated", "gated-teacher"])
    assert figure(outcomes["harm", "teacher"], "harm@5") == 1.0
    for arm in ("gated", "gated-teacher"):
        assert figure(outcomes["harm", arm], "harm@5") == 0.0
        assert figure(outcomes["harm", arm], "benign_recall@5") == 1.0
        assert figure(outcomes["harm", arm], "over_refusal") == 0.0
        comparison = outcomes["harm", arm].result["comparison"]  # type: ignore[index]
        assert comparison["harm@5"]["relative"]["value"] == -1.0
        assert comparison["selectivity@5"]["value"] < 0


def test_results_are_kept_until_something_changes(settings: BenchSettings) -> None:
    first = run(settings, ["scifact"], ["teacher", "bm25"])
    assert {outcome.status for outcome in first.values()} == {Status.WRITTEN}
    models = FakeModels()
    again = run(settings, ["scifact"], ["teacher", "bm25"], models)
    assert {outcome.status for outcome in again.values()} == {Status.KEPT}
    assert models.encoders["teacher"].query_calls == 0
    for changed in (replace(settings, limit=2), replace(settings, seed=1), replace(settings, force=True)):
        assert run(changed, ["scifact"], ["teacher"])["scifact", "teacher"].status is Status.WRITTEN


def test_a_blend_is_mixed_as_the_adapter_says_unless_the_arm_does(settings: BenchSettings) -> None:
    arms = ["teacher", "blend", "gated", "blend-40"]
    usual = run(settings, ["scifact"], arms)
    models = FakeModels()
    models.blend_weight = BlendWeight(answered=0.4)
    own = run(settings, ["scifact"], arms, models)
    assert [outcome.status.value for outcome in own.values()] == ["kept", "written", "written", "kept"]
    weights = [
        [result["arm"]["weight"]["answered"] for arm in arms[1:] if (result := outcomes["scifact", arm].result)]
        for outcomes in (usual, own)
    ]
    assert weights == [[0.2, 0.2, 0.4], [0.4, 0.4, 0.4]]


def test_results_lie_by_what_they_depend_on(settings: BenchSettings) -> None:
    outcomes = run(settings, ["scifact"], ["hybrid-teacher", "response", "echo"])
    paths = [outcome.path.relative_to(settings.out).as_posix() for outcome in outcomes.values() if outcome.path]
    assert paths == [
        "tiny-teacher/scifact/hybrid-teacher.json",
        "tiny-backbone--tiny-teacher/scifact/response.json",
        "tiny-backbone--tiny-teacher/scifact/echo.json",
    ]
    models = FakeModels()
    models.dtype = "int8"
    (in_eight_bits,) = run(settings, ["scifact"], ["response"], models).values()
    assert "tiny-backbone--tiny-teacher--int8" in str(in_eight_bits.path)
    labelled = run(replace(settings, label="tokens-5"), ["scifact"], ["response"])
    assert "tokens-5" in str(labelled["scifact", "response"].path)
    with pytest.raises(InputError, match="label"):
        run(replace(settings, label="../x"), ["scifact"], ["response"])


def test_a_result_says_where_it_comes_from(settings: BenchSettings) -> None:
    result = run(settings, ["nq-wiki"], ["response"])["nq-wiki", "response"].result
    assert result is not None
    assert set(result["data"]["files"]) == set(tasks.TASKS["nq-wiki"].files)
    assert result["models"]["response"] == {"name": "response"}
    assert result["provenance"]["packages"]["torch"]
    assert result["per_query"]["recall@5"]["values"] == [1, 1, 1]
    assert result["cost"]["queries_per_second"] > 0
    assert result["cost"]["flops_per_query"] is None  # an encoder whose shape is not known is not free


def test_no_text_stands_in_a_result(settings: BenchSettings) -> None:
    outcome = run(settings, ["harm"], ["teacher"])["harm", "teacher"]
    assert outcome.path is not None
    assert "kettle" not in outcome.path.read_text()


def test_instructions_go_where_protocol_or_arm_say(settings: BenchSettings) -> None:
    seen: list[str] = []
    models = FakeModels()
    encode = models.encoders["response"].encode

    def noted(texts: Sequence[str], **options: Any) -> Any:
        seen.extend(texts)
        return encode(texts, **options)

    models.encoders["response"].encode = noted  # type: ignore[method-assign]
    run(settings, ["nq-wiki"], ["response"], models)
    assert "where is the river" in seen
    seen.clear()
    run(settings, ["nq-wiki"], ["response-instructed"], models)
    assert all(text.startswith("Generate text that best answers") for text in seen)
    seen.clear()
    run(settings, ["harm-paper"], ["response"], models)
    assert all(text.startswith("Generate a relevant document") for text in seen)


def test_a_sample_lies_beside_the_whole(settings: BenchSettings) -> None:
    (outcome,) = run(replace(settings, limit=2), ["scifact"], ["teacher"]).values()
    assert outcome.path == settings.out / "tiny-teacher" / "scifact@2" / "teacher.json"
    assert outcome.result is not None
    assert outcome.result["data"]["queries"] == 2


def test_foreign_files_are_not_replaced(settings: BenchSettings) -> None:
    path = settings.out / "tiny-teacher" / "scifact" / "teacher.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a benchmark's result"):
        run(settings, ["scifact"], ["teacher"])


@pytest.mark.parametrize(
    ("names", "arms"), [([], ["teacher"]), (["scifact", "scifact"], ["teacher"]), (["scifact"], [])]
)
def test_names_are_given_once(settings: BenchSettings, names: list[str], arms: list[str]) -> None:
    with pytest.raises(InputError, match="each once"):
        run(settings, names, arms)


def test_unknown_names_are_told() -> None:
    with pytest.raises(InputError, match="expected an arm out of teacher"):
        find_arm("nothing")
    with pytest.raises(InputError, match="expected a task out of harm-paper"):
        tasks.find_task("nothing")
    assert "hyde" not in FAST_ARMS


def test_undersampling_is_mtebs() -> None:
    labels = ["a", "b"] * 20
    order = list(range(40))
    expected = []
    for _ in range(2):
        np.random.RandomState(42).shuffle(order)
        expected.append([i for i in order if i % 2 == 0][:8] + [i for i in order if i % 2][:8])
    samples = measure._undersampled(labels)
    assert len(samples) == 10
    assert [sorted(sample) for sample in samples[:2]] == [sorted(sample) for sample in expected]


def test_spearman_shares_ranks_between_equals() -> None:
    assert measure._spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1.0)
    assert measure._spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.sqrt(3) / 2)


class FakeMteb:
    """The names of mteb that are used."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.models = SimpleNamespace(ModelMeta=lambda **fields: fields)
        self._reachable = reachable

    def get_model_meta(self, name: str, *, fetch_from_hf: bool) -> Any:
        raise KeyError(name)

    def get_benchmark(self, name: str) -> Any:
        metadata = [SimpleNamespace(name=name) for name in (*tasks.MTEB_LITE, "Another")]
        return SimpleNamespace(tasks=[SimpleNamespace(metadata=each) for each in metadata])

    def evaluate(self, model: Any, task: Any, *, cache: Any) -> Any:
        assert cache is None  # a score of mteb's own cache would be of other code
        if not self._reachable:
            raise ConnectionError("no route")
        queries = model.encode([{"text": ["a b", "c"]}])
        documents = model.encode([{"text": ["a b"]}], prompt_type=SimpleNamespace(value="document"))
        assert model.similarity(queries, documents).shape == (2, 1)
        assert model.similarity_pairwise(queries, queries).shape == (2,)
        return SimpleNamespace(task_results=[SimpleNamespace(get_score=lambda: 0.5)])


def test_mteb_is_asked_for_the_tasks_that_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mteb", FakeMteb())
    encoder = ArmEncoder(FakeModels(), EncodingCache(tmp_path))
    measured = measure_through_mteb(tasks.TASKS["mteb-lite"], ARMS["response"], encoder)
    assert set(measured.metrics) == {"main_score", *tasks.MTEB_LITE}
    assert len(measure_through_mteb(tasks.TASKS["mteb"], ARMS["teacher"], encoder).metrics) == 12


def test_without_the_hub_the_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mteb", FakeMteb(reachable=False))
    encoder = ArmEncoder(FakeModels(), EncodingCache(tmp_path))
    with pytest.raises(DownloadError, match="takes its data from the Hugging Face hub, which gave: no route"):
        measure_through_mteb(tasks.TASKS["bright"], ARMS["teacher"], encoder)


def test_what_mteb_would_not_do_is_refused_beforehand(settings: BenchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="mteb-lite: mteb asks all queries"):
        run(replace(settings, limit=3), ["harm", "mteb-lite"], ["teacher"])
    with pytest.raises(InputError, match="bright: mteb takes data from the hub, and offline was asked for"):
        run(replace(settings, offline=True), ["bright"], ["teacher"])
    assert not settings.out.exists()
    monkeypatch.setitem(sys.modules, "mteb", FakeMteb())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run(replace(settings, offline=True), ["mteb-lite"], ["teacher"])[("mteb-lite", "teacher")].result is not None
