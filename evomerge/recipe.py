"""Recipes: complete, concrete, printable descriptions of one merge.

A recipe is models, dtype, seed, tokenizer and a *body*: all that a search space may vary. The body
lists groups of tensors; each names a method and all its parameters, and the first that matches a
tensor's layer and role decides. ``digest`` identifies what a recipe does; provenance (scores, parent
hashes) stands in a trailing block that does not enter it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from evomerge import config, lines, methods, paths, patterns
from evomerge.calibration import Calibration
from evomerge.checkpoint import DTYPES, ModelRef
from evomerge.checkpoint.meaning import TOPICS
from evomerge.errors import Incompatible, InputError, did_you_mean, one_of
from evomerge.lines import Lines, line_factor
from evomerge.params import Parameter, Value
from evomerge.rows import SUFFIX, RowWeights, count_of
from evomerge.tensors import FINE, KEPT, ROLES, Place
from evomerge.tokens import UNION, TokenRules

BASE = "base"  # the name under which the base model may be used as a source
GROUP_ROLES = (*ROLES, "other", *FINE)


@dataclass(frozen=True)
class Group:
    """Tensors sharing a method and its parameter values.

    Attributes:
        method: name of the merge method.
        values: every parameter of the method; per-model ones as model -> value.
        layers: first and last block, both included; None matches every tensor.
        roles: roles matched (``other`` = norm, embed, head), finer ones (``q``) among them; None matches
            every role.
        tensors: names of tensors that are matched; None matches any.
        models: the sources that take part, in order.
        lines: scales by depth what the method changes in the base; None leaves it as it is.
    """

    method: str
    values: methods.Arguments
    models: tuple[str, ...]
    layers: tuple[int, int] | None = None
    roles: tuple[str, ...] | None = None
    lines: Lines | None = None
    tensors: tuple[str, ...] | None = None

    def renamed(self, names: Mapping[str, str]) -> Group:
        """The same with sources called ``names[source]``."""
        values = {
            parameter: {names.get(model, model): each for model, each in value.items()}
            if isinstance(value, Mapping)
            else value
            for parameter, value in self.values.items()
        }
        models = tuple(names.get(model, model) for model in self.models)
        return replace(self, values=values, models=models)

    @property
    def needs_base(self) -> bool:
        """True if merging reads the base, where there is one, though it is not one of ``models``."""
        return self.lines is not None or methods.get(self.method).base != "none"

    def scale(self, place: Place) -> float:
        """Factor of the merged delta at ``place``."""
        return 1.0 if self.lines is None else line_factor(self.lines, place)

    def matches(self, place: Place) -> bool:
        return place.within(self.layers, self.roles, self.tensors)

    @property
    def is_fine(self) -> bool:
        """True if it tells tensors of one layer and role apart."""
        return self.tensors is not None or bool(set(self.roles or ()) & set(FINE))


def group(
    method: str,
    models: Sequence[str],
    values: Mapping[str, Any] | None = None,
    *,
    layers: tuple[int, int] | None = None,
    roles: Sequence[str] | None = None,
    lines: Lines | None = None,
    named: Sequence[str] | None = None,
) -> Group:
    """A group with every parameter of ``method`` filled in from ``values`` or its default."""
    given = dict(values or {})
    full: dict[str, Any] = {}
    for parameter in methods.get(method).parameters:
        value = given.pop(parameter.name, parameter.default)
        if parameter.per_model:
            mapping = value if isinstance(value, Mapping) else dict.fromkeys(models, value)
            value = {m: _tidy(parameter, mapping.get(m, parameter.default)) for m in models}
        else:
            value = _tidy(parameter, value)
        full[parameter.name] = value
    assert not given, f"{method} has no parameter {sorted(given)}"
    return Group(
        method,
        full,
        tuple(models),
        layers=layers,
        roles=None if roles is None else tuple(roles),
        lines=lines,
        tensors=None if named is None else tuple(named),
    )


def passing(model: str) -> Group:
    """A group that takes its tensors from one model, as they are."""
    return group("passthrough", (model,))


def _tidy(parameter: Parameter, value: Any) -> Value:
    """1 and 1.0 are one value: the digest must not tell them apart."""
    return float(value) if parameter.domain.kind == "real" and value is not None else value


def _plain_group(group: Group, sources: tuple[str, ...]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if group.layers is not None:
        shown["layers"] = list(group.layers)
    if group.roles is not None:
        shown["roles"] = list(group.roles)
    if group.tensors is not None:
        shown["tensors"] = list(group.tensors)
    shown["method"] = group.method
    if group.models != sources:
        shown["models"] = list(group.models)
    for name, value in group.values.items():
        if value is not None:
            shown[name] = dict(value) if isinstance(value, Mapping) else value
    if group.lines is not None:
        line = {"alpha": float(group.lines.alpha), "beta": float(group.lines.beta)}
        deep = group.lines.head == lines.HEADS[0]
        shown["lines"] = line if deep else {**line, "head": group.lines.head}
    return shown


@dataclass(frozen=True)
class Body:
    """All of a recipe that a space may vary.

    Its plain form is the one codec of bodies: they stand so in recipe files (as keys of the recipe), in
    journals and in jobs. A further part of a body is a further key, absent where it has nothing to say.

    Attributes:
        groups: in order; the first that matches a tensor decides.
        data: what the statistics that methods take were collected from; None where none takes any.
        rows: factors of the groups' weights, row by row; None where there are none.
        path: the blocks of the result, taken from what the groups merge or from single models; None is every
            block of the merge, in order.
    """

    groups: tuple[Group, ...] = ()
    data: Calibration | None = None
    rows: RowWeights | None = None
    path: paths.Path | None = None

    def group_of(self, place: Place) -> Group | None:
        """The first group that matches, or None."""
        named = self._named.get(place.tensor, len(self.groups))
        for number, group in self._unnamed:
            if number > named:
                break
            if group.matches(place):
                return group
        return self.groups[named] if named < len(self.groups) else None

    @cached_property
    def _named(self) -> Mapping[str, int]:
        """Tensor -> the first group that names it and matches it."""
        found: dict[str, int] = {}
        for number, group in enumerate(self.groups):
            for name in group.tensors or ():
                if group.layers is None and group.roles is None:
                    found.setdefault(name, number)
        return found

    @cached_property
    def _unnamed(self) -> list[tuple[int, Group]]:
        """The groups that are not found by name alone, and their numbers."""
        return [
            (number, group)
            for number, group in enumerate(self.groups)
            if group.tensors is None or group.layers is not None or group.roles is not None
        ]

    def renamed(self, names: Mapping[str, str]) -> Body:
        """The same with sources called ``names[source]``.

        Raises:
            InputError: row weights cannot be read.
        """
        if all(old == new for old, new in names.items()):
            return self
        groups = tuple(group.renamed(names) for group in self.groups)
        path = self.path and tuple(
            replace(hop, model=names.get(hop.model, hop.model) if hop.model else None)
            for hop in self.path
        )
        rows = self.rows and self.rows.renamed(names)
        return replace(self, groups=groups, rows=rows, path=path)

    def informed(self, data: Calibration | None) -> Body:
        """The same groups, with ``data`` if one of them takes a statistic."""
        takes = any(methods.get(group.method).statistics for group in self.groups)
        return replace(self, data=data if takes else None)

    def plain(self, sources: Sequence[str]) -> dict[str, Any]:
        """Plain data, in the order YAML shows it, in a recipe with these ``sources``."""
        groups = [_plain_group(group, tuple(sources)) for group in self.groups]
        return {
            "groups": groups,
            **({"path": paths.plain(self.path)} if self.path else {}),
            **({"data": self.data.plain} if self.data else {}),
            **({"rows": self.rows.plain} if self.rows else {}),
        }

    @classmethod
    def parse(
        cls,
        section: config.Section,
        sources: tuple[str, ...],
        has_base: bool,
        *,
        informed: bool = False,
    ) -> Body:
        """The body from the keys of a recipe; problems are noted in the section.

        Args:
            section: the recipe.
            sources: names of its models.
            has_base: whether it has a base.
            informed: whether who asks gives the ``data`` of statistics, where they are missing.
        """
        node = section.require("groups", "a list of groups")
        groups: list[Group] = []
        if node is not None and not (isinstance(node.value, list) and node.value):
            section.problem("groups", "expected a list of at least one group")
        elif node is not None:
            for number, item in enumerate(node.value):
                parsed = _parse_group(
                    item,
                    section.problems,
                    f"{section.path}groups[{number}].",
                    sources,
                    has_base,
                )
                if parsed:
                    groups.append(parsed)
        part = section.section("data")
        data = None if part is None else Calibration.parse(part)
        by_row = section.section("rows")
        rows = None if by_row is None else RowWeights.parse(by_row)
        if rows and groups and all(map(_why_not_by_row, groups)):
            section.problem("rows", f"no tensor can have row weights: {_why_not_by_row(groups[0])}")
        if node is not None and part is None and not informed:
            for number, each in enumerate(groups):
                for name in methods.get(each.method).required:
                    section.problem(
                        "data",
                        f"missing; {each.method} (groups[{number}]) requires the statistic {name!r}. "
                        f"`evomerge measure MODEL --statistic {name} --data FILE` collects it from the "
                        "texts in FILE, and prints what belongs here",
                    )
        path = paths.parse(section, (*([BASE] if has_base else []), *sources))
        return cls(tuple(groups), data, rows, path)


@dataclass(frozen=True)
class Recipe:
    """Base, named sources and groups; see the module's text.

    Attributes:
        base: the model that task vectors are taken from; None only if no group needs one.
        models: source name -> model.
        body: what is merged how.
        dtype: dtype of the merged tensors.
        seed: names the random draws of stochastic methods.
        tokenizer: the source (or ``base``) whose tokenizer, chat template and generation config win; or
            ``union``, unless a source is called so: the vocabulary of all.
        allow: topics in which the models' configs may differ, see ``checkpoint.meaning``.
        place: a pattern of tensors' names -> the role they have here, whatever their model says; the first that
            is found in a name decides.
        tokens: where rows of single tokens come from, and how many rows there are; None says nothing.
        provenance: where the recipe comes from; not part of ``digest``.
    """

    base: ModelRef | None
    models: Mapping[str, ModelRef]
    body: Body
    dtype: str = "bfloat16"
    seed: int = 0
    tokenizer: str = BASE
    allow: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    tokens: TokenRules | None = None
    place: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Of the body."""
        return self.body.groups

    def allowing(self, topics: Sequence[str]) -> Recipe:
        """The same, whose models' configs may differ in ``topics``, too.

        Raises:
            InputError: there is no such topic.
        """
        if unknown := [topic for topic in topics if topic not in TOPICS]:
            raise InputError(f"--allow: {_no_topic(unknown[0])}")
        return replace(self, allow=tuple(dict.fromkeys((*self.allow, *topics))))

    def with_body(self, plain: Mapping[str, Any]) -> Recipe:
        """The same models and settings with the body that ``plain`` describes.

        Raises:
            ConfigError: it describes none.
        """
        problems = config.Problems()
        section = config.Section(
            config.from_plain(dict(plain), str(Path(self.origin) / "body")), problems
        )
        body = Body.parse(section, tuple(self.models), self.base is not None)
        section.finish()
        problems.check()
        return replace(self, body=body)

    @property
    def origin(self) -> str:
        """The folder that relative names start from."""
        return next(iter(self.models.values())).origin

    def group_of(self, place: Place) -> Group | None:
        """See ``Body.group_of``; but what is of a role in ``KEPT`` is mixed only by a group that names it.

        Merged routers choose experts that were merged for others, and the towers of most relatives are the
        same. They come from the model whose tokenizer the result has; and so does what one of the models that
        would be mixed has not, such as the head of a reward model.
        """
        found, by_role = self.body.group_of(place), place.role in KEPT
        if not by_role and not place.absent:
            return found
        if found is None or place.absent.intersection(self._read_by(found)):
            return self._kept
        named = len(found.models) == 1 or place.role in (found.roles or ()) or found.tensors
        return found if named or not by_role else self._kept

    @cached_property
    def _kept(self) -> Group:
        known = (*([BASE] if self.base is not None else []), *self.models)
        return passing(self.tokenizer if self.tokenizer in known else known[0])

    def _read_by(self, group: Group) -> tuple[str, ...]:
        """Names of the models that a group reads, ``base`` included where it is needed."""
        based = self.base is not None and group.needs_base
        return (BASE, *group.models) if based else group.models

    def ref(self, name: str) -> ModelRef:
        """The model called ``name`` (a source name, or ``base``): of the hub, at the commit that provenance tells."""
        ref = self.base if name == BASE and self.base is not None else self.models[name]
        commits = self.provenance.get("commits")
        commit = commits.get(ref.text) if isinstance(commits, Mapping) else None
        # no recipe says one model and takes another
        pinned = ref.pinned_as(commit) if isinstance(commit, str) else ""
        return replace(ref, text=pinned) if pinned else ref

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the models that some group reads, ``base`` included where it is needed."""
        names = {name for group in self.groups for name in self._read_by(group)}
        names |= {hop.model for hop in self.body.path or () if hop.model}
        return tuple(name for name in (BASE, *self.models) if name in names)

    @cached_property
    def digest(self) -> str:
        """sha256 of everything but the provenance, and of the recipes that it names as models.

        Raises:
            InputError: one of those cannot be read.
        """
        return self.digest_with(self.body.plain(tuple(self.models)))

    def digest_with(self, body: Mapping[str, Any]) -> str:
        """The digest of this recipe with another body, in the form that ``Body.plain`` gives it."""
        content = {**self._frame, **body}
        if (rows := body.get("rows")) and isinstance(rows, Mapping):
            content["rows"] = rows.get("sha256")  # wherever they lie
        refs = {**({BASE: self.base} if self.base else {}), **self.models}
        if named := {name: ref.portable for name, ref in refs.items() if ref.is_recipe}:
            content["recipes"] = {name: digest_of(file) for name, file in named.items()}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def plain(self) -> dict[str, Any]:
        """The recipe as plain data, without provenance, in the order YAML shows it."""
        return {**self._frame, **self.body.plain(tuple(self.models))}

    @property
    def _frame(self) -> dict[str, Any]:
        """All but the body."""
        return {
            **({"base": self.base.text} if self.base else {}),
            "models": {name: ref.text for name, ref in self.models.items()},
            "dtype": self.dtype,
            "seed": self.seed,
            "tokenizer": {"source": self.tokenizer, **self.tokens.plain}
            if self.tokens
            else self.tokenizer,
            **({"allow": list(self.allow)} if self.allow else {}),
            **({"place": dict(self.place)} if self.place else {}),
        }

    def to_yaml(self) -> str:
        """The recipe as YAML, provenance last."""
        extra = {"provenance": dict(self.provenance)} if self.provenance else {}
        shown = {**self.plain, **extra}
        if self.body.path:
            shown["path"] = [config.Inline(run) for run in shown["path"]]
        if not any(group.tensors for group in self.groups):
            return config.dump(shown)
        shown["groups"] = [  # there may be hundreds: one a line
            config.Inline(each) if group.tensors else each
            for group, each in zip(self.groups, shown["groups"], strict=True)
        ]
        return config.dump(shown, width=200)

    def portable(self) -> Recipe:
        """The same recipe with model folders made absolute."""
        return replace(
            self,
            base=self.base and ModelRef(self.base.portable, self.base.origin),
            models={name: ModelRef(ref.portable, ref.origin) for name, ref in self.models.items()},
            body=replace(self.body, rows=self.body.rows and self.body.rows.portable()),
        )

    def rows_beside(self, path: str | os.PathLike[str], suffix: str = SUFFIX) -> Path | None:
        """Where ``save`` writes row weights; None if there are none."""
        return Path(path).with_name(Path(path).stem + suffix) if self.body.rows else None

    def save(self, path: str | os.PathLike[str], suffix: str = SUFFIX) -> None:
        """Write the recipe as YAML (beside, then renamed), and its row weights into a file beside it.

        Args:
            path: of the YAML.
            suffix: of the other file, in place of the YAML's own.

        Raises:
            InputError: they cannot be read.
        """
        found, path = self, Path(path)
        beside = self.rows_beside(path, suffix)
        if beside and (rows := self.body.rows):
            content = rows.read()
            rows = replace(rows, file=beside.name, origin=str(path.parent), held=None)
            config.write_bytes(rows.path, content)
            found = replace(self, body=replace(self.body, rows=rows))
        config.write_text(path, found.to_yaml())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read and validate a recipe file; every problem is reported at once.

        Raises:
            ConfigError: with ``file:line: key`` for each problem.
        """
        return cls.parse(config.read(path))

    @classmethod
    def from_plain(
        cls, value: Mapping[str, Any], origin: str = ".", body: Body | None = None
    ) -> Recipe:
        """The recipe that ``plain`` describes; folders are relative to ``origin``. ``body``: if it has none."""
        return cls.parse(config.from_plain(dict(value), str(Path(origin) / "recipe")), body)

    @classmethod
    def parse(cls, node: config.Node, body: Body | None = None) -> Recipe:
        """A recipe from a YAML mapping; ``body``: if that has none."""
        problems = config.Problems()
        section = config.Section(node, problems)
        base = section.text("base") or None
        origin = str(node.folder)
        models = {}
        for name, item in section.items("models"):
            if not isinstance(item.value, str):
                section.problem(
                    f"models.{name}",
                    f"expected a folder or hub id, found {config.shown(item.plain)}",
                    item,
                )
            models[name] = ModelRef(str(item.plain), origin)
        if not models:
            section.problem(
                "models", "expected at least one source model, as name: folder or hub id"
            )
        if BASE in models:
            section.problem(
                "models", f"{BASE!r} is the base's own name; call the source something else"
            )
        dtype = section.choice("dtype", tuple(DTYPES), "bfloat16")
        seed = section.integer("seed", 0)
        names = (*([BASE] if base else []), *models)
        tokenizer, tokens = _tokenizer(section, names)
        allow, place = allowed(section), placed(section)
        provenance = section.get("provenance")
        if body is None:
            body = Body.parse(section, tuple(models), base is not None)
        section.finish()
        problems.check()
        return cls(
            base=ModelRef(base, origin) if base else None,
            models=models,
            body=body,
            dtype=dtype,
            seed=seed,
            tokenizer=tokenizer,
            allow=allow,
            provenance=provenance.plain
            if provenance and isinstance(provenance.value, dict)
            else {},
            tokens=tokens,
            place=place,
        )


