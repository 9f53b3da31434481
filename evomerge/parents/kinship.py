"""Model kinship: how alike the task vectors of the sources are.

Paper: Hu et al., "Exploring model kinship for merging large language models",
    https://arxiv.org/abs/2410.12613.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from evomerge import seeds
from evomerge.parents.parents import Parents
from evomerge.recipe import BASE

ENTRIES = 1 << 20  # of a tensor that are read, at most ...
RUN = 1 << 12  # ... in runs of so many: what a disk reads at once
DIGITS = 9  # of the result: sums round by machine


def inner_products(parents: Parents, sources: Sequence[str]) -> dict[tuple[str, str], float]:
    """<tau_a, tau_b> for each pair of sources, of each with itself, too.

        kinship(a, b) = <tau_a, tau_b> / sqrt(<tau_a, tau_a> <tau_b, tau_b>)

    So the kinship of weighted averages of the sources follows from these. Of a large tensor a sample of
    runs is read, the same for all models, and counts for the whole.

    Args:
        parents: the models, the base among them.
        sources: their names.

    Returns:
        In units of the sources' mean squared norm, rounded.
    """
    for model in parents.models.values():
        model.check_unchanged()
    every = (
        {model: parents.own_name(model, name) for model in parents.models}
        for name in parents.frame.names
    )
    common = [
        {model: own for model, own in owns.items() if own in parents.models[model].places}
        for owns in every
    ]
    common = [owns for owns in common if len(owns) == len(parents.models)]
    total = np.zeros((len(sources), len(sources)))
    for owns in common:
        base = parents.tensor(BASE, owns[BASE]).flatten()
        runs = runs_of(owns[BASE], len(base))
        taken = sum(end - start for start, end in runs)

        def entries(tensor: torch.Tensor, runs: Sequence[tuple[int, int]] = runs) -> torch.Tensor:
            return torch.cat([tensor[start:end].double() for start, end in runs])

        ours = entries(base)
        deltas = torch.stack(
            [entries(parents.tensor(source, owns[source]).flatten()) - ours for source in sources]
        )
        total += (deltas @ deltas.T).numpy() * (len(base) / taken)
    unit = float(np.trace(total)) / len(sources) or 1.0
    return {
        (a, b): round(float(total[m, n]) / unit, DIGITS)
        for m, a in enumerate(sources)
        for n, b in enumerate(sources)
    }


def runs_of(name: str, size: int) -> list[tuple[int, int]]:
    """Start and end of the runs that are read of a tensor of ``size`` entries; all of a small one."""
    if size <= ENTRIES:
        return [(0, size)]
    draw = seeds.generator("kinship", name)
    starts = draw.choice(size // RUN, ENTRIES // RUN, replace=False) * RUN
    return [(int(start), int(start) + RUN) for start in np.sort(starts)]
