"""What the commands over index folders share: which corpus, which of its fields, and what is done to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import typer

from safe_retrieval.cli._common import err
from safe_retrieval.errors import InputError
from safe_retrieval.types import Document, Encoder

if TYPE_CHECKING:
    from safe_retrieval.index.rejects import Rejects

IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder.", show_default=False)]
CorpusPath = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="A .jsonl, .csv, .tsv or .txt (.gz and .zst too) or .parquet file; a BEIR folder; a folder of .txt files; "
        "hf:NAME, a data set of the Hugging Face hub.",
        show_default=False,
    ),
]
IdField = Annotated[
    str | None,
    typer.Option(help="Field of the id; content makes one of title and text.", show_default="_id or id"),
]
TitleField = Annotated[str, typer.Option(help="Field of the title.")]
TextField = Annotated[str, typer.Option(help="Field of the text.")]
Template = Annotated[
    str | None,
    typer.Option(help="Make the text of several fields: '{title}: {abstract}'.", show_default="the text field"),
]
ChunkWords = Annotated[
    int | None, typer.Option(min=1, help="Cut documents into pieces of so many words.", show_default="whole documents")
]
ChunkTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Cut them into so many tokens of the encoder.", show_default="whole documents"),
]
Overlap = Annotated[int, typer.Option(min=0, help="Words or tokens that a piece shares with the one before it.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad/--no-skip-bad", help="Skip broken lines and repeated ids, and write them to INDEX/rejected.jsonl."
    ),
]
DatasetConfig = Annotated[
    str | None, typer.Option(help="Configuration of a data set, with hf:.", show_default="its default")
]
Split = Annotated[str | None, typer.Option(help="Split of a data set, with hf:.", show_default="the only one")]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory that vectors may take while the index is made, and what --factory auto goes by: 4GB.",
        show_default="no bound",
    ),
]
Deletes = Annotated[
    bool,
    typer.Option(
        "--deletes/--no-deletes", help="Documents will be deleted or replaced often, which --factory auto goes by."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts in one forward pass.")]
Offline = Annotated[bool, typer.Option("--offline", help="Open no connection.")]

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


class Engine(StrEnum):
    """Who runs the steps of a build."""

    LOCAL = "local"
    """This process."""
    RAY = "ray"
    """Workers of Ray Data, on this machine or on a cluster."""


@runtime_checkable
class _Tokenizing(Protocol):
    """An encoder that can say how it cuts a text."""

    @property
    def tokenizer(self) -> Any:
        """A tokenizer of transformers."""


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """The options of one command, as they were given."""

    corpus: str
    id_field: str | None = None
    title_field: str = "title"
    text_field: str = "text"
    template: str | None = None
    chunk_words: int | None = None
    chunk_tokens: int | None = None
    overlap: int = 0
    dataset_config: str | None = None
    split: str | None = None
    offline: bool = False

    def documents(self, rejects: Rejects | None = None) -> Iterator[Document]:
        """The whole documents, streamed; a corpus that is not there is reported at once.

        Raises:
            InputError: options contradict one another.
            DataError, OfflineError, DownloadError: the corpus cannot be had.
        """
        from safe_retrieval.index.corpus import read_corpus
        from safe_retrieval.index.hub_corpus import HUB_PREFIX, read_dataset
        from safe_retrieval.index.rows import Fields

        if self.chunk_words is not None and self.chunk_tokens is not None:
            raise InputError("expected --chunk-words or --chunk-tokens, got both")
        if self.overlap and self.chunk_words is None and self.chunk_tokens is None:
            raise InputError("an --overlap needs --chunk-words or --chunk-tokens, the length of a piece")
        fields = Fields(self.id_field, self.title_field, self.text_field, self.template)
        if self.corpus.startswith(HUB_PREFIX):
            return read_dataset(
                self.corpus.removeprefix(HUB_PREFIX),
                config=self.dataset_config,
                split=self.split,
                fields=fields,
                rejects=rejects,
                offline=self.offline,
            )
        if self.dataset_config or self.split:
            raise InputError(f"--dataset-config and --split need a data set, hf:NAME, got {self.corpus}")
        return read_corpus(self.corpus, fields=fields, rejects=rejects)

    def pieces(self, documents: Iterator[Document], encoder: Encoder) -> Iterator[Document]:
        """The documents, or the pieces that they are to be cut into.

        Raises:
            InputError: tokens were asked for, and the encoder has no tokenizer that knows where its tokens are.
        """
        from safe_retrieval.index.chunking import chunked, token_spans

        if self.chunk_words is not None:
            return chunked(documents, size=self.chunk_words, overlap=self.overlap)
        if self.chunk_tokens is not None:
            if not isinstance(encoder, _Tokenizing):
                raise InputError(f"{encoder.name} has no tokenizer to count by; take --chunk-words")
            spans = token_spans(encoder.tokenizer)
            return chunked(documents, size=self.chunk_tokens, overlap=self.overlap, spans=spans)
        return documents


@contextmanager
def rejects_of(folder: Path, skip_bad: bool) -> Iterator[Rejects | None]:
    """Where bad lines go, if they are to be skipped; says at the end how many there were."""
    from safe_retrieval.index.rejects import REJECTED_NAME, Rejects

    if not skip_bad:
        yield None
        return
    with Rejects(folder / REJECTED_NAME) as rejects:
        yield rejects
        if rejects.count:
            lines = "line" if rejects.count == 1 else "lines"
            remark(f"{rejects.count:,} bad {lines} skipped: {rejects.path}")


def remark(text: str) -> None:
    """One line to stderr, as it is."""
    err().print(text, markup=False, highlight=False, soft_wrap=True)


def memory_bytes(text: str | None) -> int | None:
    """Bytes out of ``4GB``, ``500 MB`` or a plain number, in powers of ten; ``None`` where there is no bound."""
    if text is None:
        return None
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        raise InputError(f"expected an amount of memory such as 4GB or 500MB, got {text!r}")
    return int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[found[2].upper()])
