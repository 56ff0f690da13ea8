"""The package's own source as syntax trees, for the tests that hold the house rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "safe_retrieval"
ROOT = PACKAGE.name


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the package; ``name`` is dotted, without ``__init__``."""

    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The folder or top-level module it belongs to: ``audit`` for ``safe_retrieval.audit.report.page``."""
        return self.name.split(".")[1] if "." in self.name else ""

    @property
    def where(self) -> str:
        """Its path from the repository's root, for messages."""
        return str(self.path.relative_to(REPOSITORY))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, by name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_text(encoding="utf-8")
        found.append(Module(name, path, ast.parse(source), source.count("\n")))
    return tuple(found)


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import, wherever it stands: module, function or ``TYPE_CHECKING``.

    ``from a import b`` gives ``a.b``, which is a module or a name in one.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{module.where}:{node.lineno}: expected absolute imports")
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and name of every module of this package that a module imports."""
    names = {known.name for known in modules()}
    for line, imported in imports(module):
        if imported == ROOT or imported.startswith(f"{ROOT}."):
            yield line, imported if imported in names else imported.rpartition(".")[0]
