"""The documents hold: links resolve, examples name what exists, and README's tables say what their reports say.

Examples under ``<!-- tested -->`` are run by ``tests/real/test_docs_real.py``, since they need models.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator

import pytest
from typer.main import get_command

from benchmarks.readme_table import main as readme_table
from safe_retrieval.cli.main import app
from tests.support.documents import TESTED, CodeBlock, TextFile, text_files
from tests.support.package_source import REPOSITORY

each_document = pytest.mark.parametrize("document", text_files(), ids=lambda document: document.name)


@each_document
def test_links_resolve(document: TextFile) -> None:
    for link in document.links():
        if re.match(r"[a-z]+:", link):
            continue  # elsewhere: unit tests stay off the network
        target, _, anchor = link.partition("#")
        path = (document.path.parent / target).resolve() if target else document.path
        assert path.exists(), f"{document.name} links to {link}, which is not there"
        if anchor:
            assert anchor in TextFile(path, path.read_text(encoding="utf-8")).anchors(), f"{document.name}: {link}"


def test_readme_lists_every_page() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for page in sorted((REPOSITORY / "docs").rglob("*.md")):
        assert f"({page.relative_to(REPOSITORY).as_posix()})" in readme


def test_readme_tables_are_what_their_reports_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme_table(["--check"]) == 0, capsys.readouterr().err


@each_document
def test_python_examples_import_what_exists(document: TextFile) -> None:
    for block in document.blocks():
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safe_retrieval"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{document.name}:{block.line}: {node.module}.{alias.name}"


@each_document
def test_command_line_examples_use_commands_and_options_that_exist(document: TextFile) -> None:
    for block in document.blocks():
        if block.language != "bash":
            continue
        for words in commands(block):
            try_to_parse(words, f"{document.name}:{block.line}: {shlex.join(words)}")


def commands(block: CodeBlock) -> Iterator[list[str]]:
    """The ``safe-retrieval`` calls of a block, as words."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("safe-retrieval "):
            yield shlex.split(line, comments=True)


def try_to_parse(words: list[str], where: str) -> None:
    """Walk to the command that is meant and let it read its options, without running it."""
    command, (name, *rest) = get_command(app), words
    while children := getattr(command, "commands", None):
        if getattr(command, "invoke_without_command", False) and (not rest or rest[0].startswith("-")):
            break  # a group that is a command too
        assert rest, where
        assert rest[0] in children, where
        command, (name, *rest) = children[rest[0]], rest
    context = command.make_context(name, [], resilient_parsing=True)
    try:
        command.make_parser(context).parse_args(rest)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the reader should know where it stands
        pytest.fail(f"{where}: {error}")


def test_integrations_were_tested_with_the_versions_that_are_pinned() -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    page = (REPOSITORY / "docs" / "integrations.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (\S+) \| `(?:\w+_safe_retrieval|safe_retrieval\.server)` \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE
    )
    assert len(rows) == 7
    for host, tested_with in rows:
        found = re.findall(r"(?:([a-z][a-z-]+) )?(\d[\d.]+)", tested_with)
        assert found, host
        assert all(pinned[name or host] == version for name, version in found), f"{host}: {tested_with}"


@each_document
def test_every_mark_stands_above_something_that_can_be_run(document: TextFile) -> None:
    runnable = [block for block in document.blocks() if block.tested and block.language in {"python", "bash"}]
    assert len(runnable) == sum(line == TESTED for line in document.text.splitlines())


@each_document
def test_documents_end_in_one_newline(document: TextFile) -> None:
    assert document.text.endswith("\n")
    assert not document.text.endswith("\n\n")
