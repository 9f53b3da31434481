"""The kinds of files that are fuzzed. Another one is a function here: what reads the file.

    @kind("what it is called", "a valid file", "another one")
    def name(path: Path) -> None: ...

The function does what a command would do with the file, without models and tasks; it may raise
InputError, and nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evomerge import config
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import InputError
from evomerge.parents import Parents
from evomerge.recipe import Body, Recipe, group
from evomerge.skeleton import usual

ROOT = Path(__file__).parents[2]
LAYERS = 4
PLACES = usual(LAYERS).places


@dataclass(frozen=True)
class Kind:
    """A kind of file: ``examples`` are valid, ``read`` reads one of them."""

    name: str
    examples: tuple[bytes, ...]
    read: Callable[[Path], None]


KINDS: dict[str, Kind] = {}


def kind(name: str, *examples: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(read: Callable[[Path], None]) -> Callable[[Path], None]:
        KINDS[name] = Kind(name, tuple(map(str.encode, examples)), read)
        return read

    return add


def committed(folder: str) -> list[str]:
    """The files of the repository in ``folder``, without comments, and without folders they name."""
    plain = [config.read(path).plain for path in sorted((ROOT / folder).glob("*.yaml"))]
    return [
        config.dump({**each, "include": ["."]} if "include" in each else each) for each in plain
    ]


# -- run -----------------------------------------------------------------------------------------

RUN = """\
models:
  base: embedded:base
  sources: {chat: embedded:chat, sea: embedded:sea}
  tokenizer: chat
space:
  methods: [task_arithmetic, ties]
  method_gene: group
  groups: {layers: 2, roles: [attn, mlp, other]}
  parameters: {weight: {range: [0, 1.5]}, density: {chat: 0.5, sea: {range: [0.3, 1.0]}}, lambda: 1.0}
  start: [parents, uniform, ties]
fitness:
  include: ["."]
  objectives:
    th: {task: xcopa_th, weight: 2, floor: 98% of chat}
    text: {text: texts.jsonl, direction: minimize}
    worst: {worst_of: [th, text]}
  items: {search: 12, select: 6, report: 12, candidate: [6, 8]}
optimizer: {name: cma, population: 4, sigma0: 0.2}
budget: {evaluations: 60, hours: 2.5}
lag: 2
seed: 1
dtype: bfloat16
calibration: {file: calibration.jsonl, items: 20}
threads: 2
trust_remote_code: false
"""


@kind("run", RUN)
def run(path: Path) -> None:
    from evomerge.run.preflight import Run
    from evomerge.run.spec import load_run

    spec = load_run(path)
    assert len(spec.digest) == 64
    for name in spec.names:
        assert spec.model(name).portable
    models = {"base": base_model()}
    suite: Any = SimpleNamespace(objectives=(), measured=(), spec=spec.suite, teaching=dict)
    job = Run(spec, models, suite, "float32")
    job.__dict__["parents"] = Parents(models, place=spec.place)  # those it names are not there
    job.space.starts()
    if job.space.dims:
        job.optimizer()


@cache
def base_model() -> Checkpoint:
    return Checkpoint.open(ModelRef("embedded:base"))


# -- space ---------------------------------------------------------------------------------------

SPACES = (
    """\
methods: [task_arithmetic, ties, dare_ties]
groups: {layers: 2, roles: [attn, mlp, other]}
parameters:
  weight: {range: [0, 1.5]}
  density: {chat: 0.5, sea: {range: [0.3, 1.0]}}
  lambda: {choices: [0.5, 1.0]}
models: {ties: [chat], dare_ties: [chat, sea]}
lines: {alpha: 0.5, beta: {range: [0, 1]}, head: shallow}
keep: {embed: base, head: sea}
start: [parents, uniform, task_arithmetic, lines]
""",
    """\
layer_swap:
  outer: chat
  inner: sea
  bottom: 1
  top: {range: [0, 2]}
  transition: 1
  strength: {outer: 1.0, inner: {range: [0.5, 1.5]}}
  outside: inner
lines: true
keep_from: base
start: [layer_swap]
""",
    """\
roles: {language: who speaks it}
methods: [slerp, lm_cocktail]
models: {slerp: [$sea]}
parameters: {t: {range: [0, 1]}}
start:
  - {name: over depth, recipe: {groups: [{roles: [attn], method: slerp, models: [$sea], t: [0, 1]}, {method: linear}]}}
  - {name: cocktail, recipe: {method: lm_cocktail, models: [$siblings]}, losses: score}
  - {name: one, recipe: {method: ties, weight: {$language: 0.5}, density: [0.3, 0.5]}}
""",
    """\
