"""Whether a worked answer ends in the right result."""

import unicodedata

from lm_eval.tasks.hendrycks_math.utils import is_equiv


def judge_number(doc, results):
    """MGSM and GSM8K: is the last number the right one?

    Its points may separate thousands, as in German, or decimals, as in English.
    """
    worked = "answer_number" not in doc  # GSM8K: the number ends a worked solution
    answer = doc["answer"].rpartition("#### ")[2] if worked else doc["answer_number"]
    target = float(str(answer).replace(",", ""))
    return {"exact_match": float(target in _readings(results[0]))}


def _readings(text):
    digits = "".join(str(unicodedata.digit(c, c)) for c in text.rstrip(".,") if not c.isspace())
    for thousands, point in (",.", ".,"):
        try:
            yield float(digits.replace(thousands, "").replace(point, "."))
        except ValueError:  # no number, or points in the wrong places
            continue


def judge_expression(doc, results):
    """MATH: is the last boxed expression the right one, written the same up to trifles?"""
    return {"exact_match": float(is_equiv(results[0], doc["answer"]))}
