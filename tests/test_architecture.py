"""The house rules that a reader relies on: floors, no cycles, documented names, nothing that could run foreign code."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support.package_source import REPOSITORY, ROOT, Module, imports, modules, own_imports

FLOORS = (
    ("errors", "types", "_extras", "_paths"),
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
    documented = (*modules(), *integrations())
    no_faults(f"{module.where} has no docstring" for module in documented if not ast.get_docstring(module.tree))
    no_faults(
        f"{module.where}:{node.lineno}: {name} has no docstring"
        for module in documented
        for name, node in public_definitions(module.tree, module.name)
        if not ast.get_docstring(node)
    )


def integrations() -> Iterator[Module]:
    """What stands on the package and is installed with it."""
    folder = REPOSITORY / "integrations"
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        yield Module(name, path, ast.parse(source), source.count("\n"))


def public_definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Public classes, functions and methods; what is defined inside a function is nobody's interface."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield f"{prefix}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from public_definitions(child, prefix)


def test_public_constants_are_documented() -> None:
    """A string stands right behind a constant, or behind the last of several on adjacent lines and speaks for all."""
    no_faults(
        f"{module.where}:{line}: {name} has no docstring behind it, nor has the group that it stands in"
        for module in (*modules(), *integrations())
        for line, name in undocumented_constants(module.tree.body)
    )


def undocumented_constants(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Line and name of constants of a module; what is chosen by ``if`` or ``try`` is one too."""
    for place, node in enumerate(body):
        if isinstance(node, ast.If | ast.Try):
            for block in (node.body, node.orelse):
                yield from undocumented_constants(block)
        if not has_string_behind(body, place):
            yield from ((node.lineno, name) for name in constants(node))


def constants(node: ast.stmt) -> list[str]:
    """Public names in capitals that a statement assigns to; a single capital is a type variable."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return []
    names = (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
    return [name for name in names if name.isupper() and len(name) > 1 and not name.startswith("_")]


def has_string_behind(body: list[ast.stmt], place: int) -> bool:
    while place + 1 < len(body):
        node, after = body[place], body[place + 1]
        if not constants(after) or after.lineno != (node.end_lineno or node.lineno) + 1:
            is_string = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return is_string and isinstance(after.value.value, str)
        place += 1
    return False


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("A_B = 1\n'what it is'\n", []),
        ("A_B = 1\n", ["A_B"]),
        ("# what it is\nA_B = 1\n", ["A_B"]),
        ("AA = 1\nBB: int = 2\n'what they are'\n", []),
        ("AA = 1\n\nBB = 2\n'what it is'\n", ["AA"]),
        ("AA = 1\nbb = 2\n'what it is'\n", ["AA"]),
        ("AA, BB = 1, 2\n", ["AA", "BB"]),
        ("_AA = 1\nT = 2\nlogger = 3\n", []),
        ("try:\n    AA = 1\nexcept ImportError:\n    pass\n", ["AA"]),
    ],
)
def test_what_counts_as_a_documented_constant(source: str, expected: list[str]) -> None:
    assert [name for _, name in undocumented_constants(ast.parse(source).body)] == expected


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
