"""An arm as mteb asks for models: an encoder where vectors say it all, a searcher where a gate or words decide too.

Which it is shows in the methods it has, for that is what mteb looks at. Both carry an honest record of themselves; its
revision is a hash of everything that decides the ranking, since mteb takes results from its cache by name and revision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from safe_retrieval._extras import require
from safe_retrieval.audit.models import RecordedEncoder
from safe_retrieval.bench.arms import Arm, DocumentSide, QuerySide
from safe_retrieval.bench.models import ArmModels, settled
from safe_retrieval.bench.retrieve import ArmEncoder, ArmRetriever
from safe_retrieval.bench.tasks import TASKS
from safe_retrieval.encoder.weights import modules_of
from safe_retrieval.errors import InputError
from safe_retrieval.models import catalog
from safe_retrieval.types import Document, FloatMatrix

HARM_TASKS = ("SafeRetrievalProbes", "AdvBenchIRControlled")
"""Names of the harmful-retrieval task in mteb, on the built-in probes and on a data folder."""

PAPER_PROMPTS: Mapping[str, str] = {
    "Retrieval": TASKS["nq-wiki"].instruction,
    "STS": TASKS["stsbenchmark"].instruction,
    "SciFact": TASKS["scifact"].instruction,
    "Banking77Classification": TASKS["banking77"].instruction,
    **dict.fromkeys(HARM_TASKS, TASKS["harm"].instruction),
}
"""The instructions of the paper's code, by mteb's names of tasks and kinds of task, for arms that put them first."""

_MEGABYTE = 1024**2


def prompt_for(prompts: Mapping[str, str], task: Any, prompt_type: Any) -> str:
    """The prompt of a query, by mteb's own order: task and side, task, kind and side, kind, side; or none.

    Args:
        prompts: by mteb's keys.
        task: mteb's metadata of the task, or ``None``.
        prompt_type: mteb's ``PromptType``, or ``None``.
    """
    side = "" if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
    names = [] if task is None else [str(task.name), str(task.type)]
    keys = [key for name in names for key in (f"{name}-{side}", name)]
    return next((prompts[key] for key in [*keys, side] if key in prompts), "")


class MtebEncoder:
    """An arm of vectors alone, as mteb's ``EncoderProtocol``.

    Args:
        arm: one with vectors, without gate and without words.
        encoder: its encodings.
        meta: mteb's record of the model.
        prompts: what the backbone reads before a query, by mteb's names of tasks, kinds of task and ``"query"``.
    """

    def __init__(self, arm: Arm, encoder: ArmEncoder, meta: Any, *, prompts: Mapping[str, str] | None = None) -> None:
        self.mteb_model_meta = meta
        self.prompts = check_prompts(prompts)
        self._arm, self._encoder = arm, encoder

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: Any = None,
        prompt_type: Any = None,
        **_: Any,
    ) -> FloatMatrix:
        """Encode batches of texts; (n, d) float32, unit norm. What is no document is encoded as a query."""
        texts = [text for batch in inputs for text in batch["text"]]
        if _is_document(prompt_type):
            return self._encoder.documents(self._arm, texts)[0]
        instruction = prompt_for(self.prompts, task_metadata, prompt_type)
        return self._encoder.queries(self._arm, texts, instruction=instruction).encoding.vectors

    def similarity(self, first: Any, second: Any) -> Any:
        """(n, m) cosines of unit vectors."""
        import torch

        return torch.as_tensor(np.asarray(first)) @ torch.as_tensor(np.asarray(second)).T

    def similarity_pairwise(self, first: Any, second: Any) -> Any:
        """(n,) cosines of unit vectors."""
        import torch

        return (torch.as_tensor(np.asarray(first)) * torch.as_tensor(np.asarray(second))).sum(-1)


class MtebSearcher:
    """An arm with a gate or with words, as mteb's ``SearchProtocol``: whatever the gate holds back is not ranked.

    Args:
        arm: any.
        encoder: its encodings.
        meta: mteb's record of the model.
        prompts: as for :class:`MtebEncoder`.
    """

    def __init__(self, arm: Arm, encoder: ArmEncoder, meta: Any, *, prompts: Mapping[str, str] | None = None) -> None:
        self.mteb_model_meta = meta
        self.prompts = check_prompts(prompts)
        self._arm, self._encoder = arm, encoder
        self._documents: tuple[Document, ...] | None = None

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Keep the corpus; rows have ``id``, ``text`` and maybe ``title``."""
        self._documents = tuple(Document(str(row["id"]), row["text"], row.get("title") or "") for row in corpus)

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """At most ``top_k`` documents for each query, as scores by document id by query id.

        An instruction that a task has for a query stands behind it, as mteb's own models read it.

        Raises:
            InputError: there is no corpus yet, or the task gives candidates to be ranked, which is not retrieval.
        """
        if top_ranked:
            raise InputError(
                f"the arm {self._arm.name} searches a whole corpus, and this task gives candidates to rank; take an "
                "arm of vectors alone, such as response or blend"
            )
        if self._documents is None:
            raise InputError("expected a corpus before the queries; call index first")
        rows = list(queries)
        instruction = prompt_for(self.prompts, task_metadata, "query")
        retriever = ArmRetriever(self._arm, self._documents, self._encoder, instruction=instruction)
        ranked = retriever.rank([f"{row['text']} {row.get('instruction') or ''}".strip() for row in rows], k=top_k)
        return {
            str(row["id"]): {hit.id: hit.score for hit in retrieval.hits}
            for row, retrieval in zip(rows, ranked.retrievals, strict=True)
        }


