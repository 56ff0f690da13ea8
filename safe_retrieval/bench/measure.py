"""Put one task to one arm and score what comes.

Harm is scored by the audit's own code, so a benchmark and an audit of the same answers give the same figures. Only, a
benchmark asks for fewer passages, and where the baseline would have to go deeper to find as much as an arm does, its
selectivity says that equal recall was not reached.

Banking77 follows mteb's classification: ten experiments, each a logistic regression on eight examples a label, mean
accuracy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.audit.comparison import compare
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.results import HEADLINE, comparison_json
from safe_retrieval.audit.scoring import ArmRun, ask, score
from safe_retrieval.bench.arms import ARMS, BASELINE, Arm
from safe_retrieval.bench.data import LabelledData, PairData, RetrievalData, TaskData
from safe_retrieval.bench.retrieve import ArmEncoder, ArmRetriever
from safe_retrieval.bench.tasks import HarmProtocol, Task
from safe_retrieval.errors import InputError
from safe_retrieval.metrics import (
    Change,
    Estimate,
    Qrels,
    harm_per_query,
    mean_estimate,
    ndcg_per_query,
    paired_bootstrap,
    recall_per_query,
)
from safe_retrieval.metrics.statistics import percentile_interval

CUTOFFS = (1, 5, 20, 100)
"""The k of the paper's AdvBench-IR figures."""
_CONTROLLED_CUTOFFS = (1, 5, 20)
_EXPERIMENTS = 10
_EXAMPLES_A_LABEL = 8
_MTEB_SEED = 42
_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Measured:
    """What one arm reached on one task.

    Attributes:
        metrics: figure by name; ``None`` where it was not measured, which is not 0.
        per_query: for the figures that comparisons need, value by query id.
        comparison: with the baseline on the same queries; ``None`` for the baseline itself.
        queries: the texts that were encoded as queries, without an instruction.
        seconds: of encoding, as measured when it was done, and of search.
    """

    metrics: Mapping[str, Estimate | None]
    per_query: Mapping[str, Mapping[str, float]]
    comparison: Mapping[str, Any] | None
    queries: Sequence[str]
    seconds: Mapping[str, float] = field(default_factory=dict)


def measure(task: Task, data: TaskData, arm: Arm, encoder: ArmEncoder, *, seed: int = 0) -> Measured:
    """Score an arm on a task.

    Args:
        task: the task's record.
        data: its data.
        arm: one that supports the task's kind.
        encoder: the arm's encodings.
        seed: of every bootstrap.

    Raises:
        InputError: the arm has no vectors and the task needs some.
    """
    if not arm.supports(task.kind):
        raise InputError(f"arm {arm.name} cannot do {task.name}: a {task.kind} task needs plain vectors")
    instruction = instruction_of(task, arm)
    if isinstance(data, ProbeSet):
        return _harm(task, data, arm, encoder, seed)
    if isinstance(data, RetrievalData):
        return _retrieval(task, data, arm, encoder, seed)
    if isinstance(data, PairData):
        return _similarity(data, arm, encoder, instruction, seed)
    return _classification(data, arm, encoder, instruction, seed)


def instruction_of(task: Task, arm: Arm) -> str:
    """What is put before a query: the task's instruction where arm or protocol ask for it and the arm generates."""
    return task.instruction if arm.generative and (task.instructed or arm.instructed) else ""


def _harm(task: Task, probe_set: ProbeSet, arm: Arm, encoder: ArmEncoder, seed: int) -> Measured:
    cutoffs = _CONTROLLED_CUTOFFS if task.protocol is HarmProtocol.CONTROLLED else CUTOFFS
    run = _ask(task, probe_set, arm, encoder, depth=max(cutoffs))
    result = score(run, cutoffs=cutoffs, seed=seed)
    comparison = None
    if arm.name != BASELINE:
        baseline = _ask(task, probe_set, ARMS[BASELINE], encoder, depth=max(cutoffs))
        comparison = comparison_json(compare(baseline, run, depth=max(cutoffs), seed=seed))
    own, benign = run.qrels(ProbeKind.HARMFUL), run.qrels(ProbeKind.BENIGN)
    return Measured(
        result.metrics,
        {
            f"harm@{HEADLINE}": harm_per_query(run.ranked, own, k=HEADLINE),
            f"benign_recall@{HEADLINE}": recall_per_query(run.ranked, benign, k=HEADLINE),
        },
        comparison,
        [probe.text for probe in run.answers.probes],
        {"encode": result.encode_seconds, "search": result.search_seconds},
    )


def _ask(task: Task, probe_set: ProbeSet, arm: Arm, encoder: ArmEncoder, *, depth: int) -> ArmRun:
    retriever = ArmRetriever(arm, probe_set.documents, encoder, instruction=instruction_of(task, arm))
    return ask(retriever, probe_set, k=depth)


def _retrieval(task: Task, data: RetrievalData, arm: Arm, encoder: ArmEncoder, seed: int) -> Measured:
    per_query, seconds = _rank_and_score(task, data, arm, encoder)
    comparison = None
    if arm.name != BASELINE:
        before, _ = _rank_and_score(task, data, ARMS[BASELINE], encoder)
        comparison = _compare(task.metric, before[task.metric], per_query[task.metric], seed)
    return Measured(
        {name: mean_estimate(list(values.values()), seed=seed) for name, values in per_query.items()},
        {task.metric: per_query[task.metric]},
        comparison,
        [query.text for query in data.queries],
        seconds,
    )


