"""The demo: a search over an embedded family of tiny models that needs no download.

In a clone the job is the committed ``runs/demo/run.yaml``. Elsewhere (an installed package, another
folder) the same job is written, with its space and fitness by name.
"""

from __future__ import annotations

from pathlib import Path

from evomerge import config, presets
from evomerge.errors import InputError

JOB = Path("runs/demo/run.yaml")


def prepare_run(folder: Path) -> Path:
    """``folder`` with the demo's run.yaml in it; a run.yaml that is there already is kept."""
    if (folder / JOB.name).exists():
        return folder
    job = config.read(presets.root() / JOB).plain
    for part in ("space", "fitness"):
        job[part] = Path(job[part]).stem
    header = "# The demo's job. `evomerge demo` runs it; `evomerge status` watches it.\n"
    try:
        config.write_text(folder / JOB.name, header + config.dump(job))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror}; choose another --run"
        ) from None
    return folder
