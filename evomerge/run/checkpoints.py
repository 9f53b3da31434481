"""Checkpoints of one training as sources: the last of those that lie in a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from evomerge import config
from evomerge.checkpoint.weights import ADAPTER_CONFIG

_STEP = re.compile(r"^(?:.*[^0-9])?([0-9]{1,18})$")  # checkpoint-500, step_500, 500


def checkpoints(
    name: str, node: config.Node, base: str, problems: config.Problems, path: str
) -> dict[str, str]:
    """``{checkpoints: FOLDER, last: K}``: a source ``NAME-STEP`` for each of the last K, by step; problems are noted.

    Args:
        name: of the training.
        node: the mapping.
        base: what adapters among them were trained on.
        problems: where they are noted.
        path: what its keys begin with, in messages.

    Returns:
        Source -> its folder, as a model is named.
    """
    section = config.Section(node, problems, path)
    text = section.text("checkpoints", required=True)
    last = section.integer("last", 0, low=1) if "last" in section else None
    section.finish()
    if not text:
        return {}
    folder = Path(os.path.normpath(node.folder / os.path.expanduser(text)))
    if not folder.is_dir():
        section.problem("checkpoints", f"no such folder: {folder}")
        return {}
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        section.problem("checkpoints", f"{folder}: cannot be read: {error.strerror}")
        return {}
    steps: dict[int, str] = {}
    for each in names:
        match = _STEP.match(each.name)
        whole, adapter = (each / "config.json").is_file(), (each / ADAPTER_CONFIG).is_file()
        if match is None or not (whole or adapter):  # an unfinished one has no config yet
            continue
        step = int(match[1])
        if step in steps:
            section.problem(
                "checkpoints", f"{steps[step]} and {each.name} are both step {step}; move one away"
            )
        model = os.path.join(text, each.name)
        steps[step] = model if whole else f"{base}+{model}"
    if not steps:
        section.problem(
            "checkpoints",
            f"{folder} holds no checkpoint: expected folders named by their step, as checkpoint-500, with a model "
            "or an adapter in each",
        )
    elif last and last > len(steps):
        section.problem(
            "last", f"there are {len(steps)} checkpoints in {folder}, and {last} are wanted"
        )
    chosen = sorted(steps)[-(last or len(steps)) :]
    return {f"{name}-{step}": steps[step] for step in chosen}
