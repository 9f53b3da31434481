"""Mutations of valid files: of their bytes, and of the tree that they hold.

``mutations(content, key, count)`` is the same for the same arguments, on any machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

# Written into the text as they stand, in place of a value, a key, or between two lines.
ODD_TEXTS = (
    *("", "~", "null", "true", "no", "-1", "0", "1", "2", "0.5", "1e309", "-.inf", ".nan", "010", "0x10", "1_000"),
    *("9" * 5000, "-" + "9" * 400, "9" * 310, "9" * 299, "18446744073709551616", "1e-400", "4294967296"),
    *("[]", "{}", "[[]]", "[{}]", "{a: {}}", "[1, 2]", "[a, a]", "[~]", "{~: 1}", "{1: 2}", "{'': ''}", '""', "' '"),
    *("!!python/object/apply:os.system ['true']", "!!binary aGk=", "!!set {a}", "!!timestamp 2020-01-01", "!x y"),
    *("!!int x", "!!float x", "!!str 1", "!!null x", "!!bool x", "!!omap [a: 1]", "!!map []", "!!seq {}", "!<> x"),
    *("&a [*a]", "*a", "&a 1", "*", "&", "{<<: {a: 1}}", "<<: *a", "? [a]", "? a", "- - -", "- a", ": :", "a: b"),
    *('"\\0"', '"\\e]0;x\\a"', '"\\ud800"', '"\\UFFFFFFFF"', '"\\x"', "\x1b", "\x00", "\x7f", "\x85", "\u2028", "\ufeff"),
    *("%YAML 9.9", "%TAG ! !!", "---", "...", "--- a", "\t", "|", ">", "|+\n  a", "| 9", "`", "@", "#", "'", '"'),
    *("[" * 1500, "{a: " * 400, "- " * 300, "[" * 60 + "]" * 60, "x" * 3000, "\u0e44\u0e17\u0e22", "../../..", "/dev/null"),
    *("~nobody/x", "a/b@c", "a+b", "+", "embedded:base", "x.yaml", ".", "98% of base", "0% of x", "1e400% of base"),
    *("parents", "uniform", "slerp", "passthrough", "base", "chat", "{range: [0, 1]}", "{range: [1, 0]}"),
    *("{choices: []}", "{choices: [[]]}", "{choices: {}}", "{range: {}}", "{range: [a, b]}", "{range: [.nan, .nan]}"),
    *("[true, false]", "{layers: 1000000000}", "{chat: 0.5, sea: {}}", "{filter: [], value: {}}", "[{value: 1}]"),
)  # fmt: skip
BOMB = (
    "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
)  # fmt: skip
ODD_BYTES = (
    b"\x00",
    b"\x1b",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\r",
    b"\t",
    b"\x0b",
    b"\x85",
)
ODD_BYTES += (
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"-",
    b"&a ",
    b"*a ",
    b"!",
    b"|",
    b'"',
)
ODD_BYTES += (b"'", b"#", b",", b"?", b"%", b"@", b"`", b"\n", b"  ", b"~", b"<<: ")

Mutation = Callable[[bytes, random.Random], bytes]


def mutations(content: bytes, key: str, count: int) -> Iterator[bytes]:
    """``count`` mutants of ``content``, each of one to three mutations."""
    for number in range(count):
        draw = random.Random(f"{key} {number}")
        mutant = content
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            mutant = draw.choice(RARE if draw.random() < 0.005 else MUTATIONS)(mutant, draw)
        yield mutant


# -- of bytes ------------------------------------------------------------------------------------


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One bit of one byte."""
    if not content:
        return content
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def inserted(content: bytes, draw: random.Random) -> bytes:
    """Odd bytes somewhere."""
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.choice(ODD_BYTES) + content[at:]


def cut(content: bytes, draw: random.Random) -> bytes:
    """Without a piece, or without its end."""
    start = draw.randrange(len(content) + 1)
    end = draw.choice((len(content), start + draw.randrange(1, 30)))
    return content[:start] + content[end:]


def repeated(content: bytes, draw: random.Random) -> bytes:
    """A piece once more, elsewhere."""
    start = draw.randrange(len(content) + 1)
    piece = content[start : start + draw.randrange(1, 40)]
    at = draw.randrange(len(content) + 1)
    return content[:at] + piece + content[at:]


def rearranged(content: bytes, draw: random.Random) -> bytes:
    """Lines that changed places, or were lost, doubled or moved to the right."""
    lines = content.split(b"\n")
    a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(4)
    if kind == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 1:
        del lines[a]
    elif kind == 2:
        lines.insert(b, lines[a])
    else:
        lines[a] = b" " * draw.randrange(1, 5) + lines[a]
    return b"\n".join(lines)


def reworded(content: bytes, draw: random.Random) -> bytes:
    """What follows a colon, a dash or a bracket becomes an odd text."""
    places = [at for at, byte in enumerate(content) if byte in b":-[{,"]
    if not places:
        return content
    at = draw.choice(places) + 1
    end = at
    while end < len(content) and content[end] not in b"\n,]}":
        end += 1
    return content[:at] + b" " + _encoded(draw.choice(ODD_TEXTS)) + content[end:]


def bombed(content: bytes, draw: random.Random) -> bytes:
    """Aliases that stand for billions of values, beside what there is or as one of its values."""
    return content + b"\n" + BOMB.encode() if draw.random() < 0.5 else BOMB.encode() + content


# -- of the tree ---------------------------------------------------------------------------------


def replanted(content: bytes, draw: random.Random) -> bytes:
    """A value of the tree replaced, removed, renamed, wrapped or exchanged for another."""
    if b"&" in content:  # what aliases stand for may be endless
        return content
    try:
        tree = yaml.load(content, _FAST)
    except Exception:  # mutated before
        return content
    if not isinstance(tree, dict) or not tree:
        return content
    places = list(_places(tree))
    if len(places) > 5000:
        return content
    owner, name = draw.choice(places)
    kind = draw.randrange(7)
    raw: list[str] = []

    def odd() -> Any:
        raw.append(draw.choice(ODD_TEXTS))
        return f"RAW{len(raw) - 1}RAW"

    if kind <= 1:
        owner[name] = odd()
    elif kind == 2:
        del owner[name]
    elif kind == 3 and isinstance(owner, dict):
        known = [key for other, key in places if isinstance(other, dict)]
        owner[draw.choice(known) if draw.random() < 0.7 else odd()] = owner.pop(name)
    elif kind == 4:
        owner[name] = draw.choice(([owner[name]], {"a": owner[name]}, [owner[name]] * 2))
    elif kind == 5:
        other, place = draw.choice(places)
        owner[name] = other[place]
    elif isinstance(owner, dict):
        owner[odd()] = odd()
    else:
        owner.insert(name, odd())
    try:
        text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    except Exception:  # a value that holds itself
        return content
    for number, each in enumerate(raw):
        text = text.replace(f"RAW{number}RAW", each)
    return _encoded(text)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in list(pairs):
        yield tree, name
        if isinstance(value, (dict, list)):
            yield from _places(value)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


MUTATIONS: tuple[Mutation, ...] = (
    *(flipped, inserted, cut, repeated, rearranged),
    *(reworded, reworded, reworded),
    *(replanted, replanted, replanted, replanted, replanted, replanted),
)
RARE: tuple[Mutation, ...] = (bombed,)
