"""Why a cluster does not let us in, found out before Ray itself tries for minutes and says little."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from threading import Timer

CONNECT = 10.0  # seconds that a machine may take to answer
ANSWER = 30.0  # seconds that a cluster's head may take
_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_REFUSALS = ("Unauthenticated", "InvalidAuthToken", "AuthenticationError")


def place_of(address: str) -> tuple[str, int] | None:
    """Host and port of ``host:port``; None of anything else."""
    host, _, port = address.rpartition(":")
    if host and port.isascii() and port.isdigit() and "://" not in address:
        return host.strip("[]"), int(port)
    return None


def answers(place: tuple[str, int], patience: float) -> bool:
    """Whether something listens there, within ``patience`` seconds."""
    with suppress(OSError, UnicodeError):  # no name of a machine has two dots in a row
        socket.create_connection(place, patience).close()
        return True
    return False


def why_refused(address: str) -> str | None:
    """Why no cluster can be joined at ``address``, and what to do; None if nothing speaks against it.

    What Ray says there it says on standard error, from native code: so it is asked in a process of its own.
    """
    place = place_of(address)
    if place is None:
        return None
    try:
        socket.create_connection(place, CONNECT).close()
    except (OSError, UnicodeError) as error:
        return (
            f"no Ray cluster answers there: {error}. Start one with 'ray start --head', or use "
            "--ray local"
        )
    asking = subprocess.Popen(
        [sys.executable, "-P", "-c", _ASK, address],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert asking.stderr is not None
    said, refused, watch = "", False, Timer(ANSWER, asking.kill)
    watch.daemon = True
    watch.start()
    with asking:
        for line in asking.stderr:
            said = line.strip() or said
            if refused := any(word in line for word in _REFUSALS):
                asking.kill()
                break
    in_time = watch.is_alive()
    watch.cancel()
    if refused:
        return (
            "a Ray cluster answers there, but wants another token: set RAY_AUTH_MODE=token, "
            "and have its token in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN. "
            f"Ray said: {said}"
        )
    if not in_time:
        return (
            f"something listens there, but does not answer as the head of a Ray cluster within {ANSWER:g} s: "
            f"give the address that 'ray start --head' printed. Ray said: {said or 'nothing'}"
        )
    return None  # also where Ray has no such question: then it speaks for itself
