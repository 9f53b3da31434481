"""Everything that can be wrong with a run, found before anything is written or started."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from evomerge import optimizers
from evomerge.calibration import Calibration, Texts
from evomerge.checkpoint import Checkpoint, Donor
from evomerge.checkpoint.hub import fetch
from evomerge.engines.abilities import check_quantize, why_one_device
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import CheckpointError, ConfigError, Incompatible, InputError, problems_of
from evomerge.evolution.core import Credit, Lead, Margin, Plan, RowSlopes, Search
from evomerge.evolution.history import SLOPE_COST, Cost, History
from evomerge.footing import Footing
from evomerge.merging import open_model, outline_model
from evomerge.merging.blueprint import Blueprint
from evomerge.optimizers import Measure, Optimizer, Problem
from evomerge.parents import Parents
from evomerge.parents.adapters import check_adapters
from evomerge.parents.kinship import inner_products
from evomerge.pool import WorkerSpec
from evomerge.recipe import BASE, Body, Recipe, group
from evomerge.record.events import JOURNAL, Head, head_at
from evomerge.registry import ENGINES, LOSSES
from evomerge.run.calibrating import read_texts
from evomerge.run.others import given_at_start, given_by_runs
from evomerge.run.precision import scoring_dtype
from evomerge.run.spec import RunSpec
from evomerge.scorers.pooling import pooling_of
from evomerge.scorers.reward import why_no_reward
from evomerge.skeleton.modules import model_class, own_config
from evomerge.space import SearchSpace
from evomerge.space.start import Given
from evomerge.suite import splits
from evomerge.suite.objectives import counting
from evomerge.suite.scorer import Chatting
from evomerge.suite.spec import OF_MODULE, OF_TOKENS, SuiteSpec
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite
from evomerge.worker import Setup

WORKER = "evomerge.worker:start"


@dataclass
class Run:
    """A run with its parents opened, its suite built and its space fitted: ready to start."""

    spec: RunSpec
    models: dict[str, Checkpoint]
    suite: Suite
    scoring: str  # dtype that candidates are scored in; the report's is the recipe's
    texts: Texts | None = None  # that statistics are taken from
    given: Given = field(default_factory=dict)  # merges of other runs that are scored first

    @property
    def dtype(self) -> str:
        return self.spec.dtype or self.models[BASE].dtype

    @cached_property
    def template(self) -> Recipe:
        return replace(self.spec.template(self.dtype), body=Body(data=self.data))

    @property
    def data(self) -> Calibration | None:
        """What recipes of this run say of the texts."""
        given = self.spec.calibration
        if given is None or self.texts is None:
            return None
        return Calibration(given.file, given.items, self.texts.digest)

    @cached_property
    def parents(self) -> Parents:
        """The models, checked against each other and aligned."""
        return Parents(self.models, self.spec.tokenizer, self.spec.allow, place=self.spec.place)

    @cached_property
    def space(self) -> SearchSpace:
        made = Blueprint.of(self.parents)
        shapes = made.shapes if "rows" in self.spec.space.parts else None
        layers, places = made.layers, made.places
        return SearchSpace(self.spec.space, self.template, layers, places, shapes, given=self.given)

    @property
    def reserve(self) -> Cost:
        """What the descent on row weights takes of the budget."""
        rows, suite = self.space.rows, self.suite
        if rows is None:
            return Cost()
        batch, glance = suite.minibatch(0, 0, 1.0), suite.glance(0, 0, 1.0)
        step = self.slope_cost * sum(map(len, batch.values())) + sum(map(len, glance.values()))
        return Cost(rows.steps + 2, rows.steps * step + 2 * sum(map(len, suite.fresh.values())))

    def search(
        self,
        lead: Lead = lambda at: None,
        margin: Margin = lambda at: 0.0,
        credit: Credit = lambda at: {},
        row_slopes: RowSlopes = lambda sha256: {},
    ) -> Search:
        """A search that has seen nothing yet; for the arguments see ``Search``."""
        spec, optimizer = self.spec, self.optimizer()
        plan = Plan(
            spec.evaluations,
            optimizer.population,
            spec.lag,
            items=spec.items,
            tokens=spec.tokens,
            cost=self.suite.cost,
            patience=spec.patience,
            slope=self.slope_cost,
            reserve=self.reserve,
        )
        history = History(self.suite.combine, self.suite.yardsticks, self.suite.shares)
        objectives, front = self.suite.objectives, self.suite.spec.front
        return Search(
            self.space,
            optimizer,
            plan,
            history,
            objectives=objectives,
            front=front,
            lead=lead,
            margin=margin,
            credit=credit,
            row_slopes=row_slopes,
        )

    @property
    def without_slopes(self) -> str:
        """Why no slope can be taken by any gene; empty if some can."""
        if why := self._without_gradients:
            return why
        if not any(self.space.smooth):
            return "no gene is a real parameter by which a method that has it is smooth"
        return self._without_lessons

    @property
    def without_row_slopes(self) -> str:
        """Why no slope can be taken by any row weight; empty if some can."""
        return self._without_gradients or self._without_lessons

    @property
    def _without_gradients(self) -> str:
        name = self.suite.spec.engine
        if kind := self.suite.spec.quantize:
            return f"weights that are quantized ({kind}) have no derivatives"
        if hasattr(ENGINES.get(name), "traced"):
            return ""
        return f"engine {name!r} gives no derivatives: it has no torch module"

    @property
    def _without_lessons(self) -> str:
        taught = self.suite.teaching()
        return "; ".join(f"{n}: {why}" for n, why in taught.items()) if all(taught.values()) else ""

    @cached_property
    def prompt_notes(self) -> list[str]:
        """What the tokenizer of merges makes otherwise than tasks ask, one fact a line.

        Raises:
            InputError: some prompts cannot be written by it, with every problem found.
        """
        attempt = _Attempts()
        found: list[str] = []
        chatting = [each for each in self.suite.scorers.values() if isinstance(each, Chatting)]
        if chatting:
            tokenizer = load_tokenizer(self.parents.donor, self.spec.trust_remote_code)
            for scorer in chatting:
                found += attempt(partial(scorer.prompt_notes, tokenizer)) or []
        attempt.check()
        return found

    @cached_property
    def slope_cost(self) -> int:
        """Item-forwards that an item of a slope takes: one more for each that is made again, or by a teacher."""
        options = self.suite.spec.slopes
        follows: bool = LOSSES.get(options.loss).FOLLOWS
        return SLOPE_COST + options.checkpoint + follows

    @cached_property
    def teaching(self) -> dict[str, str]:
        """Objective -> scorer whose items teach it; empty where no slope can be taken at all."""
        if self.without_row_slopes if self.space.rows else self.without_slopes:
            return {}
        scorer = {objective.name: objective.scorer for objective in self.suite.measured}
        return {name: scorer[name] for name, why in self.suite.teaching().items() if not why}

    @property
    def untaught(self) -> dict[str, str]:
        """Objectives that descents of this search do not see, and why."""
        optimizer = optimizers.get(self.spec.optimizer)
        if not self.teaching or not (optimizer.SLOPES or optimizer.DESCENDS or self.space.rows):
            return {}
        return {name: why for name, why in self.suite.teaching().items() if why}

    def optimizer(self) -> Optimizer:
        """Fresh.

        Raises:
            InputError: its options do not suit it, or the space.
        """
        try:
            return optimizers.make(
                self.spec.optimizer,
                self._problem,
                seed=self.spec.seed,
                population=self.spec.population,
                options=self.spec.options,
            )
        except InputError as error:
            place = self.spec.lines.get("optimizer", self.spec.folder)
            raise InputError(f"{place}: {error}") from None

    @cached_property
    def _problem(self) -> Problem:
        """What the optimizer is to do, and may know beforehand."""
        measures = self.suite.spec.measures.items()
        sources, kinship = self.space.sources, {}
        if optimizers.get(self.spec.optimizer).KINSHIP and not self.parents.missing:
            kinship = inner_products(self.parents, sources)
        return Problem(
            self.space.dims,
            tuple(o.name for o in counting(self.suite.objectives)),
            tuple(Measure(name, *axis) for name, axis in measures),
            sources,
            self.space.blend,
            kinship,
            smooth=() if self.without_slopes else self.space.smooth,
            levels=self.space.levels,
            mixtures=self.space.mixtures,
        )

    @property
    def splits_digest(self) -> str:
        return splits.digest(self.suite.splits)

    @property
    def why_one_device(self) -> str:
        """Why a worker cannot spread a model over several devices; empty if it can."""
        suite, model = self.suite.spec, self.models[BASE]
        return why_one_device(
            suite.engine, suite.quantize, model.skeleton.whole, model.architecture
        )

    def worker(
        self, device: str | None = None, gpus: int = 1, footing: Footing | None = None
    ) -> WorkerSpec:
        """How a pool builds a worker for this run, which compares what it sees with ``footing``."""
        return WorkerSpec(
            WORKER,
            Setup.of(
                self.suite.spec.pinned(
                    {name: commits_of(scorer) for name, scorer in self.suite.scorers.items()}
                ),
                models={name: self.spec.model(name).pinned for name in self.spec.names},
                tokenizer=self.spec.tokenizer,
                allow=self.spec.allow,
                place=self.spec.place,
                dtype=self.scoring,
                threads=self.spec.threads,
                device=device,
                gpus=gpus,
                trust_remote_code=self.spec.trust_remote_code,
                footing=footing and footing.plain,
            ).plain,
        )


def _check_tokenizer(donor: Donor, spec: RunSpec) -> None:
    """Refuse a tokenizer or generation config that no worker could load, or without its template."""
    try:
        tokenizer = load_tokenizer(donor, spec.trust_remote_code)
    except CheckpointError as error:
        raise CheckpointError(f"{error} Name a model that has one as models.tokenizer") from None
    chats = [
        f"apply_chat_template of {s.name}" if s.kind == "task" else s.name
        for s in spec.suite.scorers
        if s.options.get("apply_chat_template") or s.kind == "reward"
    ]
    if chats and not tokenizer.chat_template:
        raise CheckpointError(
            f"{donor.name}: its tokenizer has no chat template, which {', '.join(chats)} asks for. "
            "Name a model that has one as models.tokenizer"
        )
    _check_ends(spec.suite, tokenizer)


def _check_ends(suite: SuiteSpec, tokenizer: Any) -> None:
    """Refuse ends of thoughts that no answer could hold, also of tasks that are not built."""
    ends = {s.name: end for s in suite.scorers if (end := s.options.get("think_end_token"))}
    if not ends:
        return
    from evomerge.scorers.lm_eval.thinking import Thinking

    for name, end in ends.items():
        try:
            Thinking.of(end, None).check(name, tokenizer)
        except InputError as error:
            raise InputError(f"{suite.place_of(name)}: {error}") from None


def check_engine(suite: SuiteSpec) -> None:
    """Refuse functions of a torch module where the engine has none, and an engine that cannot be loaded.

    Raises:
        InputError: with the place in the fitness file.
    """
    functions = [scorer.name for scorer in suite.scorers if scorer.kind in OF_MODULE]
    if not ENGINES.get(suite.engine).HAS_MODULE and functions:
        raise InputError(
            f"{suite.place_of(functions[0])}: {functions[0]} is a function of a torch module, which engine "
            f"{suite.engine!r} does not have; leave functions out, or choose another engine"
        )
    _check_quantize(suite)


def _check_quantize(suite: SuiteSpec) -> None:
    """Refuse quantized scoring where the engine has none, or not what it takes."""
    try:
        check_quantize(suite.engine, suite.quantize)
    except InputError as error:
        raise InputError(f"{suite.place('quantize')}: {error}") from None


def _check_kind(suite: SuiteSpec, parents: Parents) -> None:
    """Refuse scorers that ask of merges what models of their kind do not give."""
    frame, name = parents.frame, parents.frame_name
    merges = f"merges are of the kind of {name} ({frame.name}), a {frame.architecture}"
    for scorer in suite.scorers:
        place = suite.place_of(scorer.name)
        if scorer.kind in OF_TOKENS and not frame.has_head:
            raise InputError(
                f"{place}: {scorer.name} asks for tokens, and {merges}, which has no head over tokens. Score it by "
                "`reward`, `retrieval` or a `function`, or name another model as models.tokenizer, whose kind they are"
            )
        if scorer.kind == "reward":
            own = own_config(model_class(frame.config, frame.name), frame.config)
            if why := why_no_reward(frame.architecture, own.num_labels):
                raise InputError(f"{place}: {merges}: {why}")
        if scorer.kind == "retrieval":
            said, folder = scorer.options.get("pooling"), parents.donor.tokenizer_folder
            pooling_of(place, said, folder)


class _Attempts:
    """Steps that may find something wrong: all of it is kept, to be told at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __call__(self, step: Callable[[], Any]) -> Any:
        """What ``step`` returns; None if its input was wrong."""
        try:
            return step()
        except InputError as error:
            self.problems.extend(problems_of(error))
            return None

    def check(self) -> None:
        """Raise InputError if anything was found."""
        if self.problems:
            one = len(self.problems) == 1
            raise Incompatible(self.problems[0]) if one else ConfigError(self.problems)


