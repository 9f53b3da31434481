"""What a task's data hold leads nowhere: not out of a folder by an archive, not to another machine by a name."""

from __future__ import annotations

import datetime
import io
import json
import socket
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import evaluate
import lm_eval.utils
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evomerge.checkpoint import locate
from evomerge.errors import CheckpointError, InputError
from evomerge.scorers.lm_eval.confined import confined
from evomerge.scorers.lm_eval.description import describe
from evomerge.scorers.lm_eval.loading import load

TASK = """\
task: taken
dataset_path: {loader}
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "a"
metric_list: [{{metric: exact_match}}]
"""
ROWS = b'{"q": "a", "a": "b"}\n' * 20


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def taken(tasks: Path, data: Path, loader: str = "json") -> int:
    """How many documents a task with these data has."""
    (tasks / "task.yaml").write_text(TASK.format(loader=loader, data=data))
    return len(load("taken", (tasks,), {}).docs)


def packed(path: Path, *members: tuple[str, bytes, str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, target, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def file(name: str, content: bytes = ROWS) -> tuple[str, bytes, str, bytes]:
    return name, tarfile.REGTYPE, "", content


@pytest.mark.parametrize("name", ["data.tar", "data.jsonl"])
def test_an_archive_does_not_write_through_its_links(
    tasks: Path, tmp_path: Path, name: str
) -> None:
    """A link into a folder that is another link by the time it is followed; then a hard link through it."""
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    archive = packed(
        tmp_path / name,
        file("dir/ok.jsonl"),
        ("s", tarfile.SYMTYPE, "a/" * 20 + "../" * 20, b""),
        ("a", tarfile.SYMTYPE, ".", b""),
        ("dir/h.jsonl", tarfile.LNKTYPE, f"s{kept}", b""),
        file("dir/h.jsonl"),
    )
    with pytest.raises(
        InputError, match="'s' in it is a link or a device; only files are unpacked"
    ):
        taken(tasks, archive)
    assert kept.read_text() == "as it was"


def test_archives_of_files_are_unpacked(tasks: Path, tmp_path: Path) -> None:
    assert taken(tasks, packed(tmp_path / "data.tar", file("one.jsonl"), file("two.jsonl"))) == 40
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("one.jsonl", ROWS)
    (tasks / "task.yaml").unlink()
    assert taken(tasks, tmp_path / "data.zip") == 20


def test_a_name_in_an_archive_is_no_address(
    tasks: Path, tmp_path: Path, server: socket.socket
) -> None:
    address = f"http://127.0.0.1:{server.getsockname()[1]}/w.zip"
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("ok.json", ROWS)
        archive.writestr(
            "refs.json", json.dumps({"version": 1, "refs": {"": [address], "w": [address]}})
        )
        archive.writestr("z::reference::zip:/refs.json/f", "x")
    with pytest.raises(InputError, match="'reference', which the task does not say"):
        taken(tasks, tmp_path / "data.zip", "text")
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_file_s_name_is_no_address(tasks: Path, tmp_path: Path, server: socket.socket) -> None:
    address = f"http://127.0.0.1:{server.getsockname()[1]}/w.zip"
    folder = tmp_path / "data"
    folder.mkdir()
    refs = json.dumps({"version": 1, "refs": {"": [address], "reference.x": [address]}})
    (folder / "a.gz").write_text(refs)
    (folder / "a.gz::reference.x").write_text("x")
    with pytest.raises(InputError, match="'reference', which the task does not say"):
        taken(tasks, folder / "*.x", "text")
    with pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize("kind", ["show_info", "have_libhdfs", "get_library_dirs", "int64()", 5])
def test_the_type_of_a_column_is_no_function(tasks: Path, tmp_path: Path, kind: object) -> None:
    """`datasets` calls what pyarrow has by that name."""
    told = {
        "info": {
            "features": {
                "q": {"_type": "Value", "dtype": "string"},
                "a": {"_type": "Value", "dtype": kind},
            }
        }
    }
    table = pa.table({"q": ["a"] * 20, "a": ["b"] * 20})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(told)}), tmp_path / "rows.parquet"
    )
    with pytest.raises(InputError, match="which is none of Arrow's plain ones"):
        taken(tasks, tmp_path / "rows.parquet", "parquet")


def test_columns_of_all_plain_types_are_read(tasks: Path, tmp_path: Path) -> None:
    kinds = [pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("ms"), pa.timestamp("us", "America/New_York"), pa.duration("s"), pa.decimal128(5, 2), pa.decimal256(50, -2)]  # fmt: skip
    columns = {f"c{n}": pa.nulls(20, kind) for n, kind in enumerate(kinds)}
    written = tmp_path / "rows.arrow"
    features = datasets.Features.from_arrow_schema(pa.table(columns).schema)
    assert [str(features.arrow_schema.field(name).type) for name in columns] == list(
        map(str, kinds)
    )
    with (
        pa.OSFile(str(written), "wb") as sink,
        pa.ipc.new_stream(sink, pa.table({"q": ["a"] * 20, **columns}).schema) as stream,
    ):
        stream.write_table(pa.table({"q": ["a"] * 20, **columns}))
    assert taken(tasks, written, "arrow") == 20


