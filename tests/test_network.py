"""Unit tests open no socket to anywhere but the loopback interface: the guard in conftest.py is itself tested.

The loopback interface is allowed by design: stand-ins for servers are asked there.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.network import NetworkUsedError, is_loopback
from tests.support.package_source import REPOSITORY

DOCUMENTATION_ADDRESS = "192.0.2.1"
"""RFC 5737: belongs to nobody."""

CONNECT = f"import socket; socket.create_connection(('{DOCUMENTATION_ADDRESS}', 80), timeout=1)"


LOOK_UP = "sys.audit('socket.getaddrinfo', 'safe-retrieval.invalid', 443, 0, 0, 0)"
"""What Python tells its audit hooks before it looks a name up; where the guard is open, nothing is looked up."""


def connect() -> None:
    socket.create_connection((DOCUMENTATION_ADDRESS, 80), timeout=1)


def look_up() -> None:
    socket.getaddrinfo("safe-retrieval.invalid", 443)


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (DOCUMENTATION_ADDRESS, 53))


@pytest.mark.parametrize("attempt", [connect, look_up, send])
def test_leaving_the_loopback_interface_ends_the_test(attempt: Callable[[], None]) -> None:
    with pytest.raises(NetworkUsedError, match="only tests marked real"):
        attempt()


def test_code_that_expects_a_broken_network_cannot_swallow_it() -> None:
    assert not issubclass(NetworkUsedError, Exception)


def test_programs_that_a_test_starts_are_cut_off_too() -> None:
    done = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "NetworkUsedError" in done.stderr


def session(folder: Path, source: str) -> str:
    """What a session of pytest says of one file, under the conftest.py of this folder and nothing else."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = real\n")
    (folder / "test_it.py").write_text("import os\nimport subprocess\nimport sys\nimport pytest\n" + dedent(source))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra", str(folder)]
    # without no_network/sitecustomize.py, which would close the network before conftest.py can
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout + done.stderr


def test_fixtures_are_cut_off_whatever_their_scope(tmp_path: Path) -> None:
    said = session(
        tmp_path,
        f"""
        @pytest.fixture(scope="session")
        def of_session():
            {LOOK_UP}

        @pytest.fixture(scope="module")
        def of_module():
            {LOOK_UP}

        @pytest.fixture(scope="session")
        def program():
            return subprocess.run([sys.executable, "-c", {CONNECT!r}], capture_output=True, text=True)

        def test_a(of_session):
            pass

        def test_b(of_module):
            pass

        def test_c(program):
            assert "NetworkUsedError" in program.stderr
        """,
    )
    assert "1 passed, 2 errors" in said, said
    assert said.count("NetworkUsedError: socket.getaddrinfo to 'safe-retrieval.invalid'") >= 2


def test_the_network_is_closed_while_tests_are_collected(tmp_path: Path) -> None:
    said = session(tmp_path, LOOK_UP)
    assert "NetworkUsedError: socket.getaddrinfo" in said, said


def test_fixtures_of_real_tests_may_look_names_up_and_those_between_them_may_not(tmp_path: Path) -> None:
    said = session(
        tmp_path,
        f"""
        @pytest.fixture(scope="session")
        def model():
            {LOOK_UP}

        @pytest.fixture(scope="module")
        def encoder(model):
            {LOOK_UP}
            yield
            {LOOK_UP}

        @pytest.fixture(scope="session")
        def stand_in():
            {LOOK_UP}

        @pytest.mark.real
        def test_a(encoder):
            {LOOK_UP}
            assert "no_network" not in os.environ["PYTHONPATH"]

        def test_b(stand_in):
            pass

        @pytest.mark.real
        def test_c(encoder):
            {LOOK_UP}
        """,
    )
    assert "2 passed, 1 error" in said, said
    assert "ERROR at setup of test_b" in said


def test_loopback_stand_ins_can_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=answer)
        thread.start()
        socket.create_connection(("localhost", port), timeout=10).close()
        thread.join(timeout=10)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", None, b"localhost"])
def test_loopback_is(host: object) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", DOCUMENTATION_ADDRESS, "localhost.example", "::", "fe80::1"])
def test_loopback_is_not(host: object) -> None:
    assert not is_loopback(host)
