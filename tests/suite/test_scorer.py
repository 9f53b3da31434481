from __future__ import annotations

import pickle
import subprocess
import sys

from evomerge.suite.scorer import NonFinite, Responses, column


def test_a_failed_candidate_crosses_process_borders() -> None:
    error = pickle.loads(pickle.dumps(NonFinite("xcopa_th", "17")))
    assert (error.name, error.item) == ("xcopa_th", "17")
    assert str(error) == "xcopa_th, item 17: the model's answer is not a finite number"
    assert str(NonFinite("xcopa_th")).startswith("xcopa_th: ")


def test_the_protocol_and_the_splits_import_no_heavy_library() -> None:
    code = (
        "import sys, evomerge.suite.splits, evomerge.scorers.function\n"
        "print([name for name in ('torch', 'lm_eval', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_answer_too_short_to_tell_is_in_no_other_language() -> None:
    responses: Responses = {
        "items": ["a", "b", "c"],
        "responses": ["", "38", "hello"],
        "metrics": {"right": [0.0, 1.0, 1.0], "off_language": [None, None, 1.0]},
        "tokens": 3,
    }
    assert column(responses, "in_language") == [1.0, 1.0, 0.0]
    assert column(responses, "right*in_language") == [0.0, 1.0, 0.0]
