"""``evomerge push`` to a hub on loopback: what arrives, what stays, and what is refused before anything is sent."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from loopback import Hub
from test_hub import point_to

from evomerge import config
from evomerge.checkpoint import EMBEDDED
from evomerge.cli import main
from evomerge.commands.push import parcel_of

Run = Callable[..., tuple[int, str]]
# what huggingface_hub sends large files with, says httpx
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge of a model that lies in a folder, with a card that states no licence. Read only."""
    folder = tmp_path_factory.mktemp("push")
    shutil.copytree(EMBEDDED / "chat", folder / "parents" / "chat")
    content = {
        "models": {"chat": str(folder / "parents" / "chat")},
        "tokenizer": "chat",
        "dtype": "bfloat16",
        "groups": [{"method": "passthrough"}],
    }
    (folder / "recipe.yaml").write_text(config.dump(content))
    assert main(["merge", str(folder / "recipe.yaml"), "-o", str(folder / "merged")]) == 0
    return folder / "merged"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that takes uploads of whoever has its token, which we have."""
    with Hub() as served:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
        monkeypatch.setenv("HF_TOKEN", served.token)
        point_to(served.url, monkeypatch)
        yield served


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["push", *map(str, arguments)])
        written = capsys.readouterr()
        return status, written.out + written.err

    return run


def there(hub: Hub, repository: str, branch: str = "main") -> dict[str, bytes]:
    found = hub.commit(repository, branch)
    assert found is not None
    files = (each for each in found[1].rglob("*") if each.is_file())
    return {each.relative_to(found[1]).as_posix(): each.read_bytes() for each in files}


def test_what_arrives_is_the_merge(hub: Hub, merged: Path, run: Run) -> None:
    status, said = run(merged, "me/merged", "--license", "apache-2.0")
    assert status == 0, said
    assert "made me/merged (private)" in said and f"{hub.url}/me/merged/commit/" in said
    assert hub.private == {"me/merged": True}
    files = there(hub, "me/merged")
    assert set(files) == {each.name for each in merged.iterdir()}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert files[name] == (merged / name).read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and "Its maker says: apache-2.0." in card.text
    assert not any(str(merged.parent).encode() in content for content in files.values())
    assert config.parse(files["evomerge.yaml"].decode()).plain["models"] == {"chat": "chat"}
    assert (
        "license" not in ModelCard((merged / "README.md").read_text()).data.to_dict()
    )  # here all is as it was
    # again: what is there is not sent twice, and the repository stays what it is
    before = dict(hub.stored)
    assert run(merged, "me/merged", "--license", "mit", "--private")[0] == 0
    assert hub.stored == before and hub.sent.count("/api/repos/create") == 1
    assert ModelCard(there(hub, "me/merged")["README.md"].decode()).data.license == "mit"


def test_a_branch_is_made_and_a_public_repository_is_asked_for(
    hub: Hub, merged: Path, run: Run
) -> None:
    asked = (merged, "me/open", "--license", "mit", "--public")
    assert run(*asked, "--revision", "trial")[0] == 0
    assert hub.private == {"me/open": False}
    assert "model.safetensors" in there(hub, "me/open", "trial") and not there(hub, "me/open")
    assert run(*asked, "--revision", "trial")[0] == 0
    sent = len(hub.sent)
    status, said = run(merged, "me/open", "--license", "mit")
    assert status == 2 and "is there and public" in said and len(hub.sent) == sent


def test_a_dry_run_sends_nothing(hub: Hub, merged: Path, run: Run) -> None:
    status, said = run(merged, "me/merged", "--license", "mit", "--dry-run")
    assert status == 0 and "nothing was sent" in said
    assert "model.safetensors" in said and "license: mit" in said and "private if it is new" in said
    assert hub.asked == 0 and not hub.sent


def test_pickles_hidden_files_links_and_code_stay_here(
    hub: Hub, merged: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    shutil.copytree(merged, folder)
    (folder / "optimizer.bin").write_bytes(pickle.dumps({}))
    for name in ("tokenizer.model", "extra.json"):
        (folder / name).write_bytes(pickle.dumps({}))
    (folder / "code.py").write_text("1")
    (folder / ".secret.json").write_text("{}")
    (folder / "link.json").symlink_to("/etc/hostname")
    status, said = run(folder, "me/merged", "--license", "mit")
    assert status == 0
    for name, why in (("optimizer.bin", "pickle"), ("tokenizer.model", "pickle"), ("extra.json", "pickle"), ("code.py", "nothing that"), (".secret.json", "hidden"), ("link.json", "no plain file")):  # fmt: skip
        assert f"stays here: {name}: " in said and why in said
    assert set(there(hub, "me/merged")) == {each.name for each in merged.iterdir()}
    (folder / "other.SAFETENSORS").write_bytes(pickle.dumps({"weights": 1}))
    status, said = run(folder, "me/other", "--license", "mit")
    assert status == 2 and "other.SAFETENSORS" in said and "me/other" not in hub.private
    (folder / "other.SAFETENSORS").unlink()
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    status, said = run(folder, "me/other", "--license", "mit")
    assert status == 2 and "model.safetensors" in said and "me/other" not in hub.private


def test_what_is_no_merge_or_has_no_licence_is_refused(
    hub: Hub, merged: Path, run: Run, tmp_path: Path
) -> None:
    (empty := tmp_path / "empty").mkdir()
    shutil.copytree(merged, plain := tmp_path / "plain")
    (plain / "evomerge.yaml").unlink()
    shutil.copytree(merged, bare := tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    shutil.copytree(merged, linked := tmp_path / "linked")
    (linked / "README.md").rename(tmp_path / "secret.md")
    (linked / "README.md").symlink_to(tmp_path / "secret.md")
    licensed = ("me/x", "--license", "mit")
    for arguments, expected in (
        ((merged, "me/x"), "says nothing of a licence"),
        ((merged, "me/x", "--license", "unknown"), "knows no licence"),
        ((merged, "me/x", "--license", "mitt"), "did you mean 'mit'?"),
        ((merged, "x", "--license", "mit"), "expected OWNER/NAME"),
        ((merged, *licensed, "--revision", "../x"), "--revision"),
        ((empty, *licensed), "holds no model"),
        ((tmp_path / "none", *licensed), "no such folder"),
        ((plain, *licensed), "has no evomerge.yaml"),
        ((bare, *licensed), "holds no weights"),
        ((linked, *licensed), "README.md: is a link"),
    ):
        status, said = run(*arguments)
        assert status == 2 and expected in said and said.count("\n") == 1, said
    assert hub.asked == 0 and not hub.sent


def test_no_key_is_a_folder_of_this_machine(merged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(merged, folder)
    recipe = config.read(folder / "evomerge.yaml").plain
    named = f"org/x+{tmp_path}/secret/adapter"
    recipe["provenance"] = {
        "commits": {named: f"org/x@{'b' * 40}+{tmp_path}/secret/adapter"},
        "at": "~/secret/file",
    }
    (folder / "evomerge.yaml").write_text(config.dump(recipe))
    sent = parcel_of(folder, "me/merged", licence="mit").files["evomerge.yaml"]
    assert isinstance(sent, bytes)
    assert b"secret" not in sent and b"org/x+adapter: org/x@" in sent


def test_a_token_that_lacks_or_may_not_is_one_message(
    hub: Hub, merged: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = run(merged, "others/x", "--license", "mit")
    assert status == 2 and "may not write there" in said and said.count("\n") == 1
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    status, said = run(merged, "me/x", "--license", "mit")
    assert status == 2 and "does not take this token" in said and "hf_other" not in said
    monkeypatch.delenv("HF_TOKEN")
    status, said = run(merged, "me/x", "--license", "mit")
    assert status == 2 and "no token of the hub here" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, said = run(merged, "me/x", "--license", "mit")
    assert status == 2 and "HF_HUB_OFFLINE" in said
    assert not hub.private


def test_an_adapter_belongs_to_its_model(hub: Hub, merged: Path, run: Run, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copyfile(merged / "model.safetensors", adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/home/me/base", "r": 8})
    )
    (adapter / "evomerge.yaml").write_text(config.dump({"models": {"a": "org/base+/home/me/a"}}))
    (adapter / "README.md").write_text("---\nlicense: mit\nbase_model: [org/base]\n---\n# it\n")
    assert run(adapter, "me/adapter")[0] == 0
    files = there(hub, "me/adapter")
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert config.parse(files["evomerge.yaml"].decode()).plain["models"] == {"a": "org/base+a"}
    assert files["README.md"] == (adapter / "README.md").read_bytes()
