"""A study of Optuna's in a file: trials that somebody else made, for its dashboard and its plots."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.optimizers.optuna import quiet

UNIT = FloatDistribution(0.0, 1.0)


@dataclass(frozen=True)
class Trial:
    """An evaluation, as a study holds it.

    Attributes:
        params: gene -> 0 to 1; empty where a merge has no genome.
        values: in the study's directions; None: it failed.
        ended: seconds since the epoch.
        seconds: that it took.
        attributes: whatever else is to be shown of it; JSON data.
    """

    params: Mapping[str, float]
    values: Sequence[float] | None
    ended: float
    seconds: float
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frozen(self) -> FrozenTrial:
        """As Optuna has it."""
        made = create_trial(
            state=TrialState.FAIL if self.values is None else TrialState.COMPLETE,
            params=dict(self.params),
            distributions=dict.fromkeys(self.params, UNIT),
            values=None if self.values is None else list(self.values),
            user_attrs=dict(self.attributes),
        )
        made.datetime_complete = datetime.fromtimestamp(self.ended)
        made.datetime_start = made.datetime_complete - timedelta(seconds=self.seconds)
        return made


def write_study(
    path: Path,
    name: str,
    names: Sequence[str],
    directions: Sequence[str],
    trials: Sequence[Trial],
    attributes: Mapping[str, Any],
) -> None:
    """An SQLite file with one study, which replaces one that there is: ``optuna-dashboard sqlite:///PATH``.

    Args:
        path: of the file; it appears whole or not at all.
        name: of the study.
        names: of its values.
        directions: ``maximize`` or ``minimize``, of each.
        trials: in order.
        attributes: of the study; JSON data.

    Raises:
        OSError: it cannot be written.
    """
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        # a folder that has a plain name: an address of SQLAlchemy's ends at a question mark
        with quiet(), tempfile.TemporaryDirectory() as made:
            storage = optuna.storages.RDBStorage(f"sqlite:///{made}/study.db")
            study = optuna.create_study(
                storage=storage, study_name=name, directions=list(directions)
            )
            study.set_metric_names(list(names))
            for key, value in attributes.items():
                study.set_user_attr(key, value)
            for trial in trials:
                study.add_trial(trial.frozen)
            storage.remove_session()
            storage.engine.dispose()
            shutil.copyfile(f"{made}/study.db", beside)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
