"""Corpus files, line by line: what is in each, or why that cannot be told.

A reader yields one :class:`Record` for each line or row and keeps none of them. A line that is broken is a record with
a fault, and reading goes on behind it; what to do about it is for :mod:`~safe_retrieval.index.corpus` to say. A file
that is broken as a whole (a damaged gzip stream) raises.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from safe_retrieval.errors import DataError
from safe_retrieval.index.rows import CONTENT_ID, ID_FIELDS, Fields, Place
from safe_retrieval.index.zstd_stream import ZstdStream
from safe_retrieval.types import Document

COMPRESSED = (".gz", ".zst")
"""What may stand behind the name of a text file."""

STREAMED: Mapping[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
"""How Arrow is to read Parquet: a piece of each column at a time. Otherwise it holds whole row groups, which may be the
whole file."""

_BATCH_ROWS = 500
# The csv module refuses fields above 128 KiB unless told otherwise; this is its largest bound on every platform.
_FIELD_BYTES = 2**31 - 1
_ROW_CHARACTERS = 16_000_000
"""Longest row of a table: a quotation mark that is never closed must not read the whole file into memory."""
_COUNTED_BYTES = 256_000_000
"""Files up to this size are read once more to count their lines: a second or two."""


class Record(NamedTuple):
    """One line or row.

    Attributes:
        place: where it stands.
        fields: its fields by name; ``None`` if it is broken.
        fault: what is wrong with it, as it reads behind the place and a colon.
        content: the line as it was found; empty for a row that has fields, which says it all.
        document: the document, where a row is one already.
    """

    place: Place
    fields: Mapping[str, Any] | None
    fault: str = ""
    content: str = ""
    document: Document | None = None


Reader = Callable[[Path, Fields], Iterator[Record]]


def reader_for(path: Path) -> Reader:
    """The reader of a file, by its name.

    Raises:
        DataError: there is none for that kind of file.
    """
    suffix = _bare(path).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None or (suffix == ".parquet" and path.suffix in COMPRESSED):
        raise DataError(
            f"{path}: expected one of {', '.join(_READERS)}, text files with or without {' or '.join(COMPRESSED)}, or "
            "a BEIR folder"
        )
    return reader


def is_plain_text(path: Path) -> bool:
    """Whether a line of the file is the text of a document, without fields."""
    return _bare(path).suffix.lower() == ".txt"


def count_records(path: Path) -> int | None:
    """How many documents a file holds at most, where that can be told fast; ``None`` elsewhere."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            return int(parquet.read_metadata(path).num_rows)
        except (pyarrow.ArrowException, OSError):
            return None  # the reader will say what is wrong
    if path.stat().st_size > _COUNTED_BYTES or _bare(path).suffix.lower() in {".csv", ".tsv"}:
        return None  # a quoted field of a table may hold any number of lines
    with opened(path) as stream:
        return sum(1 for line in stream if line.strip())


def read_text_files(folder: Path) -> Iterator[Record]:
    """One record a ``.txt`` file, however deep; its id is its path inside the folder."""
    for path in sorted(text_files(folder)):
        identifier = path.relative_to(folder).as_posix()
        try:
            data = path.read_bytes()
            yield Record(Place(path), {"id": identifier, "text": data.decode("utf-8-sig")})
        except UnicodeDecodeError as error:
            yield Record(Place(path), None, f"cannot be read as UTF-8 text: {error}", _escaped(data))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def count_text_files(folder: Path) -> int:
    """How many of them there are."""
    return sum(1 for _ in text_files(folder))


def text_files(folder: Path) -> Iterator[Path]:
    """The ``.txt`` files in a folder, however deep and however the suffix is written."""
    return (path for path in folder.rglob("*") if path.suffix.lower() == ".txt" and not path.is_dir())


def _bare(path: Path) -> Path:
    """The path without the suffix of a compression."""
    return path.with_suffix("") if path.suffix in COMPRESSED else path


def _lines(path: Path) -> Iterator[tuple[Place, bytes, str | None]]:
    """Place, bytes and text of each line; the text is ``None`` if it is no UTF-8."""
    with opened(path) as stream:
        # Split as bytes: only a line feed ends a line, while a JSON string may hold U+2028 and its like as they are.
        for number, raw in enumerate(stream, start=1):
            try:
                text: str | None = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                text = None
            yield Place(path, number), raw, text


def _no_text(place: Place, raw: bytes) -> Record:
    return Record(place, None, "expected UTF-8 text; re-encode the file", _escaped(raw.rstrip(b"\r\n")))


def _read_text(path: Path, _: Fields) -> Iterator[Record]:
    for place, raw, text in _lines(path):
        if text is None:
            yield _no_text(place, raw)
        elif stripped := text.strip():
            yield Record(place, {"id": str(place.line), "text": stripped})


def _read_jsonl(path: Path, _: Fields) -> Iterator[Record]:
    for place, raw, text in _lines(path):
        if text is None:
            yield _no_text(place, raw)
        elif text.strip():
            yield _json_record(text, place)


