"""A job that moves names every file from its new folder, and changes nothing else."""

from __future__ import annotations

from evomerge.run.moving import calibration_moved, fitness_moved, space_moved


def rename(text: str) -> str:
    return f"../{text}"


def test_every_file_of_a_suite_is_named_anew() -> None:
    suite = {
        "include": "tasks",
        "objectives": {
            "a": {"task": "sums", "floor": 0.1},
            "b": {"text": "b.txt"},
            "c": {"reward": "pairs.jsonl"},
            "d": {"retrieval": "queries.jsonl", "corpus": "corpus.jsonl", "pooling": "cls"},
            "e": {"mean_of": ["a", "b"]},
            "f": {"function": "mine:score"},
        },
        "anchors": {"sums": {"1": 2.0}, "b.txt": {"0": 1.0}},
    }
    assert fitness_moved(suite, rename) == {
        "include": ["../tasks"],
        "objectives": {
            **suite["objectives"],
            "b": {"text": "../b.txt"},
            "c": {"reward": "../pairs.jsonl"},
            "d": {"retrieval": "../queries.jsonl", "corpus": "../corpus.jsonl", "pooling": "cls"},
        },
        "anchors": {"sums": {"1": 2.0}, "../b.txt": {"0": 1.0}},
    }
    assert fitness_moved("suite.yaml", rename) == "../suite.yaml"


def test_recipes_and_runs_that_a_space_starts_with_are_named_anew() -> None:
    space = {"methods": ["ties"], "start": ["uniform", "mine.yaml", {"run": "first", "best": 3}]}
    found = space_moved(space, rename)
    assert found["start"] == ["uniform", "../mine.yaml", {"run": "../first", "best": 3}]
    assert space_moved({**space, "start": "mine.yaml"}, rename)["start"] == ["../mine.yaml"]
    assert space_moved({"methods": ["ties"]}, rename) == {"methods": ["ties"]}
    assert space_moved("space.yaml", rename) == "../space.yaml"
    assert calibration_moved({"file": "x", "items": 3}, rename) == {"file": "../x", "items": 3}
