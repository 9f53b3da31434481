"""The tokenizer of merged models: that of the donor."""

from __future__ import annotations

from typing import Any

from evomerge.checkpoint import Checkpoint, companions
from evomerge.errors import CheckpointError


def load_tokenizer(donor: Checkpoint, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside ``donor``, with its chat template.

    Raises:
        CheckpointError: there is none, or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    companions(donor.folder)  # what is wrong in a file of it, with file and key
    try:
        return AutoTokenizer.from_pretrained(donor.folder, trust_remote_code=trust_remote_code)
    except (
        BaseException
    ) as error:  # whatever transformers raises; what Rust panics with is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{donor.name}: its tokenizer cannot be loaded: {reason}") from None
