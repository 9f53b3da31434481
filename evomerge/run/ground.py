"""The ground under a search: the files that it reads again and again, looked at before every batch.

A look is one ``stat`` a file. A file that was touched, or copied anew, is read; one that holds something else stops
the search before anything of it is scored.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from evomerge.checkpoint.contents import files_of
from evomerge.checkpoint.files import Stamp, file_digest
from evomerge.errors import RunError
from evomerge.footing import Asked, Changed, Footing, Kept, sources_of
from evomerge.record.events import Head
from evomerge.run.preflight import Run


class Ground:
    """The files of a run's models and scorers. To be made before their content is compared with the journal's head."""

    def __init__(self, run: Run) -> None:
        self._run, self._code = run, run.spec.trust_remote_code
        self._models = {
            name: files_of(model, code=self._code) for name, model in run.models.items()
        }
        self._scorers = {name: sources_of(each) for name, each in run.suite.scorers.items()}
        refs = {f"models.{name}": run.spec.model(name) for name in run.spec.names}
        recipes = {name: Path(ref.portable) for name, ref in refs.items() if ref.is_recipe}
        self._files: dict[Path, str] = {}  # whose they are
        for whose, paths in {**self._models, **self._scorers}.items():
            self._files |= dict.fromkeys(paths.values(), whose)
        self._files |= {path: whose for whose, path in recipes.items()}
        self._stamps = {path: Stamp.of(path) for path in self._files}
        self._kept: dict[Path, Kept] = {}

    def footing(self, head: Head) -> Footing:
        """What workers compare with what they see; from now on ``check`` does, too.

        Args:
            head: with the sha256 of the models' files, and the scorers' fingerprints, as they are now.

        Raises:
            InputError: a file of a model changed while its content was read.
        """
        known = {
            path: head.models[name].files[file]
            for name, paths in self._models.items()
            for file, path in paths.items()
        }
        self._kept = {
            path: Kept(stamp, known.get(path) or file_digest(path))
            for path, stamp in self._stamps.items()
        }
        footing = Footing(
            socket.gethostname(),
            {name: self._each(paths) for name, paths in self._models.items()},
            {
                name: Asked(head.scorers[name].sha256, self._each(paths))
                for name, paths in self._scorers.items()
            },
            self._code,
        )
        footing.check_models(self._run.models)
        return footing

    def check(self) -> None:
        """Refuse to go on where a file holds something else by now.

        Raises:
            RunError: with the file, and whose it is.
        """
        for path, kept in self._kept.items():
            try:
                self._kept[path] = kept.again(path)
            except Changed as error:
                raise RunError(
                    f"{self._files[path]}: {path}: this file {error} since the search was started. Nothing of it was "
                    "scored: bring back what it held, then resume the run"
                ) from None

    def _each(self, paths: Mapping[str, Path]) -> dict[str, Kept]:
        return {name: self._kept[path] for name, path in paths.items()}
