"""Vectors of a run: what is too large for a line of the journal, in files that are named by their content.

Row weights of candidates, and slopes by them, lie in ``vectors/`` beside the journal, which holds their
sha256. A file is on the disk before the line that names it, and never changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from evomerge import config
from evomerge.durable import sync, why
from evomerge.errors import InputError, RunError
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.history import Batch
from evomerge.plain_files import read_plain
from evomerge.recipe import Recipe
from evomerge.rows import Array

FOLDER = "vectors"


class Vectors:
    """The vectors of the run in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._run, self._folder = folder, folder / FOLDER

    def keep(self, content: bytes) -> str:
        """Have ``content`` on the disk; its sha256.

        Raises:
            RunError: the disk is full or failing.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        if path.is_file() and path.stat().st_size == len(content):
            return sha256
        try:
            config.write_bytes(path, content)
            sync(self._folder)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written: {why(error)}. Mend that, then resume the run"
            ) from None
        return sha256

    def read(self, sha256: str) -> bytes:
        """What was kept.

        Raises:
            InputError: it is absent or damaged.
        """
        path = self._path(sha256)
        try:
            content = read_plain(path)
        except OSError as error:
            raise InputError(
                f"{path}: the journal names this file, and it cannot be read ({error.strerror}); restore it"
            ) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(f"{path}: is not what was written: its content has another sha256")
        return content

    def keep_rows(self, recipe: Recipe) -> Recipe:
        """The recipe with its row weights, if it has any, in a file of the run."""
        rows = recipe.body.rows
        if rows is None:
            return recipe
        self.keep(rows.read())
        file = str(self._path(rows.sha256).relative_to(self._run))
        kept = replace(rows, file=file, origin=str(self._run))
        return replace(recipe, body=replace(recipe.body, rows=kept))

    def kept(self, batch: Batch) -> Batch:
        """The batch with the row weights of its candidates in files of the run."""
        if not any(each.recipe.body.rows for each in batch.candidates):
            return batch
        candidates = (
            Candidate(each.id, each.origin, self.keep_rows(each.recipe), each.genome, each.slope)
            for each in batch.candidates
        )
        return replace(batch, candidates=tuple(candidates))

    def keep_slopes(self, slopes: Mapping[str, Array]) -> str:
        """Have the slopes of some objectives on the disk; the sha256."""
        from safetensors.numpy import save

        return self.keep(save(dict(slopes)))

    def slopes(self, sha256: str) -> Mapping[str, Array]:
        """What ``keep_slopes`` kept.

        Raises:
            InputError: it is absent or damaged.
        """
        from safetensors.numpy import load

        found = load(self.read(sha256))
        return {name: np.ascontiguousarray(found[name], np.float32) for name in sorted(found)}

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256[:32]}.safetensors"
