"""The models of a recipe, opened, checked against each other and readable by name.

Models may differ in their vocabularies. The tensors whose rows belong to tokens are then aligned,
lazily, so that those of every model have the same rows:

* The vocabulary is that of the model whose tokenizer the recipe takes, padding included: rows of
  embedding and head are brought into its order by token string, tokens it lacks are left out.
* A token that a model lacks takes the base's row, so that the model's task vector is zero there; if
  the base lacks it, too, the mean of the rows of all models that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.checkpoint import ABSENT, Checkpoint, ModelRef
from evomerge.parents.alignment import aligned_rows
from evomerge.recipe import BASE, Recipe

if TYPE_CHECKING:
    import torch


class Parents:
    """The opened models: checked against each other once, read by every candidate.

    A tensor goes by the name that its own model has for it; the head of a model that ties it is its
    embedding. What a merged model has where is a ``merging.Blueprint``'s to say.

    Attributes:
        models: name -> checkpoint as stored; read tensors with ``tensor``, which aligns them.
        first: the base, or the first source.
        tokenizer: name of the model whose vocabulary all are brought to.

    Args:
        allow: topics of configs that may differ, see ``checkpoint.meaning``.

    Raises:
        CheckpointError: a model cannot be read.
        Incompatible: models that cannot be merged, with every difference named.
    """

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        tokenizer: str | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        self.models = dict(models)
        self.first = next(iter(self.models.values()))
        self.tokenizer = tokenizer or next(iter(self.models))
        self._rows = aligned_rows(self.models, self.tokenizer, allow)
        self._row_numbers: dict[str, torch.Tensor] = {}

    @classmethod
    def open(
        cls, recipe: Recipe, opened: Callable[[ModelRef], Checkpoint] = Checkpoint.open
    ) -> Parents:
        """Every model of ``recipe``, each opened by ``opened``, whether a group reads it or not.

        All have a say in what the result looks like: its config is the first one's, its head is tied if
        all are, rows that one lacks are taken from the others. So what a search scored, in which all are
        open, is what a merge of the recipe is.
        """
        names = [name for name in (BASE, *recipe.models) if name != BASE or recipe.base]
        return cls(
            {name: opened(recipe.ref(name)) for name in names}, recipe.tokenizer, recipe.allow
        )

    @property
    def donor(self) -> Checkpoint:
        """The model whose tokenizer, chat template and generation config a merge has."""
        return self.models[self.tokenizer]

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
        return self._aligned(model, name, stored) if self._moves(model, name) else stored

    def mapped(self, model: str, name: str) -> bool:
        """True if ``tensor(model, name)`` costs nothing: it is a view of a mapped file."""
        return not self._moves(model, name) and self.models[model].mapped(
            self.stored_name(model, name)
        )

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
        if not self._moves(model, name):
            return values
        rows = self._numbers(model)
        found = values[rows.clamp(min=0)]
        found[rows == ABSENT] = 0
        return found

    def notes(self) -> list[str]:
        """What alignment does, one line a model; nothing if the vocabularies agree."""
        notes = []
        for name, rows in self._rows.items():
            if not rows:
                continue
            absent = [n for n, row in enumerate(rows) if row == ABSENT]
            from_base = sum(self._row(BASE, n) != ABSENT for n in absent if BASE in self.models)
            facts = {
                "rows moved": sum(row not in (n, ABSENT) for n, row in enumerate(rows)),
                "filled from the base": from_base,
                "filled with the mean of the models that have them": len(absent) - from_base,
                "left out": self.models[name].height - len(rows) + len(absent),
            }
            notes.append(f"{name}: {', '.join(f'{fact}: {n}' for fact, n in facts.items() if n)}")
        if notes:
            common = f"aligned by token to {self.height} rows of {self.tokenizer}"
            notes.insert(0, f"vocabularies differ: {common}")
        return notes

    def _moves(self, model: str, name: str) -> bool:
        """True if the rows of this parameter are not those that the model stores."""
        return bool(self._rows[model]) and self.models[model].by_token(name)

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
            fill = self._fill(name, absent)
            if not torch.equal(fill.to(stored.dtype).float(), fill):
                aligned = aligned.float()
            aligned[absent] = fill.to(aligned.dtype)
        return aligned

    def _fill(self, name: str, wanted: torch.Tensor) -> torch.Tensor:
        """Rows ``wanted`` of the common vocabulary for a model that lacks them, float32."""
        import torch

        shape = (len(wanted), *self.shape(self.tokenizer, name)[1:])
        total, count = torch.zeros(shape), torch.zeros(len(wanted), *[1] * (len(shape) - 1))
        for model in self.models:
            rows = self._numbers(model)[wanted]
            has = rows != ABSENT
            values = self._stored(model, name)[rows[has]].float()
            if model == BASE:
                base_has, base_values = has, values
            total[has] += values
            count[has] += 1
        mean = total / count
        if BASE in self.models:
            mean[base_has] = base_values
        return mean
