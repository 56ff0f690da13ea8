from __future__ import annotations

import pytest

from safe_retrieval.audit.probes import ProbeSet
from tests.audit.fakes import make_probe_set


@pytest.fixture
def probe_set() -> ProbeSet:
    return make_probe_set()
