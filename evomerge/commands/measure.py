"""``evomerge measure``: a statistic of a model into the cache, and the `data:` for recipes that take it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evomerge.calibration import Calibration, Texts
from evomerge.checkpoint import ModelRef
from evomerge.collecting import measure
from evomerge.merging import open_model
from evomerge.registry import STATISTICS


def measure_model(
    model: str,
    statistic: str,
    data: str | Path,
    items: int | None = None,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Path, Calibration]:
    """Collect ``statistic`` of a model from the first ``items`` texts of a file, unless it is there.

    Args:
        model: a folder, hub id, embedded model, MODEL+ADAPTER or recipe file.
        statistic: its name.
        data: a .jsonl file with ``text``, or passages separated by blank lines.
        items: how many; None is all.
        device: where the model runs, in float32.
        say: is told of progress.

    Returns:
        The file in the cache, and what a recipe says of the texts.

    Raises:
        InputError: model, statistic or file is wrong.
        RunError: the disk is full.
    """
    STATISTICS.where(statistic)  # a mistyped name, before anything is read
    texts = Texts.read(Path(data), items)
    opened = open_model(ModelRef(model), say=say)
    file = measure(opened, statistic, texts, device=device, say=say)
    return file, Calibration(str(data), items, texts.digest)
