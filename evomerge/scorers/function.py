"""A Python function as a scorer, for what no task expresses.

    function(model, tokenizer, *, split: str) -> float | Mapping[str, float]

It gets the resident model (a torch module; it must leave its weights alone), the tokenizer and the
name of the split to score on: keeping data of the four splits apart is the function's own duty. A
number is the metric ``value``; a mapping names several. To be comparable between candidates it
must be deterministic. An exception fails the candidate, with the exception's message; so does what would end the
process, ``sys.exit`` and ``os._exit``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files import file_digest
from evomerge.engines import Engine
from evomerge.errors import CandidateFailed, InputError, RunError, did_you_mean
from evomerge.scorers.foreign import Left, staying, where
from evomerge.scorers.sources import with_imports
from evomerge.suite.scorer import Item, NonFinite, Responses
from evomerge.suite.splits import SPLITS

_METRIC = "value"


class PythonFunction:
    """The function ``target``, written ``module:function``, with one item per split.

    ``metrics`` is empty: what the function reports is unknown until its first call, and the suite
    says whether higher is better.

    Raises:
        InputError: the module cannot be imported, or has no such function.
    """

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.metrics: dict[str, bool] = {}
        self._function = _load(name, target)
        self._engine: Engine | None = None

    @property
    def fingerprint(self) -> str:
        """Of the function's own source; ``files`` has the rest of its file, and what that imports."""
        try:
            source = inspect.getsource(self._function)
        except (OSError, TypeError):  # built in, or typed at a prompt
            source = self.name
        return hashlib.sha256(source.encode()).hexdigest()

    @cached_property
    def files(self) -> dict[str, str]:
        """The function's file, and what it imports that no package installs -> sha256."""
        return {name: file_digest(path) for name, path in self.sources.items()}

    @property
    def sources(self) -> dict[str, Path]:
        source = _file_of(self._function)
        if source is None:
            return {}
        home = Path(source).resolve().parent
        return {os.path.relpath(path, home): path for path in with_imports(Path(source))}

    def items(self) -> list[Item]:
        return [Item(split.value, split.value, split=split.value) for split in SPLITS]

    def resolve_metric(self, metric: str) -> str:
        return metric

    def bind(self, engine: Engine) -> None:
        """Take the engine whose module the function gets.

        Raises:
            InputError: it has none.
        """
        if engine.module() is None:
            raise InputError(
                f"{self.name}: a function of a torch module, which engine {type(engine).__name__} does "
                "not have; leave functions out, or choose another engine"
            )
        self._engine = engine

    def score(self, ids: Sequence[str]) -> Responses:
        """Call the function once per split in ``ids``.

        Raises:
            RunError: it returned something that is neither a number nor a mapping to numbers.
            CandidateFailed: it raised an exception, or wanted to end the process.
            NonFinite: it returned NaN, infinity or a number beyond float64.
        """
        if self._engine is None:
            raise RuntimeError(f"{self.name}: bind a model before scoring")
        answers = []
        for split in ids:
            if split not in SPLITS:
                raise InputError(f"{self.name}: no split {split!r}{did_you_mean(split, SPLITS)}")
            try:
                with staying():
                    returned = self._function(
                        self._engine.module(), self._engine.tokenizer, split=split
                    )
                    answers.append(self._checked(returned, split))
            except (CandidateFailed, RunError):
                raise
            except Left as error:
                raise CandidateFailed(f"{self.name}: it {error}") from error
            except Exception as error:  # the user's own code runs here
                raise CandidateFailed(f"{self.name}: {type(error).__name__}: {error}") from error
        names = dict.fromkeys(metric for answer in answers for metric in answer)
        return {
            "items": list(ids),
            "responses": answers,
            "metrics": {metric: [answer.get(metric) for answer in answers] for metric in names},
            "tokens": 0,  # whatever it puts through the model is its own affair
        }

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """The mean over splits: as a rule, the one value."""
        applying = [float(value) for value in values if value is not None]
        if not applying:
            raise NonFinite(self.name)
        return math.fsum(applying) / len(applying)

    def _checked(self, returned: Any, split: str) -> dict[str, float]:
        named = returned if isinstance(returned, Mapping) else {_METRIC: returned}
        try:
            answer = {str(metric): float(value) for metric, value in named.items()}
        except OverflowError:  # 10**400
            raise NonFinite(self.name, split) from None
        except (TypeError, ValueError):
            raise RunError(
                f"{self.name}: expected a number or a mapping of names to numbers, "
                f"the function ({_file_of(self._function)}) returned {returned!r:.200}"
            ) from None
        if not all(map(math.isfinite, answer.values())):
            raise NonFinite(self.name, split)
        return answer


def _file_of(function: Callable[..., Any]) -> str | None:
    try:
        return inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # built in
        return None


def _load(name: str, target: str) -> Callable[..., Any]:
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(f"{name}: expected `module:function`, found {target!r}")
    try:
        with staying():
            module = importlib.import_module(module_name)
    except Left as error:
        raise InputError(
            f"{name}: importing {module_name!r} {error}: {where(error)}; a module of functions must only define them"
        ) from error
    except Exception as error:  # the module's own code runs here
        raise InputError(
            f"{name}: cannot import {module_name!r}: {type(error).__name__}: {error}; it must be "
            "importable wherever workers run (installed, or on PYTHONPATH)"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        hint = did_you_mean(attribute, vars(module))
        raise InputError(
            f"{name}: {module_name} ({module.__file__}) has no function {attribute!r}{hint}"
        )
    found: Callable[..., Any] = function
    return found
