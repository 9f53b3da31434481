"""The actor: what runs in the process of a worker."""

from __future__ import annotations

from typing import Any


def actor_class(ray: Any) -> Any:
    """The actor; local to a function, so that Ray sends its code and imports nothing for it.

    That leaves ``sys.path`` and the environment to be set first, without a Ray runtime environment,
    which would take two seconds more at the start.
    """

    class Actor:
        def __init__(
            self, path: list[str], env: dict[str, str], target: str, argument: str, name: str
        ) -> None:
            import os
            import sys

            os.environ.update(env)
            sys.path[:] = path + [folder for folder in sys.path if folder not in path]
            self._missing = [folder for folder in path if not os.path.exists(folder)]
            self._spec, self._name = (target, argument), name
            # seen now: it may die while much is imported
            raylet = os.environ.get("RAY_RAYLET_PID", "0")
            self._raylet = int(raylet) if os.path.exists(f"/proc/{raylet}") else 0
            self._resident: Any = None
            self._telling: Any = None
            self._kills = 0

        def start(self) -> tuple[int, str, int]:
            """The process's id, its node's, and how many processes the node's kernel killed so far."""
            import os

            import ray

            if self._resident is None:
                try:
                    from evomerge.pool import Resident
                    from evomerge.pool.ray.telling import Telling, kills
                except ImportError as error:
                    missing = ", ".join(self._missing) or "none"
                    raise ImportError(
                        f"{error}; folders of the driver's sys.path that this node has not: {missing}"
                    ) from None
                self._resident = Resident(*self._spec)
                self._telling, self._kills = Telling(self._name, self._raylet), kills()
            return os.getpid(), str(ray.get_runtime_context().get_node_id()), self._kills

        def build(self) -> str | None:
            return self._resident.build()  # type: ignore[no-any-return]

        def reply(self, job: str) -> str:
            self._telling.begin()
            return str(self._resident.reply(job, self._telling.heard))

    return ray.remote(Actor)
