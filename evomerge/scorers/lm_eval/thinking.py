"""Where the thinking of an answer ends: it is left out of the answer, and counted apart from it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from evomerge.engines import Generated
from evomerge.errors import InputError
from evomerge.scorers.lm_eval.loading import GENERATES
from evomerge.scorers.lm_eval.tokenizing import MAX_GEN_TOKS

SHORT = 1024  # tokens in which few models have thought and answered


@dataclass(frozen=True)
class Thinking:
    """What answers hold beside what is asked for.

    Attributes:
        end: what ends a thought, a text or the number of a token; None: answers hold no thoughts.
        closed: whether the prompt says that there is none (``enable_thinking: false``).
    """

    end: str | int | None = None
    closed: bool = False

    @classmethod
    def of(cls, end: str | int | None, enabled: bool | None) -> Thinking:
        """As ``HFLM`` reads its arguments: digits are the number of a token."""
        number = isinstance(end, str) and end.isdigit()
        return cls(int(end) if number and end is not None else end, enabled is False)

    @property
    def expected(self) -> bool:
        """Whether a thought comes before an answer, as far as one knows."""
        return self.end is not None and not self.closed

    def check(self, name: str, tokenizer: Any) -> None:
        """Refuse an end that no answer of task ``name`` could hold.

        Raises:
            InputError: no token has this number, or the text is that of a special token, which is left out of
                answers before anyone looks for it.
        """
        if isinstance(self.end, int) and not 0 <= self.end < len(tokenizer):
            raise InputError(
                f"{name}: think_end_token is {self.end}, but the tokenizer has {len(tokenizer)} tokens; expected the "
                "number of one, or a text"
            )
        if isinstance(self.end, str) and self.end in tokenizer.all_special_tokens:
            number = tokenizer.convert_tokens_to_ids(self.end)
            raise InputError(
                f"{name}: think_end_token {self.end!r} is a special token, which is left out of an answer's text; say "
                f"its number: {number}"
            )

    @staticmethod
    def check_asked(name: str, asks: str, end: str | int | None, enabled: bool | None) -> None:
        """Refuse thinking before the answers of a task that ``asks`` for none.

        Raises:
            InputError: it does, and ``end`` or ``enabled`` says that there is some.
        """
        if asks != GENERATES and (enabled or end is not None):
            raise InputError(
                f"{name}: asks log-likelihoods ({asks}), before which no model thinks; leave think_end_token out, and "
                "enable_thinking off"
            )

    def notes(self, asked: Sequence[Instance], cap: int | None) -> list[str]:
        """What may end a thought too early in answers of ``cap`` tokens to these requests; None: as they say."""
        options = [each.args[1] for each in asked if each.request_type == GENERATES]
        if not self.expected or not options:
            return []
        found = []
        stops = dict.fromkeys(
            stop for each in options for stop in handle_stop_sequences(each.get("until"), eos=None)
        )
        if stops:
            found.append(
                f"answers stop at {', '.join(map(repr, stops))} inside a thought, too, as with lm-eval's hf model"
            )
        limit = cap or min(
            normalize_gen_kwargs(deepcopy(each), MAX_GEN_TOKS)["max_gen_toks"] for each in options
        )
        if limit < SHORT:
            found.append(f"a thought and its answer have {limit} tokens together; see max_gen_toks")
        return found

    def read(self, answer: Generated, until: Sequence[str], tokenizer: Any) -> tuple[str, int]:
        """The text that counts, and how many of the answer's tokens are thought.

        The text is what ``HFLM.generate_until`` (lm-eval 0.4.13) makes of it: what follows the last end of a
        thought, without white space before it, up to the first stop sequence; all of it where no thought ends.
        An answer that was cut before one ended is thought as a whole, unless the prompt says that there is none.
        """
        tokens = answer.tokens
        if self.end is None:
            return postprocess_generated_text(answer.text, list(until), None), 0
        if isinstance(self.end, int):
            thought = next((n for n in range(len(tokens), 0, -1) if tokens[n - 1] == self.end), 0)
            text = tokenizer.decode(tokens[thought:], skip_special_tokens=True).lstrip()
            text = postprocess_generated_text(text, list(until), None)
        else:
            thought = self._tokens_to_end(answer, tokenizer)
            text = postprocess_generated_text(answer.text, list(until), self.end)
        if not thought and answer.truncated and not self.closed:
            thought = len(tokens)
        return text, thought

    def _tokens_to_end(self, answer: Generated, tokenizer: Any) -> int:
        """How many tokens it takes until the last end is written."""
        assert isinstance(self.end, str)
        end, ends = self.end, answer.text.count(self.end)

        def written(count: int) -> int:
            text: str = tokenizer.decode(answer.tokens[:count], skip_special_tokens=True)
            return text.count(end)

        return bisect_left(range(len(answer.tokens)), ends, key=written) if ends else 0
