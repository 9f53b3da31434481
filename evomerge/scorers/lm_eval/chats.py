"""Prompts as the turns of a chat, by the template of a tokenizer; and what a template makes otherwise than asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance

from evomerge.errors import InputError
from evomerge.scorers.lm_eval.tokenizing import TokenizerLM


@dataclass(frozen=True)
class Chat:
    """How prompts become a chat.

    Attributes:
        on: whether they do.
        system: the first turn; None: there is none, or the task's own.
        multiturn: whether examples are turns of their own.
        args: for the template, beside the turns.
    """

    on: bool = False
    system: str | None = None
    multiturn: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)

    def writer(self, name: str, tokenizer: Any) -> TokenizerLM:
        """What writes the prompts of task ``name``.

        Raises:
            InputError: there is no template.
        """
        if self.on and not tokenizer.chat_template:
            raise InputError(
                f"{name}: apply_chat_template is on, but the tokenizer has no chat template; "
                "name a model that has one as `tokenizer`, or turn it off"
            )
        return TokenizerLM(tokenizer, self.args, name)

    def instances(self, task: Any, row: int, doc: Any, lm: TokenizerLM) -> list[Instance]:
        """The requests of one document, as ``Task.build_all_requests`` makes them.

        Raises:
            InputError: the template refuses its turns.
        """
        doc = deepcopy(doc)
        chat_template = lm.apply_chat_template if self.on else None
        context = task.fewshot_context(
            doc,
            num_fewshot=task.config.num_fewshot or 0,
            system_instruction=self.system,
            apply_chat_template=self.on,
            fewshot_as_multiturn=self.multiturn,
            chat_template=chat_template,
            gen_prefix=task.doc_to_prefix(doc),
        )
        made = task.construct_requests(
            doc=doc,
            ctx=context,
            metadata=(task.config["task"], row, task.config.repeats),
            apply_chat_template=self.on,
            chat_template=chat_template,
        )
        instances = made if isinstance(made, list) else [made]
        return sorted(instances, key=lambda instance: instance.idx)

    def notes(self, task: Any, lm: TokenizerLM) -> list[str]:
        """What the template made otherwise than asked when ``lm`` wrote prompts of ``task``, and what it never reads."""
        if not self.on:
            return []
        found = []
        if lm.refused:
            turn = self.system or task.config.description or ""
            found.append(
                f"its system turn ({turn!r:.60}) is left out, as lm-eval does, for the chat template refuses it: "
                f"{lm.refused}"
            )
        template = lm.tokenizer.get_chat_template(
            self.args.get("chat_template"), self.args.get("tools")
        )
        unread = [name for name in self.args if not re.search(rf"\b{re.escape(name)}\b", template)]
        return [
            *found,
            *(
                f"{name} does nothing: the chat template never reads it"
                for name in unread
                if name != "chat_template"
            ),
        ]
