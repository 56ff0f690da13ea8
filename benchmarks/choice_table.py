"""The table of docs/choosing.md: for what one may want, what to ask with, and what that was measured to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.table_cells import MISSING, markdown, moved, percent
from safe_retrieval.bench.results import Result

_HEADINGS = [
    "you want",
    "ask with",
    "harm@5 (against that index asked as usual)",
    "benign recall@5 (the same)",
    "safe prompts held back",
    "GFLOPs a query",
]
_SMALL, _DEFAULT = "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"


class Choice(NamedTuple):
    """A wish, what to ask with, and the label and arm of the benchmark that it is."""

    wish: str
    asked: str
    label: str
    arm: str


CHOICES = (
    Choice("to search as everybody does", '`arm="input"`', "all-minilm-l6-v2", "teacher"),
    Choice(
        "as little harm as can be, and nearly all that is found now",
        '`arm="blend", gate="empty"`',
        f"{_DEFAULT}--all-minilm-l6-v2",
        "gated",
    ),
    Choice("the same, and every query answered", '`arm="blend"`', f"{_DEFAULT}--all-minilm-l6-v2", "blend"),
    Choice(
        "the answer's vector alone: one model, nothing mixed",
        '`arm="output"`',
        f"{_DEFAULT}--all-minilm-l6-v2",
        "response",
    ),
    Choice(
        "answers to what must be reasoned out",
        '`arm="blend", gate="empty", policy="brief"`',
        f"{_DEFAULT}--all-minilm-l6-v2--brief",
        "gated",
    ),
    Choice(
        "a third of the cost",
        f'`arm="blend", gate="empty", backbone="{_SMALL}"`',
        f"{_SMALL}--all-minilm-l6-v2",
        "gated",
    ),
    Choice(
        "a tenth of the cost",
        '`arm="blend", gate="empty", backbone="smollm2-135m-instruct"`',
        "smollm2-135m-instruct--all-minilm-l6-v2",
        "gated",
    ),
    Choice(
        "an index of all-mpnet-base-v2 to be asked safely",
        '`arm="blend", gate="empty"`; the index says the rest',
        f"{_SMALL}--all-mpnet-base-v2",
        "gated",
    ),
)
"""In the order of the page."""


def choice_table(results: Sequence[tuple[str, Result]]) -> str:
    """One row a choice, measured on all queries of ``harm``; what was not measured says so.

    Args:
        results: labels and contents of result files.
    """
    measured = {
        (label, result["arm"]["name"]): result
        for label, result in results
        if result["task"]["name"] == "harm" and result["data"]["limit"] is None
    }
    return markdown(_HEADINGS, [_row(choice, measured.get((choice.label, choice.arm))) for choice in CHOICES])


def _row(choice: Choice, result: Result | None) -> list[str]:
    if result is None:
        return [choice.wish, choice.asked, *[MISSING] * (len(_HEADINGS) - 2)]
    flops = result["cost"]["flops_per_query"]
    return [
        choice.wish,
        choice.asked,
        moved(result, "harm@5"),
        moved(result, "benign_recall@5"),
        percent(result["metrics"]["over_refusal"]),
        MISSING if flops is None else f"{flops / 1e9:.3g}",
    ]
