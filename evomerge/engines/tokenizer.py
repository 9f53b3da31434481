"""The tokenizer of merged models: that of the donor."""

from __future__ import annotations

from typing import Any

from evomerge.checkpoint import Donor


def load_tokenizer(donor: Donor, trust_remote_code: bool = False) -> Any:
    """The tokenizer of ``donor``, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        donor.tokenizer_folder, trust_remote_code=trust_remote_code
    )
