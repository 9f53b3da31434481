"""Why a cluster lets nobody in: one message for each reason, in seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evomerge.errors import InputError
from evomerge.pool.ray import RayPool, knocking
from evomerge.testing.pools import PATIENCE, probe

pytest.importorskip("ray")

HEAD = """
from raylets import Raylets
raylets = Raylets()
raylets.add()
print(raylets.address, flush=True)
input()
raylets.close()
"""
DRIVER = """
import sys
from evomerge.pool.ray import RayPool
from evomerge.testing.pools import drain, probe
with RayPool(probe(), address=sys.argv[1]) as pool:
    pool.submit({"key": "mine"})
    print(*drain(pool))
"""


def test_nothing_listens() -> None:
    with pytest.raises(InputError, match=r"no Ray cluster answers there: .*refused"):
        RayPool(probe(), address="127.0.0.1:1")


def test_what_listens_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocking, "ANSWER", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="does not answer as the head of a Ray cluster"):
            RayPool(probe(), address=address)


def test_who_asks_takes_no_module_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knocking, "ANSWER", 3.0)
    monkeypatch.chdir(tmp_path)
    for name in ("json", "logging", "ray"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w')\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert knocking.why_refused(f"127.0.0.1:{server.getsockname()[1]}")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("address", ["localhost:²", ":6379", "of", "a:b"])
def test_what_is_no_address_is_none(address: str) -> None:
    assert knocking.place_of(address) is None


def test_a_name_that_no_machine_can_have() -> None:
    assert "no Ray cluster answers there" in str(knocking.why_refused("a..b:6379"))
    assert not knocking.answers(("a..b", 6379), 1.0)


def test_a_cluster_that_wants_a_token_says_so_and_lets_in_who_has_it(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    paths = [*sys.path, str(Path(__file__).parent)]
    plain = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    plain |= {"HOME": str(short_tmp), "PYTHONPATH": os.pathsep.join(paths)}
    knowing = plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64}
    with head(knowing) as address:
        said = knocking.why_refused(address)
        assert said and "wants another token: set RAY_AUTH_MODE=token" in said
        assert "Ray said: " in said and "InvalidAuthToken" in said
        driven = subprocess.run(
            [sys.executable, "-c", DRIVER, address], env=knowing, capture_output=True, text=True
        )
        assert driven.stdout.split() == ["mine"], driven.stderr


@contextmanager
def head(environment: dict[str, str]) -> Iterator[str]:
    """A cluster that another process keeps; its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("\n", timeout=PATIENCE)
