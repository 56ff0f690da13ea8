"""The shard manifest: what one build consists of, so that any number of processes can do its steps in any order.

A plan is data: which documents are in which shard, by whom they are encoded, and the kind of index. The same corpus,
encoder and options give the same bytes. It lies beside the documents in the unfinished build's folder; every step
reads it, and none changes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safe_retrieval.errors import EncoderMismatchError, IndexFolderError, InputError
from safe_retrieval.index.manifest import BUILD_FOLDER, EncoderRecord
from safe_retrieval.types import Encoder

PLAN_NAME = "plan.json"
FORMAT = "safe-retrieval build plan"
FORMAT_VERSION = 1
"""The plan's file in the build folder, and what its first fields say."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of documents.

    Attributes:
        start: position of the first.
        stop: position after the last.
        key: identity of its vectors (:func:`~safe_retrieval.index.shards.shard_key`).
    """

    start: int
    stop: int
    key: str


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build consists of.

    Attributes:
        encoder: who encodes the documents.
        dimension: length of a vector.
        count: number of documents.
        factory: the kind of index.
        memory: bytes that vectors may take while FAISS's file is made, or ``None``.
        batch_size: texts in one forward pass.
        shards: in the order of their documents, without gaps.
    """

    encoder: EncoderRecord
    dimension: int
    count: int
    factory: str
    memory: int | None
    batch_size: int
    shards: tuple[Shard, ...]

    def to_json(self) -> str:
        """The canonical text, with a checksum over everything else in it."""
        body = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return _canonical({**body, "sha256": _digest(body)})

    def write(self, out: Path) -> None:
        """Put the plan into the unfinished build at ``out``, in one step."""
        path = out / BUILD_FOLDER / PLAN_NAME
        partial = path.with_name(f".{PLAN_NAME}.partial")
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def shard(self, number: int) -> Shard:
        """The shard of a number, counted from 0.

        Raises:
            InputError: there is none.
        """
        if not 0 <= number < len(self.shards):
            raise InputError(f"expected a shard from 1 to {len(self.shards)}, got {number + 1}")
        return self.shards[number]

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse to encode with another encoder than the plan's.

        Raises:
            EncoderMismatchError: it is another one.
        """
        if (encoder.name, encoder.space, encoder.dimension) != (
            self.encoder.name,
            self.encoder.space,
            self.dimension,
        ):
            raise EncoderMismatchError(
                f"the build was planned for {self.encoder.name} ({self.dimension} dimensions, {self.encoder.space}), "
                f"got {encoder.name} ({encoder.dimension}, {encoder.space}); encode all shards with one encoder"
            )


def read_plan(out: Path) -> BuildPlan:
    """The plan of the unfinished build at ``out``.

    Raises:
        IndexFolderError: there is none, or it is damaged.
    """
    path = out / BUILD_FOLDER / PLAN_NAME
    try:
        fields = _checked(json.loads(path.read_text(encoding="utf-8")))
        fields["encoder"] = EncoderRecord(**fields["encoder"])
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        return BuildPlan(**fields)
    except FileNotFoundError as error:
        raise IndexFolderError(
            f"there is no planned build at {out}; plan one with: safe-retrieval index shards plan CORPUS OUT --shards N"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IndexFolderError(f"{path} is damaged ({error}); plan the build again") from error


def _checked(fields: Any) -> dict[str, Any]:
    """What a plan says besides its own format."""
    sound = isinstance(fields, dict) and fields.pop("sha256", None) == _digest(fields)
    if not sound or (fields.pop("format", ""), fields.pop("format_version", 0)) != (FORMAT, FORMAT_VERSION):
        raise ValueError("its checksum is not that of what it says, or it is of another version")
    return dict(fields)


def even_bounds(count: int, shards: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each of so many shards, none of which is longer by more than one than another.

    Raises:
        InputError: fewer than one shard, or more shards than documents.
    """
    if not 1 <= shards <= count:
        raise InputError(f"expected from 1 to {count} shards, as many as there are documents at most, got {shards}")
    for number in range(shards):
        yield number * count // shards, (number + 1) * count // shards


def shard_number(text: str, shards: int) -> int:
    """The shard that ``3/64`` means, counted from 0.

    Raises:
        InputError: it is not of that form, or the plan has another number of shards.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise InputError(f"expected a shard such as 3/64, counted from 1, got {text!r}")
    if int(of) != shards:
        raise InputError(
            f"the build was planned with {shards} shards, got {text!r}; plan it again, or say {number}/{shards}"
        )
    return int(number) - 1


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()