def allowed(section: config.Section) -> tuple[str, ...]:
    """The topics under ``allow``, each once; one that there is not is noted in the section."""
    topics = section.texts("allow")
    for topic in topics:
        if topic not in TOPICS:
            section.problem("allow", _no_topic(topic))
    return tuple(dict.fromkeys(topics))


def placed(section: config.Section) -> dict[str, str]:
    """Patterns of names and their roles, under ``place``; what is none is noted in the section."""
    found = {}
    for pattern, node in section.items("place") if "place" in section else ():
        role = node.plain
        try:
            patterns.check(pattern)
        except InputError as error:
            section.problem(f"place.{pattern}", str(error), node)
            continue
        if role not in ROLES:
            hint = did_you_mean(str(role), ROLES)
            section.problem(f"place.{pattern}", f"no role {role!r}{hint}; {one_of(ROLES)}", node)
        found[pattern] = str(role)
    return found


def _no_topic(topic: str) -> str:
    return f"no topic {topic!r}{did_you_mean(topic, TOPICS)}; expected {one_of(TOPICS)}"


def digest_of(file: str) -> str:
    """The digest of the recipe in ``file``.

    Raises:
        InputError: it cannot be read, or recipes name each other in a circle.
    """
    state = os.stat(file) if os.path.isfile(file) else None
    try:
        loaded = _loaded(file, state and (state.st_mtime_ns, state.st_size))
        return replace(loaded).digest  # worked out anew: what it names may have changed
    except RecursionError:
        raise InputError(f"{file}: recipes name each other in a circle") from None


