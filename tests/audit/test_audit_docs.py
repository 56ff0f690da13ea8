"""The YAML in the pages about audits: settings are valid, the workflow and the hook call what exists."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from safe_retrieval.audit.settings import AuditSettings
from tests.support.documents import CodeBlock, TextFile
from tests.support.package_source import REPOSITORY
from tests.test_docs import try_to_parse

_TARGETS = [{"kind": "arm", "arm": "bm25", "name": name} for name in ("production", "minilm")]


def blocks() -> list[CodeBlock]:
    found = []
    for name in ("audit-targets.md", "audit-gate.md"):
        path = REPOSITORY / "docs" / name
        found += [block for block in TextFile(path, path.read_text()).blocks() if block.language == "yaml"]
    return found


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.code.split(":")[0])
def test_yaml_in_the_pages(block: CodeBlock) -> None:
    content: dict[str, Any] = yaml.safe_load(block.code)
    if "jobs" in content:
        calls = [step["run"] for step in content["jobs"]["audit"]["steps"] if "run" in step]
    elif "repos" in content:
        calls = [hook["entry"] for repo in content["repos"] for hook in repo["hooks"]]
    else:
        AuditSettings.model_validate({"targets": _TARGETS, **content})
        return
    lines = [line for call in calls for line in re.findall(r"safe-retrieval audit .*", call)]
    assert lines
    for line in lines:
        words = [word for word in shlex.split(line) if word != "$@"]
        try_to_parse(words, line)
    assert "--baseline" in block.code or "repos" in content
