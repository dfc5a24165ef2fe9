"""The judges' folder: what is found in it, what is not what it should be, and what mends it."""

import dataclasses
import hashlib
import importlib.util
import shlex

import pytest

from memo_jax.errors import UserError
from memo_jax.weights import judging, manifest
from memo_jax.weights.judging import examine_judges, found_judges, place_of
from memo_jax.weights.readers.legacy import MAGIC

CONTENT = MAGIC + b"an old file"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one, and a manifest in which SyncNet's file is `CONTENT`."""
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "a cache"))
    real = manifest.judges()
    digest = hashlib.sha256(CONTENT).hexdigest()
    small = dataclasses.replace(real["syncnet"], size=len(CONTENT), sha256=digest)
    monkeypatch.setattr(manifest, "judges", lambda: {**real, "syncnet": small})
    return judging.judges_folder()


def put(name, content):
    path = place_of(manifest.judges()[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def seen():
    return {one.name: one for one in examine_judges()}


def test_an_empty_folder(folder):
    assert found_judges("memo_jax.evaluate") == {}
    found = seen()
    assert list(found) == list(manifest.judges())
    for name, one in found.items():
        judge = manifest.judges()[name]
        assert one.state == "missing" and not one.needed
        words = shlex.split(one.fix)
        assert words[0] == "curl" and words[-1] == judge.url
        assert words[words.index("-o") + 1] == str(folder / judge.file)
        assert judge.licence in one.detail and judge.option in one.detail
    assert not folder.exists()


def test_what_is_there(folder):
    path = put("syncnet", CONTENT)
    assert found_judges("memo_jax.evaluate") == {"syncnet": path}
    assert found_judges("memo_jax.prepare") == {}
    one = seen()["syncnet"]
    assert one.state == "ok" and "as published" in one.detail and str(path) in one.detail


def test_a_file_whose_hash_nobody_states(folder):
    path = put("transnet", b"anything")
    assert found_judges("memo_jax.prepare") == {"transnet": path}
    one = seen()["transnet"]
    assert one.state == "ok" and "no hash of it is known" in one.detail


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("syncnet", CONTENT[:-1], "bytes, expected"),
        ("syncnet", CONTENT[:-1] + b"?", "its SHA-256 is"),
        ("syncnet", b"", "it has 0 bytes"),
        ("transnet", b"", "is empty"),
    ],
)
def test_what_is_not_the_published_file(folder, name, content, told):
    path = put(name, content)
    one = seen()[name]
    assert one.state == "problem" and told in one.detail and one.fix.startswith("curl ")
    with pytest.raises(UserError, match=told) as error:
        found_judges(manifest.judges()[name].command)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_old_file_without_torch(folder, monkeypatch):
    put("syncnet", CONTENT)
    real = importlib.util.find_spec
    monkeypatch.setattr(judging, "find_spec", lambda name: None if name == "torch" else real(name))
    one = seen()["syncnet"]
    assert one.state == "problem" and one.fix == "pip install -e '.[convert]'"