def _open_models(
    spec: RunSpec, attempt: _Attempts, say: Callable[[str], None], *, tokenizer: bool
) -> dict[str, Checkpoint]:
    """The models that can be opened, checked against each other if all can; ``tokenizer``: it, too.

    No weights are fetched, and those that are not here are not looked at.
    """
    attempt(lambda: check_engine(spec.suite))
    say("opening the models")
    opened = {name: attempt(partial(outline_model, spec.model(name))) for name in spec.names}
    models = {name: model for name, model in opened.items() if model is not None}
    if len(models) == len(opened):
        parents = attempt(lambda: Parents(models, spec.tokenizer, spec.allow))
        _look_for_nan([model for model in models.values() if not model.missing], attempt, say)
        if parents:
            attempt(partial(_check_kind, spec.suite, parents))
        donor = parents.donor if parents else models.get(spec.tokenizer)
        if tokenizer and donor:
            attempt(lambda: _check_tokenizer(donor, spec))
    return models


def _look_for_nan(
    models: Collection[Checkpoint], attempt: _Attempts, say: Callable[[str], None]
) -> None:
    if models:
        say("looking for NaN in the models")
    for model in models:
        attempt(model.check_finite)


def _fetched(run: Run, say: Callable[[str], None], downloading: Callable[[str], None]) -> Run:
    """The same run with the weights of all its models here."""
    lacking = {name: model for name, model in run.models.items() if model.missing}
    if not fetch([each for model in lacking.values() for each in model.missing], downloading):
        return run
    say("opening the models")
    attempt = _Attempts()
    opened = {name: attempt(partial(open_model, run.spec.model(name))) for name in lacking}
    attempt.check()
    run = replace(run, models={**run.models, **opened})
    attempt(lambda: run.parents)  # once more: now it is known whether heads are tied
    _look_for_nan(opened.values(), attempt, say)
    attempt.check()
    return run


