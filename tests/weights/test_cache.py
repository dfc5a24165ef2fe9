"""The cache folder, hashes that are read once, and keys of contents."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from memo_jax.weights import cache
from memo_jax.weights.cache import cache_folder, content_key, sha256


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def large(folder):
    path = folder / "large"
    path.write_bytes(b"abc" * 2**20)
    return path


def of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blocks(path):
    """How many blocks of a file were read for its hash."""
    read = []
    assert sha256(path, read.append) == of(path)
    assert sum(read) in (0, path.stat().st_size)
    return len(read)


def test_where_it_is(monkeypatch):
    monkeypatch.setenv("MEMO_JAX_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("MEMO_JAX_CACHE")
    assert cache_folder() == Path("/b/memo_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/memo_jax")


def test_a_large_file_is_read_once(large, folder):
    assert blocks(large) == 3 and blocks(large) == 0
    link = folder / "link"
    link.symlink_to(large)
    assert blocks(link) == 0


def test_a_changed_file_is_read_again(large):
    blocks(large)
    large.write_bytes(b"abd" * 2**20)
    assert blocks(large) == 3
    os.utime(large, ns=(0, 0))
    assert blocks(large) == 3


def test_a_file_that_is_gone_is_forgotten(large, folder):
    blocks(large)
    other = large.rename(folder / "other")
    blocks(other)
    assert list(json.loads((cache_folder() / "hashes.json").read_text())) == [str(other)]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"%s": 3}', '{"%s": [1, 2, "x"]}'])
def test_a_damaged_memory_is_not_used(large, text):
    cache_folder().mkdir()
    (cache_folder() / "hashes.json").write_text(text.replace("%s", str(large)))
    assert blocks(large) == 3 and blocks(large) == 0


def test_a_memory_that_cannot_be_written_costs_only_reading(large, folder):
    cache_folder().write_text("a file where the folder would be")
    assert blocks(large) == 3 and blocks(large) == 3


def test_a_file_that_cannot_be_read(folder):
    with pytest.raises(OSError):
        sha256(folder / "nothing")


def model(folder, contents=b"x"):
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "w").write_bytes(contents)
    (folder / "b").write_bytes(b"y")
    return folder, [folder / "a" / "w", folder / "b"]


def test_a_key_is_of_names_and_contents(folder):
    root, files = model(folder / "one")
    key = content_key(root, files, 1)
    assert len(key) == 20 and int(key, 16) >= 0
    assert content_key(root, reversed(files), 1) == key
    os.utime(files[0], ns=(0, 0))
    assert content_key(root, files, 1) == key
    assert content_key(*model(folder / "two"), 1) == key
    others = {
        content_key(*model(folder / "three", b"z"), 1),
        content_key(root, files[:1], 1),
        content_key(root, files, 2),
        content_key(files[1], files[1:], 1),
    }
    assert len(others | {key}) == 5


def test_a_key_is_not_fooled_by_swapped_contents(folder):
    root, files = model(folder / "one")
    key = content_key(root, files, 1)
    files[0].write_bytes(b"y")
    files[1].write_bytes(b"x")
    assert content_key(root, files, 1) != key


def test_a_single_files_key_is_of_its_own_name(folder):
    path = folder / "w.ckpt"
    path.write_bytes(b"x")
    moved = folder / "elsewhere" / "w.ckpt"
    moved.parent.mkdir()
    key = content_key(path, [path], cache.REMEMBERED_FROM)
    assert content_key(path.rename(moved), [moved], cache.REMEMBERED_FROM) == key