def _json_record(text: str, place: Place) -> Record:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        fault = f"expected one JSON object, the line does not parse: {error}"
    else:
        if isinstance(fields, dict):
            return Record(place, fields, content=text.rstrip("\r\n"))
        fault = f"expected a JSON object, found {type(fields).__name__}"
    return Record(place, None, fault, text.rstrip("\r\n"))


def _read_csv(path: Path, fields: Fields) -> Iterator[Record]:
    return _read_table(path, fields, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(path: Path, fields: Fields) -> Iterator[Record]:
    return _read_table(path, fields, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(path: Path, fields: Fields, *, delimiter: str, quoting: Any) -> Iterator[Record]:
    csv.field_size_limit(_FIELD_BYTES)
    with opened(path) as stream:
        # Bytes that are no UTF-8 come through as lone surrogates, so that one line is at fault and not the file.
        lines = _Noted(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=""))
        rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        header = next(_rows(rows), None)
        lines.taken()
        if not isinstance(header, list):
            raise DataError(f"{Place(path, 1)}: expected a header line, got {header or 'nothing'}")
        _check_header(header, fields, Place(path, 1))
        for row in _rows(rows):
            if isinstance(row, csv.Error):
                # Most often a quotation mark that nobody closed. One line is at fault; those behind it are read again.
                content = lines.first_taken()
                yield Record(Place(path, lines.number), None, f"not readable as a table from here on: {row}", content)
            else:
                content = lines.taken()
                if row:
                    yield _table_record(header, row, Place(path, lines.number), content)


class _Noted:
    """The lines of a table, kept until somebody takes them: what a row was made of.

    Attributes:
        number: of the last line that was given out, from 1.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.number = 0
        self._lines = iter(lines)
        self._kept: list[str] = []
        self._characters = 0
        self._again: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._characters > _ROW_CHARACTERS:
            raise csv.Error(f"the row is longer than {_ROW_CHARACTERS:,} characters")
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self._kept.append(line)
        self._characters += len(line)
        return line

    def taken(self) -> str:
        """The lines since the last time, as one text without the last line's end."""
        content = "".join(self._kept).rstrip("\r\n")
        self._kept.clear()
        self._characters = 0
        return content

    def first_taken(self) -> str:
        """The first of them; the others are given out once more."""
        others = self._kept[1:]
        del self._kept[1:]
        self._again.extendleft(reversed(others))
        self.number -= len(others)
        return self.taken()


def _rows(rows: Any) -> Iterator[list[str] | csv.Error]:
    """The rows of a table, and errors in the place of rows that cannot be read."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield error


def _check_header(header: list[str], fields: Fields, place: Place) -> None:
    ids = ID_FIELDS if fields.id is None else (fields.id,)
    texts = {fields.text} if fields.template is None else {name for _, name in fields.template_parts() if name}
    twice = next((name for number, name in enumerate(header) if name in header[:number]), None)
    if twice is not None:
        raise DataError(f"{place}: two columns are called {twice!r}, and one would hide the other; rename one")
    if not texts <= set(header) or not (fields.id == CONTENT_ID or set(ids) & set(header)):
        wanted = " and ".join((ids[0], *sorted(texts)))
        raise DataError(f"{place}: expected a header line that names the columns {wanted}")


def _table_record(header: list[str], row: list[str], place: Place, content: str) -> Record:
    if any("\udc80" <= char <= "\udcff" for char in content):
        return Record(place, None, "expected UTF-8 text; re-encode the file", content)
    if len(row) != len(header):
        return Record(place, None, f"expected {len(header)} columns, got {len(row)}", content)
    return Record(place, dict(zip(header, row, strict=True)), content=content)


def python_rows(batch: Any) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """Rows of an Arrow batch as mappings, each with what is wrong with it; a row that Python cannot hold is ``None``.

    Arrow does not look whether strings are UTF-8, and has dates beyond the year 9999.
    """
    try:
        yield from ((row, "") for row in batch.to_pylist())
    except (ValueError, OverflowError):
        for start in range(batch.num_rows):
            try:
                (row,) = batch.slice(start, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield None, f"a value has no form in Python ({error}); convert the column"
            else:
                yield row, ""


def _read_parquet(path: Path, _: Fields) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path, **STREAMED) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row, fault in python_rows(batch):
                    number += 1
                    yield Record(Place(path, number, "row"), row, fault)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{Place(path, number, 'row')} or after: not readable as Parquet: {error}; write the file again"
        ) from error


_READERS: Mapping[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
    ".parquet": _read_parquet,
}


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed as its name says.

    Raises:
        DataError: the file cannot be read, or its compressed stream is damaged.
    """
    import zstandard

    try:
        match path.suffix:
            case ".gz":
                with gzip.open(path, "rb") as stream:
                    yield cast("BinaryIO", stream)
            case ".zst":
                with path.open("rb") as file:
                    yield cast("BinaryIO", io.BufferedReader(ZstdStream(file)))
            case _:
                with path.open("rb") as stream:
                    yield cast("BinaryIO", stream)
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        kind = "zstd" if path.suffix == ".zst" else "gzip"
        raise DataError(f"{path}: the {kind} stream is damaged: {error}; copy it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _escaped(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