def test_nobody_is_told_what_is_loaded(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.load, "get_session", lambda: asked())
    told = []
    monkeypatch.setattr(datasets.load, "get_datasets_user_agent", lambda *a: told.append(a))
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    assert taken(tasks, tmp_path / "rows.jsonl") == 20 and not told


@pytest.mark.parametrize("version", ["{outside}", "../../../outside"])
def test_no_version_leads_out_of_the_cache(tmp_path: Path, version: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    (tmp_path / "outside").mkdir()
    settings = {"data_files": str(tmp_path / "rows.jsonl"), "cache_dir": str(tmp_path / "cache")}
    with confined(None), pytest.raises(InputError, match="which is not in the cache"):
        datasets.load_dataset(
            "json", version=version.format(outside=tmp_path / "outside"), name="..", **settings
        )
    assert not list((tmp_path / "outside").iterdir())


def test_a_template_reaches_into_data_alone(tasks: Path, tmp_path: Path) -> None:
    """Times of nanoseconds are pandas' own, and those lead to numpy, which writes files."""
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    rows = {"q": ["a"] * 20, "t": pa.array([0] * 20, pa.timestamp("ns"))}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    (tasks / "task.yaml").write_text(
        TASK.format(loader="parquet", data=tmp_path / "rows.parquet").replace(
            '"{{q}}"', f"\"{{% set x = t.to_numpy().reshape(1).tofile('{kept}') %}}{{{{q}}}}\""
        )
    )
    with pytest.raises(
        InputError, match="access to attribute 'to_numpy' of 'Timestamp' object is unsafe"
    ):
        load("taken", (tasks,), {})
    assert kept.read_text() == "as it was"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for x in words %}{{ loop.index }}{{ x.upper() }}{% endfor %}", "1A2B"),
        ("{% set n = namespace(k=1) %}{% set n.k = 2 %}{{ n.k }}{{ words | length }}", "22"),
        ("{{ made.k.items() | list }}{{ '%s' | format(1) }}{{ '{}'.format(2) }}", "[('x', 3)]12"),
        ("{{ day.year }}{{ t }}", "19701970-01-01 00:00:00"),
        (
            "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(words[0]) }}{{ none_such is defined }}",
            "<a>False",
        ),
    ],
)
def test_what_templates_do_with_data_they_may(template: str, text: str) -> None:
    day = datetime.datetime(1970, 1, 1)
    shown = lm_eval.utils.env.from_string(template).render(
        words=["a", "b"], made={"k": {"x": 3}}, day=day, t=pd.Timestamp(day)
    )
    assert shown == text


@pytest.mark.parametrize("split", ["x[/../../victim", "a/b", "a b"])
def test_names_of_splits_are_words(tasks: Path, tmp_path: Path, split: str) -> None:
    (tasks / "task.yaml").write_text(
        TASK.format(loader="json", data="rows.jsonl").replace(
            "test: rows.jsonl", f"{split!r}: rows.jsonl"
        )
    )
    assert [code.name for code in describe("taken", [str(tasks)]).code] == [
        "what `datasets` makes of data_files of splits that are no words"
    ]


@pytest.mark.parametrize(
    ("revision", "named"),
    [("main", True), ("refs/pr/1", True), ("a" * 40, True), ("v1.0", True), ("..x", True),
     ("/tmp/ref", False), ("../../x", False), ("a/../b", False), ("a/..", False), (".", False), ("", False)],
)  # fmt: skip
def test_a_revision_is_no_path(tasks: Path, revision: str, named: bool) -> None:
    data = f"dataset_kwargs: {{revision: {revision!r}}}"
    text = TASK.format(loader="a/b", data="x").splitlines(keepends=True)
    (tasks / "task.yaml").write_text(
        "".join(f"{data}\n" if "dataset_kwargs" in line else line for line in text)
    )
    assert (not describe("taken", [str(tasks)]).code) == named
    if not named and revision:
        with pytest.raises(CheckpointError, match="no such folder"):
            locate(f"a/b@{revision}")


@pytest.mark.parametrize("bucket", ["buckets/a/b/c", "hf://buckets/a/b/c"])
def test_a_bucket_has_no_commit(tasks: Path, bucket: str) -> None:
    (tasks / "task.yaml").write_text(TASK.format(loader=bucket, data="x"))
    assert [code.name for code in describe("taken", [str(tasks)]).code] == [
        f"whatever `datasets` finds at {bucket}"
    ]


def test_no_metric_lies_in_the_current_folder(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code_eval").mkdir()
    (tmp_path / "code_eval" / "code_eval.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(InputError, match="humaneval"):
        load("humaneval", (), {})
    with pytest.raises(InputError, match="metric code_eval: the package evaluate would take"):
        evaluate.load("code_eval")
    assert not (tmp_path / "canary").exists()
    assert describe("humaneval", []).download == "what code of lm-eval fetches"


def test_a_loader_by_an_address_is_one(tasks: Path, tmp_path: Path) -> None:
    (tasks / "task.yaml").write_text(
        TASK.format(loader="hf://datasets/webdataset", data=tmp_path / "data.tar")
    )
    described = describe("taken", [str(tasks)])
    assert described.download is None
    assert [code.name for code in described.code] == [
        "whatever data that the loader webdataset of `datasets` reads"
    ]
