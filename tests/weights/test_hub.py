"""Models from a hub: whole, checked, resumed, and refused in one line where something is wrong."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import FakeHub, commit_of, serving
from huggingface_hub import constants

from memo_jax.errors import UserError
from memo_jax.weights import hub as hub_module
from memo_jax.weights import manifest
from memo_jax.weights.hub import fetch, is_hub_id, licences

ROOT = Path(__file__).parents[2]
WEIGHTS = bytes(range(256)) * 800  # large enough to be stated with its SHA-256
SMALL = b'{"a": 1}'
MODEL = {"config.json": SMALL, "model.safetensors": WEIGHTS, "LICENSE": b"free"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with someone/model, and nothing fetched from it yet."""
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "memo_jax"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving(FakeHub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        hub.add("someone/model", dict(MODEL))
        yield hub


@pytest.fixture
def memo(hub, tmp_path, monkeypatch):
    """A model of the manifest, put together from four repositories."""
    parts = {
        "memo/memo": ("", {"net/config.json": SMALL, "net/model.safetensors": WEIGHTS}),
        "vae/vae": ("vae", {"config.json": b"{}", "weights.safetensors": WEIGHTS[::-1]}),
        "ear/ear": ("wav2vec2", {"config.json": b"[]"}),
        "mood/mood": ("emotion2vec", {"model.pt": WEIGHTS * 2}),
    }
    sources = {}
    for repository, (_, files) in parts.items():
        hub.add(repository, {**files, "unused.bin": b"x" * 5000})
        sources[repository] = {
            "revision": None,
            "page": hub.url,
            "licence": f"licence-{repository}",
            "licence_url": "https://example.org",
            "note": "",
            "files": [
                {"path": path, "component": "vae", "size": None, "sha256": None, "checked": None}
                for path in files
            ],
        }
    sources["vae/vae"]["files"][1]["sha256"] = hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    models = {"memo/memo": [{"source": s, "into": into} for s, (into, _) in parts.items()]}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "sources": sources, "models": models, "judges": {}}))
    monkeypatch.setattr(manifest, "PATH", path)
    return {
        f"{into}/{name}".lstrip("/"): content
        for into, files in parts.values()
        for name, content in files.items()
    }


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def refused(*texts, call=lambda: fetch("someone/model")):
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    for text in texts:
        assert text in message
    return message


@pytest.mark.parametrize(
    "text", ["a/b", "stable-diffusion-v1-5/x.y_z", "a/b@main", "a/b@refs/pr/1"]
)
def test_ids(text):
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "tiny", "a/b/c", "/a/b", "a/", "/a", "./a", "../a", "~/models", "a/b@", "a/b@x y", "a b/c",
     "a/b.git", "a--b/c", "a" * 97 + "/b", "a/b\n", "memo_jax/weights", "a/\0"],
)  # fmt: skip
def test_what_is_no_id(text, monkeypatch):
    monkeypatch.chdir(ROOT)  # where memo_jax/weights is a folder
    assert not is_hub_id(text)


def test_a_whole_model(hub, capsys):
    assert contents(fetch("someone/model")) == MODEL
    assert capsys.readouterr().err.count("licence of someone/model: mit") == 1


def test_a_second_run_downloads_nothing(hub, capsys):
    first = fetch("someone/model")
    capsys.readouterr()
    seen = len(hub.downloads())
    assert fetch("someone/model") == first and len(hub.downloads()) == seen
    assert "licence" not in capsys.readouterr().err


def test_only_what_a_model_needs(hub):
    hub.add("someone/other", {
        "model.safetensors": WEIGHTS, "pytorch_model.bin": WEIGHTS, "a/model.bin": WEIGHTS,
        "video.mp4": b"x", ".gitattributes": b"x", "README.md": b"x", "face/x.onnx": b"onnx",
    })  # fmt: skip
    got = contents(fetch("someone/other"))
    assert set(got) == {"model.safetensors", "a/model.bin", "face/x.onnx"}


