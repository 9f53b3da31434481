"""gmp-IRT: between mp-IRT and the sample's mean."""

from __future__ import annotations

from evomerge.fitness.estimators.gp_irt import GPIRT
from evomerge.fitness.estimators.mp_irt import MPIRT


class GMPIRT(GPIRT):
    """``m(i) = c mean_S y + (1 - c) p(i)``, with p the prediction of mp-IRT and c as for gp-IRT.

    Paper: Mencattini et al., "MERGE3", https://arxiv.org/abs/2502.10436.
    Deviations: there c is 0.5 whatever the data.
    """

    inner = MPIRT
