from __future__ import annotations

import zlib

from hypothesis import example, given
from hypothesis import strategies as st

from evomerge.squeezing import squeeze


@given(text=st.binary(max_size=3000), times=st.integers(1, 40), level=st.sampled_from([1, 6, 9]))
@example(text=b"", times=1, level=6)
@example(text=b"\0" * 2**16, times=1, level=1)
def test_it_is_read_again(text: bytes, times: int, level: int) -> None:
    assert zlib.decompress(squeeze(text * times, level)) == text * times


def test_it_is_as_short() -> None:
    text = b"".join(b'{"weight": 0.%d, "sources": ["chat", "sea"]}' % n for n in range(40))
    assert len(squeeze(text)) <= len(zlib.compress(text)) * 1.02
