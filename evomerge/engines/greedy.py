"""Greedy answers, whatever engine writes them: what ends one, and which settings make it no plain one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

# What a generation config may say without changing what greedy decoding writes here.
_HARMLESS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "repetition_penalty", "do_sample", "use_cache",
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "max_length", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "transformers_version", "_from_model_config",
}  # fmt: skip


def unusual(settings: Any) -> list[str]:
    """What a ``GenerationConfig`` of transformers asks for beyond a plain greedy answer."""
    return sorted(set(settings.to_diff_dict()) - _HARMLESS)


class Ends:
    """When an answer has ended: at an end-of-sequence token, or at a stop sequence in its text.

    A stop sequence is looked for where lm-eval looks: in the text of as many last tokens as it has
    itself, and two more.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], tokens: Collection[int]) -> None:
        self.tokens = frozenset(tokens)
        self._tokenizer = tokenizer
        self._stops: dict[int, list[str]] = {}
        for stop in until:
            length = len(tokenizer.encode(stop, add_special_tokens=False)) + 2
            self._stops.setdefault(length, []).append(stop)

    def ended(self, answers: Sequence[list[int]]) -> list[bool]:
        """Whether each of ``answers``, which had not ended one token ago, has ended now."""
        found = [answer[-1] in self.tokens for answer in answers]
        for length, stops in self._stops.items():
            texts = self._tokenizer.batch_decode([answer[-length:] for answer in answers])
            for row, text in enumerate(texts):
                found[row] = found[row] or any(stop in text for stop in stops)
        return found
