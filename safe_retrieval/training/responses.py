"""The backbone's own responses to unlabelled queries: what an adapter is taught to foresee.

One file, JSON lines. The first line is a header that says which backbone answered, under which policy and template and
up to which length; the rest are rows, written batch by batch as they come. A row says whether its answer ended by
itself or was cut; files from before rows said so are read, and continued, as they are. A run that was cut goes on
where it stopped: complete rows are kept, a half-written last line is dropped, and a header of other settings is
refused. One process writes at a time.

Batches hold queries of similar length and are drawn in a seeded random order, so that a file that is not complete yet
is a fair sample of the whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.verdict import is_refusal
from safe_retrieval.errors import TrainingError
from safe_retrieval.training.config import Precision
from safe_retrieval.training.lock import only_writer
from safe_retrieval.training.parallel import side_by_side
from safe_retrieval.training.queries import TrainingQuery

if TYPE_CHECKING:
    from safe_retrieval.backbone.language_model import LanguageModel
    from safe_retrieval.encoder.policy import ResponsePolicy
    from safe_retrieval.training.prefix_cache import PrefixCache


class ResponsesHeader(BaseModel):
    """First line of a responses file: everything that a response depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "safe-retrieval-responses"
    version: int = 1
    backbone: str
    backbone_fingerprint: str
    policy: str
    system_prompt: str
    template_sha256: str
    max_new_tokens: int
    decoding: str = "greedy"
    precision: Precision = Precision.FULL  # files from before they said so hold no other


class Response(NamedTuple):
    """A query and the backbone's answer to it.

    Attributes:
        query: as it was asked.
        source: where it came from.
        response: the answer, stripped.
        refused: whether the answer refuses, by today's rule.
        ended: whether the backbone ended the answer itself, rather than being cut at the bound on tokens; ``None`` in
            rows of files that do not say.
    """

    query: str
    source: str
    response: str
    refused: bool
    ended: bool | None = None


_ROW = TypeAdapter(Response, config=ConfigDict(strict=True))


def header_for(model: LanguageModel, policy: ResponsePolicy, *, max_new_tokens: int) -> ResponsesHeader:
    """The header of a run with these settings."""
    return ResponsesHeader(
        backbone=model.name,
        backbone_fingerprint=model.fingerprint,
        policy=policy.name,
        system_prompt=policy.system_prompt,
        template_sha256=model.shared_prefix(policy.system_prompt).template.sha256,
        max_new_tokens=max_new_tokens,
        precision=Precision.INT8 if model.precision == Precision.INT8 else Precision.FULL,
    )


def generate_responses(
    model: LanguageModel,
    queries: Sequence[TrainingQuery],
    policy: ResponsePolicy,
    out: Path,
    *,
    max_new_tokens: int = 48,
    batch_size: int = 128,
    workers: int = 1,
    prefixes: PrefixCache | None = None,
    seed: int = 0,
) -> list[Response]:
    """Answer every query that ``out`` does not answer yet; returns all rows for ``queries``, in their order.

    Args:
        model: the backbone.
        queries: unlabelled queries.
        policy: the system prompt to answer under.
        out: the responses file; made, or continued.
        max_new_tokens: bound on a response.
        batch_size: queries decoded together.
        workers: threads that decode batches side by side; each uses one intra-op thread when there are several.
        prefixes: keeps the prefix passes for the training that follows.
        seed: of the order in which batches are drawn.

    Raises:
        TrainingError: ``out`` holds responses of other settings, is no responses file, or another process writes it.
    """
    header = header_for(model, policy, max_new_tokens=max_new_tokens)
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    with only_writer(out.with_name(f"{out.name}.lock"), str(out)):
        done = _open_for_resume(out, header)
        missing = list({query.text: query for query in queries if query.text not in done}.values())
        batches = _batches(model, missing, policy, batch_size, seed)
        with out.open("ab") as file, progress_bar(len(missing), f"Responses of {model.name}") as advance:

            def answer(batch: list[TrainingQuery]) -> None:
                rows = _answer(model, batch, policy, max_new_tokens, prefixes)
                with lock:
                    file.write(_as_lines(rows))
                    file.flush()
                    os.fsync(file.fileno())
                    done.update((row.query, row) for row in rows)
                    advance(len(rows))

            side_by_side(answer, batches, workers)
    return [done[query.text] for query in queries]


def answered_responses(
    model: LanguageModel, queries: Sequence[TrainingQuery], policy: ResponsePolicy, out: Path, *, max_new_tokens: int
) -> list[Response]:
    """The rows of ``out`` for those of ``queries`` that it answers already, in their order; nothing is written.

    Raises:
        TrainingError: as :func:`generate_responses`, and if there is no such file.
    """
    found, rows = read_responses(out)
    _require_same(out, found, header_for(model, policy, max_new_tokens=max_new_tokens))
    done = {row.query: row for row in rows}
    return [done[query.text] for query in queries if query.text in done]


