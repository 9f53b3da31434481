"""A driver whose head is gone says so, also where it waits in a call of Ray's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from subprocess import PIPE

import pytest
from raylets import Raylets

from evomerge.pool.ray import session

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


STOPPED = """
import os, signal, time
from evomerge.pool.ray import head
head.GLANCE, head.PATIENCE, head.LONGEST = 0.05, 0.1, 2.0
there = [True]
head.answers = lambda *_: there[0]
head.ClusterHead(("nowhere", 1), lambda: True)
print("stopped", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
there[0] = False
time.sleep(0.5)
there[0] = True
time.sleep(0.5)
print("alive", flush=True)
there[0] = False
time.sleep(60)
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


def test_what_was_stopped_for_a_while_looks_long_enough() -> None:
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "stopped\n"
        os.waitid(os.P_PID, driver.pid, os.WSTOPPED)
        time.sleep(3)  # longer than a head may be away
        driver.send_signal(signal.SIGCONT)
        assert driver.stdout.readline() == "alive\n"
        assert "has not answered for 2 s" in driver.communicate()[1]
    assert driver.returncode == 1


def test_a_connection_that_was_given_up_is_watched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def stopped(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", stopped)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session, "why_refused", lambda address: None)
    with pytest.raises(KeyboardInterrupt):
        session.Session("127.0.0.1:1", None)
    watching = [each for each in threading.enumerate() if each.name == "evomerge-head"]
    for thread in watching:
        thread.join(60)
    assert not any(thread.is_alive() for thread in watching)