@lru_cache(maxsize=256)
def _loaded(file: str, state: tuple[int, int] | None) -> Recipe:
    return Recipe.load(file)


def _tokenizer(section: config.Section, names: Sequence[str]) -> tuple[str, TokenRules | None]:
    """Whose tokenizer a recipe takes, and what it says of single tokens."""
    default = names[0] if names else BASE
    known = tuple(dict.fromkeys((*names, UNION)))

    def named(part: config.Section, key: str, known: Sequence[str] = names) -> str:
        found = part.text(key, default)
        if names and found not in known:
            part.problem(
                key,
                f"{found!r} is no model of this recipe{did_you_mean(found, known)}; expected {one_of(known)}",
            )
        return found

    node = section.get("tokenizer")
    if node is None or not isinstance(node.value, dict):
        return named(section, "tokenizer", known), None
    part = section.section("tokenizer")
    assert part is not None
    part.require("source", one_of(known))
    source, rules = named(part, "source", known), TokenRules.parse(part, named)
    part.finish()
    return source, rules


def _parse_group(
    node: config.Node,
    problems: config.Problems,
    path: str,
    sources: tuple[str, ...],
    has_base: bool,
) -> Group | None:
    """One entry of ``groups``; problems are noted, None is returned if there were any."""
    before = len(problems.found)
    section = config.Section(node, problems, path)
    known = methods.names()
    name = section.text("method", required=True)
    if name and name not in known:
        section.problem(
            "method", f"no method {name!r}{did_you_mean(name, known)}; see `evomerge methods`"
        )
    layers = section.span("layers", paths.LAYERS)
    roles = section.texts("roles") if "roles" in section else None
    for role in roles or ():
        if role not in GROUP_ROLES:
            section.problem(
                "roles", f"no role {role!r}{did_you_mean(role, GROUP_ROLES)}; {one_of(GROUP_ROLES)}"
            )
    named = _tensors(section) if "tensors" in section else None
    models = section.texts("models", sources)
    if len(set(models)) < len(models):
        twice = next(model for model in models if models.count(model) > 1)
        section.problem("models", f"{twice!r} stands twice; weigh it more instead")
    for model in models:
        if model not in sources and not (model == BASE and has_base):
            section.problem(
                "models", f"no source {model!r}{did_you_mean(model, sources)}; {one_of(sources)}"
            )
    if len(problems.found) > before or not name:
        return None
    method = methods.get(name)
    if problem := method.arity_problem(len(models), has_base):
        section.problem("method", problem)
    line = _lines(section)
    if line is not None and not has_base:
        section.problem("lines", "scales what changes in the base model, and there is none")
    values = {
        parameter.name: _value(section, parameter, models)
        for parameter in method.parameters
        if parameter.name in section
    }
    for parameter in method.parameters:
        section.get(parameter.name)  # so that an unknown key lists what would be known
    section.finish()
    if len(problems.found) > before:
        return None
    return group(name, models, values, layers=layers, roles=roles, lines=line, named=named)


