"""What a task of a fitness file says of chats and thinking."""

from __future__ import annotations

from typing import Any

from evomerge import config

# what lm-eval decides, or what would make something else than a text of a chat
_TAKEN = (
    "conversation", "tokenize", "add_generation_prompt", "continue_final_message", "padding", "truncation",
    "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
)  # fmt: skip
_ARGS, _ENABLED, _END = "chat_template_args", "enable_thinking", "think_end_token"


def parse_chat(section: config.Section) -> dict[str, Any]:
    """The options of a task that say how its prompts become chats, and what ends a thought; problems are noted."""
    options: dict[str, Any] = {}
    for key in ("apply_chat_template", "fewshot_as_multiturn"):
        if key in section:
            options[key] = section.flag(key, False)
    if "system_instruction" in section:
        options["system_instruction"] = section.text("system_instruction")
    if _ARGS in section:
        options[_ARGS] = {name: node.plain for name, node in section.items(_ARGS)}
        if taken := [name for name in _TAKEN if name in options[_ARGS]]:
            section.problem(
                _ARGS, f"{', '.join(taken)}: not for a fitness file to say; leave it out"
            )
    if _ENABLED in section:
        options[_ENABLED] = section.flag(_ENABLED, False)
    if (node := section.get(_END)) is not None:
        options[_END] = node.value
        number = isinstance(node.value, int) and not isinstance(node.value, bool)
        if not number and not (isinstance(node.value, str) and node.value):
            section.problem(
                _END, f"expected a text or the number of a token, found {config.shown(node.plain)}"
            )
    for key in (_ARGS, _ENABLED):
        if key in options and not options.get("apply_chat_template"):
            section.problem(
                key, "says something to a chat template, but apply_chat_template is off"
            )
    if options.get(_ENABLED) and _END not in options:
        section.problem(
            _ENABLED,
            "say what ends a thought, too, as a text or the number of a token: for example `think_end_token: </think>`",
        )
    return options