def prepare(
    spec: RunSpec,
    *,
    say: Callable[[str], None] = lambda text: None,
    downloading: Callable[[str], None] = lambda text: None,
    device: str | None = None,
    gpus: int = 1,
    download: bool = True,
) -> Run:
    """Open and check everything a run needs.

    A search that was started before goes on in the dtype it began with, whatever ``auto`` means here.
    The code of tasks and functions is executed: see ``inspect``.

    Args:
        spec: of the run.
        say: is told of each stage.
        downloading: is told what is downloaded.
        device: where workers will score.
        gpus: that each of them spreads a model over.
        download: whether weights of the hub are fetched, once nothing is wrong with all else.

    Raises:
        InputError: with every problem found, one a line.
        RunError: a download broke off.
    """
    head = _head(spec)
    spec = _pinned(spec, head)
    attempt = _Attempts()
    models = _open_models(spec, attempt, say, tokenizer=True)
    say("building the evaluation tasks")
    suite = attempt(lambda: Suite(spec.suite))
    if suite is not None:
        attempt(lambda: suite.splits)
    texts = attempt(lambda: read_texts(spec, None if attempt.problems else suite))
    given = attempt(lambda: _given(spec, head))
    attempt.check()
    scoring = _scoring(spec, models, device)
    run = Run(spec, models, suite, head.scoring if head else scoring, texts, given)
    attempt(lambda: run.prompt_notes)
    if gpus > 1 and (why := run.why_one_device):
        attempt.problems.append(f"--num-gpus {gpus}: {why}; leave it out")
    attempt.check()
    _check_space(run)
    _check_slopes(run)
    _check_budget(run)
    if download:
        run = _fetched(run, say, downloading)
    run.optimizer()  # it may want of the space what that has not
    return run


