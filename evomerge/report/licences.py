"""Licences of models, as the hub names them: what those of some parents mean for their merge.

A merge is made of all its parents, so it is bound by all their licences. Where they are one, the merge may say it;
where they differ nobody but its maker can say what it is under, and the terms that stand out are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.errors import InputError, did_you_mean

OTHER = "other"
UNTOLD = ("", "unknown")
_LISTED = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-
openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-
by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0
gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl
apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl
lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3
llama4 grok2-community gemma other
"""
KNOWN = tuple(_LISTED.split())
_TERMS = (  # a part of a licence's name -> what it asks of whatever is made from the model
    ("-nc-", "forbids commercial use"),
    ("noncommercial", "forbids commercial use"),
    ("research", "allows research only"),
    ("apple-amlr", "allows research only"),
    ("-nd", "forbids to share what is derived"),
    ("-sa-", "asks that what is derived be under the same licence"),
    ("gpl", "asks that what is derived be under the same licence"),
    ("llama", "has terms of its own: conditions of use, a name that begins with Llama, a limit of users"),
    ("gemma", "has terms of its own, which go along with all that is derived"),
    ("rail", "restricts uses, and these restrictions go along"),
    (OTHER, "is none that the hub knows: read its text"),
)  # fmt: skip


@dataclass(frozen=True)
class Licence:
    """Of one model, as its card says.

    Attributes:
        id: of the hub; empty where the card names none.
        name: its own name, where the id is ``other``.
        link: to its text, likewise.
    """

    id: str = ""
    name: str = ""
    link: str = ""

    @property
    def told(self) -> bool:
        return self.id not in UNTOLD

    def __str__(self) -> str:
        if not self.told:
            return "not stated"
        return f"{self.id} ({self.name})" if self.name else self.id


def stated(text: str) -> Licence:
    """What the user says of a merge.

    Raises:
        InputError: the hub knows no such licence.
    """
    if text not in KNOWN:
        raise InputError(
            f"--license: the hub knows no licence {text!r}{did_you_mean(text, KNOWN)}; expected an id such as apache-2.0, "
            "mit, cc-by-nc-4.0, llama3.1, gemma, or other"
        )
    return Licence(text)


def common(licences: Mapping[str, Licence]) -> Licence | None:
    """The licence that all models are under; None where they differ, or one says nothing."""
    distinct = set(licences.values())
    return next(iter(distinct)) if len(distinct) == 1 and next(iter(distinct)).told else None


def concerns(licences: Mapping[str, Licence]) -> list[str]:
    """What to look at before a merge of these models is shared, a sentence each; nothing if there is nothing."""
    found = []
    silent = [name for name, licence in licences.items() if not licence.told]
    told = {name: licence for name, licence in licences.items() if licence.told}
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{name} {licence}" for name, licence in told.items())
        found.append(
            f"The parents' licences differ ({listed}): the merge is bound by all of them, which may not go together."
        )
    if silent:
        found.append(f"No licence is stated by the card of {', '.join(silent)}.")
    for licence in dict.fromkeys(told.values()):
        terms = dict.fromkeys(text for part, text in _TERMS if part in f"{licence.id}-")
        if terms:
            found.append(f"{licence} {', and '.join(terms)}.")
    return found
