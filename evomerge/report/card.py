"""The card of a merge: a README.md with the hub's metadata, made from the recipe and what its parents' cards say.

All names and texts in it come from users and strangers: in the metadata they are YAML values, in the text nothing but
text. There is no date and nothing of this machine in it: the same merge has the same card.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge import __version__, config
from evomerge.checkpoint import ModelRef
from evomerge.inference.intervals import Interval
from evomerge.judging.table import interval_from
from evomerge.recipe import Recipe
from evomerge.report.licences import Licence, common, concerns
from evomerge.report.text import interval_text, markdown_text, p_text
from evomerge.visible import cut, visible

CARD, PICTURE = "README.md", "recipe.svg"
UNSTATED = "This card states no licence for the merge: its maker has to."
MOST_LINES = 60  # of a recipe: one of a group a tensor may have hundreds
MOST_TEXT = 300  # characters of a text of a stranger
PIPELINES = {  # the end of a class of transformers -> what the hub calls what it does
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForConditionalGeneration": "image-text-to-text",
    "Model": "feature-extraction",
}
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$", re.ASCII)
_WRITTEN = {
    "model": "A merge of language models",
    "adapter": "A merge of adapters, as an adapter",
    "experts": "A merge of adapters, as one that is shared and an expert for each source",
}


@dataclass(frozen=True)
class Parent:
    """A model that a merge is made of.

    Attributes:
        name: in the recipe.
        shown: what it is, without folders of this machine: a hub id, MODEL+ADAPTER, or the name of a folder.
        ids: hub ids in it, for the metadata; the model's first.
        licences: by what they are of: an adapter has its own, and its model's.
        languages: that it says it knows, as the hub codes them.
        adapts: the hub id of the model without its adapter; empty where that lies in a folder.
    """

    name: str
    shown: str
    ids: tuple[str, ...] = ()
    licences: Mapping[str, Licence] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    adapts: str = ""


@dataclass(frozen=True)
class Facts:
    """What a card is made from.

    Attributes:
        title: of the merge.
        kind: ``model``, ``adapter`` or ``experts``.
        recipe: of the merge.
        parents: the base first; of recipes that stand for models their parents.
        architecture: class of transformers.
        library: that loads it.
        licence: as the user says; None: as all parents say.
        picture: whether there is one beside.
    """

    title: str
    kind: str
    recipe: Recipe
    parents: Sequence[Parent]
    architecture: str = ""
    library: str = "transformers"
    licence: Licence | None = None
    picture: bool = False

    @property
    def licences(self) -> dict[str, Licence]:
        """Of all that the merge is made of; folders of one name are told apart by the parents' names."""
        found: dict[str, Licence] = {}
        for parent in self.parents:
            for shown, licence in parent.licences.items():
                apart = found.get(shown, licence) != licence
                found[f"{shown} ({parent.name})" if apart else shown] = licence
        return found


def card_of(facts: Facts) -> str:
    """The card."""
    sections = [
        f"---\n{config.dump(metadata(facts))}---",
        f"# {markdown_text(facts.title)}",
        f"{_WRITTEN[facts.kind]}, made with evomerge {__version__}.",
        *([f"![Weight of each source by block]({PICTURE})"] if facts.picture else []),
        _parents(facts),
        _licence(facts),
        _recipe(facts.recipe),
        *_found(facts.recipe.provenance),
        _measured(facts.recipe.provenance),
    ]
    return "\n\n".join(sections) + "\n"


def metadata(facts: Facts) -> dict[str, Any]:
    """What the hub reads of the card."""
    ids = list(dict.fromkeys(each for parent in facts.parents for each in parent.ids))
    if facts.kind != "model":  # an adapter belongs to the one model that it adapts
        ids = [each.adapts for each in facts.parents[:1] if each.adapts]
    licence = licence_of(facts)
    languages = list(dict.fromkeys(code for parent in facts.parents for code in parent.languages))
    pipeline = next((to for end, to in PIPELINES.items() if facts.architecture.endswith(end)), None)
    found: dict[str, Any] = {
        "base_model": ids,
        "base_model_relation": ("merge" if facts.kind == "model" else "adapter") if ids else None,
        "language": languages,
        "library_name": facts.library,
        "license": licence and licence.id,
        "license_name": licence and licence.name,
        "license_link": licence and licence.link,
        "pipeline_tag": pipeline,
        "tags": ["merge", "evomerge"],
        "model-index": _index(facts, pipeline),
    }
    return {key: value for key, value in found.items() if value}


