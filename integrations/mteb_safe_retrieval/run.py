"""Tasks of mteb, ours among them, with any model: what ``safe-retrieval bench mteb`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mteb

from mteb_safe_retrieval.model import safe_retrieval_model
from mteb_safe_retrieval.task import HarmfulRetrieval
from safe_retrieval.bench.arms import ARMS
from safe_retrieval.bench.mteb_model import HARM_TASKS
from safe_retrieval.errors import DownloadError, InputError, MissingExtraError
from safe_retrieval.models import catalog
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.models.naming import is_hub_closed
from safe_retrieval.models.record import ModelKind


class TaskScores(NamedTuple):
    """One task's result.

    Attributes:
        model: mteb's name of the model.
        revision: of the model; of ours a hash of adapter, policy, prompts and the rest.
        main_score: the task's, by its own definition.
        scores: all of the first split and subset, numbers alone.
    """

    task: str
    model: str
    revision: str
    main_score: float
    scores: dict[str, float]


def run_mteb(
    model: str,
    tasks: Sequence[str],
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
    adapter: str | Path | None = None,
    backbone: str | None = None,
    policy: str | None = None,
    dtype: str = "auto",
    offline: bool = False,
) -> Iterator[TaskScores]:
    """Run tasks one after the other.

    Args:
        model: one of our arms (``blend``), a sentence encoder of our catalog or in a folder, or any name that mteb
            knows (``intfloat/e5-small-v2``), loaded by mteb itself.
        tasks: names of mteb tasks; ``SafeRetrievalProbes`` and ``AdvBenchIRControlled`` are ours.
        data: the data folder that ``AdvBenchIRControlled`` needs.
        out: mteb's results folder; what is there already for this model's revision is not computed again. ``None``
            keeps nothing.
        document_encoder: of our arms.
        adapter: of our arms; ``None`` takes the one shipped for backbone and document encoder.
        backbone: of our arms; ``None`` takes the adapter's, or the default.
        policy: of our arms; ``None`` takes the adapter's.
        dtype: what the language model of our arms computes in, as ``LanguageModel.load`` takes it.
        offline: open no connection; models that only mteb knows are refused then, and so are its tasks unless
            ``HF_HUB_OFFLINE`` is set, with which the hub's own cache is read.

    Raises:
        InputError: an unknown task, a task without its data folder, or a model that may not be fetched.
        MissingExtraError: a model of mteb's needs a package that is not installed.
        DownloadError: the hub cannot be reached for a model or a task.
        DataError, AdapterError, ModelError: data, adapter or a model of ours cannot be had.
    """
    found = [_task(name, data, offline=offline) for name in tasks]
    if model in ARMS:
        loaded: Any = safe_retrieval_model(
            model,
            document_encoder=document_encoder,
            adapter=adapter,
            backbone=backbone,
            policy=policy,
            dtype=dtype,
            offline=offline,
        )
    else:
        loaded = _other_model(model, offline=offline)
    cache = None if out is None else mteb.ResultCache(Path(out))
    for task in found:
        yield _scores(task, _evaluate(loaded, task, cache), loaded.mteb_model_meta)


def _task(name: str, data: str | Path | None, *, offline: bool) -> Any:
    if name == HARM_TASKS[0]:
        return HarmfulRetrieval()
    if name == HARM_TASKS[1]:
        if data is None:
            raise InputError(f"{name} reads a data folder; give --data DIR or set SAFE_RETRIEVAL_DATA (docs/data.md)")
        return HarmfulRetrieval.from_data_folder(data)
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        own = ", ".join(HARM_TASKS)
        raise InputError(f"mteb has no task {name!r}; expected one of its names, or one of ours: {own}") from error
    if is_hub_closed(offline):
        raise InputError(
            f"{name} takes its data from the hub, and offline was asked for; set HF_HUB_OFFLINE=1 as well if the hub's "
            f"cache has it, or take {' or '.join(HARM_TASKS)}"
        )
    return task


def _other_model(name: str, *, offline: bool) -> Any:
    record = catalog.find(name)
    if Path(name).is_dir() or (record is not None and record.kind is ModelKind.SENTENCE_ENCODER):
        own = Path(name).resolve().name if record is None else record.name
        return safe_retrieval_model("teacher", document_encoder=name, offline=offline, name=own)
    if offline:
        raise InputError(f"{name} would be loaded by mteb, from the hub; expected an arm, a catalog name or a folder")
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return mteb.get_model(name)
    except ImportError as error:
        raise _missing(name, error) from error
    except KeyError as error:
        raise InputError(f"neither mteb nor we know a model {name!r}; arms are: {', '.join(ARMS)}") from error
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        raise DownloadError(f"mteb takes {name} from the Hugging Face hub, which gave: {error}") from error


def _missing(name: str, error: ImportError) -> MissingExtraError:
    reason = " ".join(str(error).split())  # mteb's own, with its install line, in several lines
    return MissingExtraError(f"mteb's model {name} needs a package that is not installed: {reason}")


def _evaluate(model: Any, task: Any, cache: Any) -> Any:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        (result,) = mteb.evaluate(model, task, cache=cache, show_progress_bar=False, co2_tracker=False).task_results
    except ImportError as error:  # some models ask for their packages only when they compute
        raise _missing(model.mteb_model_meta.name, error) from error
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        if task.metadata.name in HARM_TASKS:
            raise
        raise DownloadError(
            f"{task.metadata.name} takes its data from the Hugging Face hub, which gave: {error}; "
            f"{' and '.join(HARM_TASKS)} need no hub"
        ) from error
    return result


def _scores(task: Any, result: Any, meta: Any) -> TaskScores:
    first = next(iter(result.scores.values()))[0]
    numbers = {name: float(value) for name, value in first.items() if isinstance(value, int | float)}
    return TaskScores(task.metadata.name, meta.name, meta.revision, float(result.get_score()), numbers)
