"""A retriever with passages of its own as a target: asked as it is, never written, with the probes beside it.

Three cases, and the report says which it was:

- It holds the probes' passages (``holds: probes``): whatever else it returns is an error.
- It holds its own, and its scores can be merged: probe passages are overlaid in a side index.
- It holds its own, and its scores cannot be merged: what it holds is audited. Probe passages that nobody said it holds
  have no part in the figures, so harm is then any harm, by label or by a match with the known harmful passages.

A retriever that returns nothing for a query has refused it, so nothing is overlaid there either.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from safe_retrieval.audit.encodings import Progress
from safe_retrieval.audit.hashes import text_sha256
from safe_retrieval.audit.journal import Entry, Journal
from safe_retrieval.audit.known import KnownPassages
from safe_retrieval.audit.overlay import Overlay, merged
from safe_retrieval.audit.probes import Probe, ProbeSet
from safe_retrieval.audit.results import Passage
from safe_retrieval.audit.scales import Sample, Scale, agreement, best_agreement
from safe_retrieval.audit.searching import Answer, Found, Holds, Searcher
from safe_retrieval.audit.targets import Answers, stratified
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import AuditError
from safe_retrieval.types import FloatMatrix, Hit, Retrieval

TRIAL = 8
"""Probes that are asked beforehand, to find out what the scores are."""

_OF_EACH = 4
_FEWEST = 4
OWN = "own:"
"""Stands before ids of the target's own passages; behind them stands a mark of target and text (:func:`own_id`)."""
_MARK = 8


class Merging(StrEnum):
    """Whether probe passages are overlaid on a target that holds its own."""

    AUTO = "auto"
    """Where scores can be merged."""
    NEVER = "never"
    """Not at all: what the target holds is what is audited."""
    REQUIRED = "required"
    """An error where scores cannot be merged."""


@dataclass(frozen=True)
class TargetOptions:
    """How a retriever is audited.

    Attributes:
        holds: what passages it holds.
        overlay: whether probe passages are overlaid where it holds its own.
        scores: what its scores are; ``None`` finds it out.
        empty_is_refusal: whether an answer without a passage counts as a refusal, for retrievers with a silent gate.
        limit: most probes asked, evenly over the kinds; ``None`` asks all.
        seed: of that choice.
    """

    holds: Holds = Holds.OWN
    overlay: Merging = Merging.AUTO
    scores: Scale | None = None
    empty_is_refusal: bool = False
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Trial:
    """What was found out before the probes were asked.

    Attributes:
        scale: of the scores, where they can be merged.
        sign: what scores are multiplied with so that more is nearer; 0 where they say nothing, so that ranks stand in.
        why: a sentence for the report.
    """

    scale: Scale | None
    sign: int
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale and self.scale.value, "sign": self.sign, "why": self.why}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> _Trial:
        return cls(Scale(fields["scale"]) if fields["scale"] else None, int(fields["sign"]), str(fields["why"]))