def test_a_native_model_comes_with_all_its_checkpoints(hub):
    files = {"model.json": b"{}", "vae/d/abc": WEIGHTS, "vae/_METADATA": b"x", "LICENSE": b"x"}
    hub.add("someone/native", {**files, "README.md": b"x", ".gitattributes": b"x"})
    assert contents(fetch("someone/native")) == files


def test_a_cut_download_goes_on_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what is kept of it
    hub.cut["model.safetensors"] = [100_000, 1]
    assert contents(fetch("someone/model")) == MODEL
    ranges = [r for _, path, r in hub.requests if path.endswith("model.safetensors") and r]
    assert ranges == ["bytes=100000-"]


def test_a_download_that_breaks_off_is_gone_on_with_by_the_next_run(hub, monkeypatch):
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    hub.cut["model.safetensors"] = [0, 10**6]
    refused("someone/model", "again")
    hub.cut.clear()
    assert contents(fetch("someone/model")) == MODEL


def test_wrong_bytes_are_refused_and_fetched_again(hub):
    hub.sent["model.safetensors"] = WEIGHTS[::-1]
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    got = hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    refused("model.safetensors", expected, got, "again")
    hub.sent.clear()
    assert contents(fetch("someone/model")) == MODEL


def test_wrong_bytes_of_a_small_file_too(hub):
    hub.sent["config.json"] = SMALL.replace(b"1", b"2")
    refused("config.json", "git hash")


def test_a_truncated_file_is_refused(hub):
    hub.sent["model.safetensors"] = WEIGHTS[:-5]
    refused("someone/model", "again")
    hub.sent.clear()
    assert contents(fetch("someone/model")) == MODEL


def test_damage_on_the_disk_is_found(hub):
    path = fetch("someone/model") / "model.safetensors"
    path.resolve().write_bytes(WEIGHTS[:-1])
    refused("model.safetensors", str(len(WEIGHTS) - 1), str(len(WEIGHTS)))
    assert contents(fetch("someone/model")) == MODEL