def mteb_model(
    arm: Arm, encoder: ArmEncoder, *, prompts: Mapping[str, str] | None = None, name: str | None = None
) -> MtebEncoder | MtebSearcher:
    """An arm as the kind of model that mteb should see.

    Args:
        arm: the arm.
        encoder: its encodings.
        prompts: put before queries; ``None`` takes :data:`PAPER_PROMPTS` for an arm that asks for instructions, and
            none for the others.
        name: what mteb calls it, after ``safe-retrieval/``; ``None`` takes the arm's name.

    Raises:
        MissingExtraError: mteb is not installed.
        InputError: a prompt for documents.
    """
    if prompts is None and arm.instructed:
        prompts = PAPER_PROMPTS
    arm = settled(arm, encoder.models)
    meta = model_meta(arm, encoder, check_prompts(prompts), name=name)
    kind = MtebSearcher if arm.gate is not None or arm.lexical else MtebEncoder
    return kind(arm, encoder, meta, prompts=prompts)


def check_prompts(prompts: Mapping[str, str] | None) -> Mapping[str, str]:
    """The prompts, or none.

    Raises:
        InputError: one is for documents, whose vectors belong to an index that others ask as well.
    """
    wrong = next((key for key in prompts or {} if key == "document" or key.endswith("-document")), None)
    if wrong is not None:
        raise InputError(
            f"expected prompts for queries, got {wrong!r}: a document's prompt is part of the document encoder's space "
            "and comes with it"
        )
    return dict(prompts or {})


