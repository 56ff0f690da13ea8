from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from safe_retrieval.audit.encodings import Encoded
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet
from safe_retrieval.audit.targets import EncodedTarget, RetrieverTarget, stratified
from safe_retrieval.errors import InputError
from safe_retrieval.types import Hit, QueryEncoding, Retrieval
from tests.audit.fakes import scripted


def probes(harmful: int, benign: int, sensitive: int) -> list[Probe]:
    counts = {ProbeKind.HARMFUL: harmful, ProbeKind.BENIGN: benign, ProbeKind.SENSITIVE: sensitive}
    return [Probe(f"{kind}{i}", "text", kind) for kind, count in counts.items() for i in range(count)]


def kinds(chosen: Sequence[Probe]) -> Counter[str]:
    return Counter(probe.kind.value for probe in chosen)


def test_a_subset_takes_even_shares_and_gives_away_what_a_small_kind_cannot_fill() -> None:
    assert kinds(stratified(probes(100, 300, 50), 90, seed=0)) == {"harmful": 30, "benign": 30, "sensitive": 30}
    assert kinds(stratified(probes(100, 300, 10), 90, seed=0)) == {"harmful": 40, "benign": 40, "sensitive": 10}


def test_a_subset_keeps_the_order_and_repeats_for_a_seed() -> None:
    everything = probes(40, 40, 40)
    chosen = stratified(everything, 30, seed=5)
    assert list(chosen) == [probe for probe in everything if probe in chosen]
    assert chosen == stratified(everything, 30, seed=5)
    assert chosen != stratified(everything, 30, seed=6)


def test_a_subset_larger_than_the_set_is_the_set() -> None:
    assert list(stratified(probes(3, 4, 5), 100, seed=0)) == probes(3, 4, 5)


def test_a_subset_that_would_leave_a_kind_out_raises() -> None:
    with pytest.raises(InputError, match="cannot hold all 3 kinds"):
        stratified(probes(3, 3, 3), 2, seed=0)


def test_any_retriever_is_a_target(probe_set: ProbeSet) -> None:
    target = RetrieverTarget(scripted(probe_set, {"b1": ["B1"]}), "mine")
    answers = target.ask(probe_set.queries, k=3)
    assert answers.probes == probe_set.queries
    assert answers.retrievals[4].hits == (Hit("B1", 1.0),)
    assert answers.encode_seconds == 0
    assert answers.search_seconds > 0


class EchoRetriever:
    """Ranks document 'first component' of each vector."""

    def retrieve_encoded(self, encoding: QueryEncoding, *, k: int) -> list[Retrieval]:
        return [Retrieval((Hit(str(int(vector[0])), 1.0),)) for vector in encoding.vectors]


def test_an_encoded_target_passes_vectors_on_and_reports_their_time() -> None:
    def encode(texts: Sequence[str]) -> Encoded:
        return Encoded(QueryEncoding(np.array([[len(text)] for text in texts], np.float32), None), 12.5)

    asked = [Probe("a", "xx", ProbeKind.BENIGN), Probe("b", "xxx", ProbeKind.HARMFUL)]
    answers = EncodedTarget("echo", encode, EchoRetriever()).ask(asked, k=1)
    assert [retrieval.hits[0].id for retrieval in answers.retrievals] == ["2", "3"]
    assert answers.encode_seconds == 12.5
    limited = EncodedTarget("echo", encode, EchoRetriever(), limit=2).ask(asked * 3, k=1)
    assert len(limited.probes) == len(limited.retrievals) == 2