def test_offline_with_the_files_there(hub, monkeypatch):
    first = fetch("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(hub.requests)
    assert fetch("someone/model") == first and len(hub.requests) == seen
    (first / "model.safetensors").resolve().write_bytes(WEIGHTS[::-1])
    refused("model.safetensors", "SHA-256")  # still checked
    refused("model.safetensors", "HF_HUB_OFFLINE")


def test_offline_without_them(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("someone/model", "HF_HUB_OFFLINE")
    assert not hub.requests


def test_offline_with_what_another_program_fetched(hub, monkeypatch):
    from huggingface_hub import snapshot_download

    snapshot_download("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert contents(fetch("someone/model")) == MODEL


def test_a_hub_that_does_not_answer(hub, monkeypatch):
    first = fetch("someone/model")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch("someone/model") == first
    refused("cannot be reached", "127.0.0.1:9", call=lambda: fetch("someone/else"))


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (401, "GatedRepo", "gated"),
        (403, "GatedRepo", "gated"),
        (401, "RepoNotFound", "no model"),
        (403, "", "403"),
        (429, "", "429"),
        (503, "", "503"),
    ],
)
def test_a_hub_that_refuses(hub, status, code, text):
    hub.status["someone/model"] = (status, code)
    refused("someone/model", text)


def test_an_unknown_model(hub):
    refused("someone/nothing", "no model", call=lambda: fetch("someone/nothing"))


def test_what_is_no_id_is_refused(hub):
    refused("owner/name", call=lambda: fetch("a/b/c"))


def test_revisions(hub):
    hub.add("someone/model", {**MODEL, "config.json": b'{"a": 2}'}, "v2")
    assert contents(fetch("someone/model@v2"))["config.json"] == b'{"a": 2}'
    by_commit = fetch(f"someone/model@{commit_of('v2')}")
    assert contents(by_commit)["config.json"] == b'{"a": 2}'
    assert contents(fetch("someone/model")) == MODEL
    refused("v3", call=lambda: fetch("someone/model@v3"))


def test_into_a_folder(hub, tmp_path):
    folder = tmp_path / "here"
    assert fetch("someone/model", local_dir=folder) == folder and contents(folder) == MODEL
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    seen = len(hub.downloads())
    fetch("someone/model", local_dir=folder)
    assert len(hub.downloads()) == seen
    hub.add("someone/model", {**MODEL, "config.json": b'{"a": 2}'}, "v2")
    fetch("someone/model@v2", local_dir=folder)
    assert contents(folder)["config.json"] == b'{"a": 2}'


def test_the_users_own_file_is_left_alone(hub, tmp_path):
    (tmp_path / "config.json").write_bytes(b"my own")
    refused("move it away", call=lambda: fetch("someone/model", local_dir=tmp_path))
    assert (tmp_path / "config.json").read_bytes() == b"my own"


def test_a_full_disk(hub, monkeypatch):
    usage = hub_module.shutil.disk_usage("/")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused("someone/model", "1.0 kB free", "HF_HOME")
    assert not hub.downloads()


def test_a_model_of_the_manifest_is_put_together(hub, memo, capsys):
    folder = fetch("memo/memo")
    assert contents(folder) == memo
    assert all(path.is_symlink() for path in folder.rglob("*") if path.is_file())
    err = capsys.readouterr().err
    assert all(f"licence-{owner}/" in err for owner in ("memo", "vae", "ear", "mood"))
    seen = len(hub.downloads())
    assert contents(fetch("memo/memo")) == memo and len(hub.downloads()) == seen


def test_a_model_of_the_manifest_in_a_folder(hub, memo, tmp_path):
    assert contents(fetch("memo/memo", local_dir=tmp_path / "memo")) == memo


def test_other_files_of_a_source(hub, memo):
    got = contents(fetch("memo/memo", files=["unused.bin"]))
    assert got["unused.bin"] == b"x" * 5000 and "net/config.json" not in got
    assert got["vae/config.json"] == b"{}"


def test_the_manifest_wins_over_the_hub(hub, memo):
    """A repository that was changed, and says so, is not what the manifest names."""
    hub.add("vae/vae", {"config.json": b"{}", "weights.safetensors": WEIGHTS})
    refused("vae/vae: weights.safetensors", "@", call=lambda: fetch("memo/memo"))


def test_a_file_that_went_from_its_repository(hub, memo):
    hub.add("ear/ear", {"other.json": b"[]"})
    refused("ear/ear", "config.json", call=lambda: fetch("memo/memo"))


def test_a_revision_is_that_of_the_models_own_repository(hub, memo):
    hub.add("memo/memo", {"net/config.json": b"{}", "net/model.safetensors": WEIGHTS}, "v2")
    got = contents(fetch("memo/memo@v2"))
    assert got == {**memo, "net/config.json": b"{}"}


def test_licences_by_component(hub, memo):
    page, licence = licences("memo/memo@v2")["vae"]
    assert page.startswith(hub.url) and licence.startswith("licence-")
    assert licences("memoavatar/memo") == {}  # not in this manifest


def test_a_cache_that_cannot_be_written(hub, memo, tmp_path):
    (tmp_path / "memo_jax").write_text("a file where the folder would be")
    refused("MEMO_JAX_CACHE", call=lambda: fetch("memo/memo"))


def test_the_environment_of_huggingface(hub, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE as they are set before Python starts."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    env.pop("HF_HUB_CACHE", None)
    code = "from memo_jax.weights.hub import fetch; print(fetch('someone/model'))"

    def run(**more):
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**env, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    done = run()
    folder = Path(done.stdout.strip())
    assert done.returncode == 0 and tmp_path / "home" in folder.parents, done.stderr
    assert run(HF_HUB_OFFLINE="1").stdout == done.stdout
    assert "is not on this machine" in run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "no")).stderr
