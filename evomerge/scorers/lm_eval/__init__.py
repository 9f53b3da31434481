"""lm-eval tasks on the resident model.

lm-eval's own code loads the data, writes the prompts, filters the answers and computes the metrics,
so that scores equal ``lm_eval.simple_evaluate`` on the exported folder, item for item. What differs
is what happens when: prompts are written and tokenized once per worker, and a candidate pays for
forward passes only.

The one package that imports ``lm_eval``.
"""

from evomerge.scorers.lm_eval.task import LmEvalTask

__all__ = ["LmEvalTask"]
