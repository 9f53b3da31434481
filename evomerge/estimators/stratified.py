"""The stratified mean of the sample."""

from __future__ import annotations

from evomerge.estimators.mean import Mean


class Stratified(Mean):
    """Predicts 0 everywhere, so that the unbiased form is ``sum_g N_g / N mean_{S_g} y``."""