methods: [linear]
knots: 3
weights: simplex
models: [chat, sea]
method_gene: global
parameters: {normalize: true}
path: {models: [merge, sea], rounds: 2, runs: 3, most: 9, scale: {range: [0.8, 1.25]}}
""",
)


@kind("space", *SPACES, *committed("search_spaces"))
def space(path: Path) -> None:
    from evomerge.space import SearchSpace, parse_space

    sources = ("chat", "sea")
    problems = config.Problems()
    node = config.read(path)
    roles = node.plain.get("roles") if isinstance(node.plain, dict) else None
    bound = {
        role: (sources[n % 2],) for n, role in enumerate(roles if isinstance(roles, dict) else ())
    }
    spec = parse_space(node, sources, problems, bound)
    problems.check()
    assert spec is not None
    template = Recipe(
        ModelRef("embedded:base"),
        {name: ModelRef(f"embedded:{name}") for name in sources},
        Body((group("linear", sources),)),
    )
    made = SearchSpace(spec, template, LAYERS, PLACES)
    made.starts()
    for gene in (0.0, 0.6, 1.0):
        recipe = made.decode((gene,) * len(made.dims))
        assert Recipe.from_plain(recipe.plain).digest == recipe.digest


# -- fitness -------------------------------------------------------------------------------------

FITNESS = """\
include: ["."]
combine: worst
estimator: regression
dtype: bfloat16
engine: huggingface
gates: false
batch_tokens: 512
max_length: 128
items:
  {probe: 4, search: 60, select: 40, report: 40, candidate: [6, 8], partition: 1,
   shares: {probe: 0.1, search: 0.4, select: 0.25, report: 0.25}}
objectives:
  th: {task: xcopa_th, metric: "acc,none", num_fewshot: 2, weight: 2, floor: 98% of chat, scale: 0.1}
  id:
    task: chat_id
    apply_chat_template: true
    fewshot_as_multiturn: true
    system_instruction: Answer.
    source: source_id
    stratum: topic
    language: id
    chat_template_args: {effort: low}
    enable_thinking: true
    think_end_token: </think>
    max_gen_toks: 20
    metric: exact_match*in_language
  text: {text: texts.jsonl, field: body, direction: minimize, floor: 0.5}
  safe: {reward: pairs.jsonl, metric: margin}
  found: {retrieval: queries.jsonl, corpus: corpus.jsonl, k: 5, pooling: cls, query_prefix: "q: "}
  code: {function: "mine:score", weight: 0}
  worst: {worst_of: [th, id]}
  mean: {mean_of: [th, id], weight: 0}
anchors: {xcopa_th: {"3": 1.5, "8": 0.5}}
"""


@kind("fitness", FITNESS, *committed("fitness"))
def fitness(path: Path) -> None:
    from evomerge.commands.score import read_suite

    spec = read_suite(path)
    assert spec.plain["scorers"]
    for scorer in spec.scorers:
        assert spec.place_of(scorer.name)


# -- recipe --------------------------------------------------------------------------------------

RECIPES = (
    """\
base: Qwen/Qwen1.5-7B
models: {chat: Qwen/Qwen1.5-7B-Chat, sea: ./sailor+adapter}
dtype: bfloat16
seed: 3
tokenizer: chat
groups:
  - {layers: [0, 7], roles: [attn], method: ties, weight: {chat: 0.6, sea: 0.9}, density: {chat: 0.5, sea: 0.8}}
  - {method: dare_linear, models: [sea], weight: 0.5, rescale: true, lines: {alpha: 0.5, beta: 0.5, head: shallow}}
  - {roles: [other], method: linear, models: [base, chat], weight: {base: 0.5, chat: 0.5}, normalize: false}
  - {method: linear}
provenance: {run: abc, parents: {chat: 1}, report: {score: [0.1, 0.2]}}
""",
    """\
models:
  one: embedded:chat
  two: embedded:sea
groups:
- method: slerp
  models: [two]
  t: 0.3
  roles: [attn, mlp]
- method: passthrough
  models: [one]
path:
- {layers: [0, 2]}
- {layers: [1, 3], model: two, scale: 0.9}
base: embedded:base
""",
    f"""\
models: {{one: embedded:chat, two: embedded:sea}}
groups: [{{method: fisher, weight: {{one: 1, two: 0.5}}, floor: 0.01}}]
data: {{file: calibration.jsonl, items: 20, digest: {"0f" * 32}}}
""",
)


@kind("recipe", *RECIPES)
def recipe(path: Path) -> None:
    found = Recipe.load(path)
    try:
        assert len(found.digest) == 64
    except InputError as error:  # another recipe, which stands for a model, cannot be read
        refs = (*found.models.values(), *([found.base] if found.base else []))
        assert any(ref.is_recipe and ref.portable in str(error) for ref in refs), error
    assert config.parse(found.to_yaml())
    assert found.portable().used is not None


# -- mergekit ------------------------------------------------------------------------------------

MERGEKIT = (
    """\
