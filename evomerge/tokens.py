"""Tokens: whose vocabulary a merge has, and how a recipe says where the rows of single tokens come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evomerge import config

UNION = (
    "union"  # what a recipe names as its tokenizer for the vocabulary that its models have together
)
ZERO, OTHER = "zero", "model_token"  # kinds of sources, as mergekit calls them

NameOf = Callable[[config.Section, str], str | None]  # the model under a key; None after a problem


@dataclass(frozen=True)
class TokenRow:
    """Where the rows of a token come from, of models that lack it.

    Attributes:
        model: whose row it is; None is a row of zeros.
        token: another token of that model, by its text or its number; None is the same token.
        force: for models that have the token, too.
    """

    model: str | None
    token: str | int | None = None
    force: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        forced = {"force": True} if self.force else {}
        if self.model is None:
            return {"source": {"kind": ZERO}, **forced}
        if self.token is None:
            return {"source": self.model, **forced}
        key = "token" if isinstance(self.token, str) else "token_id"
        return {"source": {"kind": OTHER, "model": self.model, key: self.token}, **forced}

    @classmethod
    def parse(cls, section: config.Section, name_of: NameOf) -> TokenRow | None:
        """From a mapping of ``source`` and ``force``; problems are noted in the section."""
        force = section.flag("force", False)
        before, expected = len(section.problems.found), f"a model, or a kind ({ZERO} or {OTHER})"
        node = section.get("source")
        model, token, zero = None, None, False
        if node is not None and isinstance(node.value, dict) and "kind" in node.value:
            part = section.section("source")
            assert part is not None
            zero = part.choice("kind", (ZERO, OTHER), ZERO) == ZERO
            if not zero:
                part.require("model", "a model")
                model, token = name_of(part, "model"), _token(part)
            part.finish()
        elif node is not None and node.value is not None:
            model = name_of(section, "source")
        section.finish()
        good = len(section.problems.found) == before
        if good and model is None and not zero:
            section.problem("source", f"missing; expected {expected}")
            return None
        return cls(model, token, force) if good else None


@dataclass(frozen=True)
class TokenRules:
    """What a recipe says of its tokenizer but whose it is.

    Attributes:
        rows: token -> where its rows come from; a token that the vocabulary lacks is added to it.
        pad: the number of rows is a multiple of it.
    """

    rows: Mapping[str, TokenRow]
    pad: int = 1

    @property
    def plain(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        pad = {"pad_to_multiple_of": self.pad} if self.pad > 1 else {}
        rows = {token: row.plain for token, row in self.rows.items()}
        return {**pad, **({"tokens": rows} if rows else {})}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TokenRules | None:
        """What ``plain`` says, which was read from a recipe before."""
        section = config.Section(
            config.from_plain(plain, "tokenizer"), problems := config.Problems()
        )
        found = cls.parse(section, lambda part, key: part.text(key))
        problems.check()
        return found

    def renamed(self, names: Mapping[str, str]) -> TokenRules:
        """The same with models called ``names[model]``."""
        rows = {
            token: replace(row, model=names.get(row.model, row.model)) if row.model else row
            for token, row in self.rows.items()
        }
        return replace(self, rows=rows)

    @classmethod
    def parse(cls, section: config.Section, name_of: NameOf) -> TokenRules | None:
        """From the keys beside ``source``; None if they say nothing, or after a problem."""
        pad = section.integer("pad_to_multiple_of", 1, low=1, high=2**20)
        rows = {}
        for token, node in section.items("tokens"):
            part = config.Section(node, section.problems, f"{section.path}tokens.{token}.")
            if not token:
                part.problem("", "expected a token, found an empty text")
            if row := TokenRow.parse(part, name_of):
                rows[token] = row
        return cls(rows, pad) if rows or pad > 1 else None


NO_RULES = TokenRules({})


def _token(section: config.Section) -> str | int | None:
    """The token of a model that is meant: ``token``, its text, or ``token_id``, its number."""
    if ("token" in section) == ("token_id" in section):
        section.problem("", "expected either token or token_id")
        return None
    if "token" in section:
        return section.text("token", required=True)
    return section.integer("token_id", 0)
