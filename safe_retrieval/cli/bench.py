"""``safe-retrieval bench``: benchmarks, their tasks and their arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safe_retrieval._extras import require
from safe_retrieval.cli._common import err, out, print_json
from safe_retrieval.cli._model_options import Adapter, Arithmetic, Backbone, Dtype, Policy
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER

if TYPE_CHECKING:
    from safe_retrieval.bench.runner import Outcome

app = typer.Typer(help="Measure arms on tasks: harm, retrieval, similarity, classification.", no_args_is_help=True)

_RESULTS = Path("benchmarks/results")
_CACHE = Path("runs/bench-cache")


@app.command("list")
def list_records(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False
) -> None:
    """Show the tasks and the arms."""
    import dataclasses

    from safe_retrieval.bench.arms import ARMS
    from safe_retrieval.bench.tasks import TASKS

    if as_json:
        tasks = {name: {**dataclasses.asdict(task), "files": dict(task.files)} for name, task in TASKS.items()}
        print_json({"tasks": tasks, "arms": {name: arm.record() for name, arm in ARMS.items()}})
        return
    from rich.table import Table

    table = Table("task", "kind", "metric", "source", "licence")
    for task in TASKS.values():
        table.add_row(task.name, task.kind.value, task.metric, task.source, task.licence)
    out().print(table)
    arms = Table("arm", "query", "documents", "gate", "words", "instruction")
    for arm in ARMS.values():
        gate = "" if arm.gate is None else str(arm.gate)
        words, asked = ("yes" if flag else "" for flag in (arm.lexical, arm.instructed))
        arms.add_row(arm.name, arm.query.value, arm.documents.value, gate, words, asked)
    out().print(arms)


@app.command("run")
def run(
    *,
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated; local for all that need a data folder alone.")] = (
        "local"
    ),
    arms: Annotated[str, typer.Option(help="Arms, comma-separated; fast for those that are cheap, all for all.")] = (
        "fast"
    ),
    data: Annotated[
        Path, typer.Option(envvar="SAFE_RETRIEVAL_DATA", help="The data folder (docs/data.md).", show_default=False)
    ],
    results: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = _RESULTS,
    cache: Annotated[Path, typer.Option(help="Folder of the encodings.")] = _CACHE,
    encoder: Annotated[str, typer.Option(help="Document encoder: the teacher.")] = DEFAULT_DOCUMENT_ENCODER,
    backbone: Backbone = None,
    adapter: Adapter = None,
    policy: Policy = None,
    dtype: Dtype = Arithmetic.AUTO,
    label: Annotated[
        str | None,
        typer.Option(help="Folder of these results in --out.", show_default="BACKBONE--TEACHER[--POLICY]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most queries of a task, a seeded sample.")] = None,
    seed: Annotated[int, typer.Option(help="Of samples and bootstraps.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is there.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON.")] = False,
) -> None:
    """Put tasks to arms and write one result file for each pair.

    What is there already with the same key (task, data, arm, models, seed, limit) is kept; a cut run is started again
    with the same command.
    """
    from safe_retrieval.bench.arms import ARMS, FAST_ARMS
    from safe_retrieval.bench.models import BenchModels
    from safe_retrieval.bench.runner import BenchSettings, run_bench
    from safe_retrieval.bench.tasks import LOCAL_TASKS

    settings = BenchSettings(data, results, cache, label, limit, seed, force, offline)
    chosen = names(tasks, {"local": LOCAL_TASKS})
    retrievers = names(arms, {"fast": FAST_ARMS, "all": tuple(ARMS)})
    models = BenchModels(encoder, backbone=backbone, adapter=adapter, policy=policy, dtype=dtype, offline=offline)
    outcomes = []
    for outcome in run_bench(chosen, retrievers, settings, models):
        outcomes.append(outcome)
        err().print(_line(outcome), markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json([_outcome_json(outcome) for outcome in outcomes])


def names(choice: str, groups: Mapping[str, tuple[str, ...]]) -> list[str]:
    """A comma-separated choice as names, groups spelled out.

    Raises:
        InputError: there is none.
    """
    found = [name for part in choice.split(",") if part.strip() for name in groups.get(part.strip(), (part.strip(),))]
    if not found:
        raise InputError(
            f"expected names separated by commas{''.join(f' or {group}' for group in groups)}; got {choice!r}"
        )
    return list(dict.fromkeys(found))


def _line(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"{outcome.task:16} {outcome.arm:20} {outcome.status.value}"
    metric = outcome.result["task"]["metric"]
    figure = outcome.result["metrics"].get(metric)
    value = "not measured" if figure is None else f"{figure['value']:.4f}"
    return f"{outcome.task:16} {outcome.arm:20} {outcome.status.value:12} {metric} {value}"


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    result = outcome.result or {}
    return {
        "task": outcome.task,
        "arm": outcome.arm,
        "status": outcome.status.value,
        "path": None if outcome.path is None else str(outcome.path),
        "metrics": result.get("metrics"),
    }


@app.command("ablate")
def ablate(
    name: Annotated[str, typer.Argument(help="Row of the ablation file.", show_default=False)],
    *,
    data: Annotated[
        Path, typer.Option(envvar="SAFE_RETRIEVAL_DATA", help="The data folder (docs/data.md).", show_default=False)
    ],
    tasks: Annotated[str | None, typer.Option(help="Tasks, comma-separated.", show_default="the file's")] = None,
    arms: Annotated[str | None, typer.Option(help="Arms, comma-separated.", show_default="the file's")] = None,
    file: Annotated[Path, typer.Option(help="The ablation file.")] = Path("benchmarks/ablations.yaml"),
    runs: Annotated[Path, typer.Option(help="Folder of the training runs.")] = Path("runs/ablations"),
    results: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = _RESULTS,
    cache: Annotated[Path, typer.Option(help="Folder of the encodings.")] = _CACHE,
    queries: Annotated[
        int | None, typer.Option(min=2, help="Train on so many, held-out ones included.", show_default="the file's")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most queries of a task, a seeded sample.")] = None,
    seed: Annotated[int, typer.Option(help="Of samples and bootstraps.")] = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
) -> None:
    """Train one row of the ablations and measure it; its results lie under --out/ablation-NAME (and -of-QUERIES).

    Started again, it goes on where it stopped.
    """
    import os

    from safe_retrieval.bench.ablations import LABEL, ablation_config, load_ablations, row_folder, training_record
    from safe_retrieval.bench.models import BenchModels
    from safe_retrieval.bench.results import ResultStore
    from safe_retrieval.bench.runner import BenchSettings, run_bench
    from safe_retrieval.encoder.pooled import CAUSAL

    os.environ["SAFE_RETRIEVAL_DATA"] = str(data.resolve())  # the base configuration names its files by it
    ablations = load_ablations(file)
    label = LABEL + row_folder(name, queries)
    config = ablation_config(ablations, name, runs, queries=queries)
    from safe_retrieval.training.trainer import train

    adapter = train(config, offline=offline)
    documents = f"{CAUSAL}:{config.backbone}" if config.teacher == "self" else config.teacher
    models = BenchModels(documents, backbone=config.backbone, adapter=adapter, offline=offline)
    store = ResultStore(results)
    store.write(store.training_path(label), training_record(ablations, name, adapter))
    settings = BenchSettings(data, results, cache, label, limit, seed, offline=offline)
    chosen = ablations.tasks if tasks is None else names(tasks, {})
    retrievers = ablations.arms if arms is None else names(arms, {})
    for outcome in run_bench(chosen, retrievers, settings, models):
        err().print(_line(outcome), markup=False, highlight=False, soft_wrap=True)


@app.command("mteb")
def run_mteb(
    *,
    model: Annotated[
        str, typer.Option(help="An arm, a sentence encoder, or any model that mteb knows.", show_default=False)
    ],
    tasks: Annotated[str, typer.Option(help="Tasks of mteb, comma-separated; harm for ours.")] = "harm",
    data: Annotated[
        Path | None, typer.Option(envvar="SAFE_RETRIEVAL_DATA", help="The data folder of AdvBenchIRControlled.")
    ] = None,
    results: Annotated[Path | None, typer.Option("--out", help="Folder where mteb keeps its results.")] = None,
    encoder: Annotated[str, typer.Option(help="Document encoder of our arms.")] = DEFAULT_DOCUMENT_ENCODER,
    backbone: Backbone = None,
    adapter: Adapter = None,
    policy: Policy = None,
    dtype: Dtype = Arithmetic.AUTO,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all scores as JSON.")] = False,
) -> None:
    """Run tasks of mteb with any of its models, harmful retrieval among them (docs/mteb.md)."""
    # By name, as a plug-in: the integration stands on this package, and the package imports nothing that does.
    require("mteb", extra="mteb", purpose="safe-retrieval bench mteb")
    host = require("mteb_safe_retrieval", extra="mteb", purpose="safe-retrieval bench mteb")
    found = host.run_mteb(
        model,
        names(tasks, {"harm": ("SafeRetrievalProbes",)}),
        data=data,
        out=results,
        document_encoder=encoder,
        adapter=adapter,
        backbone=backbone,
        policy=policy,
        dtype=dtype,
        offline=offline,
    )
    scores = []
    for each in found:
        scores.append(each._asdict())
        err().print(
            f"{each.task:28} {each.model:28} {each.main_score:.4f}", markup=False, highlight=False, soft_wrap=True
        )
    if as_json:
        print_json(scores)
