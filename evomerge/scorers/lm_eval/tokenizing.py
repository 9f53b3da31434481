"""A language model of lm-eval that has a tokenizer and no model: enough to write prompts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from lm_eval.api.model import TemplateLM

from evomerge.errors import InputError
from evomerge.visible import first_line

MAX_GEN_TOKS = 256  # of tasks that state none, as HFLM has it


class TokenizerLM(TemplateLM):  # type: ignore[misc]
    """Texts to tokens and chats to texts, as lm-eval's ``HFLM`` does for a causal model.

    Source: ``lm_eval.models.huggingface.HFLM`` of lm-eval 0.4.13, its methods of the same names.

    Args:
        tokenizer: of transformers.
        chat_args: for its chat template, beside the turns.
        name: of the task, for messages.

    Attributes:
        refused: why a chat was written without its system turns; empty if none was.
    """

    backend = "causal"
    max_gen_toks = MAX_GEN_TOKS

    def __init__(
        self, tokenizer: Any, chat_args: Mapping[str, Any] | None = None, name: str = "a task"
    ) -> None:
        super().__init__()
        self.tokenizer, self._name = tokenizer, name
        self.refused = ""
        self._chat_args = dict(chat_args or {})

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What the first token is predicted from: BOS, or EOS for a tokenizer without BOS."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens with the tokenizer's own special tokens, unless the text starts with BOS already."""
        if add_special_tokens is None and string.startswith(
            self.tokenizer.decode(self.prefix_token_id)
        ):
            add_special_tokens = False
        return self._encoded(string, add_special_tokens)

    def tok_prompt(self, string: str) -> list[int]:
        """Of a text to continue: as HFLM's ``tok_batch_encode``, where EOS in front counts for nothing."""
        bos = getattr(self.tokenizer, "bos_token", None)
        starts = bos is not None and string.startswith(bos)
        return self._encoded(string, False if starts else None)

    def tok_decode(self, tokens: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The chat as text; without its system turns if the template refuses them.

        Raises:
            InputError: it refuses the others, too, or cannot be rendered at all.
        """
        try:
            return self._chat(chat_history, add_generation_prompt)
        except TemplateError as error:
            rest = [turn for turn in chat_history if turn["role"] != "system"]
            why = first_line(error)
        try:
            text = self._chat(rest, add_generation_prompt)
        except TemplateError as error:
            roles = ", ".join(turn["role"] for turn in rest)
            raise InputError(
                f"{self._name}: the chat template refuses turns of {roles}: {first_line(error)}"
            ) from None
        self.refused = why
        return text

    def _chat(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._chat_args,
            )
        except TemplateError:
            raise
        except Exception as error:  # whatever a template and its arguments raise
            raise InputError(
                f"{self._name}: the chat template cannot be rendered: {first_line(error)}"
            ) from None
        return str(text)

    def _encoded(self, string: str, add_special_tokens: bool | None) -> list[int]:
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        tokens: list[int] = self.tokenizer.encode(string, **options)
        return tokens

    def _no_model(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("this language model writes prompts; engines answer them")

    _loglikelihood_tokens = loglikelihood_rolling = generate_until = _no_model