def inspect(spec: RunSpec, unbuilt: Collection[str], *, tokenizer: bool) -> Run:
    """Open and check what can be known of a run without executing anything that it names.

    Args:
        spec: of the run.
        unbuilt: scorers that are not built; the suite of the result has the others, and no anchors.
        tokenizer: whether the tokenizer may be loaded.

    Raises:
        InputError: with every problem found, one a line.
    """
    spec = _pinned(spec, _head(spec))
    attempt = _Attempts()
    models = _open_models(spec, attempt, lambda text: None, tokenizer=tokenizer)
    suite = attempt(lambda: Suite(spec.suite.without(unbuilt)))
    if suite is not None and suite.scorers:
        attempt(lambda: suite.splits)
    texts = attempt(
        lambda: read_texts(spec, None if attempt.problems or not suite.scorers else suite)
    )
    given = attempt(lambda: _given(spec, _head(spec)))
    attempt.check()
    run = Run(spec, models, suite, _scoring(spec, models, None), texts, given)
    _check_space(run)
    known = len(run.space.references()) + len(run.space.starts())
    _check_limits(run, {"evaluations": known})
    return run


def _head(spec: RunSpec) -> Head | None:
    """Of the journal, if the search was begun."""
    path = spec.folder / JOURNAL
    return head_at(path) if path.is_file() else None


