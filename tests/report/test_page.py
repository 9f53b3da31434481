"""The page of a run: whole, true to the record, and nothing of a stranger's strings but text."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evomerge.cli import main
from evomerge.record import events
from evomerge.record.ablation import FILE
from evomerge.record.record import Record
from evomerge.report.page import chart, course_svg, page, picture
from evomerge.report.page.serving import Site, server
from evomerge.report.text import interval_text, signed_interval

VOID = {"meta", "link", "br", "img", "input", "hr"}
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
TAGS = {
    *("html", "head", "meta", "link", "title", "style", "body", "header", "footer", "nav", "main", "section"),
    *("a", "p", "span", "div", "ol", "ul", "li", "dl", "dt", "dd", "h1", "h2", "h3", "figure", "figcaption"),
    *("details", "summary", "pre", "code", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "path", "rect", "text", "line", "circle", "defs", "clippath", "tspan"),
}  # fmt: skip


class Reader(HTMLParser):
    """Reads a page strictly: every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += f" {data}" if self._open[-1] == "span" else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html(done: Path) -> str:
    return page(Record(done))


def is_inactive(html: str) -> None:
    """Nothing in the page can run, load, send or hide."""
    read = Reader(html)
    assert {tag for tag, _ in read.tags} <= TAGS
    for tag, attributes in read.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("style", "src", "action", "srcdoc")
            if name == "href":
                assert (value or "").startswith("#") or (tag, value) == ("link", "data:,")
            if "url(" in (value or ""):
                assert re.fullmatch(r"url\(#c[0-9a-f]{8}-clip\d+\)", value or "")
    equivalents = {each.get("http-equiv") for each in read.all("meta")} - {None}
    assert equivalents <= {"Content-Security-Policy", "refresh"}
    assert not UNSAFE.search(html)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style and "@import" not in style[1] and "url(" not in style[1]
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(each["content"] or "" for each in read.all("meta") if each.get("http-equiv"))
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")


def test_it_is_whole_and_can_be_found_ones_way_in(html: str) -> None:
    read = Reader(html)
    is_inactive(html)
    assert html.startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [(each["href"] or "")[1:] for each in read.all("a")]
    assert set(links) <= set(ids) and len(links) == len(read.all("section")) + 1
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(read.all("caption")) == len(read.all("table")) > 5
    assert all(each.get("scope") in ("col", "colgroup", "row") for each in read.all("th"))
    pictures = [each for each in read.all("div") if each.get("role") == "img"]
    assert len(pictures) == len(read.all("svg")) >= 3
    assert all(len(each["aria-label"] or "") > 30 for each in pictures)
    boxes = [each for each in read.all("div") if each.get("class") == "scroll"]
    assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in boxes)


def test_its_numbers_are_the_records(done: Path, html: str) -> None:
    record = Record(done)
    table, read = record.table, Reader(html)
    assert table is not None and table.winner_row is not None and table.winner_row.score is not None
    tile = re.search(r'<span class="value">(.*?)</span>', html)
    assert tile and tile[1] == f"{table.winner_row.score.value:.3f}"
    final, beside, leads, course = read.tables[:4]
    assert [row[0] for row in final[1:]] == [row.label for row in table.rows]
    for cells, row in zip(final[1:], table.rows, strict=True):
        assert row.score is not None
        shown = [interval_text(each) for each in (row.score, *row.objectives.values())]
        assert cells[1 : 1 + len(shown)] == shown
    assert beside[0][0] == "no merge" and len(table.beside) == len(beside) - 1 > 0
    for cells, each in zip(beside[1:], table.beside, strict=True):
        assert cells[:2] == [each.label, interval_text(each.score)]
    compared = [row for row in table.rows if row.gain]
    assert len(compared) == len(table.rows) - 1 == len(leads) - 1
    signs = {objective.name: objective.sign for objective in record.objectives}
    for cells, row in zip(leads[1:], compared, strict=True):
        assert row.gain is not None
        assert cells[1] == signed_interval(row.gain.difference)
        for text, (name, lead) in zip(cells[2:], row.leads.items(), strict=True):
            won, theirs = table.winner_row.objectives[name].value, row.objectives[name].value
            assert lead.value == pytest.approx(won - theirs)
            assert text.startswith(f"{signs[name] * lead.value:+.3f}")
    assert [row[0] for row in course[1:]] == [f"#{e.candidate}" for e in record.history.merges()]
    counts = next(each for each in read.tables if "winner alone" in each[0])
    items = len(record.head.splits.items["report"]["sums"])
    for row in counts[1:]:
        assert row[1] == "sums" and sum(map(int, row[2:6])) == items
        both, ours, theirs = (int(each) / items for each in row[2:5])
        parent = next(each for each in table.rows if each.label == row[0])
        assert both + ours == pytest.approx(table.winner_row.objectives["sums"].value)
        assert both + theirs == pytest.approx(parent.objectives["sums"].value)
    for model in record.head.models.values():
        assert model.sha256 in html
    evaluations = sum(int(row[1]) for row in next(t for t in read.tables if t[0][0] == "phase")[1:])
    assert evaluations == record.history.arrived