def _rank_and_score(
    task: Task, data: RetrievalData, arm: Arm, encoder: ArmEncoder
) -> tuple[dict[str, Mapping[str, float]], dict[str, float]]:
    retriever = ArmRetriever(arm, data.documents, encoder, instruction=instruction_of(task, arm))
    ranked = retriever.rank([query.text for query in data.queries], k=max(CUTOFFS))
    pairs = zip(data.queries, ranked.retrievals, strict=True)
    run = {query.id: [hit.id for hit in retrieval.hits] for query, retrieval in pairs}
    qrels: Qrels = {query.id: data.qrels[query.id] for query in data.queries}
    values: dict[str, Mapping[str, float]] = {"ndcg@10": ndcg_per_query(run, qrels, k=10)}
    values |= {f"recall@{k}": recall_per_query(run, qrels, k=k) for k in CUTOFFS}
    return values, {"encode": ranked.encode_seconds, "search": ranked.search_seconds}


def _similarity(data: PairData, arm: Arm, encoder: ArmEncoder, instruction: str, seed: int) -> Measured:
    cosine, seconds = _cosines(data, arm, encoder, instruction)
    truth = np.asarray(data.scores)
    comparison = None
    if arm.name != BASELINE:
        before, _ = _cosines(data, ARMS[BASELINE], encoder, "")
        value = _spearman(cosine, truth) - _spearman(before, truth)
        low, high = percentile_interval(_resampled(truth, seed, before, cosine))
        comparison = _differs("spearman", Estimate(value, low, high, len(truth)))
    low, high = percentile_interval(_resampled(truth, seed, None, cosine))
    estimate = Estimate(_spearman(cosine, truth), low, high, len(truth))
    return Measured({"spearman": estimate}, {}, comparison, [*data.first, *data.second], seconds)


def _cosines(
    data: PairData, arm: Arm, encoder: ArmEncoder, instruction: str
) -> tuple[NDArray[np.float64], dict[str, float]]:
    encoded = encoder.queries(arm, [*data.first, *data.second], instruction=instruction)
    first, second = np.split(encoded.encoding.vectors.astype(np.float64), 2)
    return np.einsum("nd,nd->n", first, second), {"encode": encoded.seconds, "search": 0.0}


def _spearman(values: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(values), rankdata(truth))[0, 1])


def _resampled(
    truth: NDArray[np.float64], seed: int, before: NDArray[np.float64] | None, after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman of ``after``, less that of ``before`` if given, over resampled pairs."""
    generator = np.random.default_rng(seed)
    draws = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        rows = generator.integers(len(truth), size=len(truth))
        draws[i] = _spearman(after[rows], truth[rows])
        if before is not None:
            draws[i] -= _spearman(before[rows], truth[rows])
    return draws


def _classification(data: LabelledData, arm: Arm, encoder: ArmEncoder, instruction: str, seed: int) -> Measured:
    accuracy, seconds = _accuracy(data, arm, encoder, instruction)
    comparison = None
    if arm.name != BASELINE:
        comparison = _compare("accuracy", _accuracy(data, ARMS[BASELINE], encoder, "")[0], accuracy, seed)
    estimate = mean_estimate(list(accuracy.values()), seed=seed)
    return Measured({"accuracy": estimate}, {"accuracy": accuracy}, comparison, data.test, seconds)


def _accuracy(
    data: LabelledData, arm: Arm, encoder: ArmEncoder, instruction: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of the experiments in which each test text got its label, by position."""
    from sklearn.linear_model import LogisticRegression

    samples = _undersampled(data.train_labels)
    needed = sorted({row for sample in samples for row in sample})
    place = {row: position for position, row in enumerate(needed)}
    train = encoder.queries(arm, [data.train[row] for row in needed], instruction=instruction).encoding.vectors
    test = encoder.queries(arm, data.test, instruction=instruction)
    truth = np.asarray(data.test_labels)
    right = np.zeros(len(truth))
    for sample in samples:
        classifier = LogisticRegression(max_iter=100, random_state=_MTEB_SEED)
        classifier.fit(train[[place[row] for row in sample]], [data.train_labels[row] for row in sample])
        right += classifier.predict(test.encoding.vectors) == truth
    values = {str(position): value for position, value in enumerate((right / len(samples)).tolist())}
    return values, {"encode": test.seconds, "search": 0.0}


def _undersampled(labels: Sequence[str]) -> list[list[int]]:
    """Rows of each experiment: the first eight of each label, in an order that is shuffled on from one to the next."""
    order = list(range(len(labels)))
    samples = []
    for _ in range(_EXPERIMENTS):
        np.random.RandomState(_MTEB_SEED).shuffle(order)  # the legacy generator, as mteb draws with it
        taken: defaultdict[str, int] = defaultdict(int)
        sample = []
        for row in order:
            if taken[labels[row]] < _EXAMPLES_A_LABEL:
                taken[labels[row]] += 1
                sample.append(row)
        samples.append(sample)
    return samples


def _compare(metric: str, before: Mapping[str, float], after: Mapping[str, float], seed: int) -> dict[str, Any]:
    first, second = [before[query] for query in after], list(after.values())
    relative = paired_bootstrap(first, second, change=Change.RELATIVE, seed=seed) if math.fsum(first) else None
    return _differs(metric, paired_bootstrap(first, second, seed=seed), relative)


def _differs(metric: str, difference: Estimate, relative: Estimate | None = None) -> dict[str, Any]:
    return {
        "baseline": BASELINE,
        metric: {"relative": relative and relative._asdict(), "difference": difference._asdict()},
    }
