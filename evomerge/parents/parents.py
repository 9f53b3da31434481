"""The models of a recipe, opened, checked against each other and readable by name.

Models may differ in their vocabularies. The tensors whose rows belong to tokens are then aligned,
lazily, so that those of every model have the same rows:

* The vocabulary is that of the model whose tokenizer the recipe takes, padding included: rows of
  embedding and head are brought into its order by token string, tokens it lacks are left out.
  ``union`` is that of the first model, and then what the others add: the tokenizer gets those tokens, too.
* A token that a model lacks takes the base's row, so that the model's task vector is zero there; if
  the base lacks it, too, the mean of the rows of all models that have it. A recipe may say otherwise of single
  tokens. A row that no model has is padding: the mean of the model's rows of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.checkpoint import ABSENT, Checkpoint, ModelRef
from evomerge.checkpoint.hub import Missing
from evomerge.parents.alignment import aligned_rows
from evomerge.parents.kinds import counterparts, frame_of, kind_notes
from evomerge.parents.vocabulary import row_meant
from evomerge.recipe import BASE, Recipe
from evomerge.skeleton.roles import placed
from evomerge.tensors import Place
from evomerge.tokens import TokenRow, TokenRules

if TYPE_CHECKING:
    import torch


class Parents:
    """The opened models: checked against each other once, read by every candidate.

    A tensor goes by the name that its own model has for it; the head of a model that ties it is its
    embedding. What a merged model has where is a ``merging.Blueprint``'s to say. Models may be of several kinds,
    see ``parents.kinds``.

    Attributes:
        models: name -> checkpoint as stored; read tensors with ``tensor``, which aligns them.
        frame_name: whose kind and config a merge has: of models of one kind the first's.
        tokenizer: name of the model whose vocabulary all are brought to, or ``union``.
        donor: whose tokenizer, chat template and generation config a merge has.

    Args:
        allow: topics of configs that may differ, see ``checkpoint.meaning``.
        rules: of rows of single tokens.
        place: a pattern of tensors' names -> the role they have here.

    Raises:
        CheckpointError: a model cannot be read.
        Incompatible: models that cannot be merged, with every difference named.
    """

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        tokenizer: str | None = None,
        allow: Sequence[str] = (),
        rules: TokenRules | None = None,
        place: Mapping[str, str] | None = None,
    ) -> None:
        self._place = place or {}
        self.models = dict(models)
        self.tokenizer = tokenizer or next(iter(self.models))
        self.frame_name = frame_of(self.models, self.tokenizer)
        self.donor, self._rows = aligned_rows(self.models, self.tokenizer, allow, rules)
        self._names = {  # of models of another kind than the frame
            name: counterparts(self.frame, model)
            for name, model in self.models.items()
            if model.architecture != self.frame.architecture
        }
        self._row_numbers: dict[str, torch.Tensor] = {}

    @classmethod
    def open(
        cls, recipe: Recipe, opened: Callable[[ModelRef], Checkpoint] = Checkpoint.open
    ) -> Parents:
        """Every model of ``recipe``, each opened by ``opened``, whether a group reads it or not.

        All have a say in what the result looks like: its config is the frame's, its head is tied if
        all are, rows that one lacks are taken from the others. So what a search scored, in which all are
        open, is what a merge of the recipe is.
        """
        names = [name for name in (BASE, *recipe.models) if name != BASE or recipe.base]
        models = {name: opened(recipe.ref(name)) for name in names}
        return cls(models, recipe.tokenizer, recipe.allow, recipe.tokens, recipe.place)

    def places(self, model: str, tied: Collection[str] = ()) -> dict[str, Place]:
        """Where the tensors of a model sit, by name, in depth order; then some that are tied to others."""
        opened = self.models[model]
        more = {name: opened.place_of(name) for name in tied}
        return placed({**opened.places, **more}, self._place)

    @property
    def frame(self) -> Checkpoint:
        """The model whose kind and config a merge has."""
        return self.models[self.frame_name]

    def own_name(self, model: str, name: str) -> str | None:
        """What a model calls the tensor that models of the frame's kind call ``name``; None if it has none."""
        names = self._names.get(model)
        return name if names is None else names.get(name)

    @property
    def donor_name(self) -> str:
        """Of the model whose tokenizer a merge has, or that a union begins as."""
        return next(name for name, model in self.models.items() if model is self.donor.model)

    @property
    def missing(self) -> list[Missing]:
        """What of the hub would have to be fetched before tensors are read."""
        return [each for model in self.models.values() for each in model.missing]

    @property
    def height(self) -> int:
        """Rows of the common vocabulary, padding included."""
        return self.donor.height

    def shape(self, model: str, name: str) -> tuple[int, ...]:
        """Of ``tensor(model, name)``."""
        stored = self.models[model].entry(self.stored_name(model, name)).shape
        return (self.height, *stored[1:]) if self.models[model].by_token(name) else stored

    def tensor(self, model: str, name: str) -> torch.Tensor:
        """The parameter ``name`` of a model, aligned, adapter applied.

        A view of the mapped file, the same object at every call, where ``mapped`` says so; else
        computed at each call. In the stored dtype, or float32 where that cannot hold the values.
        """
        stored = self._stored(model, name)
        return self._aligned(model, name, stored) if self.moves(model, name) else stored

    def mapped(self, model: str, name: str) -> bool:
        """True if ``tensor(model, name)`` costs nothing: it is a view of a mapped file."""
        return not self.moves(model, name) and self.models[model].mapped(
            self.stored_name(model, name)
        )

    def moves(self, model: str, name: str) -> bool:
        """True if the rows of this parameter are not those that the model stores."""
        return bool(self._rows[model]) and self.models[model].by_token(name)

    def stored_name(self, model: str, name: str) -> str:
        """What the model's files call the parameter ``name``."""
        return self.models[model].read_as(name)

    def aligned(self, model: str, name: str, values: torch.Tensor) -> torch.Tensor:
        """What is known of the entries of a parameter, aligned as ``tensor(model, name)`` is.

        Args:
            values: [rows, ...], a row for each that the model stores of the parameter.

        Returns:
            The same for the common vocabulary, 0 in the rows of tokens that the model lacks.
        """
        if not self.moves(model, name):
            return values
        rows = self._numbers(model)
        found = values[rows.clamp(min=0)]
        found[rows == ABSENT] = 0
        return found

    def kinds(self) -> list[str]:
        """What stays and what is left out of models of other kinds than the frame's, a line each."""
        return kind_notes(self.models, self.frame_name, self._names)

    def notes(self) -> list[str]:
        """What alignment does, one line a model; nothing if the vocabularies agree."""
        notes = []
        for name, rows in self._rows.items():
            if not rows:
                continue
            absent = [n for n, row in enumerate(rows) if row == ABSENT]
            facts = {
                "rows moved": sum(row not in (n, ABSENT) for n, row in enumerate(rows)),
                **Counter(map(self._filled_from, absent)),
                "left out": self.models[name].height - len(rows) + len(absent),
            }
            notes.append(f"{name}: {', '.join(f'{fact}: {n}' for fact, n in facts.items() if n)}")
        if notes:
            common = f"aligned by token to {self.height} rows of {self.tokenizer}"
            notes.insert(0, f"vocabularies differ: {common}")
        for name, tokens in self.donor.more.items():
            shown = ", ".join(map(repr, tokens[:3])) + (", ..." if len(tokens) > 3 else "")
            count = f"{len(tokens)} token" + ("s" if len(tokens) > 1 else "")
            notes.append(f"{name} adds {count} to those of {self.donor.name}: {shown}")
        return notes

    def _filled_from(self, row: int) -> str:
        """Where models that lack it get a row of the common vocabulary from, in words."""
        if row in self.donor.rules:
            return "filled as the recipe says"
        if BASE in self.models and self._row(BASE, row) != ABSENT:
            return "filled from the base"
        if any(self._row(model, row) != ABSENT for model in self.models):
            return "filled with the mean of the models that have them"
        return "padding that no model has"

    def _stored(self, model: str, name: str) -> torch.Tensor:
        return self.models[model].tensor(self.stored_name(model, name))

    def _row(self, model: str, row: int) -> int:
        rows = self._rows[model]
        return rows[row] if rows else row

    def _numbers(self, model: str) -> torch.Tensor:
        """Which row of the model each row of the common vocabulary is, ``ABSENT`` if none."""
        import torch

        if model not in self._row_numbers:
            rows = self._rows[model] or range(self.height)
            self._row_numbers[model] = torch.tensor(rows, dtype=torch.int64)
        return self._row_numbers[model]

    def _aligned(self, model: str, name: str, stored: torch.Tensor) -> torch.Tensor:
        import torch

        rows = self._numbers(model)
        aligned = stored[rows.clamp(min=0)]
        absent = (rows == ABSENT).nonzero().flatten()
        if absent.numel():
            fill, known = self._fill(self._frames_name(model, name), absent)
            fill, padding = fill[known], absent[~known]
            if not torch.equal(fill.to(stored.dtype).float(), fill):
                aligned = aligned.float()
            aligned[absent[known]] = fill.to(aligned.dtype)
            if padding.numel():
                named = set(self.donor.tokens.values()) or set(range(self.height))
                held = sorted(named.intersection(range(self.height)) - set(padding.tolist()))
                aligned[padding] = aligned[held].mean(0, dtype=torch.float32).to(aligned.dtype)
        return aligned

    def _fill(self, name: str, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows ``wanted`` of the common vocabulary for a model that lacks them, float32; and which some model has.

        ``name`` is the frame's for the tensor.
        """
        import torch

        shape = (len(wanted), *self.shape(self.frame_name, name)[1:])
        total, count = torch.zeros(shape), torch.zeros(len(wanted), *[1] * (len(shape) - 1))
        based = None
        for model in self.models:
            if (own := self.own_name(model, name)) is None:
                continue
            rows = self._numbers(model)[wanted]
            has = rows != ABSENT
            values = self._stored(model, own)[rows[has]].float()
            if model == BASE:
                based = has, values
            total[has] += values
            count[has] += 1
        mean = total / count
        known = count.flatten() > 0
        if based is not None:
            mean[based[0]] = based[1]
        for number, row in enumerate(wanted.tolist()):
            rule = self.donor.rules.get(row)
            if rule and (ruled := self._ruled(name, row, rule)) is not None:
                mean[number] = ruled
                known[number] = True
        return mean, known

    def _frames_name(self, model: str, name: str) -> str:
        """What the frame calls the tensor that ``model`` calls ``name``."""
        names = self._names.get(model, {})
        return next((ours for ours, own in names.items() if own == name), name)

    def _ruled(self, name: str, row: int, rule: TokenRow) -> torch.Tensor | float | None:
        """The row of a token that the recipe has a rule for; None where the model that it names has no such tensor."""
        if rule.model is None:
            return 0.0
        own = self.own_name(rule.model, name)
        if own is None:
            return None
        token = next(token for token, number in self.donor.tokens.items() if number == row)
        return self._stored(rule.model, own)[
            row_meant(self.models[rule.model], token, rule)
        ].float()
