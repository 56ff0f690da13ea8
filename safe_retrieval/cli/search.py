"""``safe-retrieval search``: ask an index folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safe_retrieval.cli._common import filter_from, out, print_json
from safe_retrieval.cli._model_options import Adapter, Arithmetic, Backbone, Dtype, Policy
from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD
from safe_retrieval.types import Document, GateAction, Retrieval

if TYPE_CHECKING:
    from safe_retrieval.retrieval.retriever import SafeRetriever

_SNIPPET_CHARACTERS = 160


def search(
    index: Annotated[Path, typer.Argument(help="The index folder.", show_default=False)],
    query: Annotated[list[str], typer.Argument(help="One or more queries.", show_default=False)],
    *,
    arm: Annotated[Arm, typer.Option(help="How queries are turned into hits.")] = Arm.OUTPUT,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Most hits for a query.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help='What the metadata of a hit must fulfil, as JSON: \'{"year": {"$gte": 1990}}\'.'),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Smallest cosine of a hit.", show_default="whatever is nearest")
    ] = None,
    diverse: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Choose hits that are not all alike: 1 looks at nearness alone, 0 at difference alone.",
            show_default="nearest first",
        ),
    ] = None,
    gate: Annotated[
        GateAction, typer.Option(help="What is done with a query that the backbone would refuse.")
    ] = GateAction.ALLOW,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refusal probability from which the gate fires.")
    ] = DEFAULT_THRESHOLD,
    adapter: Adapter = None,
    backbone: Backbone = None,
    policy: Policy = None,
    dtype: Dtype = Arithmetic.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
) -> None:
    """Search an index and print the documents found, with their scores."""
    from safe_retrieval.retrieval.retriever import SafeRetriever

    retriever = SafeRetriever.open(
        index,
        arm=arm,
        gate=gate,
        threshold=threshold,
        adapter=adapter,
        backbone=backbone,
        policy=policy,
        dtype=dtype,
        offline=offline,
    )
    queries = [readable(text) for text in query]  # a byte of the command line that is no UTF-8 could not be printed
    retrievals = _retrieve(retriever, queries, k=k, where=filter_from(where), min_score=min_score, diverse=diverse)
    if as_json:
        print_json([_as_json(retriever, text, found) for text, found in zip(queries, retrievals, strict=True)])
        return
    for text, found in zip(queries, retrievals, strict=True):
        _show(text, found, retriever.documents(found), gate)


def _retrieve(
    retriever: SafeRetriever,
    queries: Sequence[str],
    *,
    k: int,
    where: dict[str, Any] | None,
    min_score: float | None,
    diverse: float | None,
) -> list[Retrieval]:
    if min_score is not None and diverse is not None:
        raise InputError("expected --min-score or --diverse, got both; each chooses hits in its own way")
    if min_score is not None:
        found = retriever.retrieve_range(queries, min_score, where=where)
        return [replace(retrieval, hits=retrieval.hits[:k]) for retrieval in found]
    if diverse is not None:
        return retriever.retrieve_diverse(queries, k=k, balance=diverse, where=where)
    return retriever.retrieve(queries, k=k, where=where)


def _as_json(retriever: SafeRetriever, query: str, retrieval: Retrieval) -> dict[str, Any]:
    documents = retriever.documents(retrieval)
    return {
        "query": query,
        "refusal": retrieval.refusal,
        "flagged": retrieval.flagged,
        "hits": [
            {
                "rank": rank,
                "id": hit.id,
                "score": hit.score,
                "title": document.title,
                "text": document.text,
                "metadata": dict(document.metadata),
            }
            for rank, (hit, document) in enumerate(zip(retrieval.hits, documents, strict=True), start=1)
        ],
    }


def _show(query: str, retrieval: Retrieval, documents: Sequence[Document], gate: GateAction) -> None:
    lines = [query]
    if retrieval.refusal is not None:
        lines.append(f"refusal probability {retrieval.refusal:.2f}{_gate_remark(retrieval, gate)}")
    for rank, (hit, document) in enumerate(zip(retrieval.hits, documents, strict=True), start=1):
        lines.append(f"{rank:>3}  {hit.score:7.4f}  {hit.id}  {document.title}".rstrip())
        lines.append(f"     {_snippet(document.text)}")
    if not retrieval.hits and not retrieval.flagged:
        lines.append("     nothing found")
    # Not rich's markup: a corpus may hold square brackets.
    out().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _gate_remark(retrieval: Retrieval, gate: GateAction) -> str:
    if gate is GateAction.ALLOW:
        return ""
    if not retrieval.flagged:
        return ", gate open"
    return ", gate closed: nothing is returned" if gate is GateAction.EMPTY else ", flagged by the gate"


def _snippet(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SNIPPET_CHARACTERS else f"{line[: _SNIPPET_CHARACTERS - 3]}..."
