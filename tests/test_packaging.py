"""What the distribution promises: dependencies are declared and pinned, and no file names one machine or registry."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.package_source import PACKAGE, REPOSITORY, ROOT, imports, modules

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()}
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][a-z0-9.]*)")

MACHINE_PATH = re.compile(r"(?<![\w./~}$-])/(?:root|home|work|tmp|mnt|opt|Users)/\w")
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|--(?:extra-)?index-url[= ]\s*http")


def pins() -> dict[str, str]:
    """Version by canonical name, as ``constraints.txt`` has them."""
    found = {}
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = PIN.fullmatch(line)
            assert match, f"constraints.txt: expected name==version without a local label, got {line!r}"
            assert match["name"] not in found, f"constraints.txt: {match['name']} stands there twice"
            found[canonicalize_name(match["name"])] = match["version"]
    return found


def test_extras_are_the_promised_ones() -> None:
    assert set(EXTRAS) == {"haystack", "langchain", "llama-index", "server", "mteb", "peft", "ray", "dev"}


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in [*CORE, *(wanted for extra in EXTRAS.values() for wanted in extra)]:
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            continue  # the extra for development takes all the others
        assert name in pinned, f"{requirement.name} has no pin in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} does not take {pinned[name]}"


def test_every_import_of_the_package_is_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in CORE}
    distributions = packages_distributions()
    for module in modules():
        for line, imported in imports(module):
            top = imported.partition(".")[0]
            if top == ROOT or top in sys.stdlib_module_names:
                continue
            owners = {canonicalize_name(name) for name in distributions.get(top, [top])}
            assert owners & declared, f"{module.where}:{line}: {top} is not among the dependencies in pyproject.toml"


def test_what_is_not_python_and_belongs_into_the_wheel_lies_in_the_package() -> None:
    for path in ("py.typed", "audit/probe_data/probe-set.json", "audit/report/templates/report.html.j2"):
        assert (PACKAGE / path).is_file(), path


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git work tree")
    return [path for name in listed.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def test_no_file_names_a_machine_or_a_registry() -> None:
    faults = []
    for path in tracked_files():
        if path == Path(__file__) or path.suffix in {".safetensors", ".png"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if found := MACHINE_PATH.search(line) or REGISTRY.search(line):
                faults.append(f"{path.relative_to(REPOSITORY)}:{number}: {found.group()}")
    assert not faults, "\n".join(faults)
