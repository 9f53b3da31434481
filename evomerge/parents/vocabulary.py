"""The vocabulary that models are brought to: one model's, or of all; with what a recipe's rules add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.checkpoint import (
    ABSENT,
    TOKENIZER,
    Checkpoint,
    matching_rows,
    same_tokenizer,
    vocabulary,
)
from evomerge.errors import Incompatible
from evomerge.parents.union import lacking, united_folder
from evomerge.tokens import NO_RULES, TokenRow, TokenRules


@dataclass(frozen=True)
class Common:
    """What every model's rows are brought to; takes the place of a checkpoint as ``Donor``.

    Attributes:
        model: the one whose tokenizer it is, or begins as.
        tokenizer_folder: its files, those of ``model`` or with more tokens.
        height: rows, padding included.
        rules: row -> where it comes from, where a recipe says so.
        more: name of a model -> the tokens that it adds.
    """

    model: Checkpoint
    tokenizer_folder: Path
    height: int
    rules: Mapping[int, TokenRow] = field(default_factory=dict)
    more: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def folder(self) -> Path:
        return self.model.folder

    def check_unchanged(self) -> None:
        """See ``Checkpoint.check_unchanged``."""
        self.model.check_unchanged()

    @property
    def config(self) -> Mapping[str, Any]:
        return self.model.config

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Token -> row; empty if there is no tokenizer."""
        return vocabulary(self)

    @property
    def plain(self) -> bool:
        """True if it is ``model``'s as it is."""
        return (
            self.tokenizer_folder == self.model.tokenizer_folder
            and self.height == self.model.height
        )

    def rows_of(self, model: Checkpoint) -> list[int] | None:
        """Which row of ``model`` stands where, as ``matching_rows`` gives them; None if nothing moves.

        Raises:
            LookupError: nothing tells which.
        """
        donor = self.model
        alike = model is donor or same_tokenizer(model, donor)
        if self.plain and not self.rules and alike and model.height == donor.height:
            return None
        tokens = vocabulary(model)
        if tokens and self.tokens:
            rows = matching_rows(tokens, model.height, self.tokens, self.height)
        elif model.height != donor.height:
            raise LookupError
        elif self.plain:  # nothing says that they differ
            rows = list(range(self.height))
        else:
            rows = matching_rows(vocabulary(donor), donor.height, self.tokens, self.height)
        for row, rule in self.rules.items():
            if rule.force:
                rows[row] = ABSENT
        return None if rows == list(range(model.height)) else rows


def common_vocabulary(
    models: Mapping[str, Checkpoint], tokenizer: str, rules: TokenRules | None
) -> Common:
    """What ``models`` are brought to.

    Args:
        models: the first is the one that a union begins as, if it has a tokenizer.
        tokenizer: the name of one, or ``UNION``.
        rules: of single tokens.

    Raises:
        Incompatible: there is no such tokenizer; the reason is given.
    """
    rules = rules or NO_RULES
    more: dict[str, list[str]] = {}
    if tokenizer in models:
        donor = models[tokenizer]
    else:
        known = [m for m in models.values() if (m.tokenizer_folder / TOKENIZER).is_file()]
        donor = known[0] if known else next(iter(models.values()))
        more = _more(donor, {name: model for name, model in models.items() if model in known})
    tokens = vocabulary(donor) if rules.rows else {}
    if rules.rows and not tokens:
        raise Incompatible(f"{donor.name}: has no {TOKENIZER} that rules for tokens could be about")
    new = [token for token in rules.rows if token not in tokens]
    folder = donor.tokenizer_folder
    if more or new:
        folder = united_folder(donor, [models[name] for name in more], new)
    common = Common(donor, folder, donor.height, more=more)
    grown = common.tokens.values() if more or new else [common.tokens[each] for each in rules.rows]
    height = max([donor.height, *(row + 1 for row in grown)])
    by_row = {}
    for token, rule in rules.rows.items():
        _check_rule(models, token, rule)
        by_row[common.tokens[token]] = rule
    return replace(common, height=height + -height % rules.pad, rules=by_row)


def row_meant(model: Checkpoint, token: str, rule: TokenRow) -> int | None:
    """The row of ``model`` that a rule for ``token`` means; None if there is none."""
    named = token if rule.token is None else rule.token
    row = named if isinstance(named, int) else vocabulary(model).get(named)
    return row if row is not None and row < model.height else None


def _more(donor: Checkpoint, models: Mapping[str, Checkpoint]) -> dict[str, list[str]]:
    """The tokens that each model adds to those before it; models that add none are left out."""
    more: dict[str, list[str]] = {}
    for name, model in models.items():
        if model is not donor and not same_tokenizer(model, donor):
            before = {token for tokens in more.values() for token in tokens}
            found = [token for token in lacking(donor, model) if token not in before]
            more |= {name: found} if found else {}
    return more


def _check_rule(models: Mapping[str, Checkpoint], token: str, rule: TokenRow) -> None:
    if rule.model is not None and row_meant(models[rule.model], token, rule) is None:
        meant = token if rule.token is None else rule.token
        model = models[rule.model]
        raise Incompatible(
            f"tokenizer.tokens: {token!r}: {rule.model} ({model.name}) has no row for {meant!r}"
        )
