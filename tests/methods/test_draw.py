from __future__ import annotations

import torch

from evomerge.methods.kernel.draws import draw_key, uniforms, uniforms_at

CPU = torch.device("cpu")


def test_a_draw_depends_on_key_and_index_alone() -> None:
    whole = uniforms(draw_key(1, "w", "chat"), 0, 1000, CPU)
    parts = [
        uniforms(draw_key(1, "w", "chat"), *ends, CPU) for ends in ((0, 7), (7, 600), (600, 1000))
    ]
    assert torch.equal(torch.cat(parts), whole)
    for other in ((2, "w", "chat"), (1, "v", "chat"), (1, "w", "sea")):
        assert not torch.equal(uniforms(draw_key(*other), 0, 1000, CPU), whole)


def test_indices_beyond_32_bits_go_on_drawing() -> None:
    key = draw_key(0, "w", "chat")
    first = uniforms(key, 0, 1000, CPU)
    beyond = uniforms(key, 2**32, 2**32 + 1000, CPU)
    assert not torch.equal(first, beyond) and abs(float(beyond.mean()) - 0.5) < 0.05


def test_draws_are_uniform_and_independent_of_each_other() -> None:
    size, worst = 1 << 20, 5 / (1 << 20) ** 0.5
    draws = [uniforms(draw_key(0, "w", model), 0, size, CPU) for model in ("chat", "sea")]
    for draw in draws:
        assert float(draw.min()) >= 0 and float(draw.max()) < 1
        counts = torch.histc(draw, bins=64, min=0, max=1)
        assert float(((counts - size / 64) ** 2 / (size / 64)).sum()) < 63 + 6 * (2 * 63) ** 0.5
        centred = draw - 0.5
        for lag in (1, 2, 3, 576, 4096):
            correlation = float((centred[lag:] * centred[:-lag]).mean() * 12)
            assert abs(correlation) < worst, lag
    assert abs(float(((draws[0] - 0.5) * (draws[1] - 0.5)).mean() * 12)) < worst


def test_draws_at_some_indices_are_those_of_the_whole() -> None:
    key = draw_key(3, "w", "sea")
    edge = 2**32 - 500
    around = torch.cat([uniforms(key, edge, 2**32, CPU), uniforms(key, 2**32, 2**32 + 500, CPU)])
    at = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:300]
    assert torch.equal(uniforms_at(key, at + edge), around[at])
