"""``safe-retrieval train`` and ``train-gate``: a response adapter, or its refusal head, from a configuration file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from safe_retrieval.cli._common import out, print_json, shown, stopped


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run; see docs/training.md.")],
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
    answered_only: Annotated[
        bool, typer.Option("--answered-only", help="Train on the responses that are there; generate no more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a response adapter, or go on with a run that was stopped.

    It may be stopped at any time, even by kill -9: the same command goes on from the last response written and the last
    checkpoint.
    """
    from safe_retrieval.training.config import load_config

    settings = load_config(config)
    from safe_retrieval.training.trainer import train as run

    try:
        folder = run(settings, offline=offline, answered_only=answered_only)
    except KeyboardInterrupt:
        raise stopped() from None
    result = _result(folder)
    if as_json:
        print_json(result)
        return
    _show(result)


def train_gate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run; see docs/training.md.")],
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Give an adapter the refusal head that another model teaches it, or go on with a run that was stopped.

    The judge reads unlabelled queries, and the head is fitted on what it would refuse. Response vectors do not change.
    """
    from safe_retrieval.training.config import load_gate_config

    settings = load_gate_config(config)
    from safe_retrieval.training.gate import train_gate as run

    try:
        folder = run(settings, offline=offline)
    except KeyboardInterrupt:
        raise stopped() from None
    result = _gate_result(folder)
    if as_json:
        print_json(result)
        return
    _print_lines(
        {
            "adapter": result["adapter"],
            "judge": result["judge"],
            "queries": f"{result['queries']:,}, of which the judge refuses {100 * result['refused_share']:.1f} %",
            "refusal head": f"{_figure(result['refusal']['auroc'], 'AUROC')} ({result['refusal']['method']})",
        }
    )


def _result(folder: Path) -> dict[str, Any]:
    record = _record(folder)
    training = record["training"]
    return {
        "adapter": shown(folder),
        "queries": training["queries"],
        "held_out_queries": training["held_out_queries"],
        "held_out": training["held_out"],
        "refusal": {"method": record["refusal"]["method"], "auroc": record["refusal"]["held_out_auroc"]},
        "weights_sha256": record["weights_sha256"],
    }


def _gate_result(folder: Path) -> dict[str, Any]:
    record = _record(folder)
    judge = record["training"]["judge"]
    return {
        "adapter": shown(folder),
        "judge": judge["name"],
        "queries": judge["queries"],
        "refused_share": judge["refused_share"],
        "refusal": {"method": record["refusal"]["method"], "auroc": record["refusal"]["held_out_auroc"]},
        "gate": record["training"]["gate"],
        "weights_sha256": record["weights_sha256"],
    }


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    return record


def _show(result: dict[str, Any]) -> None:
    held_out = result["held_out"] or {}
    lines = {
        "adapter": result["adapter"],
        "training queries": f"{result['queries']:,}",
        "held-out queries": f"{result['held_out_queries']:,}",
        "alignment": _figure(held_out.get("cosine"), "cosine to the response's teacher vector"),
        "own response": _figure(held_out.get("own_response"), "found first among the held-out ones"),
        "reconstruction": _figure(held_out.get("reconstruction"), "nats a token"),
        "refusal head": f"{_figure(result['refusal']['auroc'], 'AUROC')} ({result['refusal']['method']})",
    }
    _print_lines(lines)


def _print_lines(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, value in lines.items():
        out().print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def _figure(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:.3f} {unit}"
