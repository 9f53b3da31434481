"""What speaks against a merge without forbidding it: what is left out, differences that were allowed, evidence that
lacks."""

from __future__ import annotations

from evomerge.parents.alignment import config_notes, tokenizer_notes
from evomerge.parents.ancestry import ancestry_notes
from evomerge.parents.parents import Parents


def doubts(parents: Parents) -> list[str]:
    """One fact a line: of the kinds of models, then the configs, the tokenizers, the weights."""
    found = [
        *parents.kinds(),
        *config_notes(parents.models, parents.frame_name),
        *tokenizer_notes(parents.models, parents.donor_name),
        *ancestry_notes(parents),
    ]
    return [f"note: {fact}" for fact in found]
