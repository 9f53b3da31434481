"""Models compared with the base they grew from, and with each other, by their weights: sums of entries and spectra.

    sums        what is added up over entries: products, signs, masks, rounding
    spectra     ranks of single matrices
    facts       what the sums say: kinship, norms, sparsity, conflict, shares of masks
    verdict     what speaks for and against merging them
    comparison  all of it, by layer and role

Sums of tensors add up, so that one pass over the models gives the facts of all weights, of each layer and of each role.
"""

from evomerge.parents.comparison.comparison import Comparison
from evomerge.parents.comparison.facts import Facts, Measured, Pair
from evomerge.parents.comparison.spectra import Ranks, ranks
from evomerge.parents.comparison.sums import MASK, Sums
from evomerge.parents.comparison.verdict import Finding, Limits, verdict

__all__ = [
    "MASK",
    "Comparison",
    "Facts",
    "Finding",
    "Limits",
    "Measured",
    "Pair",
    "Ranks",
    "Sums",
    "ranks",
    "verdict",
]
