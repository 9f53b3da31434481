"""One backward pass a batch of lessons, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor

from evomerge.engines import Differentiable
from evomerge.scorers.lessons import Choice, Lesson, Text
from evomerge.skeleton.conversion import pieces
from evomerge.slopes.losses import Loss, scale

Take = Callable[[str, Tensor], None]


def descend(
    engine: Differentiable,
    lessons: Sequence[Lesson],
    loss: Loss,
    take: Take,
    *,
    checkpoint: bool = False,
) -> float:
    """Hand the gradients of the mean merit of ``lessons`` to ``take``, by parameter, batch after batch.

    Args:
        engine: runs the model.
        lessons: all of one kind.
        loss: whose merit it is.
        take: is given a parameter's name and a gradient that adds to what it was given before; it is
            gone afterwards.
        checkpoint: see ``Differentiable.checkpointed``.

    Returns:
        The mean merit itself (of texts: minus bits per byte).
    """
    whole, total = scale(lessons), 0.0
    activations = engine.checkpointed() if checkpoint else nullcontext()
    with _gradients(engine.module(), take), activations:
        for batch in batches(lessons, engine.room):
            logits = iter(engine.traced([r for lesson in batch for r in lesson.requests]))
            merits = [loss.merit(each, [next(logits) for _ in each.requests]) for each in batch]
            mean = sum(merits[1:], start=merits[0]) / whole
            mean.backward()  # type: ignore[no-untyped-call]
            total += float(mean.detach())
    return total


def hear(engine: Differentiable, lessons: Sequence[Lesson], loss: Loss) -> None:
    """Tell ``loss`` what the model that the engine runs now says of ``lessons``."""
    engine.module().requires_grad_(False)
    for batch in batches(lessons, engine.room):
        logits = iter(engine.traced([r for lesson in batch for r in lesson.requests]))
        for each in batch:
            loss.hear(each, [next(logits) for _ in each.requests])


def batches(lessons: Sequence[Lesson], room: int) -> Iterator[list[Lesson]]:
    """Lessons that go through the model together: those of about ``room`` tokens, one at least.

    Texts are split by their windows, which add up; a choice stays whole.
    """
    pieces: list[Lesson] = []
    for lesson in lessons:
        if isinstance(lesson, Text):
            pieces += [Text((request,), 0) for request in lesson.requests]
        else:
            pieces.append(lesson)
    batch: list[Lesson] = []
    used = 0
    for lesson in pieces:
        size = _size(lesson)
        if batch and used + size > room:
            yield batch
            batch, used = [], 0
        batch.append(lesson)
        used += size
    if batch:
        yield batch


def _size(lesson: Lesson) -> int:
    """Tokens of a lesson; what its choices share is counted once."""
    first = lesson.requests[0]
    if isinstance(lesson, Choice) and all(r.context == first.context for r in lesson.requests):
        return len(first.context) + sum(len(r.continuation) for r in lesson.requests)
    return sum(len(r.context) + len(r.continuation) for r in lesson.requests)


@contextmanager
def _gradients(model: Any, take: Take) -> Iterator[None]:
    """Parameters take gradients, which go to ``take`` as they appear and are let go of."""
    handles = []

    def hook(parts: Sequence[tuple[str, Callable[[Tensor], Tensor]]]) -> Callable[[Tensor], None]:
        def taken(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            for name, cut in parts:
                take(name, cut(gradient))

        return taken

    parts = pieces(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(True)
        handles.append(parameter.register_post_accumulate_grad_hook(hook(parts.get(name, ()))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(False)
        for parameter in model.parameters():
            parameter.grad = None
