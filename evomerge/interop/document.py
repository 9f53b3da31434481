"""mergekit YAML as data: read strictly, where mergekit drops what it does not know without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from evomerge import config
from evomerge.errors import ConfigError, did_you_mean
from evomerge.interop.catalogue import PEERS, VERSION, Argument, Peer
from evomerge.interop.settings import Branch, Setting, parse_setting
from evomerge.tokens import UNION, TokenRules

Settings = Mapping[str, Setting]
_RANGE = "[first, one past the last]"
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A model in a slice; ``layers`` first and one past the last, None for all of them."""

    model: str
    layers: tuple[int, int] | None
    settings: Settings


@dataclass(frozen=True)
class Slice:
    """Layers made from the same layers of every source."""

    sources: tuple[Source, ...]
    base: str | None
    settings: Settings


@dataclass(frozen=True)
class Document:
    """One merge.

    Attributes:
        node: where it stands in the file.
        name: by which other documents of the file use it.
        method: name of the merge method, a key of ``PEERS``.
        base: base model.
        slices: in depth order; one without layers for a ``models`` list.
        settings: of the module and of the whole document, in order of precedence.
        dtype: of the merged tensors, None for that of the inputs.
        tokenizer: ``base``, ``union``, a model, or None.
        tokens: what it says of single tokens, with models by their reference.
        notes: what a recipe does not carry over.
    """

    node: config.Node
    name: str | None
    method: str
    base: str | None
    slices: tuple[Slice, ...]
    settings: tuple[Settings, ...]
    dtype: str | None
    tokenizer: str | None
    notes: tuple[str, ...] = field(default=())
    tokens: TokenRules | None = None

    @property
    def peer(self) -> Peer:
        return PEERS[self.method]

    @property
    def branches(self) -> Iterator[Branch]:
        """Every value given anywhere."""
        levels = [*self.settings]
        for part in self.slices:
            levels += [part.settings, *(source.settings for source in part.sources)]
        for level in levels:
            for setting in level.values():
                yield from setting

    @property
    def references(self) -> tuple[str, ...]:
        """Every model named as one to merge, or as a base, each once."""
        found: dict[str | None, None] = {}
        for part in self.slices:
            found.update(dict.fromkeys(source.model for source in part.sources))
            found[part.base] = None
        found[self.base] = None
        return tuple(name for name in found if name)

    def problem(self, problems: config.Problems, key: str, message: str) -> None:
        """Note a problem where ``key`` stands, or at the document's beginning; the same one only once."""
        known = self.node.value.get(key.partition("[")[0])
        found = config.Problems()
        found.add(known or self.node, key, message)
        if found.found[0] not in problems.found:
            problems.found += found.found

    def arrange(self, part: Slice) -> tuple[list[Source], str | None]:
        """The inputs of a slice as the method takes them, and the base if there is one."""
        base = part.base or self.base
        inputs = list(part.sources)
        listed = base in [source.model for source in inputs]
        if base and not listed and inputs[0].layers is None:  # mergekit adds it to a list of models
            inputs.append(Source(base, None, {}))
        if self.peer.base == "source":
            return inputs, None
        return [source for source in inputs if source.model != base], base


def read_documents(path: str | Path) -> list[config.Node]:
    """The documents of a YAML file, with their positions in it.

    Raises:
        InputError: the file is absent or unreadable.
        ConfigError: it is not YAML.
    """
    text = config.read_text(path)
    nodes, start = [], 0
    for end in [*(match.start() for match in _SEPARATOR.finditer(text)), len(text)]:
        body = text[start:end]
        if re.sub(r"^---|#.*", "", body, flags=re.MULTILINE).strip():
            # lines keep their numbers
            nodes.append(
                config.parse("\n" * text.count("\n", 0, start) + body, str(path), controls=False)
            )
        start = end
    if not nodes:
        raise ConfigError([f"{path}: is empty"])
    return nodes


def parse_document(node: config.Node, problems: config.Problems) -> Document | None:
    """A merge from YAML; problems are noted, None is returned if there were any."""
    before = len(problems.found)
    section = config.Section(node, problems)
    name = section.text("name") or None
    method = section.text("merge_method", required=True)
    if method and method not in PEERS:
        hint = did_you_mean(method, PEERS)
        section.problem("merge_method", f"mergekit {VERSION} has no method {method!r}{hint}")
    reader = _Reader(PEERS.get(method, Peer({})), method, problems)
    base = reader.model(section, "base_model")
    settings: list[Settings] = []
    slices: tuple[Slice, ...] = ()
    given = [key for key in ("models", "slices", "modules") if key in section]
    if len(given) != 1 and isinstance(node.value, dict):
        section.problem(
            "", f"expected one of models, slices and modules, found {' and '.join(given) or 'none'}"
        )
    elif given == ["modules"]:
        slices = reader.module(section, settings)
    elif given:
        slices = reader.slices(section)
    settings.append(reader.settings(section, "top"))
    out, into = section.text("out_dtype"), section.text("dtype")
    notes: list[str] = list(reader.notes)
    tokenizer, tokens = _parse_tokenizer(section, reader)
    template = section.text("chat_template")
    if template == "auto":
        notes.append(
            "chat_template: auto: the chat template is that of the model named `tokenizer`"
        )
    elif template:
        notes.append("chat_template is not carried over: set it in the merged folder yourself")
    section.finish()
    if len(problems.found) > before or not slices:
        return None
    dtype = (out or into).removeprefix("torch.") or None
    return Document(
        node=node,
        name=name,
        method=method,
        base=base,
        slices=slices,
        settings=tuple(settings),
        dtype=dtype,
        tokenizer=tokenizer,
        notes=tuple(notes),
        tokens=tokens,
    )


