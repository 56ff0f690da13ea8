"""The project's documents as its readers see them: links, headings and code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.package_source import REPOSITORY

TESTED = "<!-- tested -->"
"""Stands on the line above a python or bash block that is run."""

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|(?:src|href)=\"(?P<attribute>[^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One fenced block; ``line`` is that of its first line of code."""

    language: str
    code: str
    line: int
    tested: bool


@dataclass(frozen=True, slots=True)
class TextFile:
    """One Markdown file of the repository."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path from the repository's root."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self) -> Iterator[CodeBlock]:
        """Its code blocks, in order."""
        for match in _FENCE.finditer(self.text):
            before = self.text[: match.start()]
            yield CodeBlock(
                match["language"], match["code"], before.count("\n") + 2, before.rstrip("\n").endswith(TESTED)
            )

    def links(self) -> Iterator[str]:
        """Targets of its links and pictures."""
        for match in _LINK.finditer(self.prose):
            yield match["target"] or match["attribute"]

    def anchors(self) -> set[str]:
        """What a link into it may name, by GitHub's rule: lower case, words joined by hyphens, no punctuation."""
        titles = (match["title"].lower().replace(" ", "-") for match in _HEADING.finditer(self.prose))
        return {re.sub(r"[^\w-]", "", title) for title in titles}


def text_files() -> list[TextFile]:
    """README, the other documents at the root, and everything in docs."""
    paths = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    return [TextFile(path, path.read_text(encoding="utf-8")) for path in sorted(paths)]