def _pinned(spec: RunSpec, head: Head | None) -> RunSpec:
    """What is of the hub at the commits that it meant when the search was started: a branch may have moved on."""
    if head is None:
        return spec
    known = head.models
    pins = {
        name: pin
        for name in spec.names
        if name in known
        and known[name].ref == spec.named(name).text
        and (pin := spec.named(name).pinned_as(known[name].pinned))
    }
    commits = {name: scorer.commits for name, scorer in head.scorers.items()}
    return replace(spec, pins=pins, suite=spec.suite.pinned(commits))


def commits_of(scorer: Any) -> Mapping[str, str]:
    """Data set of the hub -> commit that a scorer took it at; most take none."""
    found: Mapping[str, str] = getattr(scorer, "commits", {})
    return found


def _given(spec: RunSpec, head: Head | None) -> Given:
    """Merges of other runs that are scored first: those that they have now, or had when this run began."""
    starts = spec.space.start
    template = spec.template(spec.dtype or "float32")  # whose dtype no body has
    if head is None:
        return given_by_runs(starts, template)
    return given_at_start(starts, template, head, spec.folder / JOURNAL)


def _scoring(spec: RunSpec, models: Mapping[str, Checkpoint], device: str | None) -> str:
    """The dtype that candidates are scored in."""
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return scoring_dtype(spec.suite.dtype, spec.dtype or models[BASE].dtype, where)


def _check_slopes(run: Run) -> None:
    """Refuse an optimizer or row weights, which can do nothing without slopes, where there are none."""
    name = run.spec.optimizer
    if optimizers.get(name).SLOPES and (why := run.without_slopes):
        place = run.spec.lines.get("optimizer", run.spec.folder)
        raise InputError(
            f"{place}: {name} descends by slopes, and there are none: {why}. Choose another optimizer: auto "
            "takes slopes where there are some"
        )
    if run.space.rows and (why := run.without_row_slopes):
        raise InputError(
            f"{run.spec.folder}: space.rows: row weights are found by slopes, and there are none: {why}. Leave "
            "rows out"
        )


def _check_space(run: Run) -> None:
    """Refuse a space without genes, or one of methods that its models are not made for."""
    spec = run.spec.space
    teams = {name: spec.team(name, run.space.sources) for name in spec.methods}
    check_adapters(
        run.parents,
        [(f"{run.spec.folder}: space.methods", group(name, team)) for name, team in teams.items()],
    )
    if not run.space.dims:
        raise InputError(
            f"{run.spec.folder}: every parameter of the search space is fixed: there is nothing to search. "
            "Give at least one parameter a range, or list more than one method"
        )


def _check_budget(run: Run) -> None:
    """Refuse a budget that base, parents and known recipes use up."""
    suite = run.suite
    references, starts = len(run.space.references()), len(run.space.starts())
    sample, probe = suite.known(run.spec.seed), suite.splits[Split.PROBE]
    each = {
        name: references * len(ids)
        + starts * len(sample[name])
        + (references + starts) * len(probe[name])
        for name, ids in suite.splits[Split.SEARCH].items()
    }
    # one a token at least, but for functions, which count none
    told = sum(each[scorer.name] for scorer in suite.spec.scorers if scorer.kind != "function")
    kept = run.reserve
    least = {
        "evaluations": references + starts + kept.evaluations,
        "items": sum(each.values()) + kept.items,
        "tokens": told,
    }
    _check_limits(run, least)


def _check_limits(run: Run, least: Mapping[str, int]) -> None:
    """Refuse a budget of no more than ``least``."""
    spec = run.spec
    for name, used in least.items():
        allowed = spec.budget[name]
        if allowed is not None and allowed <= used:
            rows = " and the descent on row weights" if run.space.rows else ""
            raise InputError(
                f"{spec.lines.get(name, spec.folder)}: budget.{name} is {allowed}, but base, parents and known "
                f"recipes{rows} alone take at least {used}; allow more, or list fewer under space.start"
            )
