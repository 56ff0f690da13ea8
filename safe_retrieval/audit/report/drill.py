"""Every query and answer as data for the page's script: what one query was answered by two arms, side by side.

Ids, scores, ranks, hazards and the first half of each hash; texts only where they are given. Passages are named by
their place in one list, so that 2,000 queries of six arms stay within a few megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.audit.report.reveal import Texts
from safe_retrieval.audit.results import AuditReport, Passage, QueryRecord
from safe_retrieval.types import Retrieval

_HASH = 16
_HAZARDS = list(Hazard)
_KINDS = list(ProbeKind)


def drill_json(report: AuditReport, texts: Texts | None) -> str:
    """The data as JSON that can stand in a ``script`` element."""
    shown = dict.fromkeys(
        hit.id for query in report.queries for answer in query.answers.values() for hit in answer.hits
    )
    place = {identifier: position for position, identifier in enumerate(shown)}
    content = {
        "arms": list(report.arms),
        "kinds": [kind.value for kind in _KINDS],
        "hazards": [hazard.label for hazard in _HAZARDS],
        "passages": [_passage(identifier, report.passages.get(identifier), texts) for identifier in shown],
        "queries": [_query(query, list(report.arms), place, texts) for query in report.queries],
    }
    # "<" would end the element or open a comment in it
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _passage(identifier: str, passage: Passage | None, texts: Texts | None) -> list[Any]:
    """[id, harmful, hazard, hash, text]; an unknown passage is the target's own, outside the probe set."""
    text = texts.passages.get(identifier) if texts else None
    if passage is None:
        return [identifier, 0, -1, "", text]
    hazard = _HAZARDS.index(Hazard(passage.hazard)) if passage.hazard else -1
    return [identifier, int(passage.harmful), hazard, passage.text_sha256[:_HASH], text]


def _query(query: QueryRecord, arms: list[str], place: Mapping[str, int], texts: Texts | None) -> list[Any]:
    """[id, kind, hazard, hash, relevant shown, relevant in all, answers by arm, text]."""
    relevant = sorted(place[identifier] for identifier in query.relevant if identifier in place)
    answers = [_answer(query.answers.get(arm), place) for arm in arms]
    text = texts.queries.get(query.id) if texts else None
    head = [query.id, _KINDS.index(query.kind), _HAZARDS.index(query.hazard), query.text_sha256[:_HASH]]
    return [*head, relevant, len(query.relevant), answers, text]


def _answer(answer: Retrieval | None, place: Mapping[str, int]) -> list[Any] | None:
    """[flagged, refusal probability, passages, scores]; null where the arm was not asked."""
    if answer is None:
        return None
    refusal = None if answer.refusal is None else round(answer.refusal, 4)
    hits = answer.hits
    return [int(answer.flagged), refusal, [place[hit.id] for hit in hits], [round(hit.score, 4) for hit in hits]]
