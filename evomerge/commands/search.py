"""A search, from its start or from where it stopped, to the files that people read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evomerge.pool.serial import SerialPool
from evomerge.record.record import Record
from evomerge.report.files import Result, write
from evomerge.run import loop

__all__ = ["Result", "search"]


def search(
    run_dir: str | Path,
    pool: loop.MakePool = SerialPool,
    *,
    listener: loop.Listener | None = None,
    device: str | None = None,
    gpus: int = 1,
    extension: Mapping[str, str] | None = None,
) -> Result:
    """Run the search in ``run_dir``, and write the winner's recipe and the final table beside its journal.

    See ``run.loop.search``.

    Raises:
        InputError: run.yaml, a model, a task or the journal is wrong; nothing was written.
        RunError: the search stopped and can be resumed.
    """
    return write(
        Record(
            loop.search(
                run_dir, pool, listener=listener, device=device, gpus=gpus, extension=extension
            )
        )
    )