class _Reader:
    """Reads the parts of a document that merges by one method."""

    def __init__(self, peer: Peer, method: str, problems: config.Problems) -> None:
        self.peer, self.method, self.problems = peer, method, problems
        self.notes: list[str] = []

    def module(self, section: config.Section, settings: list[Settings]) -> tuple[Slice, ...]:
        modules = list(section.items("modules"))
        if len(modules) != 1:
            section.problem("modules", f"models of {len(modules)} modules are not supported here")
            return ()
        part = config.Section(modules[0][1], self.problems, f"modules.{modules[0][0]}.")
        if ("models" in part) == ("slices" in part):
            part.problem("", "expected either models or slices")
            return ()
        slices = self.slices(part)
        settings.append(self.settings(part, "module"))
        part.finish()
        return slices

    def slices(self, section: config.Section) -> tuple[Slice, ...]:
        """The slices of ``section``; a list of models is one slice."""
        if "models" in section:
            sources = self.sources(section, "models", ranged=False)
            return (Slice(sources, None, {}),) if sources else ()
        node = section.require("slices", "a list of slices")
        if node is None or not isinstance(node.value, list) or not node.value:
            section.problem("slices", "expected a list of at least one slice")
            return ()
        found = []
        for number, item in enumerate(node.value):
            part = config.Section(item, self.problems, f"{section.path}slices[{number}].")
            sources = self.sources(part, "sources", ranged=True)
            base = self.model(part, "base_model")
            if part.get("residual_weight") is not None:
                self.notes.append("residual_weight is not carried over: mergekit never uses it")
            found.append(Slice(sources, base, self.settings(part, "slice")))
            part.finish()
        return tuple(found)

    def sources(self, section: config.Section, key: str, *, ranged: bool) -> tuple[Source, ...]:
        node = section.require(key, "a list of models")
        if node is None or not isinstance(node.value, list) or not node.value:
            section.problem(key, "expected a list of at least one model")
            return ()
        found: list[Source] = []
        for number, item in enumerate(node.value):
            part = config.Section(item, self.problems, f"{section.path}{key}[{number}].")
            name = self.model(part, "model", required=True)
            layers = part.span("layer_range", _RANGE, required=True) if ranged else None
            found.append(Source(name or "", layers, self.settings(part, "source")))
            if name in [source.model for source in found[:-1]]:
                part.problem("model", f"{name} stands twice; mergekit {VERSION} refuses that, too")
            part.finish()
        return tuple(found)

    def model(self, section: config.Section, key: str, *, required: bool = False) -> str | None:
        """A model reference as text: ``path[@revision][+adapter]``."""
        node = section.require(key, "a model") if required else section.get(key)
        return None if node is None or node.value is None else self.reference(node, section, key)

    def reference(self, node: config.Node, section: config.Section, key: str) -> str | None:
        if isinstance(node.value, str) and node.value:
            return node.value
        if not isinstance(node.value, dict):
            section.problem(
                key, f"expected a folder or hub id, found {config.shown(node.plain)}", node
            )
            return None
        part = config.Section(node, self.problems, f"{section.path}{key}.")
        if "path" in part:
            path, revision = part.text("path"), part.text("revision")
            part.finish()
            return f"{path}@{revision}" if revision else path
        name, adapter = self.model(part, "model", required=True), self.model(part, "lora")
        if part.get("override_architecture") is not None:
            part.problem("override_architecture", "evomerge has nothing like it")
        part.finish()
        return f"{name}+{adapter}" if adapter else name

    def settings(self, section: config.Section, level: str) -> Settings:
        """The ``parameters`` of a level: ``source``, ``slice``, ``module`` or ``top``."""
        node = section.get("parameters")
        if node is None or node.value is None:
            return {}
        part = config.Section(node, self.problems, f"{section.path}parameters.")
        found = {}
        for name, argument in self.peer.arguments.items():
            value = part.get(name)
            if value is None:
                continue
            if level == "source" and not argument.per_model:
                part.problem(
                    name,
                    f"is one value for all models of {self.method}; mergekit ignores it here, so say it one "
                    "level up",
                )
                continue
            found[name] = self._setting(value, argument, f"{part.path}{name}")
        for name in ("int8_mask", *self.peer.idle):
            part.get(name)  # changes nothing
        if self.method in PEERS:
            part.finish()
        return found

    def _setting(self, node: config.Node, argument: Argument, where: str) -> Setting:
        return parse_setting(node, argument.kind, where, self.problems)


def _parse_tokenizer(
    section: config.Section, reader: _Reader
) -> tuple[str | None, TokenRules | None]:
    """Whose tokenizer the merge takes, and what is said of single tokens."""
    source, part = reader.model(section, "tokenizer_source"), section.section("tokenizer")
    if part is None:
        return source, None
    if source:
        section.problem("tokenizer", "give either this or tokenizer_source")
    named = reader.model(part, "source")
    content = part.node.value if isinstance(part.node.value, dict) else {}
    given = {key: node for key, node in content.items() if node.value is not None}
    rules = TokenRules.parse(
        config.Section(replace(part.node, value=given), part.problems, part.path), reader.model
    )
    for key in ("tokens", "pad_to_multiple_of"):
        part.get(key)
    part.finish()
    return named or UNION, rules