def _tensors(section: config.Section) -> tuple[str, ...]:
    """Names of tensors; whether the models have them is known when they are opened."""
    names = section.texts("tensors")
    if not names and isinstance(section.node.value["tensors"].value, list):
        section.problem("tensors", "expected at least one name, found []")
    return names


def _lines(section: config.Section) -> Lines | None:
    part = section.section("lines")
    if part is None:
        return None
    found = {}
    for parameter in lines.PARAMETERS:
        node = part.require(parameter.name, "a number")
        if node is None:
            continue
        if problem := parameter.domain.problem(node.plain):
            part.problem(parameter.name, problem)
        else:
            found[parameter.name] = float(node.plain)
    head = part.choice("head", lines.HEADS, lines.HEADS[0])
    part.finish()
    return Lines(**found, head=head) if len(found) == len(lines.PARAMETERS) else None


def _value(section: config.Section, parameter: Parameter, models: Sequence[str]) -> Any:
    """The value of one parameter: a scalar, or for per-model parameters model -> value."""
    node = section.get(parameter.name)
    assert node is not None
    if isinstance(node.value, dict):
        if not parameter.per_model:
            section.problem(
                parameter.name, f"one value for all models, found {config.shown(node.plain)}"
            )
            return parameter.default
        for model, item in node.value.items():
            if model not in models:
                section.problem(
                    f"{parameter.name}.{model}",
                    f"no source {model!r} in this group{did_you_mean(model, models)}; {one_of(models)}",
                    item,
                )
            elif problem := parameter.domain.problem(item.plain):
                section.problem(f"{parameter.name}.{model}", problem, item)
        if missing := [model for model in models if model not in node.value]:
            section.problem(
                parameter.name,
                f"no value for {', '.join(missing)}; give one, or one for all models",
            )
        return node.plain
    if problem := parameter.domain.problem(node.plain):
        section.problem(parameter.name, problem)
    return node.plain


