"""From the settings of an audit to its targets; models that several of them need are opened once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from safe_retrieval.audit.arms import Bench
from safe_retrieval.audit.encodings import EncodingCache, Progress
from safe_retrieval.audit.external import ExternalTarget
from safe_retrieval.audit.journal import forget
from safe_retrieval.audit.models import LocalModels, Models, RecordedEncoder
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.provenance import provenance
from safe_retrieval.audit.searching import CachedVectors, EncoderVectors, Searcher, Vectors
from safe_retrieval.audit.settings import AuditSettings
from safe_retrieval.audit.target_settings import (
    ArmTarget,
    EmbeddingsTarget,
    FaissTarget,
    HttpTarget,
    IndexTarget,
    LangChainTarget,
    Loader,
    ModelChoice,
    ModelTarget,
    TargetSettings,
)
from safe_retrieval.audit.targets import AuditArm, Target
from safe_retrieval.encoder.blend import BlendWeight
from safe_retrieval.models.naming import folder_or_name
from safe_retrieval.types import Encoder

ANSWERS = "answers"
"""Folder in the cache where journals lie."""


class Opener:
    """Opens the targets of one audit, and knows what to say of them in its report.

    Args:
        settings: of the audit.
        probe_set: what is asked.
        cache: folder of kept vectors and answers.
        progress: display for what takes time.
    """

    def __init__(self, settings: AuditSettings, probe_set: ProbeSet, cache: Path, progress: Progress) -> None:
        self._settings, self._probe_set, self._cache, self._progress = settings, probe_set, cache, progress
        self._encodings = EncodingCache(cache, progress=progress)
        self._models: dict[tuple[Any, ...], Models] = {}
        self._benches: dict[str, Bench] = {}
        self._external: dict[str, ExternalTarget] = {}

    def check_adapters(self) -> None:
        """Look for the adapters that arms need, before the passages of any target are encoded.

        Raises:
            AdapterError: there is none for a target, or it is damaged.
        """
        for settings in self._settings.targets:
            if isinstance(settings, ArmTarget) and settings.arm.needs_adapter:
                self._arm_models(settings).check_adapter()

    def open(self, settings: TargetSettings) -> Target:
        """Open a target.

        Raises:
            ConfigError: the settings do not fit what is there.
            ModelError, AdapterError, IndexFolderError, MissingExtraError: something it needs cannot be had.
        """
        name = settings.called
        match settings:
            case ArmTarget():
                models = self._arm_models(settings)
                return self._bench(name, models, settings.queries or None).target(settings.arm, name)
            case ModelTarget():
                return self._dense(name, self._document_models(settings.model, settings.loader))
            case EmbeddingsTarget():
                from safe_retrieval.audit.searchers.embeddings import EmbeddingsClient, EmbeddingsEncoder

                encoder = EmbeddingsEncoder(EmbeddingsClient(settings, name))
                return self._dense(name, DocumentOnly(encoder))
            case _:
                return self._external_target(name, settings, self._searcher(name, settings))

    def provenance(self) -> dict[str, Any]:
        """What ran, on what, and when: by target, and the probes' sources."""
        targets = {name: bench.used for name, bench in self._benches.items()}
        targets |= {name: dict(target.record) for name, target in self._external.items()}
        sources = [
            {
                "name": source.name,
                "origin": source.origin,
                "license": source.license,
                "sha256": source.sha256,
                "probes": dict(source.probes),
                "passages": source.passages,
                "placement": source.placement.value,
            }
            for source in self._probe_set.sources
        ]
        return provenance(
            {"targets": {each.called: targets.get(each.called, {}) for each in self._settings.targets}}
        ) | {"probes": sources}

    def notes(self) -> dict[str, list[str]]:
        """What a reader should know of targets that bring their own passages, by name."""
        return {name: list(target.record.get("notes", ())) for name, target in self._external.items()}

    def finished(self) -> None:
        """The report is written: answers are no longer kept."""
        forget(self._cache / ANSWERS)

    def _placed(self, path: Path | None) -> Path | None:
        return None if path is None else self._settings.placed(path)

    def _arm_models(self, settings: ArmTarget) -> Models:
        return self._local(settings.encoder, settings)

    def _local(self, encoder: str, chosen: ModelChoice) -> Models:
        encoder = folder_or_name(encoder, self._settings.placed)
        backbone = None if chosen.backbone is None else folder_or_name(chosen.backbone, self._settings.placed)
        adapter = self._placed(chosen.adapter)
        key = (encoder, backbone, adapter, chosen.policy, chosen.dtype)
        if key not in self._models:
            self._models[key] = LocalModels(
                encoder,
                backbone=backbone,
                adapter=adapter,
                policy=chosen.policy,
                dtype=chosen.dtype,
                offline=self._settings.offline,
            )
        return self._models[key]

    def _document_models(self, name: str, loader: Loader) -> Models:
        if loader is Loader.SENTENCE_TRANSFORMERS:
            return self._local(name, ModelChoice())
        from safe_retrieval.audit.searchers.mteb import MtebEncoder

        return DocumentOnly(MtebEncoder(name, offline=self._settings.offline))

    def _bench(self, name: str, models: Models, hyde_queries: int | None = None) -> Bench:
        bench = Bench(
            self._probe_set,
            models,
            self._cache,
            hyde_queries=hyde_queries,
            seed=self._settings.seed,
            progress=self._progress,
        )
        self._benches[name] = bench
        return bench

    def _dense(self, name: str, models: Models) -> Target:
        return self._bench(name, models).target(AuditArm.INPUT, name)

    def _external_target(
        self, name: str, settings: IndexTarget | FaissTarget | LangChainTarget | HttpTarget, searcher: Searcher
    ) -> Target:
        options = settings.options(self._settings.seed)
        target = ExternalTarget(
            name, searcher, self._probe_set, self._cache / ANSWERS, options=options, progress=self._progress
        )
        self._external[name] = target
        return target

    def _searcher(self, name: str, settings: IndexTarget | FaissTarget | LangChainTarget | HttpTarget) -> Searcher:
        match settings:
            case IndexTarget():
                return self._index(settings)
            case FaissTarget():
                return self._faiss(name, settings)
            case LangChainTarget():
                from safe_retrieval.audit.searchers.langchain import LangChainSearcher

                return LangChainSearcher(
                    settings.object,
                    self._settings.folder,
                    id_field=settings.id_field,
                    harmful_field=settings.harmful_field,
                    hazard_field=settings.hazard_field,
                    keep=partial(self._kept, name),
                )
            case HttpTarget():
                from safe_retrieval.audit.searchers.http import HttpSearcher

                return HttpSearcher(settings, name, vectors=self._http_vectors(name, settings))

    def _index(self, settings: IndexTarget) -> Searcher:
        from safe_retrieval.audit.searchers.index_folder import IndexSearcher
        from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD, RefusalGate

        threshold = DEFAULT_THRESHOLD if settings.threshold is None else settings.threshold
        models = partial(self._local, chosen=settings)
        return IndexSearcher(
            self._settings.placed(settings.path),
            settings.arm,
            RefusalGate(settings.gate, threshold),
            models=models,
            encodings=self._encodings,
        )

    def _faiss(self, name: str, settings: FaissTarget) -> Searcher:
        from safe_retrieval.audit.searchers.faiss_file import FaissSearcher
        from safe_retrieval.index.corpus import read_corpus

        texts = list(read_corpus(self._settings.placed(settings.texts)))
        vectors = self._kept(name, self._encoder_vectors(settings.encoder))
        return FaissSearcher(self._settings.placed(settings.path), texts, vectors, nprobe=settings.nprobe)

    def _http_vectors(self, name: str, settings: HttpTarget) -> Vectors | None:
        if settings.encoder:
            return self._kept(name, self._encoder_vectors(settings.encoder))
        if settings.embeddings is None:
            return None
        from safe_retrieval.audit.searchers.embeddings import EmbeddingsClient

        return self._kept(name, EmbeddingsClient(settings.embeddings, f"{name}, embeddings"))

    def _encoder_vectors(self, encoder: str) -> Vectors:
        return EncoderVectors(self._local(encoder, ModelChoice()).document.encoder)

    def _kept(self, name: str, vectors: Vectors) -> Vectors:
        return CachedVectors(vectors, self._encodings, name)


class DocumentOnly:
    """An encoder that is not one of our models as :class:`~safe_retrieval.audit.models.Models`, for ordinary retrieval.

    Args:
        encoder: of passages and queries.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def document(self) -> RecordedEncoder:
        """The encoder, with its record."""
        record = {"document_encoder": {"name": self._encoder.name, "space": self._encoder.space}}
        return RecordedEncoder(self._encoder, record)

    @property
    def response(self) -> RecordedEncoder:
        """The same: nothing here foresees a response."""
        return self.document

    @property
    def hyde(self) -> RecordedEncoder:
        """The same: nothing here generates."""
        return self.document

    @property
    def blend_weight(self) -> BlendWeight:
        """The usual one: nothing here is mixed."""
        return BlendWeight()

    def check_adapter(self) -> None:
        """None is needed."""
