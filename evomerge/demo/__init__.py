"""The demo: a search over an embedded family of tiny models that needs no download.

In a clone the job is the committed ``runs/demo/run.yaml``. Elsewhere (an installed package, another
folder) the same job is written out whole, with everything it names inline or absolute.
"""

from __future__ import annotations

from pathlib import Path

from evomerge import config
from evomerge.errors import InputError

_CLONE = Path(__file__).parents[2]
_INSTALLED = Path(__file__).parents[1] / "presets"
JOB = Path("runs/demo/run.yaml")


def prepare_run(folder: Path) -> Path:
    """``folder`` with the demo's run.yaml in it; a run.yaml that is there already is kept."""
    if (folder / JOB.name).exists():
        return folder
    root = _CLONE if (_CLONE / JOB).is_file() else _INSTALLED
    job = config.read(root / JOB).plain
    for part in ("space", "fitness"):
        job[part] = str((root / JOB.parent / job[part]).resolve())
    header = "# The demo's job. `evomerge demo` runs it; `evomerge status` watches it.\n"
    try:
        config.write_text(folder / JOB.name, header + config.dump(job))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror}; choose another --run"
        ) from None
    return folder
