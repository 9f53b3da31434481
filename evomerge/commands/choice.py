"""What a first search is, from what its models are: pure, from facts to a choice with its reasons."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.errors import InputError
from evomerge.tokens import UNION

CHAT = "chat"  # what fitness files call the model that answers instructions
LONG = "long"  # and the one that reasons at length
CHATTING = frozenset({"chat", "instruct", "it", "dpo", "rlhf", "sft", "assistant"})
REASONING = frozenset({"reasoning", "reason", "thinking", "think", "r1", "cot", "long", "qwq"})
# words in names of models -> languages that they were trained further on
SPOKEN: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("sea", "sailor", "sailor2", "sealion", "seallm", "seallms"), ("id", "th", "vi")
    ),
    **dict.fromkeys(("indonesian", "indo", "bahasa"), ("id",)),
    **dict.fromkeys(("thai", "typhoon", "openthaigpt"), ("th",)),
    **dict.fromkeys(("vietnamese", "viet", "vistral"), ("vi",)),
    **dict.fromkeys(("japanese", "swallow", "nekomata", "elyza"), ("ja",)),
    **dict.fromkeys(("chinese",), ("zh",)),
    **dict.fromkeys(("german", "leolm"), ("de",)),
    **dict.fromkeys(("french",), ("fr",)),
    **dict.fromkeys(("spanish",), ("es",)),
    **dict.fromkeys(("russian", "saiga"), ("ru",)),
    **dict.fromkeys(("bengali",), ("bn",)),
    **dict.fromkeys(("telugu",), ("te",)),
    **dict.fromkeys(("swahili",), ("sw",)),
    **dict.fromkeys(("korean",), ("ko",)),
    **dict.fromkeys(("arabic",), ("ar",)),
    **dict.fromkeys(("hindi",), ("hi",)),
}
SEA = frozenset({"id", "th", "vi"})  # what sea-plus-instruct measures
IN_MATHS = frozenset(
    {"bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"}
)  # multilingual-math
# parameters up to which a merge is so quick to score that this many evaluations are affordable
EVALUATIONS = ((1e9, 200), (4e9, 150), (15e9, 100), (float("inf"), 60))
FEW_SIBLINGS = 3  # from so many sources on, a weight each is what can be searched first


@dataclass(frozen=True)
class Facts:
    """What is known of one model before it is run.

    Attributes:
        name: in the run.
        text: as the user named it.
        parameters: how many.
        languages: that it was trained on, as its card says.
        template: whether its tokenizer has a chat template.
        adapter: whether it is one, on a model.
        has_head: whether it has a head over tokens.
        vision: whether it sees.
        more_tokens: how many tokens it has that the base lacks.
    """

    name: str
    text: str
    parameters: int
    languages: tuple[str, ...] = ()
    template: bool = False
    adapter: bool = False
    has_head: bool = True
    vision: bool = False
    more_tokens: int = 0

    @property
    def words(self) -> set[str]:
        """Of its names."""
        return set(re.split(r"[^a-z0-9]+", f"{self.name} {self.text.rpartition('/')[2]}".lower()))

    @property
    def chats(self) -> bool:
        """Whether its names say that it follows instructions."""
        return bool(self.words & CHATTING - {self.name if self.name == "it" else ""})  # Italian

    @property
    def reasons(self) -> bool:
        """Whether its names say that it thinks at length."""
        return bool(self.words & REASONING)

    @property
    def spoken(self) -> frozenset[str]:
        """Languages by its card and names; English, which every base has, is none of them."""
        named = (code for word in self.words for code in SPOKEN.get(word, ()))
        own = {self.name} if self.name in SEA | IN_MATHS else set()
        return frozenset({*self.languages, *named, *own} - {"en"})


@dataclass(frozen=True)
class Wishes:
    """What the user said; None where nothing.

    Attributes:
        space, fitness: names of presets, or files.
        texts: objective -> a text file.
        evaluations: the budget.
    """

    space: str | None = None
    fitness: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    evaluations: int | None = None


@dataclass(frozen=True)
class Choice:
    """A first search. ``why`` says for each of its keys why it is so, in a line.

    Attributes:
        tokenizer: name of a model, or ``union``.
        space: name of a preset, or a file.
        fitness: likewise; None: ``texts`` are measured.
        texts: objective -> a text file.
        evaluations: the budget.
    """

    tokenizer: str
    space: str
    fitness: str | None
    texts: Mapping[str, str]
    evaluations: int
    why: Mapping[str, str]


def choose(base: Facts, sources: Sequence[Facts], wishes: Wishes) -> Choice:
    """What to search first.

    Raises:
        InputError: nothing that comes with evomerge measures what these models are.
    """
    if wishes.fitness is not None and wishes.texts:
        raise InputError("--fitness and --texts: give one of the two, they are different goals")
    chat = chat_of(sources)
    tokenizer, of_tokenizer = _tokenizer(base, sources, chat)
    gained = sorted(frozenset().union(*(s.spoken for s in sources)) - base.spoken)
    if wishes.texts:
        fitness, of_fitness = None, "bits per byte of the texts given: less is better"
    elif wishes.fitness is not None:
        fitness, of_fitness = wishes.fitness, "your choice"
    else:
        fitness, of_fitness = _fitness(base, sources, chat, gained)
    evaluations, of_budget = _budget(base, wishes)
    if wishes.space is not None:
        space, of_space = wishes.space, "your choice"
    else:
        space, of_space = _space([base, *sources], chat, gained, evaluations)
    why = {"tokenizer": of_tokenizer, "space": of_space, "fitness": of_fitness, "budget": of_budget}
    return Choice(tokenizer, space, fitness, wishes.texts, evaluations, why)


def chat_of(sources: Sequence[Facts]) -> Facts | None:
    """The source that follows instructions: called ``chat``, else by its names, rather one without other languages."""
    found = [s for s in sources if s.name == CHAT] or [s for s in sources if s.chats]
    return min(found, key=lambda source: len(source.spoken), default=None)


def _tokenizer(base: Facts, sources: Sequence[Facts], chat: Facts | None) -> tuple[str, str]:
    models = [base, *sources]
    if seeing := [m for m in models if m.vision]:
        return seeing[0].name, "merges are vision models, as this one"
    if chat is not None and chat.template:
        lost = [s for s in sources if s is not chat and s.more_tokens > chat.more_tokens]
        left = "".join(
            f"; tokens that only {s.name} has are left out (`union` keeps them)" for s in lost
        )
        return chat.name, f"it has the chat template{left}"
    templates = [s for s in sources if s.template and not base.template]
    if templates:
        return templates[0].name, "it has a chat template, which the base lacks"
    more = [s for s in sources if s.more_tokens]
    if more:
        return (
            UNION,
            f"{_names(more)} {'has' if len(more) == 1 else 'have'} tokens that the base lacks",
        )
    return base.name, "no source has tokens that it lacks"


def _fitness(
    base: Facts, sources: Sequence[Facts], chat: Facts | None, gained: Collection[str]
) -> tuple[str, str]:
    models = [base, *sources]
    if all(m.text.startswith("embedded:") for m in models):
        return "demo", "what the embedded models can do, on tasks that come with evomerge"
    if not all(m.has_head for m in models):
        raise InputError(
            "these models have no head over tokens (encoders or reward models), and no fitness file that comes with "
            "evomerge is of such: write one with `reward`, `retrieval` or `function` (see fitness/README.md), and "
            "give it with --fitness FILE"
        )
    long = [s for s in sources if s.reasons]
    if long and len(long) < len(sources):
        _require(LONG, long[0], sources, "long2short")
        return "long2short", f"{_names(long)} reasons at length: as right, and shorter"
    if SEA & set(gained) and chat is not None:
        _require(CHAT, chat, sources, "sea-plus-instruct")
        return (
            "sea-plus-instruct",
            f"{', '.join(sorted(SEA & set(gained)))} and {chat.name}'s instructions",
        )
    if IN_MATHS & set(gained):
        return (
            "multilingual-math",
            f"maths in {', '.join(sorted(IN_MATHS & set(gained)))} and others; strike out the rest",
        )
    if chat is not None and not gained:
        _require(CHAT, chat, sources, "instruct")
        return "instruct", f"{chat.name}'s instructions, while maths and knowledge are kept"
    known = (
        f"their languages ({', '.join(gained)}) are in none"
        if gained
        else "neither their names nor their cards say what they are good at"
    )
    raise InputError(
        f"no fitness file that comes with evomerge fits these models: {known}. Give --fitness NAME (`evomerge new "
        "--list` shows them) or a file of your own, or texts that a good merge should find likely: --texts NAME=FILE, "
        "once for each skill"
    )


def _require(name: str, source: Facts, sources: Iterable[Facts], fitness: str) -> None:
    """Refuse a fitness file whose floors are of a model ``name``, where no source is called so."""
    if all(each.name != name for each in sources):
        raise InputError(
            f"{fitness} fits these models, and its floors are of a source called {name!r}, which {source.name} is: say "
            f"--source {name}={source.text} in place of --source {source.name}={source.text}"
        )


def _space(
    models: Sequence[Facts], chat: Facts | None, gained: Collection[str], evaluations: int
) -> tuple[str, str]:
    sources = models[1:]
    if any(m.vision for m in models) and not all(m.vision for m in models):
        return "vlm_text_backbone", "a vision model and text models"
    if chat is not None and gained and len(sources) == 2:
        return "multilingual-instruct", "a chat model and one of other languages"
    if len(sources) >= FEW_SIBLINGS:
        return "soup", f"{len(sources)} sources: a weight each, which sum to 1"
    if len(sources) == 1:
        return "blocks", "one source: how much of it, block by block"
    if evaluations < 100:
        return "lines", "few evaluations: how much of each, and how that grows with depth"
    return "blocks", "a weight for each source, block by block"


def _budget(base: Facts, wishes: Wishes) -> tuple[int, str]:
    if wishes.evaluations is not None:
        return wishes.evaluations, "your choice"
    count = next(count for most, count in EVALUATIONS if base.parameters <= most)
    return count, f"for models of {_parameters(base.parameters)}; more finds more"


def _parameters(count: int) -> str:
    return (
        f"{count / 1e9:.1f} billion parameters"
        if count >= 1e9
        else f"{count / 1e6:.0f} million parameters"
    )


def _names(models: Iterable[Facts]) -> str:
    return " and ".join(model.name for model in models)
