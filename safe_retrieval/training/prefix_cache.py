"""Kept prefixes: each query's keys and values, computed once for all epochs.

The backbone is frozen and the trained tokens come last, so nothing about a query's own positions ever changes. They
are computed once (while the response is generated, or before the first epoch) and kept on disk, memory-mapped, in
bfloat16: 12 kB a token at 0.5B, 29 kB at 1.5B. What would go past ``max_bytes`` is not kept but computed anew, and
rounded as if it had been kept: it changes the time and not the result.

Folder: ``<root>/<key>/batch-*.safetensors``, each written aside and renamed in; the key hashes the backbone, its
precision, the template and the query bound, so a folder can never serve another backbone or policy. Each prefix has a
checksum; one that fails it is computed anew.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from safe_retrieval.backbone.key_values import KeyValues
from safe_retrieval.backbone.language_model import EIGHT_BIT, MAX_QUERY_TOKENS, LanguageModel, Prefix
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.texts import length_sorted_batches
from safe_retrieval.errors import TrainingError
from safe_retrieval.training.checksums import checksum
from safe_retrieval.training.parallel import side_by_side

DEFAULT_MAX_BYTES = 8 * 2**30
"""Of disk that kept prefixes take at most, where nothing else is said."""

_HEADER_BYTES = 256  # of a safetensors file, for each query; more than it takes
_ABANDONED_SECONDS = 3600.0


class _Kept(NamedTuple):
    file: Path
    name: str
    checksum: str


class PrefixCache:
    """Prefix passes of one backbone under one system prompt, kept on disk.

    Args:
        model: the backbone.
        system_prompt: the policy's system prompt.
        root: folder for kept prefixes; ``None`` keeps nothing.
        max_bytes: bound on what is kept.
        dtype: of what :meth:`get` gives; ``None`` is the backbone's own. A run whose backbone reads in 8-bit integers
            may train in another floating point than those come in.
    """

    def __init__(
        self,
        model: LanguageModel,
        system_prompt: str,
        root: Path | None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._model = model
        self._dtype = dtype or model.dtype
        self._system_prompt = system_prompt
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._index: dict[str, _Kept] = {}
        self._bytes = 0
        self._full = False  # something did not fit
        self._folder: Path | None = None
        if root is not None:
            template = model.shared_prefix(system_prompt).template
            identity = f"{model.fingerprint}\n{template.sha256}\n{MAX_QUERY_TOKENS}"
            if model.precision == EIGHT_BIT:  # floating points of either width are kept as bfloat16 and agree
                identity += f"\n{EIGHT_BIT}"
            self._folder = root / hashlib.sha256(identity.encode()).hexdigest()[:16]
            self._folder.mkdir(parents=True, exist_ok=True)
            self._read_folder()

    @property
    def size_bytes(self) -> int:
        """Bytes kept on disk."""
        return self._bytes

    def holds(self, query: str) -> bool:
        """Whether a query's prefix is kept."""
        return _digest(query) in self._index

    def compute(self, queries: Sequence[str]) -> Prefix:
        """Run the prefix pass of a batch and keep what is new; returns the pass at full precision.

        Raises:
            TrainingError: the disk is full or cannot be written.
        """
        prefix = self._model.prefix_pass(self._model.token_ids(queries, self._system_prompt), self._system_prompt)
        self._keep(queries, prefix)
        return prefix

    def fill(self, queries: Sequence[str], *, workers: int = 1) -> None:
        """Compute and keep the prefixes that are missing, those of one length together, until the bound is reached.

        Raises:
            TrainingError: as :meth:`compute`.
        """
        missing = [query for query in dict.fromkeys(queries) if not self.holds(query)]
        if self._folder is None or not missing:
            return
        lengths = [len(row) for row in self._model.token_ids(missing, self._system_prompt)]
        batches = length_sorted_batches(lengths, batch_size=len(missing), token_budget=self._model.batch_cells)
        with progress_bar(len(missing), "Prefixes") as advance:

            def keep(batch: NDArray[np.int64]) -> None:
                if not self._full:
                    self.compute([missing[i] for i in batch])
                advance(len(batch))

            side_by_side(keep, batches, workers)

    def get(self, queries: Sequence[str]) -> Prefix:
        """The prefixes of a batch: read where they are kept, computed (and kept) where they are not.

        Keys and values are those of bfloat16 either way, so what is kept does not show in a result.
        """
        digests = [_digest(query) for query in queries]
        with self._lock:
            places = [self._index.get(digest) for digest in digests]
        rows = [None if place is None else self._read(place) for place in places]
        missing = [query for query, row in zip(queries, rows, strict=True) if row is None]
        if len(missing) == len(rows):
            return self._rounded(self.compute(queries))  # as they lie, on their device
        if missing:
            computed, place = self.compute(missing), iter(range(len(missing)))
            rows = [self._row(computed, next(place)) if row is None else row for row in rows]
        return self._assemble([row for row in rows if row is not None])

    def values(self, prefix: Prefix) -> Tensor:
        """(B, V) float32 attention values of a prefix (:meth:`LanguageModel.query_values`)."""
        return self._model.query_values(prefix, self._system_prompt)

    def _keep(self, queries: Sequence[str], prefix: Prefix) -> None:
        if self._folder is None:
            return
        tensors: dict[str, Tensor] = {}
        for row, query in enumerate(queries):
            digest = _digest(query)
            if digest not in self._index and f"{digest}.kv" not in tensors:
                tensors[f"{digest}.kv"], tensors[f"{digest}.state"] = self._row(prefix, row)
        size = sum(tensor.nbytes for tensor in tensors.values()) + _HEADER_BYTES * len(tensors)
        with self._lock:
            if not tensors:
                return
            if self._bytes + size > self._max_bytes:
                self._full = True
                return
            self._bytes += size  # before it is written, so that two threads cannot share the last free bytes
        names = sorted({name.partition(".")[0] for name in tensors})
        checksums = {name: str(checksum((tensors[f"{name}.kv"], tensors[f"{name}.state"]))) for name in names}
        file = self._folder / f"batch-{hashlib.sha256(''.join(names).encode()).hexdigest()[:16]}.safetensors"
        replaced = file.stat().st_size if file.exists() else 0  # a whole batch that failed its checksums
        self._write(file, tensors, checksums)
        with self._lock:
            self._bytes -= size + replaced
            self._add(file, checksums)

    def _row(self, prefix: Prefix, row: int) -> tuple[Tensor, Tensor]:
        """What is kept of one prompt: its own keys and values (layers, 2, kv_heads, n, head_dim), and its state."""
        width = prefix.mask.shape[1]
        own = int(prefix.lengths[row]) - self._model.shared_prefix(self._system_prompt).length
        packed = prefix.key_values.pack(row, slice(width - own, width))
        state = prefix.state[row]
        return packed.to("cpu", torch.bfloat16).contiguous(), state.to("cpu", torch.float32).contiguous()

    @staticmethod
    def _write(file: Path, tensors: dict[str, Tensor], checksums: dict[str, str]) -> None:
        partial = file.with_suffix(f".partial-{os.getpid()}-{threading.get_ident()}")
        try:
            save_file(tensors, partial, metadata=checksums)
            partial.replace(file)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise TrainingError(
                f"{file} cannot be written ({error}); free some disk or lower prefix_gigabytes"
            ) from error

    def _add(self, file: Path, checksums: Mapping[str, str]) -> None:
        self._bytes += file.stat().st_size
        self._index.update((name, _Kept(file, name, value)) for name, value in checksums.items())

    def _read_folder(self) -> None:
        if self._folder is None:
            return
        for leftover in self._folder.glob("*.partial-*"):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:  # a young one may have a living writer
                leftover.unlink(missing_ok=True)
        for file in sorted(self._folder.glob("batch-*.safetensors")):
            try:
                with safe_open(file, framework="pt") as opened:
                    self._add(file, opened.metadata() or {})
            except SafetensorError:
                file.unlink()  # a cache of what can be computed again: a damaged file is dropped

    def _read(self, place: _Kept) -> tuple[Tensor, Tensor] | None:
        """A kept row, or ``None`` (and it is forgotten) where the disk gave back something else than was written."""
        try:
            with safe_open(place.file, framework="pt") as opened:
                row = opened.get_tensor(f"{place.name}.kv"), opened.get_tensor(f"{place.name}.state")
        except (SafetensorError, OSError):
            row = None
        if row is not None and str(checksum(row)) == place.checksum:
            return row
        with self._lock:
            self._index.pop(place.name, None)
        return None

    def _rounded(self, prefix: Prefix) -> Prefix:
        """As keeping rounds it: the queries' own keys and values in bfloat16, what is shared as it is."""
        shared = self._model.shared_prefix(self._system_prompt).length

        def rounded(tensor: Tensor) -> Tensor:
            own = tensor[:, :, shared:].to(torch.bfloat16).to(self._dtype)
            return torch.cat((tensor[:, :, :shared].to(self._dtype), own), dim=2)

        keys, values = prefix.key_values
        key_values = KeyValues(tuple(map(rounded, keys)), tuple(map(rounded, values)))
        return prefix._replace(key_values=key_values, state=prefix.state.to(self._dtype))

    def _assemble(self, rows: Sequence[tuple[Tensor, Tensor]]) -> Prefix:
        """Lay kept rows side by side: [shared][padding][own], as a prefix pass would have."""
        model = self._model
        shared = model.shared_prefix(self._system_prompt)
        own = [int(kv.shape[3]) for kv, _ in rows]
        width = max(own)
        layers, _, heads, _, dim = rows[0][0].shape
        stacked = torch.zeros(layers, 2, len(rows), heads, shared.length + width, dim, dtype=self._dtype)
        for layer, (key, value) in enumerate(zip(shared.key_values.keys, shared.key_values.values, strict=True)):
            stacked[layer, 0, :, :, : shared.length] = key[0].cpu()
            stacked[layer, 1, :, :, : shared.length] = value[0].cpu()
        mask = torch.ones(len(rows), shared.length + width, dtype=torch.bool)
        for row, ((kv, _), length) in enumerate(zip(rows, own, strict=True)):
            stacked[:, :, row, :, shared.length + width - length :] = kv
            mask[row, shared.length : shared.length + width - length] = False
        return Prefix(
            KeyValues.unpack(stacked.to(model.device)),
            mask.to(model.device),
            (shared.length + torch.tensor(own)).to(model.device),
            torch.stack([state for _, state in rows]).to(model.device, self._dtype),
        )


def _digest(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:32]
