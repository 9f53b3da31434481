"""The worker: a job in, an outcome out.

It keeps everything that does not depend on the candidate: the opened parents, the materializer, an
engine that loads one candidate after the other, and scorers with their requests built and tokenized. A failed
candidate is data; anything else that goes wrong is raised and stops the run.

``Setup``, ``Job`` and ``Outcome`` are what crosses the border to a worker: each has a ``plain`` form
for JSON, and ``from_plain`` reads it back.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from typing import Any

from evomerge.checkpoint import ModelRef
from evomerge.engines import Differentiable, Engine, EngineOptions
from evomerge.engines.abilities import check_quantize, why_one_device
from evomerge.errors import CandidateFailed, CheckpointError, InputError, NotMeasured
from evomerge.footing import Footing
from evomerge.merging import Materializer, Merge, open_model, shared_memory
from evomerge.parents import Parents
from evomerge.recipe import Recipe
from evomerge.registry import ENGINES
from evomerge.scorers import build_scorers, evaluate
from evomerge.scorers.lessons import Lesson, Teaching
from evomerge.slopes import losses
from evomerge.slopes.backward import hear
from evomerge.slopes.coefficients import plain, row_slope, slope
from evomerge.slopes.losses import Loss
from evomerge.suite.probe import ProbeLimits, find_collapse
from evomerge.suite.scorer import Items, Results
from evomerge.suite.slopes import DEFAULT, TAU
from evomerge.suite.spec import SuiteSpec
from evomerge.tokens import TokenRules

Plain = dict[str, Any]
Heard = Callable[[int, int], None]  # items done, of how many


@dataclass(frozen=True)
class Setup:
    """How to build a worker.

    Attributes:
        models: name -> portable model text.
        tokenizer: one of the names, or ``union``.
        tokens: what a recipe says of single tokens, as it stands there; None says nothing.
        footing: ``Footing.plain``: what models and scorers must be; None: whatever there is.
        dtype: of scoring, as torch names it.
        suite: ``SuiteSpec.plain``.
        engine: a name.
        batch_tokens: per forward pass; None is the device's default.
        max_length: of an input in tokens; None is the model's.
        quantize: of weights while they score; empty: they are not.
        threads: of torch.
        device: as torch names it; None is CUDA if there is any, else the CPU.
        gpus: that the model is spread over.
        trust_remote_code: for the tokenizer.
        allow: topics in which the models' configs may differ.
        place: roles of tensors that go by patterns of names.
    """

    models: Mapping[str, str]
    tokenizer: str
    dtype: str
    suite: Mapping[str, Any]
    engine: str = "huggingface"
    batch_tokens: int | None = None
    max_length: int | None = None
    quantize: str = ""
    threads: int = 1
    device: str | None = None
    gpus: int = 1
    trust_remote_code: bool = False
    allow: Sequence[str] = ()
    place: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Any] | None = None
    footing: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, suite: SuiteSpec, **rest: Any) -> Setup:
        """With what a ``suite`` says of scorers and engine; ``rest`` says the others."""
        return cls(
            suite=suite.plain,
            engine=suite.engine,
            batch_tokens=suite.batch_tokens,
            max_length=suite.max_length,
            quantize=suite.quantize,
            **rest,
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """Where the engine runs the model, on this machine.

        Raises:
            InputError: there are fewer GPUs than the model is to be spread over.
        """
        import torch

        found = torch.cuda.device_count()
        if self.gpus == 1:
            return (self.device or ("cuda" if torch.cuda.is_available() else "cpu"),)
        if self.device not in (None, "cuda") or found < self.gpus:
            where = f"of {self.device}" if self.device else f"where there are {found}"
            raise InputError(f"--num-gpus {self.gpus}: a worker cannot have so many GPUs {where}")
        return tuple(f"cuda:{number}" for number in range(self.gpus))

    def options(self, dtype: str) -> EngineOptions:
        """How the engine is to run."""
        return EngineOptions(
            dtype=dtype,
            devices=self.devices,
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            quantize=self.quantize,
            memory=shared_memory(self.threads),
            threads=self.threads,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def plain(self) -> Plain:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Setup:
        return cls(**plain)


@dataclass(frozen=True)
class Job:
    """One candidate to score.

    Attributes:
        key: names it among the pending jobs: the model, of which one job is asked at a time.
        recipe: in plain form, with portable model texts.
        items: scorer -> ids.
        probe: the same, scored first: a few items that catch a collapsed model before the others are
            paid for.
        limits: what a merge may do to the probe; None asks on whatever it does.
        dtype: of scoring; None is that of the setup.
        slope: scorer -> items by which the derivative by every coefficient is wanted, too.
        loss, tau, checkpoint: how it is taken; see ``suite.slopes``.
        answers: scorer -> item -> a right answer that a model wrote, where the slope needs one.
        teachers: scorer -> the recipe, in plain form, of the model that is followed on its items, where the
            loss follows one.
        rows: the file of the recipe's row weights in base 64, so that a worker need not see it; empty: there
            are none, or it does.
        by_rows: the derivative is wanted by these instead.
    """

    key: str
    recipe: Mapping[str, Any]
    items: Items
    probe: Items = field(default_factory=dict)
    limits: ProbeLimits | None = None
    dtype: str | None = None
    slope: Items = field(default_factory=dict)
    loss: str = DEFAULT
    tau: float = TAU
    checkpoint: bool = False
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    teachers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: str = ""
    by_rows: bool = False

    @property
    def plain(self) -> Plain:
        """Its items are not copied: nobody changes them."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Job:
        return cls(**plain)


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    One that no worker answered has but an error.

    Attributes:
        results: scorer -> responses to the items; None if the candidate failed before it had them all.
        probe: the same of the probe, kept of a model that collapsed, too; None if there was none, or the
            merge failed.
        error: why it failed, or None.
        seconds: spent on ``merge``, ``score`` and ``slope``.
        slope: scorer -> ``slopes.coefficients.Slope`` as plain data; None if none was wanted, or the
            candidate failed before.
    """

    results: Results | None = None
    probe: Results | None = None
    error: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    slope: Plain | None = None

    @property
    def plain(self) -> Plain:
        return {
            "results": self.results,
            "probe": self.probe,
            "error": self.error,
            "seconds": dict(self.seconds),
            "slope": self.slope,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Outcome:
        return cls(**plain)


class Worker:
    """Built once per slot, called once per job."""

    def __init__(self, setup: Setup) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch

        torch.set_num_threads(setup.threads)
        self._setup = setup
        models = {name: open_model(ModelRef(text)) for name, text in setup.models.items()}
        footing = Footing.from_plain(setup.footing) if setup.footing else None
        if footing:
            footing.check_models(models)
        rules = None if setup.tokens is None else TokenRules.from_plain(setup.tokens)
        self._parents = Parents(models, setup.tokenizer, setup.allow, rules, setup.place)
        self._materializer = Materializer(
            self._parents,
            device=setup.devices[0],
            threads=setup.threads,
            memory=shared_memory(setup.threads),
        )
        self._scorers = build_scorers(setup.suite)
        if footing:
            footing.check_scorers(self._scorers)
        self._engine: Engine | None = None
        self._open(setup.dtype)

    def __call__(self, job: Job, heard: Heard | None = None) -> Outcome:
        """Let the engine load the merge of the job's recipe, and score it; ``heard`` is told how far it is."""
        if job.dtype is not None and job.dtype != self._dtype:
            self._open(job.dtype)
        started = time.perf_counter()
        probe, results, slope, error, merged = None, None, None, None, started
        asked = 0.0
        tally = _Tally(
            heard, sum(map(len, chain(*(m.values() for m in (job.probe, job.items, job.slope)))))
        )
        self._materializer.heard = tally.goes_on
        try:
            merge = Merge(self._materializer, _recipe_of(job))
            self._load(merge)
            merged = time.perf_counter()
            if job.probe:
                probe = self._evaluate(job.probe, tally)
                if job.limits:
                    error = find_collapse(probe, job.limits)
            if error is None:
                results = self._evaluate(job.items, tally)
                asked = time.perf_counter()
                if job.slope:
                    slope = self._slope(merge, job, tally)
        except CandidateFailed as failure:  # also ``NonFinite``, of a scorer
            error = str(failure)
        ended = time.perf_counter()
        scored = asked or ended
        seconds = {"merge": merged - started, "score": scored - merged, "slope": ended - scored}
        return Outcome(results, probe, error, seconds, slope)

    def _evaluate(self, items: Items, tally: _Tally) -> Results:
        """Responses to ``items``; an engine that can tell how far it is, does."""
        engine: Any = self._engine
        if hasattr(engine, "heard"):
            engine.heard = tally.within
        found = evaluate(self._scorers, items, lambda name: tally.next(len(items[name])))
        tally.next(0)
        return found

    def _slope(self, merge: Merge, job: Job, tally: _Tally) -> Plain:
        """The derivatives that are wanted, of what the engine runs."""
        assert isinstance(self._engine, Differentiable)
        lessons: dict[str, list[Lesson]] = {}
        for name, ids in job.slope.items():
            scorer = self._scorers[name]
            assert isinstance(scorer, Teaching)
            taught = scorer.lessons(ids, job.answers.get(name))
            lessons[name] = [lesson for lesson in taught if lesson is not None]
        loss = losses.make(job.loss, job.tau)
        if loss.FOLLOWS:
            self._follow(job, lessons, loss)
            self._load(merge)
        take = row_slope if job.by_rows else slope
        found = {}
        for name, each in lessons.items():
            tally.next(len(job.slope[name]))
            found[name] = take(self._engine, merge, each, loss, checkpoint=job.checkpoint)
        return plain(found)

    def _follow(self, job: Job, lessons: Mapping[str, Sequence[Lesson]], loss: Loss) -> None:
        """Let ``loss`` hear what the teachers say, each of which is loaded once."""
        assert isinstance(self._engine, Differentiable)
        for recipe in {json.dumps(each): each for each in job.teachers.values()}.values():
            self._load(Merge(self._materializer, Recipe.from_plain(recipe)))
            for name, teacher in job.teachers.items():
                if teacher == recipe:
                    hear(self._engine, lessons[name], loss)

    def _open(self, dtype: str) -> None:
        """An engine of ``dtype`` in the place of the one there is, with the scorers bound to it."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None  # never two in memory
        setup, model = self._setup, self._parents.frame
        check_quantize(setup.engine, setup.quantize)
        why = why_one_device(setup.engine, setup.quantize, model.skeleton.whole, model.architecture)
        if setup.gpus > 1 and why:
            raise InputError(f"--num-gpus {setup.gpus}: {why}; leave it out")
        engine: type[Engine] = ENGINES.get(setup.engine)
        self._engine = engine.open(
            self._materializer.outline(None),
            self._parents.donor,
            setup.options(dtype),
        )
        self._dtype = dtype
        for scorer in self._scorers.values():
            scorer.bind(self._engine)

    def _load(self, merge: Merge) -> None:
        """Into the engine; a method without a result for these values fails the candidate."""
        assert self._engine is not None
        try:
            self._engine.load(merge)
        except (CheckpointError, NotMeasured):  # a parent can no longer be read, on this machine
            raise
        except InputError as error:  # weights that sum to 0
            raise CandidateFailed(str(error)) from error


class _Tally:
    """How far a job is: items done, of ``total``; scorer by scorer, and within one by what the engine says."""

    def __init__(self, heard: Heard | None, total: int) -> None:
        self._heard, self._total = heard, total
        self._done = self._now = self._most = 0
        self._say()

    def next(self, count: int) -> None:
        """What was begun is done; so many items come next."""
        self._done, self._now, self._most = self._done + self._now, count, 0
        self._say()

    def within(self, answered: int, of: int) -> None:
        """So many requests of the engine's are answered; a scorer may call it more than once."""
        self._most = max(self._most, self._now * answered // max(1, of))
        self._say()

    def goes_on(self) -> None:
        """No item more is done, but it does not hang: a model is merged."""
        self._say()

    def _say(self) -> None:
        if self._heard is not None:
            self._heard(self._done + self._most, self._total)


def _recipe_of(job: Job) -> Recipe:
    """The recipe of a job, with the row weights that it brings."""
    recipe = Recipe.from_plain(job.recipe)
    if not job.rows or recipe.body.rows is None:
        return recipe
    held = replace(recipe.body.rows, held=base64.b64decode(job.rows))
    return replace(recipe, body=replace(recipe.body, rows=held))


def start(plain: Mapping[str, Any]) -> Any:
    """A worker as pools hold one: built from a plain ``Setup``, plain ``Job`` in, plain ``Outcome`` out."""
    return _PlainWorker(Worker(Setup.from_plain(plain)))


class _PlainWorker:
    """A worker whose jobs and outcomes are plain; ``heard`` is told how far it is."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.heard: Heard | None = None

    def __call__(self, job: Mapping[str, Any]) -> Plain:
        return self._worker(Job.from_plain(job), self.heard).plain
