from __future__ import annotations

import pickle
import subprocess
import sys

from evomerge.fitness import NonFinite


def test_a_failed_candidate_crosses_process_borders() -> None:
    error = pickle.loads(pickle.dumps(NonFinite("xcopa_th", "17")))
    assert (error.name, error.item) == ("xcopa_th", "17")
    assert str(error) == "xcopa_th, item 17: the model's answer is not a finite number"
    assert str(NonFinite("xcopa_th")).startswith("xcopa_th: ")


def test_the_protocol_and_the_splits_import_no_heavy_library() -> None:
    code = (
        "import sys, evomerge.fitness.splits, evomerge.fitness.function\n"
        "print([name for name in ('torch', 'lm_eval', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