class ExternalTarget:
    """A :class:`~safe_retrieval.audit.targets.Target` over a :class:`Searcher`.

    Args:
        name: in the report.
        searcher: how the retriever is reached.
        probe_set: whose passages are overlaid and recognised.
        journal_folder: where answers are kept until the audit is finished.
        options: how it is audited.
        progress: display while it is asked.
    """

    def __init__(
        self,
        name: str,
        searcher: Searcher,
        probe_set: ProbeSet,
        journal_folder: Path,
        *,
        options: TargetOptions | None = None,
        progress: Progress = progress_bar,
    ) -> None:
        self.name = name
        self._searcher, self._probe_set, self._folder = searcher, probe_set, journal_folder
        self._options = options or TargetOptions()
        self._progress = progress
        self._recognised: dict[tuple[str, int], str | None] = {}  # a passage is returned for many queries
        self._record: dict[str, Any] = {}

    @property
    def has_gate(self) -> bool:
        """Whether it can refuse a query."""
        return self._searcher.has_gate or self._options.empty_is_refusal

    @property
    def record(self) -> Mapping[str, Any]:
        """What the report says of it: how it was reached, what was overlaid, what was remarkable."""
        return {**self._searcher.record, **self._record}

    def ask(self, probes: Sequence[Probe], *, k: int) -> Answers:
        """Ask what is not in the journal yet; the time of the overlay is not the target's.

        Raises:
            AuditError: it cannot be reached, its answers cannot be right, or scores cannot be merged and must be.
        """
        options = self._options
        chosen = tuple(probes) if options.limit is None else stratified(probes, options.limit, seed=options.seed)
        journal = Journal(self._folder, self._identity(chosen, k))
        trial = _Trial.from_json(journal.decision) if journal.decision else self._try_out(chosen, k)
        if journal.decision is None:
            journal.decide(trial.to_json())
        self._fill(journal, chosen, trial, k)
        entries = [journal.entries[probe.id] for probe in chosen]
        self._describe(trial, entries, k)
        seconds = tuple(entry.seconds for entry in entries)
        return Answers(
            chosen,
            tuple(entry.retrieval for entry in entries),
            0.0,
            math.fsum(seconds),
            query_seconds=seconds if self._searcher.batch == 1 else None,
            own={each: passage for entry in entries for each, passage in entry.own.items()},
            absent=self._absent(trial),
        )

    def _identity(self, probes: Sequence[Probe], k: int) -> dict[str, Any]:
        options, vectors = self._options, self._searcher.vectors
        return {
            "target": self.name,
            "vectors": vectors and vectors.identity,
            "searcher": dict(self._searcher.record),
            "options": [options.holds, options.overlay, options.scores, options.empty_is_refusal],
            "probes": self._probe_set.sha256,
            "placed": [sorted(self._probe_set.held), sorted(self._probe_set.reference)],
            "asked": [probe.id for probe in probes],
            "k": k,
        }

    # What the scores are

    def _try_out(self, probes: Sequence[Probe], k: int) -> _Trial:
        # of every kind: a good gate leaves nothing to look at of the harmful ones
        texts = [probe.text for probe in stratified(probes, min(TRIAL, len(probes)), seed=self._options.seed)]
        answers = [
            answer
            for start in range(0, len(texts), self._searcher.batch)
            for answer in self._ask(texts[start : start + self._searcher.batch], k)
        ]
        sign = _direction(answers)
        if self._options.holds is Holds.PROBES:
            return _Trial(None, sign, "it holds the probes' passages itself")
        if self._options.overlay is Merging.NEVER:
            return _Trial(None, sign, "no overlay was asked for, so what it holds was audited")
        scale, why = self._scale(texts, answers)
        if scale is None and self._options.overlay is Merging.REQUIRED:
            raise AuditError(f"{self.name}: probe passages cannot be overlaid, and that was required: {why}")
        if scale is None:
            return _Trial(None, sign, f"its scores cannot be merged ({why}), so what it holds was audited")
        return _Trial(scale, sign, f"probe passages were overlaid and merged by score: {why}")

    def _scale(self, texts: Sequence[str], answers: Sequence[Answer]) -> tuple[Scale | None, str]:
        vectors, declared = self._searcher.vectors, self._options.scores
        if vectors is None:
            return None, "nobody knows what vectors it compares"
        pairs = [
            (text, found.text, found.score)
            for text, answer in zip(texts, answers, strict=True)
            for found in _spread(answer.hits)
            if found.text and found.score is not None
        ]
        if len(pairs) < _FEWEST:
            if declared:
                return declared, f"{declared.value}, as declared; it gives no texts to check that by"
            return None, f"only {len(pairs)} of the passages it returned had text and score"
        queries, documents, scores = zip(*pairs, strict=True)
        sample = Sample(vectors.queries(queries), vectors.documents(documents), scores)
        found = agreement(sample, declared) if declared else best_agreement(sample)
        measured = f"mean difference {found.difference:.2g} on {len(pairs)} passages"
        if found.holds:
            return found.scale, f"{found.scale.value}, {measured}"
        if declared:
            raise AuditError(
                f"{self.name}: its scores were declared to be {declared.value}, and those of its embedder are others "
                f"({measured}); mend scores or the embedder in the configuration"
            )
        return None, f"they are none of {', '.join(Scale)} of its embedder's vectors"

    # Asking

    def _ask(self, texts: Sequence[str], k: int) -> list[Answer]:
        answers = self._searcher.search(texts, k)
        if len(answers) != len(texts):
            raise AuditError(f"{self.name} returned {len(answers)} answers to {len(texts)} queries; expected one each")
        return answers

    def _fill(self, journal: Journal, probes: Sequence[Probe], trial: _Trial, k: int) -> None:
        size = self._searcher.batch
        batches = [probes[start : start + size] for start in range(0, len(probes), size)]
        missing = [batch for batch in batches if any(probe.id not in journal.entries for probe in batch)]
        if not missing:
            return
        overlay = self._overlay(trial.scale) if trial.scale else None
        vectors = self._query_vectors(probes) if overlay else {}
        with self._progress(sum(map(len, missing)), f"Asking {self.name}") as advance:
            for batch in missing:  # whole, even where a part is known: what a batch gives may depend on its size
                answers = self._ask([probe.text for probe in batch], k)
                beside: Iterable[Sequence[Hit]] = itertools.repeat(())
                if overlay:
                    beside = overlay.search(np.stack([vectors[probe.id] for probe in batch]), k)
                journal.add(
                    {
                        probe.id: self._entry(probe, answer, hits, trial, k)
                        for probe, answer, hits in zip(batch, answers, beside, strict=False)
                    }
                )
                advance(len(batch))

    def _query_vectors(self, probes: Sequence[Probe]) -> dict[str, FloatMatrix]:
        if self._searcher.vectors is None:
            return {}
        rows = self._searcher.vectors.queries([probe.text for probe in probes])
        return {probe.id: row for probe, row in zip(probes, rows, strict=True)}

    def _overlay(self, scale: Scale) -> Overlay | None:
        beside = self._probe_set.held | self._probe_set.reference
        documents = [document for document in self._probe_set.documents if document.id not in beside]
        if self._searcher.vectors is None or not documents:
            return None
        vectors = self._searcher.vectors.documents([document.content for document in documents])
        return Overlay([document.id for document in documents], vectors, scale)

    # What came

    def _entry(self, probe: Probe, answer: Answer, beside: Sequence[Hit], trial: _Trial, k: int) -> Entry:
        hits: list[Hit] = []
        own: dict[str, Passage] = {}
        seen: set[str] = set()
        sign = trial.sign if trial.scale is None else (-1 if trial.scale.is_distance else 1)
        for rank, found in enumerate(answer.hits[:k], start=1):
            identifier, passage = self._resolve(probe, found)
            repeated = identifier in seen
            seen.add(identifier)
            if repeated:  # it takes up its rank, as it does for a user
                identifier = f"{OWN}again at {rank}: {identifier}"
            if passage is not None and (repeated or identifier.startswith(OWN)):
                own[identifier] = passage
            score = 1.0 / rank if found.score is None or not sign else sign * found.score
            hits.append(Hit(identifier, score))
        flagged = answer.flagged or (self._options.empty_is_refusal and not answer.hits)
        ranked = merged(hits, beside, k) if answer.hits and trial.scale else hits
        kept = {hit.id for hit in ranked}
        return Entry(
            Retrieval(tuple(ranked), answer.refusal, flagged),
            {each: passage for each, passage in own.items() if each in kept},
            answer.seconds,
            len(answer.hits[:k]) - len(seen),
            len(answer.hits[:k]),
        )

    def _resolve(self, probe: Probe, found: Found) -> tuple[str, Passage]:
        """The id it counts under, and what a report may say of it."""
        key = (found.id, hash(found.text))
        if key not in self._recognised:
            self._recognised[key] = self._known.recognise(found.id, found.text)
        identifier = self._recognised[key]
        if identifier is not None:
            return identifier, self._passages[identifier]
        if self._options.holds is Holds.PROBES:
            raise AuditError(
                f"{self.name} returned {found.id!r} for {probe.id!r}, which is no passage of the probe set; with "
                "holds: probes it must hold exactly those, by id or text. Fill it with them, or say holds: own"
            )
        sha256 = "" if found.text is None else text_sha256(found.text)
        hazard = found.hazard.value if found.harmful else None
        return own_id(self.name, found.id, sha256), Passage(found.harmful, hazard, sha256)

    @cached_property
    def _known(self) -> KnownPassages:
        everything = (document.id for document in self._probe_set.documents)
        by_id = everything if self._options.holds is Holds.PROBES else self._probe_set.held
        return KnownPassages(self._probe_set.documents, by_id=by_id)

    @cached_property
    def _passages(self) -> dict[str, Passage]:
        return {
            document.id: Passage(
                bool(document.metadata["harmful"]), document.metadata.get("hazard"), text_sha256(document.text)
            )
            for document in self._probe_set.documents
        }

    def _absent(self, trial: _Trial) -> frozenset[str]:
        if self._options.holds is Holds.PROBES:
            return frozenset()
        if trial.scale:
            return self._probe_set.reference
        return frozenset(self._passages) - self._probe_set.held

    def _describe(self, trial: _Trial, entries: Sequence[Entry], k: int) -> None:
        own = sum(len(entry.own) for entry in entries)
        counts = [len(entry.retrieval.hits) for entry in entries]
        notes = [trial.why]
        came = max(entry.returned for entry in entries)
        if came < k:
            deeper = "deeper figures are those"
            if trial.scale is not None:
                deeper = "probes fill the places behind them, so deeper figures may show more than it would"
            notes.append(f"it returned {came} passages at most where {k} were asked for; {deeper}")
        repeated = sum(entry.repeated for entry in entries)
        if repeated:
            notes.append(f"{repeated} passages came twice in one answer; each takes up the rank it was given")
        if not any(counts):
            notes.append("it returned nothing at all, to no query; is it empty?")
        self._record = {
            "holds": self._options.holds.value,
            "overlay": trial.scale.value if trial.scale else None,
            "own_passages_returned": own,
            "notes": notes,
        }


def own_id(target: str, identifier: str, text_sha256: str) -> str:
    """The id that a passage of a target's own counts under.

    Pieces of one document may share its id, ids of two targets may be equal by accident, and labels are each passage's.
    """
    mark = hashlib.sha256(f"{target}\n{text_sha256}".encode("utf-8", "surrogatepass")).hexdigest()[:_MARK]
    return f"{OWN}{identifier or text_sha256[:16]}~{mark}"


def _spread(hits: Sequence[Found]) -> list[Found]:
    """A few passages of an answer, near and far."""
    if len(hits) <= _OF_EACH:
        return list(hits)
    return [hits[place] for place in np.linspace(0, len(hits) - 1, _OF_EACH).round().astype(int)]


def _direction(answers: Iterable[Answer]) -> int:
    """1 where scores fall along every answer, -1 where they rise, 0 where there are none or they do neither."""
    falls = rises = True
    steps = 0
    for answer in answers:
        scores = [found.score for found in answer.hits]
        if any(score is None for score in scores):
            return 0
        for before, after in itertools.pairwise(score for score in scores if score is not None):
            steps += before != after
            falls, rises = falls and after <= before, rises and after >= before
    if falls:
        return 1
    return -1 if rises and steps else 0
