"""The driver's connection to Ray: as quiet as Ray can be, watched, and gone when closed."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, RunError
from evomerge.pool.ray.head import ClusterHead
from evomerge.pool.ray.knocking import place_of, why_refused

_OBJECT_STORE = 80 << 20  # bytes; replies are text, so the smallest store that Ray allows will do
_LONGEST_FOLDER = 40  # characters; a Unix socket's path below it must stay under 108
_TOO_SLOW = "timed out during startup"  # says Ray of a node that is not there after 30 s
_TOKEN = Path("~/.ray/auth_token")  # where Ray keeps it


class Session:
    """A connection, made or found.

    Args:
        address: "local", "auto" or "host:port".
        num_cpus: of a local Ray; None: all.
        runtime_env: of all workers, as Ray takes it.

    Attributes:
        owned: it was made here; else it was found, and stays.
        node: the driver's.

    Raises:
        InputError: Ray is not installed, no cluster lets us in, or there is no such runtime environment.
        RunError: Ray does not start on this machine.
    """

    def __init__(
        self, address: str, num_cpus: int | None, runtime_env: Mapping[str, Any] | None = None
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.owned = False
        self._head: ClusterHead | None = None
        self._address = ""  # of the head, once Ray is connected to it
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
        try:
            import ray
        except ImportError:
            raise InputError(
                "Ray is not installed: pip install ray, or search with --ray off"
            ) from None
        self.ray: Any = ray
        if runtime_env:
            _check_environment(ray, runtime_env)
        if not ray.is_initialized():
            self._connect(address, num_cpus, runtime_env)
        self._address = str(ray.get_runtime_context().gcs_address)
        if self._head is None and (place := place_of(self._address)):
            self._head = ClusterHead(place, self._connected if self.owned else None)
        self.node: str = ray.get_runtime_context().get_node_id()

    def _connect(
        self, address: str, num_cpus: int | None, runtime_env: Mapping[str, Any] | None
    ) -> None:
        ray = self.ray
        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"address": address}
        if runtime_env:
            options["runtime_env"] = dict(runtime_env)
        if address == "local":
            parent = tempfile.gettempdir()
            self._folder = tempfile.TemporaryDirectory(
                prefix="evomerge-",
                dir=parent if len(parent) <= _LONGEST_FOLDER else "/tmp",
                ignore_cleanup_errors=True,
            )
            options |= {
                "num_cpus": num_cpus,
                "object_store_memory": _OBJECT_STORE,
                "include_dashboard": False,
                "_temp_dir": self._folder.name,
            }
            _bring_token()
        elif why := why_refused(address):
            raise InputError(f"--ray {address}: {why}")
        elif place := place_of(address):
            self._head = ClusterHead(place, self._connected)
        try:
            self._init(options)
        except BaseException:
            if self._head is not None:
                self._head.close()
            raise
        self.owned = True
        # Ray reports deaths of processes on stdout, which is for results; the pool logs them.
        ray._private.worker._worker_logs_enabled = False
        # Ray's own handler dumps a stack and hides the driver's. By default, leave through Python,
        # which stops the workers.
        default = self._on_sigterm is signal.SIG_DFL
        _handle_sigterm(_exit if default else self._on_sigterm)

    def _init(self, options: Mapping[str, Any]) -> None:
        ray, address = self.ray, options["address"]
        options = {"log_to_driver": False, "logging_level": logging.ERROR, **options}
        try:
            try:
                ray.init(namespace="evomerge", **options)
            except Exception as error:
                if address != "local" or _TOO_SLOW not in str(error):
                    raise
                ray.shutdown()
                ray.init(namespace="evomerge", **options)  # by now its files were read once
        except Exception as error:  # Ray raises this very class, too
            ray.shutdown()  # of what there was of it
            self._forget_folder()
            if address == "local":
                raise RunError(f"Ray does not start on this machine: {error}") from error
            raise InputError(f"--ray {address}: {_said(error)}") from None

    @property
    def present(self) -> bool:
        """Whether the head answers now; while it does not, nothing may be asked of it: that would wait, then abort.

        Raises:
            RunError: it has been away for too long.
        """
        return self._head is None or self._head.present

    @property
    def reached(self) -> bool:
        """Whether the head answered when it was looked for last."""
        return self._head is None or self._head.reached

    def close(self) -> None:
        if self._head is not None:
            self._head.close()
        if self.owned:
            self.owned = False
            self.ray.shutdown()
            self._forget_folder()
            _handle_sigterm(self._on_sigterm)

    def _connected(self) -> bool:
        """Whether Ray is, to this cluster, or is about to be."""
        if not self._address:
            return True
        ray = self.ray
        return bool(ray.is_initialized()) and ray.get_runtime_context().gcs_address == self._address

    def _forget_folder(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _check_environment(ray: Any, runtime_env: Mapping[str, Any]) -> None:
    """Refuse what Ray knows beforehand to be no runtime environment."""
    try:
        ray.runtime_env.RuntimeEnv(**runtime_env)
    except (ValueError, TypeError) as error:
        raise InputError(f"the runtime environment is refused: {error}") from None


def _bring_token() -> None:
    """Give a Ray of ours a token of its own, if there is none.

    Ray would write one into the home folder, and whatever cluster is started on this machine afterwards would want it.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not any(name in os.environ for name in names) and not _TOKEN.expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _said(error: Exception) -> str:
    """What Ray's refusal means, with what it said."""
    text = str(error)
    if "Version mismatch" in text:
        return (
            "that cluster runs another Ray or Python than this driver; install the same on both. "
            f"Ray said: {text}"
        )
    return f"no Ray cluster answers there; start one with 'ray start --head' or use --ray local. Ray said: {text}"


def _handle_sigterm(handler: Any) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _exit(number: int, frame: object) -> None:
    sys.exit(1)  # whatever the status, Ray's calls turn it into 1