merge_method: ties
base_model: embedded:base
models:
  - model: embedded:chat
    parameters: {weight: 0.6, density: [0.2, 0.5, 1.0]}
  - model: {model: embedded:sea}
    parameters:
      weight:
        - {filter: self_attn, value: 0.5}
        - value: 0.7
parameters: {normalize: true, int8_mask: true, lambda: 1.0}
dtype: bfloat16
tokenizer_source: base
""",
    """\
slices:
  - sources:
      - {model: embedded:base, layer_range: [0, 2]}
      - {model: embedded:chat, layer_range: [0, 2]}
    parameters: {t: 0.3}
  - sources:
      - {model: embedded:base, layer_range: [2, 4]}
      - {model: embedded:chat, layer_range: [2, 4]}
merge_method: slerp
base_model: embedded:base
parameters:
  t:
    - {filter: mlp, value: [0, 0.5, 1]}
    - value: 0.5
out_dtype: float16
tokenizer: {source: embedded:chat}
""",
    """\
name: soup
merge_method: linear
models: [{model: embedded:chat, parameters: {weight: 1}}, {model: embedded:sea, parameters: {weight: 1.0}}]
---
merge_method: passthrough
models: [{model: soup}]
dtype: float32
chat_template: auto
""",
    """\
name: soup
merge_method: linear
models: [{model: embedded:chat, parameters: {weight: 1}}, {model: embedded:sea, parameters: {weight: 1.0}}]
dtype: bfloat16
---
merge_method: task_arithmetic
base_model: embedded:base
models: [{model: soup, parameters: {weight: 0.5}}, {model: embedded:sea, parameters: {weight: 0.1}}]
dtype: float32
""",
    """\
genome:
  models: [embedded:chat, embedded:sea]
  base_model: embedded:base
  merge_method: dare_ties
  tokenizer_source: embedded:chat
  layer_granularity: 2
  allow_negative_weights: false
  filters: [self_attn]
  normalize: true
tasks:
  - {name: arc, metric: "acc_norm,none", weight: 1.0}
  - {name: mmlu, weight: -0.5}
  - gsm8k
num_fewshot: 3
limit: 100
shuffle: true
apply_chat_template: true
""",
)


@kind("mergekit", *MERGEKIT)
def mergekit(path: Path) -> None:
    from evomerge.interop import files_from_mergekit

    for text in files_from_mergekit(path, layers=LAYERS).values():
        made = config.parse(text, str(path))
        if "space" not in made.value:
            Recipe.parse(made)


# -- task ----------------------------------------------------------------------------------------

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl, train: [a.jsonl, b.jsonl]}}
test_split: test
output_type: multiple_choice
process_docs: !function utils.docs
doc_to_text: "{{question}}="
doc_to_target: label
doc_to_choice: choices
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "x"}, {function: take_first}]}
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: !function utils.score, aggregation: mean}
metadata: &m {version: 1.0}
more: *m
"""


@kind("task", TASK)
def task(path: Path) -> None:
    from evomerge.scorers.lm_eval.description import described
    from evomerge.scorers.lm_eval.reading import fingerprints, read_task

    found = read_task(path)
    assert len(fingerprints(found, ("dataset_kwargs",))) >= 1
    described(found).check_metric("sums", "margin")


# -- journal -------------------------------------------------------------------------------------


