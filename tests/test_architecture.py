"""The house rules that a reader relies on: floors, no cycles, documented names, nothing that could run foreign code."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support.package_source import ROOT, Module, imports, modules, own_imports

FLOORS = (
    ("errors", "types", "_extras"),
    ("models", "metrics"),
    ("backbone",),
    ("encoder",),
    ("index", "training"),
    ("retrieval",),
    ("audit", "interpret"),
    ("bench",),
    ("server",),
    ("cli",),
)
"""docs/architecture.md, from the ground up."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

UNSAFE_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
"""What runs code out of a file."""

UNSAFE_CALLS = {"torch.load", "eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

MOST_LINES = 450


def no_faults(faults: Iterable[str]) -> None:
    found = list(faults)
    assert not found, "\n".join(found)


def test_every_room_has_its_floor() -> None:
    rooms = {module.room for module in modules()} - {""}
    assert rooms <= set(FLOOR), "a new room needs a floor, here and in docs/architecture.md"


def test_imports_point_downward() -> None:
    no_faults(fault for module in modules() for fault in upward_imports(module))


def upward_imports(module: Module) -> Iterator[str]:
    if module.name == ROOT:
        return  # it names what the floors offer, and imports it on first use
    for line, imported in own_imports(module):
        if imported == ROOT:
            continue  # for the version and nothing else, as the next test says
        room = imported.split(".")[1]
        on_the_ground = FLOOR[room] == FLOOR[module.room] == 0
        if not (room == module.room or on_the_ground or FLOOR[room] < FLOOR[module.room]):
            yield f"{module.where}:{line} imports {imported}: expected a lower floor or the same room"


def test_only_the_version_is_imported_from_the_root() -> None:
    no_faults(
        f"{module.where}:{line} imports {imported}"
        for module in modules()
        for line, imported in imports(module)
        if imported.rpartition(".")[0] == ROOT and imported.rpartition(".")[2] not in {"__version__", *FLOOR}
    )


def test_no_module_imports_itself_through_others() -> None:
    graph = {module.name: {name for _, name in own_imports(module)} - {module.name, ROOT} for module in modules()}
    graph[ROOT] = set()  # its imports happen on first use; what the others take from it is the version
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(reversed(error.args[1])))


def test_the_package_imports_nothing_that_stands_on_it() -> None:
    no_faults(
        f"{module.where}:{line} imports {imported}"
        for module in modules()
        for line, imported in imports(module)
        if imported.partition(".")[0] in {"benchmarks", "integrations", "tests"}
    )


def test_public_names_are_documented() -> None:
    no_faults(f"{module.where} has no docstring" for module in modules() if not ast.get_docstring(module.tree))
    no_faults(
        f"{module.where}:{node.lineno}: {name} has no docstring"
        for module in modules()
        for name, node in public_definitions(module.tree, module.name)
        if not ast.get_docstring(node)
    )


def public_definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Public classes, functions and methods; what is defined inside a function is nobody's interface."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield f"{prefix}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from public_definitions(child, prefix)


def test_nothing_that_could_run_foreign_code_is_used() -> None:
    no_faults(fault for module in modules() for fault in unsafe_uses(module))


def unsafe_uses(module: Module) -> Iterator[str]:
    for line, imported in imports(module):
        if imported.partition(".")[0] in UNSAFE_IMPORTS:
            yield f"{module.where}:{line} imports {imported}"
    for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
        if (called := ast.unparse(call.func)) in UNSAFE_CALLS:
            yield f"{module.where}:{call.lineno} calls {called}"
        for keyword in call.keywords:
            off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in {"trust_remote_code", "allow_pickle"} and not off:
                yield f"{module.where}:{call.lineno}: expected {keyword.arg}=False"


def test_nothing_is_printed() -> None:
    no_faults(
        f"{module.where}:{node.lineno}: results go through the console of the command line, all else through logging"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    )


def test_errors_are_neither_swallowed_nor_asserted() -> None:
    no_faults(fault for module in modules() for fault in careless_handling(module))


def careless_handling(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield f"{module.where}:{node.lineno}: an assert vanishes under python -O; raise what errors.py offers"
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            if caught in {"", "Exception", "BaseException"} and not any(isinstance(n, ast.Raise) for n in node.body):
                yield f"{module.where}:{node.lineno}: expected the errors that are meant, got all of them"


def test_a_file_holds_one_idea() -> None:
    no_faults(
        f"{module.where} has {module.lines} lines, more than {MOST_LINES}: split it by idea"
        for module in modules()
        if module.lines > MOST_LINES
    )
