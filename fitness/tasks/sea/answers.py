"""Reading comprehension and exam questions: how documents are read and answers are judged."""

import re
import unicodedata

# Thai is written without spaces: its letters count one by one, with the marks around them.
_THAI = r"\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"
_WORD = re.compile(rf"[{_THAI}][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*|[^\s{_THAI}]+")
_LABEL = re.compile(r"^\s*\(?\w\s*[.):．。]+\s*")  # "A. ", "(b) ", "๓. "
_CYRILLIC = str.maketrans("авсе", "abce")  # stand in some Vietnamese exams for Latin letters


def read_passages(dataset):
    """``answers`` as a list of texts, and ``passage``: the number of the text asked about.

    Translations keep the order of the original, so they share their passages' numbers.
    """
    numbers = {context: number for number, context in enumerate(dict.fromkeys(dataset["context"]))}
    return dataset.map(
        lambda doc: {"answers": doc["answers"]["text"], "passage": numbers[doc["context"]]}
    )


def read_indonesian_passages(dataset):
    """The same for the Indonesian part of a data set of many languages."""
    return read_passages(dataset.filter(lambda doc: doc["id"].startswith("indonesian")))


def judge_answer(doc, results):
    """SQuAD's exact match and F1: the best over the reference answers.

    Paper: https://aclanthology.org/D16-1264.
    """
    scores = [_compare(results[0], answer) for answer in doc["answers"]]
    exact, f1 = (max(column) for column in zip(*scores, strict=True))
    return {"exact_match": exact, "f1": f1}


def _compare(answer, reference):
    found, wanted = _words(answer), _words(reference)
    common = sum(min(found.count(word), wanted.count(word)) for word in set(found))
    return float(found == wanted), 2 * common / max(1, len(found) + len(wanted))


def _words(text):
    text = unicodedata.normalize("NFKC", text).lower()
    return _WORD.findall("".join(c for c in text if unicodedata.category(c)[0] != "P"))


def read_exam(dataset):
    """Questions that need no picture, with ``choices`` freed of their labels and the ``gold`` index."""
    dataset = dataset.map(
        lambda doc: {
            "background": doc.get("background") or "",
            "choices": [_LABEL.sub("", choice).strip() for choice in doc["options"]],
            "gold": _position(doc["answer_text"]),
        }
    )
    return dataset.filter(
        lambda doc: (
            "(image)" not in doc["background"] + doc["question_text"] + "".join(doc["choices"])
            and all(doc["choices"])
            and 0 <= doc["gold"] < len(doc["choices"])
        )
    )


def _position(label):
    """0 for "A", "a", "1" and "๑"; -1 for what is no label."""
    label = label.strip().lower().translate(_CYRILLIC)
    if len(label) != 1:
        return -1
    return unicodedata.digit(label, ord(label) - ord("a") + 1) - 1
