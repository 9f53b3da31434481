"""Diagonal of the empirical Fisher information: how much a model's likelihood of texts hangs on each entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Fisher:
    """Squared slopes of log-likelihoods, per entry of every parameter.

        F = mean over texts of (d log p(text) / d W)^2          [*shape], float32

    A text is tokenized as the model's tokenizer does, begun with BOS (or EOS) and cut at the longest
    input; its log-likelihood is the sum over its tokens. Memory: the model, F, and one slope.

    Source: Matena and Raffel 2022, https://arxiv.org/abs/2111.09832, equation 4, with the text itself as the
        label (empirical Fisher).
    """

    name: ClassVar[str] = "fisher"
    version: ClassVar[int] = 1

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape

    def source(self, name: str) -> str:
        return name

    def collect(
        self, module: Any, tokenizer: Any, texts: Iterable[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """See ``Statistic.collect``."""
        import torch

        from evomerge.skeleton.conversion import pieces

        parameters = dict(module.named_parameters())
        before = {name: parameter.requires_grad for name, parameter in parameters.items()}
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}

        def taking(total: Tensor) -> Any:
            def take(parameter: Tensor) -> None:
                assert parameter.grad is not None
                total.addcmul_(parameter.grad, parameter.grad)
                parameter.grad = None  # never two slopes in memory

            return take

        hooks, count = [], 0
        try:
            for name, parameter in parameters.items():
                parameter.requires_grad_(True)
                hooks.append(parameter.register_post_accumulate_grad_hook(taking(sums[name])))
            for text in texts:
                count += 1
                tokens = torch.tensor([_tokens(text, tokenizer, module.config)])
                tokens = tokens.to(next(iter(parameters.values())).device)
                with torch.enable_grad():
                    logits = module(input_ids=tokens, use_cache=False).logits[0, :-1].float()
                    nats = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
                    torch.autograd.backward(nats)
        finally:
            for hook in hooks:
                hook.remove()
            for name, parameter in parameters.items():
                parameter.requires_grad_(before[name])
        parts = pieces(module)
        for held, total in sums.items():
            total.div_(max(count, 1))
            for name, cut in parts.get(held, ()):
                yield name, cut(total)


def _tokens(text: str, tokenizer: Any, config: Any) -> list[int]:
    """A text as the model reads it: BOS, or else EOS, first."""
    tokens: list[int] = tokenizer.encode(text)
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if first is not None and tokens[:1] != [first]:
        tokens = [first, *tokens]
    limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    return tokens[: min(limit for limit in limits if limit)]