def test_a_strangers_strings_are_text(hostile: Path) -> None:
    record = Record(hostile)
    html = page(record)
    is_inactive(html)
    text = "".join(Reader(html).texts)
    assert (
        text.count('</script><script>alert("x")</script>"\'><img src=x onerror=alert(1)>&lt;') > 30
    )
    assert "\\x1b]0;x\\x07" in text and "\\u202eevil" in text
    for svg in (picture(record), course_svg(record)):
        assert svg is not None and not UNSAFE.search(svg)
        found = {each.tag.rpartition("}")[2].lower() for each in ElementTree.fromstring(svg).iter()}
        assert found <= TAGS


def test_a_killed_search_has_a_page_wherever_it_was(cut: Callable[[int], Path], done: Path) -> None:
    kinds = [type(line) for line in events.read_lines(done / events.JOURNAL)]
    batches = [at for at, kind in enumerate(kinds) if kind is events.BatchLine]
    judged = kinds.index(events.RoundLine)
    places = [1, batches[0] + 1, batches[1] + 2, batches[3] + 1, judged, batches[-1]]
    titles = []
    for place in places:
        made = page(Record(cut(place)), refresh=10)
        is_inactive(made)
        assert '<meta http-equiv="refresh" content="10">' in made and "not finished" in made
        titles.append(re.search("<h1.*?>(.*?)</h1>", made)[1])  # type: ignore[index]
    assert titles[0] == "No merge was scored yet" and titles[-1].startswith("Best so far: #")


def test_the_run_stays_as_it_is(done: Path) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    made = page(Record(done), refresh=10)
    assert 'http-equiv="refresh"' not in made, "it is done: nothing will change"
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before


def test_a_picture_is_a_file_of_its_own(done: Path, tmp_path: Path) -> None:
    svg = picture(Record(done))
    assert svg is not None and "var(" not in svg
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"].split()[2:] == [root.attrib["width"], root.attrib["height"]]
    assert len(svg) < 30_000


# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_page_and_never_over_a_file(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    assert main(["report", str(done), "-o", str(file)]) == 0
    written = file.read_text(encoding="utf-8")
    assert written == page(Record(done)) and len(written) < 3_000_000
    file.write_text("mine")
    assert main(["report", str(done), "-o", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err and file.read_text() == "mine"
    assert main(["report", str(done), "-o", str(file), "--force"]) == 0
    assert file.read_text(encoding="utf-8") == written


def test_without_a_file_it_prints_the_report(
    done: Path, cut: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(done)]) == 0
    assert capsys.readouterr().out == (done / "report.md").read_text(encoding="utf-8")
    assert main(["report", str(done), "-o", str(tmp_path / "a.md")]) == 0
    assert (tmp_path / "a.md").read_text() == (done / "report.md").read_text()
    capsys.readouterr()
    assert main(["report", str(cut(12))]) == 0
    assert capsys.readouterr().out.startswith("* not finished: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "page.pdf"], "ends in .html (a page) or .md"),
        (["--serve", "0", "-o", "a.html"], "give one of the two"),
        (["--serve", "70000"], "choose another one"),
    ],
)
def test_what_it_refuses(
    done: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(done), *arguments]) == 2
    assert says in capsys.readouterr().err


# -- serving -------------------------------------------------------------------------------------


@pytest.fixture
def served(cut: Callable[[int], Path]) -> Iterator[tuple[Path, ThreadingHTTPServer]]:
    folder = cut(12)
    made = server(Site(folder), 0)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield folder, made
    made.shutdown()
    made.server_close()
    thread.join()


def test_it_is_served_to_this_machine_and_grows_with_the_journal(
    served: tuple[Path, ThreadingHTTPServer], done: Path
) -> None:
    folder, made = served
    assert made.server_address[0] == "127.0.0.1"
    address = f"http://127.0.0.1:{made.server_port}/"

    def get() -> tuple[str, str]:
        with urllib.request.urlopen(address) as answer:
            return answer.read().decode(), answer.headers["Content-Security-Policy"]

    first, policy = get()
    assert "not finished" in first and 'http-equiv="refresh"' in first
    said = next(
        e["content"] for e in Reader(first).all("meta") if "default-src" in (e.get("content") or "")
    )
    assert policy == f"{said}; frame-ancestors 'none'"
    (folder / events.JOURNAL).write_bytes((done / events.JOURNAL).read_bytes())
    last, _ = get()
    assert "Winner: #" in last and 'http-equiv="refresh"' not in last
    assert "Not measured yet" in last
    (folder / FILE).write_text("{}")
    assert f"{FILE}: not as" in get()[0]
    for path, host, status in (("x", None, 404), ("", "evil.example", 403)):
        asked = urllib.request.Request(address + path, headers={"Host": host} if host else {})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked)
        assert refused.value.code == status
        refused.value.close()
    (folder / events.JOURNAL).write_bytes(b"{}\n")
    with pytest.raises(urllib.error.HTTPError) as broken:
        urllib.request.urlopen(address)
    assert broken.value.code == 500 and b"journal" in broken.value.read()
    broken.value.close()


def test_a_picture_holds_no_control_characters() -> None:
    spec = {
        "data": {"values": [{"name": "a\x1b", "n": 1}]},
        "mark": "bar",
        "encoding": {
            "y": {"field": "name", "type": "nominal", "title": "t\x07\ud800"},
            "x": {"field": "n", "type": "quantitative"},
        },
    }
    drawn = chart.draw(spec)
    assert "\x1b" not in drawn and "\x07" not in drawn and r"a\x1b" in drawn