def licence_of(facts: Facts) -> Licence | None:
    """What the merge is under: as the user says, else as all parents do, else nobody knows."""
    return facts.licence or common(facts.licences)


def stated_text(licence: Licence) -> str:
    """What a card says where its maker has chosen."""
    return f"Its maker says: {markdown_text(str(licence))}."


def is_hub_id(text: str) -> bool:
    return bool(_HUB_ID.match(text))


# -- sections ------------------------------------------------------------------------------------


def _parents(facts: Facts) -> str:
    rows = [("name", "model", "licence"), ("---", "---", "---")]
    for parent in facts.parents:
        said = "; ".join(str(licence) for licence in parent.licences.values()) or "not stated"
        rows.append((markdown_text(parent.name), _shown(parent), markdown_text(said)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## Made from\n\n{table}"


def _shown(parent: Parent) -> str:
    """A link where the hub has it."""
    if len(parent.ids) == 1 and parent.shown.partition("@")[0] == parent.ids[0]:
        return f"[{markdown_text(parent.shown)}](https://huggingface.co/{parent.ids[0]})"
    return markdown_text(parent.shown)


def _licence(facts: Facts) -> str:
    found, all_of = licence_of(facts), common(facts.licences)
    if found is None:
        said = UNSTATED
    elif facts.licence is None:
        said = f"All of its parents are under {markdown_text(str(found))}, and so is the merge."
    elif all_of == found:
        said = f"The merge is under {markdown_text(str(found))}, as all of its parents are."
    else:
        said = stated_text(found)
    notes = "".join(f"\n* {markdown_text(each)}" for each in concerns(facts.licences))
    return f"## Licence\n\n{said}" + (f"\n{notes}" if notes else "")


def _recipe(recipe: Recipe) -> str:
    """The recipe without folders of this machine."""
    shown = replace(
        recipe,
        base=recipe.base and ModelRef(shown_name(recipe.base)),
        models={name: ModelRef(shown_name(ref)) for name, ref in recipe.models.items()},
        provenance={},
    )
    lines = visible(shown.to_yaml()).splitlines()
    more = (
        f"\n\n{len(lines) - MOST_LINES:,} more lines are in the file."
        if len(lines) > MOST_LINES
        else ""
    )
    content = "".join(f"{line}\n" for line in lines[:MOST_LINES])
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return (
        f"## Recipe\n\n`evomerge.yaml` beside this card is the whole recipe; `evomerge merge evomerge.yaml -o DIR` makes the "
        f"merge again.\n\n{fence}yaml\n{content}{fence}{more}"
    )


def shown_name(ref: ModelRef) -> str:
    """A model as a card names it: the last part of a folder's path."""
    parts = []
    for part in ref.parts:
        own = ModelRef(part, ref.origin)
        local = own.portable != part or part.startswith(("/", ".", "~"))
        parts.append(part.rstrip("/").rpartition("/")[2] or "model" if local else part)
    return "+".join(parts)


def _found(provenance: Mapping[str, Any]) -> list[str]:
    """How a search came to it; nothing of a recipe that was written by hand."""
    if not provenance:
        return []
    facts = []
    if (tried := provenance.get("candidates_tried")) is not None:
        facts.append(f"{_text(tried)} candidate merges were tried")
    if (number := provenance.get("candidate")) is not None:
        facts.append(f"this is number {_text(number)} ({_text(provenance.get('origin', '?'))})")
    if (looks := provenance.get("select_looks")) is not None:
        facts.append(f"{_text(looks)} scores were taken on the items that chose among the best")
    lines = (
        [
            f"evomerge {_text(provenance.get('evomerge', '?'))} searched for it: {'; '.join(facts)}.\n"
        ]
        if facts
        else []
    )
    for key, what in (
        (
            "search_score",
            "Score on the search items, which the search learned from (likely too good)",
        ),
        ("select_score", "Score on the select items, which it was chosen by"),
    ):
        if interval := _interval(provenance.get(key)):
            lines.append(f"* {what}: {_number(interval)}")
    for key, what in (
        ("run", "Digest of the run"),
        ("splits", "Digest of the split of the items"),
        ("digest", "Digest of the recipe"),
    ):
        if isinstance(provenance.get(key), str):
            lines.append(f"* {what}: {_text(provenance[key][:16])}")
    return ["## How it was found\n\n" + "\n".join(lines)] if lines else []


def _measured(provenance: Mapping[str, Any]) -> str:
    """What the report split says; nothing else in a card is untouched by the search."""
    head = "## What was measured\n\n"
    measured = _report(provenance)
    if not measured:
        return f"{head}Nothing was measured on this merge: no search reported on it."
    rows = [
        "| objective | value, 95% interval | task, metric | better | items |",
        "| --- | ---: | --- | --- | ---: |",
    ]
    what = _what(provenance)
    rows += [
        f"| {markdown_text(name)} | {_number(interval)} | {' | '.join(map(_text, what.get(name, ('', '', ''))))} |"
        for name, interval in measured.items()
    ]
    text = (
        f"{head}On items that no part of the search had seen (the report split):\n\n"
        + "\n".join(rows)
    )
    beside = provenance.get("beside")
    gains = {
        str(name): (interval, gain.get("p"))
        for name, gain in (beside.items() if isinstance(beside, Mapping) else ())
        if isinstance(gain, Mapping) and (interval := _interval(gain))
    }
    if gains:
        rows = ["| beside | score of the merge less its, paired | p |", "| --- | ---: | ---: |"]
        rows += [
            f"| {markdown_text(name)} | {_number(interval)} | {_p(p)} |"
            for name, (interval, p) in gains.items()
        ]
        text += "\n\n" + "\n".join(rows)
    if isinstance(invalid := provenance.get("invalid"), (list, tuple)):
        text += "".join(f"\n\nINVALID: {_text(reason)}." for reason in invalid)
    return text


def _index(facts: Facts, pipeline: str | None) -> list[dict[str, Any]]:
    """The measured values as the hub's model-index; intervals are in a metric's name and arguments."""
    what = _what(facts.recipe.provenance)
    results = [
        {
            "task": {"type": pipeline or "other"},
            "dataset": {
                "type": "evomerge",
                "name": f"report split of {what[name][0] if name in what else name}",
                "split": "report",
            },
            "metrics": [
                {
                    "type": name,
                    "value": interval.value,
                    "name": f"{name}, 95% interval {_bounds(interval)}",
                    **(
                        {}
                        if interval.why
                        else {"args": {"low": interval.low, "high": interval.high}}
                    ),
                }
            ],
        }
        for name, interval in _report(facts.recipe.provenance).items()
    ]
    return [{"name": _cut(facts.title), "results": results}] if results else []


def _report(provenance: Mapping[str, Any]) -> dict[str, Interval]:
    """Score and objectives on the report split, as far as they are numbers."""
    report = provenance.get("report")
    if not isinstance(report, Mapping):
        return {}
    objectives = report.get("objectives")
    named = {
        "score": report.get("score"),
        **(objectives if isinstance(objectives, Mapping) else {}),
    }
    found = {_cut(str(name)): _interval(plain) for name, plain in named.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _what(provenance: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """What objectives measure, as far as the file says: task and metric; which is better; how many items."""
    said = provenance.get("measured")
    found = {}
    for name, each in said.items() if isinstance(said, Mapping) else ():
        if not isinstance(each, Mapping):
            continue
        parts = each.get("of")
        of = ", ".join(map(str, parts)) if isinstance(parts, (list, tuple)) else ""
        what = (
            f"{each.get('how', '')} of {of}"
            if of
            else ", ".join(_named(each[key]) for key in ("task", "metric") if key in each)
        )
        texts = what, str(each.get("better", "")), str(each.get("items", ""))
        found[_cut(str(name))] = (_cut(texts[0]), _cut(texts[1]), _cut(texts[2]))
    return found


def _named(source: Any) -> str:
    """A task or a file; of one of this machine the name."""
    text = str(source)
    return os.path.basename(text) if os.path.isabs(text) else text


def _interval(plain: Any) -> Interval | None:
    """An interval of a file that anybody may have written; None if it is none."""
    try:
        return interval_from(plain)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _number(interval: Interval) -> str:
    return markdown_text(_cut(interval_text(interval)))


def _bounds(interval: Interval) -> str:
    return _cut(interval.why) if interval.why else f"{interval.low:.3f} to {interval.high:.3f}"


def _p(value: Any) -> str:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return p_text(value if known and math.isfinite(value) else None)


def _text(value: Any) -> str:
    return markdown_text(_cut(str(value)))


def _cut(text: str) -> str:
    return cut(text, MOST_TEXT)