def read_responses(path: Path) -> tuple[ResponsesHeader, list[Response]]:
    """Header and complete rows of a responses file.

    Raises:
        TrainingError: the file is missing, has no such header, or a line other than the last is broken.
    """
    try:
        lines = path.read_bytes().split(b"\n")  # not splitlines(), which also splits at characters that stand in a text
    except OSError as error:
        raise TrainingError(f"expected a responses file at {path}: {error}") from error
    if not lines[-1]:
        lines.pop()
    try:
        header = ResponsesHeader.model_validate_json(lines[0] if lines else b"")
    except ValidationError as error:
        raise TrainingError(f"{path}, line 1: expected the header of a responses file (version 1)") from error
    return header, list(_rows(path, lines[1:]))


def held_back(rows: Sequence[Response], count: int) -> tuple[list[Response], list[Response]]:
    """The ``count`` rows to hold back, and those to train on, both in their order.

    Back go the queries of the smallest hashes, so none of them was trained on by a run on a part of these queries: an
    adapter that takes over the tokens of such a run is evaluated on nothing that they have seen.
    """
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(row.query.encode()).digest())
    back = {row.query for row in by_hash[:count]}
    return [row for row in rows if row.query in back], [row for row in rows if row.query not in back]


def sha256_of(responses: Sequence[Response]) -> str:
    """Hash of rows, independent of their order; part of an adapter's training record."""
    digest = hashlib.sha256()
    for row in sorted(responses, key=lambda row: row[:4]):  # None and a verdict on the end have no order
        # Rows that do not say whether they ended hash as they always did: records of older runs hold that hash.
        digest.update(json.dumps(row[:4] if row.ended is None else row, ensure_ascii=False).encode())
    return "sha256:" + digest.hexdigest()


def _rows(path: Path, lines: Sequence[bytes]) -> Iterator[Response]:
    for number, line in enumerate(lines, start=2):
        try:
            row = _ROW.validate_json(line)
        except ValidationError as error:
            if number == len(lines) + 1:
                return  # the writer was cut in the middle of its last line; the query is answered again
            fault = error.errors()[0]["msg"]
            raise TrainingError(f"{path}, line {number}: expected a response row ({fault}); delete the line") from error
        yield row._replace(refused=is_refusal(row.response))  # a file may be older than the rule


def _as_lines(rows: Sequence[Response]) -> bytes:
    return "".join(json.dumps(_fields(row), ensure_ascii=False) + "\n" for row in rows).encode()


def _fields(row: Response) -> dict[str, Any]:
    """What is known of a row, so that a row of an older file is written back as it was."""
    return {name: value for name, value in row._asdict().items() if value is not None}


def _open_for_resume(out: Path, header: ResponsesHeader) -> dict[str, Response]:
    rows: list[Response] = []
    if out.exists():
        found, rows = read_responses(out)
        _require_same(out, found, header)
    # Rewritten without a half-written last line, so that appending starts on a line of its own.
    partial = out.with_name(f"{out.name}.partial")
    partial.write_bytes(header.model_dump_json().encode() + b"\n" + _as_lines(rows))
    partial.replace(out)
    return {row.query: row for row in rows}


def _require_same(out: Path, found: ResponsesHeader, header: ResponsesHeader) -> None:
    fields = [name for name in type(header).model_fields if getattr(found, name) != getattr(header, name)]
    if fields:
        raise TrainingError(
            f"{out} has responses of another {', '.join(fields)}; give another file, or delete it to start anew"
        )


def _batches(
    model: LanguageModel, queries: Sequence[TrainingQuery], policy: ResponsePolicy, batch_size: int, seed: int
) -> list[list[TrainingQuery]]:
    if not queries:
        return []
    lengths = [len(ids) for ids in model.token_ids([query.text for query in queries], policy.system_prompt)]
    order = sorted(range(len(queries)), key=lambda i: (lengths[i], queries[i].text))
    batches = [[queries[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    random.Random(seed).shuffle(batches)  # noqa: S311  # a reproducible order, not a secret
    return batches


def _answer(
    model: LanguageModel,
    batch: Sequence[TrainingQuery],
    policy: ResponsePolicy,
    max_new_tokens: int,
    prefixes: PrefixCache | None,
) -> list[Response]:
    from safe_retrieval.backbone.generate import generate

    texts = [query.text for query in batch]
    if prefixes is None:
        prefix = model.prefix_pass(model.token_ids(texts, policy.system_prompt), policy.system_prompt)
    else:
        prefix = prefixes.compute(texts)
    written = generate(model, prefix, max_new_tokens=max_new_tokens)
    answers = [model.tokenizer.decode(ids).strip() for ids in written]
    return [
        # The end token is not among the ids, so a row with room left is one that ended.
        Response(query.text, query.source, answer, is_refusal(answer), ended=len(ids) < max_new_tokens)
        for query, answer, ids in zip(batch, answers, written, strict=True)
    ]