def check_named(recipe: Recipe, names: Iterable[str], tied: Iterable[str] = ()) -> None:
    """Refuse a group that names what is none of the merged tensors, ``names``, nor ``tied`` to one.

    Raises:
        Incompatible: with the first of them.
    """
    known, others = set(names), set(tied)
    for number, each in enumerate(recipe.groups):
        for name in each.tensors or ():
            if name not in known and name not in others:
                raise Incompatible(
                    f"groups[{number}].tensors: no tensor of the merged model is called {name!r}"
                    f"{did_you_mean(name, known)}"
                )


def _why_not_by_row(group: Group) -> str | None:
    return methods.get(group.method).why_not_by_row(group.values)


def check_rows(
    recipe: Recipe, shapes: Mapping[str, Sequence[int]], places: Mapping[str, Place]
) -> None:
    """Refuse row weights that do not fit the merged tensors of these ``shapes``, at these ``places``.

    Raises:
        InputError: the file cannot be read, or names what the recipe does not weigh so.
    """
    rows = recipe.body.rows
    for tensor, model, length in rows.spans() if rows else ():
        assert rows is not None
        where = f"{rows.path}: {model}/{tensor}"
        shape = shapes.get(tensor)
        if shape is None:
            raise InputError(f"{where}: no tensor of the merged model has this name")
        if length != (count := count_of(shape, rows.by)):
            raise InputError(
                f"{where}: expected {count} factors, one for each of the {rows.by} of {list(shape)}, found {length}"
            )
        group = recipe.group_of(places[tensor])
        if group is not None and model not in group.models:
            raise InputError(f"{where}: its group merges {', '.join(group.models)}")
        if group is not None and (why := _why_not_by_row(group)):
            raise InputError(f"{where}: weights there have no factors row by row: {why}")


def uncovered(recipe: Recipe, places: Mapping[str, Place]) -> list[str]:
    """Tensors that no group of ``recipe`` matches."""
    return [name for name, place in places.items() if recipe.group_of(place) is None]
