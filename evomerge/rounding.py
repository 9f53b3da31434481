"""Rounding: the share of what a merge changes that its dtype cannot hold.

    share = rms(rounded - exact) / rms(exact - base)

over all entries of a group's tensors: ``exact`` is the float32 merge before the cast, ``base`` the base's tensor,
or the first source's where a recipe has no base. A small change of large values, as an adapter makes, loses much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOLD = 0.01  # a smaller share is no news
SHOWN = 5  # groups of a recipe that are told of one by one


@dataclass(frozen=True)
class Rounding:
    """What dtypes take of the change of each group.

    Attributes:
        dtype: of the merge.
        origin: the model that changes are taken from: ``base``, or the first source.
        groups: of the recipe.
        sampled: whether the shares are estimates, from a sample of entries.
        shares: number of a group -> dtype -> share; no group that changes nothing, or of which nothing was looked
            at, and no dtype that cannot hold all values.
    """

    dtype: str
    origin: str
    groups: int
    sampled: bool
    shares: Mapping[int, Mapping[str, float]]

    @property
    def lost(self) -> Mapping[int, float]:
        """Group -> share that the merge's own dtype takes, where it is worth telling; the largest first."""
        found = {number: each.get(self.dtype, 0.0) for number, each in self.shares.items()}
        told = {number: share for number, share in found.items() if share >= TOLD}
        return dict(sorted(told.items(), key=lambda item: -item[1]))

    def lines(self) -> list[str]:
        """A line a group that loses much, or one on those that lose most; nothing where none does."""
        lost = self.lost
        shown = sorted(list(lost)[:SHOWN])
        lines = [self._line(number) for number in shown]
        if rest := list(lost.values())[SHOWN:]:
            count = f"{len(rest)} more group{'s' * (len(rest) > 1)}"
            lines.append(
                f"rounding to {self.dtype} takes {_percent(rest[-1])} to {_percent(rest[0])} of what {count} change"
            )
        return lines

    def _line(self, number: int) -> str:
        shares = dict(sorted(self.shares[number].items(), key=lambda item: -item[1]))
        others = [
            f"{name} {_percent(share)}" for name, share in shares.items() if name != self.dtype
        ]
        what = "the merge" if self.groups == 1 else f"groups[{number}]"
        whose = "the base" if self.origin == "base" else self.origin
        how = "rms of a sample" if self.sampled else "rms"
        return (
            f"rounding to {self.dtype} takes {_percent(shares[self.dtype])} ({how}) of what {what} changes in {whose}"
            + (f"; {', '.join(others)}" if others else "")
        )

    @property
    def plain(self) -> dict[str, Any]:
        shares = {str(number): dict(each) for number, each in self.shares.items()}
        return {
            "dtype": self.dtype,
            "origin": self.origin,
            "groups": self.groups,
            "sampled": self.sampled,
            "shares": shares,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Rounding:
        """The same from ``plain``.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is none.
        """
        shares = {
            int(number): {name: _share(share) for name, share in each.items()}
            for number, each in plain["shares"].items()
        }
        dtype, origin, groups, sampled = (
            plain[name] for name in ("dtype", "origin", "groups", "sampled")
        )
        if (type(dtype), type(origin), type(groups), type(sampled)) != (str, str, int, bool):
            raise ValueError(f"no rounding: {plain!r:.60}")
        return cls(dtype, origin, groups, sampled, shares)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e300:
        raise ValueError(f"{value!r:.60} where a share was expected")
    return float(value)