def journal_example() -> str:
    """The journal of a search by a formula, from its head to its end."""
    from evomerge.checkpoint import ModelRef
    from evomerge.evolution.core import Plan, Search
    from evomerge.evolution.history import Evaluation, History, Settled, Verdict
    from evomerge.inference.intervals import Interval
    from evomerge.judging.table import Count, Effort, Row, Table, Trust
    from evomerge.optimizers import Problem, make
    from evomerge.record import events
    from evomerge.record.journal import FORMAT
    from evomerge.space import SearchSpace, SpaceSpec
    from evomerge.suite.objectives import Objective, combine, yardsticks

    wanted = (Objective("skill", "sums", "acc"),)
    models = {"chat": ModelRef("c"), "sea": ModelRef("s")}
    template = Recipe(ModelRef("b"), models, Body(), "float32")
    space = SearchSpace(SpaceSpec(("task_arithmetic",), start=("uniform",)), template, LAYERS)
    history = History(
        lambda v, r, g: combine(wanted, "mean", v, r, g), lambda r: yardsticks(wanted, r)
    )
    optimizer = make("random", Problem(space.dims, ("skill",)), seed=0, population=2)
    search = Search(space, optimizer, Plan(6, 2), history, objectives=wanted)
    items = {"sums": ["a", "b"]}
    head = events.Head(
        time=0.0, format=FORMAT, digest="0", content={"fitness": {}}, budget={"evaluations": 6},
        scoring="float32", population=2, template=template.plain,
        models={name: events.Parent(name, "0", {}) for name in ("base", *models)},
        dims=[dim.name for dim in space.dims], objectives=wanted, combine="mean",
        splits=events.Splits("0", {"search": items}), scorers={"sums": events.ScorerLine("0", {})},
        versions={}, given={},
    )  # fmt: skip
    lines: list[events.Line] = [head, events.SessionLine(time=1.0)]
    while not history.done:
        if history.unsettled:
            settled = Settled(history.gains, {"skill": "no parent beats the base on it"})
            lines.append(events.SettledLine.of(settled))
            history.settle(settled)
        if history.unjudged is not None:
            verdict = Verdict(history.unjudged, last=True)
            lines.append(events.RoundLine.of(verdict))
            history.judge(verdict)
        batch = search.propose()
        if batch is not None:
            lines.append(events.BatchLine.of(batch, items))
            history.open(batch)
            for candidate in batch.candidates:
                value = {"skill": 0.1 * candidate.id}
                found = Evaluation(batch.number, candidate.id, value, errors={"skill": 0.0})
                lines.append(events.EvaluationLine.of(found, block=None, seconds={}))
                history.observe(found)
    exact, count = Interval(0.5, 0.4, 0.6), Count(2, 2)
    rows = tuple(
        Row(c.id, c.origin, exact, {"skill": exact}) for c in history.batches[-1].candidates
    )
    table = Table(
        combine="mean", items={"skill": count}, yardsticks={}, winner=history.winner, rows=rows,
        trust=Trust(exact, exact, count, exact, search_items=count, gap=None, anchored=False),
        effort=Effort(3, 3, 0, 0, {3: ("cut",)}),
    )  # fmt: skip
    lines.append(events.EndLine(time=2.0, table=table.plain, looks="none"))
    more = {"evaluations": 8, "items": None, "tokens": None, "hours": 1.5}
    lines.append(events.ExtendedLine(time=2.0, budget=more))
    lines.append(events.ClosedLine(time=2.0, reason="out of hours"))
    return resigned(json.dumps(line.plain) for line in lines)


def resigned(lines: Iterable[str]) -> str:
    """A journal of these lines with the checksums that they would have been written with."""
    from evomerge.record import journal

    text, sum = b"", 0
    for line in lines:
        event = json.loads(line)
        event.pop("sum", None)
        written, sum = journal._encode(event, sum)
        text += written
    return text.decode()


_ODD = (None, True, 0, -1, 7, 1e300, 10**18, "", "x", "\x1b[31m", "search", [], [[]], {}, {"a": 1})


_written = set[str]()


def write(recipe: Recipe) -> None:
    """As YAML, once: nearly all journals hold nearly the same recipes, and writing one takes longer than reading it."""
    key = repr((recipe.plain, recipe.provenance))
    if key not in _written:
        _written.add(key)
        recipe.to_yaml()


def scrambled(valid: bytes, key: bytes) -> bytes:
    """A journal in which one value somewhere is another or gone; ``key`` decides which."""
    draw, lines = random.Random(key), valid.splitlines()
    number = draw.randrange(len(lines))
    event = json.loads(lines[number])
    inner, last = event, draw.choice(list(event))
    while isinstance(inner[last], (dict, list)) and inner[last] and draw.random() < 0.8:
        inner = inner[last]
        last = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    if draw.random() < 0.2:
        del inner[last]
    else:
        inner[last] = draw.choice(_ODD)
    lines[number] = json.dumps(event).encode()
    return b"\n".join(lines)


@kind("journal", journal_example())
def journal(path: Path) -> None:
    """As it is, and with checksums that match, as of somebody who means it."""
    from evomerge.record.record import Record
    from evomerge.report.terminal import status_of

    def read() -> None:
        record = Record.__new__(Record)
        record.folder = path.parent
        record._read(path)
        json.dumps(status_of(record))
        for candidate in record.history.candidates:
            write(record.recipe(candidate))

    content = path.read_bytes()
    valid = KINDS["journal"].examples[0]
    for lines in (content, scrambled(valid, content) if content != valid else valid):
        try:
            text = resigned(lines.decode().splitlines())
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        forged = path.with_name(f"forged-{path.name}")
        forged.write_text(text, encoding="utf-8")
        original, path = path, forged
        try:
            read()
        except InputError as error:
            assert forged.name in str(error)
        path = original
    read()
