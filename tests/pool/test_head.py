"""A driver whose head is gone says so, also where it waits in a call of Ray's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from subprocess import PIPE

import pytest
from raylets import Raylets

pytest.importorskip("ray")

DRIVER = """
import sys
from evomerge.pool.ray import head
from evomerge.pool.ray.session import Session
head.LONGEST = 5.0
session = Session(sys.argv[1], None)
print(session.present, flush=True)
while True:
    session.ray.nodes()  # asks the head
"""


@pytest.fixture
def raylets() -> Iterator[Raylets]:
    made = Raylets()
    yield made
    made.close()


@pytest.mark.slow
def test_amid_a_call_of_rays_the_message_is_ours(raylets: Raylets) -> None:
    raylets.add()
    command = [sys.executable, "-c", DRIVER, raylets.address]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "True\n"
        raylets.kill_head()
        said = driver.communicate()[1]
    assert driver.returncode == 1
    assert said.count("evomerge: the head of the Ray cluster at") == 1
    assert "resume the run" in said and "Failed to connect to GCS" not in said
