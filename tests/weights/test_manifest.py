"""The manifest of published files: its form, and that it agrees with what reads the files."""

import re

import pytest

from memo_jax.weights import manifest
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.hub import is_hub_id
from memo_jax.weights.published import PLACES
from memo_jax.weights.spec import REQUIRED

OTHERS = {"unet", "motion_adapter", "face_analysis", "vocal_separator"}
FILES = [
    pytest.param(source, file, id=f"{source.repository}/{file.path}")
    for source in manifest.sources()
    for file in source.files
]


@pytest.mark.parametrize("source", manifest.sources(), ids=lambda source: source.repository)
def test_a_source(source):
    assert is_hub_id(source.repository) and source.page.endswith(source.repository)
    assert source.licence and source.licence_url.startswith("https://")
    assert source.revision is None or re.fullmatch("[0-9a-f]{40}", source.revision)
    assert any(file.usual for file in source.files)
    paths = [file.path for file in source.files]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(("source", "file"), FILES)
def test_a_file(source, file):
    assert file.component in OTHERS | set(COMPONENTS)
    assert not file.path.startswith("/") and ".." not in file.path
    assert file.size is None or file.size > 0
    assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert bool(file.checked) == (file.size is not None or file.sha256 is not None)
    assert file.licence and file.licence_url.startswith("https://")


def test_no_hash_stands_for_two_files():
    hashes = [file.sha256 for source in manifest.sources() for file in source.files if file.sha256]
    assert len(hashes) >= 14 and len(set(hashes)) == len(hashes)


def test_every_source_is_a_model_of_its_own():
    for source in manifest.sources():
        found = manifest.model(source.repository)
        assert found is not None and found.id == source.repository
        assert source in [part.source for part in found.parts]
    assert manifest.model("nobody/nothing") is None


def test_memo_has_every_component_where_the_reader_looks():
    memo = manifest.model("memoavatar/memo")
    assert memo is not None
    folders = {}
    for part, file in memo.files():
        folders.setdefault(file.component, set()).add(part.place(file).rpartition("/")[0])
    assert {*REQUIRED, "wav2vec2", "emotion2vec", "emotion_classifier"} < set(folders)
    for name in {"face_analysis", "vocal_separator"} & set(folders):
        assert all(f"misc/{name}" in place for place in folders.pop(name))
    for name, places in folders.items():
        assert places <= set(PLACES[name]), name


@pytest.mark.parametrize(
    ("component", "words"),
    [("face_analysis", "non-commercial"), ("vocal_separator", "not stated"), ("vae", "MIT")],
)
def test_licences_that_differ_from_the_models_own(component, words):
    memo = manifest.model("memoavatar/memo")
    assert memo is not None
    licences = {file.licence for _, file in memo.files() if file.component == component}
    assert len(licences) == 1 and words in licences.pop()


@pytest.mark.parametrize("judge", manifest.judges().values(), ids=lambda judge: judge.name)
def test_a_judge(judge):
    assert "/" not in judge.file and judge.option.startswith("--")
    assert judge.url.startswith(("https://", "http://")) and judge.page.startswith("https://")
    assert judge.licence and judge.licence_url.startswith("https://")
    assert judge.size is None or judge.size > 0
    assert judge.sha256 is None or re.fullmatch("[0-9a-f]{64}", judge.sha256)
    assert bool(judge.checked) == (judge.size is not None or judge.sha256 is not None)


def test_judges_are_those_that_commands_take():
    """Each by an option that its command has; no hash stands for two of them."""
    from memo_jax.evaluate.__main__ import parser as evaluate
    from memo_jax.prepare.__main__ import parser as prepare

    commands = {"memo_jax.evaluate": evaluate(), "memo_jax.prepare": prepare()}
    judges = manifest.judges()
    assert set(judges) == {"fid", "fvd", "syncnet", "transnet", "hyperiqa"}
    for judge in judges.values():
        assert judge.option in commands[judge.command].format_help()
    assert len({judge.file for judge in judges.values()}) == len(judges)
    hashes = [judge.sha256 for judge in judges.values() if judge.sha256]
    assert len(set(hashes)) == len(hashes)


def test_fids_file_carries_its_hash_in_its_name():
    judge = manifest.judges()["fid"]
    assert judge.sha256 is not None and judge.file.endswith(f"-{judge.sha256[:8]}.pth")