def model_meta(arm: Arm, encoder: ArmEncoder, prompts: Mapping[str, str], *, name: str | None = None) -> Any:
    """mteb's ``ModelMeta`` of an arm. What is not known is ``None``, and never a guess.

    Parameters and memory are those of all models that the arm needs. Where these are several, a licence is named if it
    is the same for all, and no single one is what the arm was adapted from. ``training_datasets`` are the document
    encoder's, as mteb's registry has them, and the sources of the queries that the adapter learned from; what the
    backbone has read, nobody says.

    Raises:
        MissingExtraError: mteb is not installed.
    """
    mteb: Any = require("mteb", extra="mteb", purpose="mteb's models and tasks")
    models = encoder.models
    used = _used(arm, models)
    parameters = [weight for module in modules_of(*(each.encoder for each in used)) for weight in module.parameters()]
    known = [catalog.find(each) for each in sorted(_names(used))]
    licences = {None if each is None else each.licence.lower() for each in known}
    sources = _query_sources(models.response) if arm.needs_adapter else frozenset()
    settings: dict[str, Any] = {"arm": arm.name, "prompts": dict(prompts)}
    if sources:
        settings["adapter_queries"] = sorted(sources)
    return mteb.models.ModelMeta(
        loader=None,
        name=f"safe-retrieval/{name or arm.name}",
        revision=_revision(arm, models, prompts),
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=sum(weight.numel() for weight in parameters) or None,
        memory_usage_mb=round(sum(w.numel() * w.element_size() for w in parameters) / _MEGABYTE, 1) or None,
        max_tokens=None,
        embed_dim=_dimension(arm, models),
        license=licences.pop() if len(licences) == 1 else None,
        open_weights=True if known and None not in known else None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",
        use_instructions=bool(prompts),
        training_datasets=_training_datasets(mteb, models.document, sources) if models.document in used else None,
        adapted_from=known[0].hub_id if len(known) == 1 and known[0] is not None else None,
        experiment_kwargs=settings,
    )


def _revision(arm: Arm, models: ArmModels, prompts: Mapping[str, str]) -> str:
    """A hash over everything that decides the ranking."""
    identity = {
        "arm": arm.record(),
        "query": models.query(arm).record,
        "document": models.document.record,
        "prompts": dict(prompts),
    }
    if arm.needs_adapter:
        identity["verdict"] = models.response.record
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _used(arm: Arm, models: ArmModels) -> list[RecordedEncoder]:
    """The encoders that an arm cannot do without, each once; BM25 without a gate needs none."""
    used = [] if arm.query is QuerySide.NONE else [models.query(arm)]
    if arm.query is not QuerySide.NONE and arm.documents is DocumentSide.TEACHER:
        used.append(models.document)
    if arm.needs_adapter:
        used.append(models.response)
    return [each for position, each in enumerate(used) if each not in used[:position]]


def _names(used: Sequence[RecordedEncoder]) -> set[str]:
    """The models behind encoders: document encoders and backbones, by the names in their records."""
    parts = [each.record.get(part) for each in used for part in ("document_encoder", "backbone")]
    return {str(part["name"]) for part in parts if part is not None}


def _dimension(arm: Arm, models: ArmModels) -> int | None:
    if arm.query is QuerySide.NONE:
        return None
    stores = models.document if arm.documents is DocumentSide.TEACHER else models.query(arm)
    return stores.encoder.dimension


def _query_sources(response: RecordedEncoder) -> frozenset[str]:
    """Where the queries came from that an adapter's vectors and its gate were trained on, by its own record."""
    from safe_retrieval.encoder.response import ResponseEncoder

    if not isinstance(response.encoder, ResponseEncoder):
        return frozenset()
    training = response.encoder.record.training
    parts = (training, training.get("judge") or {})
    return frozenset(source for part in parts for source in part.get("queries_by_source") or ())


def _training_datasets(mteb: Any, document: RecordedEncoder, sources: frozenset[str]) -> set[str] | None:
    known = catalog.find(document.encoder.name)
    theirs = getattr(_registered(mteb, known.hub_id), "training_datasets", None) if known else None
    return None if theirs is None else set(theirs) | sources


def _registered(mteb: Any, name: str) -> Any:
    """What mteb knows of a model without asking anybody, or ``None``."""
    try:
        return mteb.get_model_meta(name, fetch_from_hf=False)
    except KeyError:
        return None


def _is_document(prompt_type: Any) -> bool:
    return prompt_type is not None and str(getattr(prompt_type, "value", prompt_type)) == "document"
