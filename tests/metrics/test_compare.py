"""Two folders of puppets: the table, broken videos, the cache, memory, the report."""

import argparse
import dataclasses
import json
import re
import shutil
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.video import read_video
from memo_jax.judges.syncnet import search
from memo_jax.metrics import compare as comparing
from memo_jax.metrics import sync
from memo_jax.metrics.compare import Settings, add_options, compare, from_options
from memo_jax.metrics.frechet import Moments, Reservoir, frechet_distance
from memo_jax.metrics.gather import Gathered
from memo_jax.metrics.meters import Cache
from memo_jax.metrics.report import page, plots, write_report
from memo_jax.metrics.table import to_json, to_markdown
from memo_jax.weights import manifest


class Projection:
    """Stands for a network: fixed drawn weights on a thumbnail."""

    preparation = "pytorch"
    side, batch = 8, 3

    def __init__(self, width, calls):
        self.weights = np.random.default_rng(0).normal(size=(192, width)).astype(np.float32)
        self.calls, self.width = calls, width

    def prepared(self, window):
        small = [cv2.resize(f, (8, 8), interpolation=cv2.INTER_AREA) for f in window]
        return np.stack(small).astype(np.float32) / 255

    def __call__(self, frames):
        self.calls.append(len(frames))
        if frames.ndim == 5:  # windows, prepared
            return frames.mean(axis=1).reshape(len(frames), -1) @ self.weights
        return self.prepared(frames).reshape(len(frames), -1) @ self.weights


class Judge:
    """Stands for SyncNet: lips and sound are both the frame's number."""

    def places(self, crops, samples):
        at = np.zeros((len(crops) - 5, 2), np.float32)
        return at, at + 3.0


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for the networks; the sizes of what they were shown."""
    calls = []
    monkeypatch.setattr(comparing, "load_inception", lambda *_, **__: Projection(24, calls))
    monkeypatch.setattr(comparing, "load_i3d", lambda *_, **__: Projection(12, calls))
    monkeypatch.setattr("memo_jax.judges.syncnet.load", lambda *_: Judge())
    return calls


@pytest.fixture
def weights(tmp_path):
    paths = {name: tmp_path / f"{name}.bin" for name in ("fid", "fvd", "syncnet")}
    for name, path in paths.items():
        path.write_bytes(name.encode())
    return paths


@pytest.fixture(scope="module")
def written(acts, tmp_path_factory):
    """Four real videos; of generated ones the same with some blur, one that has no pair, and three
    that are broken in several ways."""
    folder = tmp_path_factory.mktemp("videos")
    real, generated = folder / "real", folder / "generated"
    (generated / "deep").mkdir(parents=True)
    real.mkdir()
    for i, act in enumerate(acts):
        act.save(real / f"{i}.mp4", act.frames[:50])
        blurred = np.stack([cv2.GaussianBlur(f, (0, 0), 1.5) for f in act.frames[:50]])
        act.save(generated / f"{i}.mp4", blurred)
    acts[0].save(generated / "deep" / "other.mp4", acts[0].frames[:40])
    whole = (generated / "0.mp4").read_bytes()
    (generated / "empty.mp4").write_bytes(b"")
    (generated / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (generated / "text.mp4").write_bytes(b"no video at all")
    (generated / "notes.txt").write_text("not looked at")
    (generated / ".hidden.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def folders(written, tmp_path):
    """Both of them, a test's own."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path / "real", tmp_path / "generated"


def run(folders, tmp_path, weights, **changes):
    settings = Settings(**({"faces": "portrait", "cache": tmp_path / "cache"} | changes))
    return compare(*folders, tmp_path / "out", weights=weights, settings=settings, quiet=True)


def test_the_table(folders, tmp_path, weights, calls):
    table = run(folders, tmp_path, weights)
    names = [row.name for row in table.rows]
    paper = ["FVD", "FID", "Sync-C", "Sync-D", "sync offset", "pixel identity", "E-FID"]
    assert names[:8] == [*paper, "emotion accuracy"]
    assert table.row("FID").counted == "240 and 200 frames"
    assert table.row("FVD").counted == "14 and 12 windows of 16 frames"
    assert table.row("FID").generated > 0 and table.row("FVD").generated > 0
    assert table.row("FID").real is None
    zeros = np.zeros((45, 2), np.float32)
    assert table.row("Sync-D").real == pytest.approx(search(zeros, zeros + 3).distance)
    assert table.row("Sync-C").counted == "5 and 4 videos"
    identity = table.row("pixel identity")
    assert 0.8 < identity.generated <= 1 and 0.8 < identity.real <= 1
    assert "1 without: no real video" in identity.note and "no paper's figure" in identity.note
    for name, reason in {"E-FID": "3DMM regressor", "emotion accuracy": "no judge"}.items():
        assert table.row(name).generated is None and reason in table.row(name).note
    assert table.row("sharpness").generated < 0.7 * table.row("sharpness").real
    assert table.row("frozen").generated == table.row("frozen").real == 0
    kid = table.row("KID")
    assert kid.generated > 0 and kid.group == "extra" and "published ones are of 1,000" in kid.note
    told = " ".join(table.warnings)
    assert "FID is of 200 real and 240 generated frames, fewer than 2,048" in told
    assert "FVD is of 12 real and 14 generated windows" in told and "fewer than 256" in told
    assert len(table.curves["identity"]["generated"]) == 2 == len(table.curves["flicker"]["real"])
    lines = (tmp_path / "out" / "videos.jsonl").read_text().splitlines()
    seen = [json.loads(line) for line in lines]
    assert len(seen) == 9 and seen[4]["name"] == "0" and seen[4]["set"] == "generated"
    assert seen[4]["sharpness"] < seen[0]["sharpness"] and seen[4]["sync_d"] > 0


def test_broken_videos_are_listed(folders, tmp_path):
    table = run(folders, tmp_path, {})
    reasons = {b.name: b.reason for b in table.broken}
    assert set(reasons) == {"empty", "cut", "text"}
    assert all(b.set == "generated" and "\n" not in b.reason for b in table.broken)
    assert "0 bytes" in reasons["empty"] and "before the length it states" in reasons["cut"]
    assert "5 videos" in table.about["generated"]
    assert {example.name for example in table.examples} == {"0", "1", "2", "3"}


def test_the_distances_are_those_of_all_features(folders, tmp_path, weights, calls, acts):
    """Streaming against features of all videos in one array."""
    table = run(folders, tmp_path, weights)
    network = Projection(24, [])
    sets = []
    for folder in folders:
        features = []
        for path in sorted(folder.rglob("*.mp4")):
            if path.stem not in ("empty", "cut", "text", ".hidden"):
                features.append(network(read_video(path)[0]))
        found = Moments(24)
        found.add(np.concatenate(features))
        sets.append(found)
    assert table.row("FID").generated == pytest.approx(frechet_distance(*sets), rel=1e-6)


def test_what_is_known_is_not_measured_again(folders, tmp_path, weights, calls):
    (folders[1] / "cut.mp4").unlink()  # that it is broken is found out anew each time
    first = run(folders, tmp_path, weights)
    assert calls
    calls.clear()
    assert run(folders, tmp_path, weights) == first and not calls
    # A file under another name is the same content; another content is not.
    (folders[1] / "1.mp4").rename(folders[1] / "renamed.mp4")
    run(folders, tmp_path, weights)
    assert not calls
    (folders[1] / "2.mp4").write_bytes((folders[1] / "deep" / "other.mp4").read_bytes() + b"\0")
    run(folders, tmp_path, weights)
    assert sum(calls) == 40 + 2  # frames and windows of that one alone
    calls.clear()
    weights["fid"].write_bytes(b"other weights")
    run(folders, tmp_path, weights)
    assert calls and all(n <= 32 for n in calls)
    calls.clear()
    run(folders, tmp_path, weights, fps=12.5)
    assert calls


def test_a_damaged_cache_only_costs_time(folders, tmp_path, weights, calls):
    first = run(folders, tmp_path, weights)
    kept = sorted((tmp_path / "cache").rglob("*.npz"))
    assert kept and not list((tmp_path / "cache").rglob(".unfinished-*"))
    for i, path in enumerate(kept):
        path.write_bytes(path.read_bytes()[: i % 3 * 100])
    assert run(folders, tmp_path, weights) == first
    assert Cache(None).read("0" * 40) is None
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    assert run(folders, tmp_path, weights, cache=blocked) == first


def test_fid_of_every_few_frames(folders, tmp_path, weights, calls):
    table = run(folders, tmp_path, {"fid": weights["fid"]}, step=7)
    assert table.row("FID").counted == f"{4 * 8 + 6} and {4 * 8} frames"


def test_portraits_by_name(folders, tmp_path, acts):
    """A picture of somebody else is whom the video is held against."""
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    for i in range(4):
        picture = acts[(i + 1) % 4].frames[0]
        cv2.imwrite(str(portraits / f"{i}.png"), picture[..., ::-1])
    own = run(folders, tmp_path, {}).row("pixel identity")
    other = run(folders, tmp_path, {}, portraits=portraits).row("pixel identity")
    assert other.generated < own.generated - 0.3 and other.real == own.real


def test_videos_without_sound_or_face(folders, tmp_path, weights, calls, monkeypatch):
    monkeypatch.setattr(comparing, "HaarFinder", lambda: type("None_", (), {"find": _none})())
    table = run(folders, tmp_path, weights, faces="find")
    row = table.row("Sync-C")
    assert row.generated is None and "generated: 5 without: no face" in row.note
    assert sync.REASONS[2] == "no face"


def _none(self, image):
    return []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"real": "missing"}, "--real .* is no folder"),
        ({"generated": "nothing"}, "--generated .* holds no video"),
        ({"generated": "text"}, "none of the 1 generated videos can be measured; the first, a: "),
        ({"weights": {"vgg": Path("x")}}, "weights for vgg; expected some of"),
        ({"weights": {"fid": Path("absent.pth")}}, "absent.pth cannot be read"),
        ({"weights": {"face_embedder": Path("x.onnx")}}, "give a face detector too"),
        ({"weights": {"regressor": Path("absent.onnx")}}, "3DMM regressor .* does not exist"),
    ],
)
def test_what_cannot_be_compared(folders, tmp_path, changes, told):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.mp4").write_bytes(b"no video")
    real, generated = folders
    real = tmp_path / changes.get("real", real)
    generated = tmp_path / changes.get("generated", generated)
    with pytest.raises(UserError, match=told) as error:
        run((real, generated), tmp_path, changes.get("weights", {}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"fps": 0}, {"fps": 500}, {"step": 0}])
def test_settings_that_cannot_be(changes):
    with pytest.raises(UserError, match="expected 1 to 120, and 1 at least"):
        Settings(**changes)


def test_weights_in_the_judges_folder(tmp_path, monkeypatch):
    """Are taken where no option names others, unless they are off."""
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path))
    parser = argparse.ArgumentParser()
    add_options(parser)
    path = tmp_path / "judges" / "syncnet_v2.model"
    path.parent.mkdir()
    path.write_bytes(b"not SyncNet")
    with pytest.raises(UserError, match=r"11 bytes, expected 54,573,114"):
        from_options(parser.parse_args([]))
    judge = dataclasses.replace(manifest.judges()["syncnet"], size=None, sha256=None)
    monkeypatch.setattr(manifest, "judges", lambda: {"syncnet": judge})
    assert from_options(parser.parse_args([]))[0] == {"syncnet": path}
    named = parser.parse_args(["--syncnet-weights", "own.model"])
    assert from_options(named)[0] == {"syncnet": Path("own.model")}
    assert from_options(parser.parse_args(["--syncnet-weights", "off"]))[0] == {}


def test_options():
    parser = argparse.ArgumentParser()
    add_options(parser)
    given = "--fid-weights a.pth --regressor-weights r.onnx --expression 80:144 --faces portrait"
    weights, settings = from_options(parser.parse_args(given.split()))
    assert weights == {"fid": Path("a.pth"), "regressor": Path("r.onnx")}
    assert settings == Settings(faces="portrait", expression=slice(80, 144))
    assert from_options(parser.parse_args([])) == ({}, Settings())
    for wrong in ("80", "9:3", "a:b", "1:2:3", "-1:3"):
        with pytest.raises(UserError, match="such as 80:144"):
            from_options(parser.parse_args([f"--expression={wrong}"]))
    with pytest.raises(UserError, match="is no folder"):
        from_options(parser.parse_args(["--portraits", "absent"]))


def test_memory_does_not_grow_with_the_number_of_videos():
    """Features of 12 videos' frames and windows pass; what is held afterwards is what 4 leave,
    and at no time more than the moments of one set and their next ones."""
    rng = np.random.default_rng(0)
    made = {
        "fid": {"features": rng.normal(size=(16, 2048)).astype(np.float32)},
        "fvd": {"features": rng.normal(size=(200, 400)).astype(np.float32)},
    }
    gathered, held = Gathered(25.0), []
    gathered.samples = {"fid": Reservoir(64, 2048), "fvd": Reservoir(64, 400)}  # full at once
    tracemalloc.start()
    try:
        for i in range(12):
            gathered.add(str(i), made, None)
            if i in (3, 11):
                held.append(tracemalloc.get_traced_memory()[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held[1] < held[0] + 100_000
    assert peak < 160e6
    assert gathered.moments["fid"].count == 192 and gathered.samples["fvd"].seen == 2400


class Page(HTMLParser):
    """Collects what a page points at, and its words."""

    def __init__(self):
        super().__init__()
        self.places, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.places += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def test_the_report_holds_everything(folders, tmp_path, weights, calls):
    (folders[1] / "<b>odd&name.mp4").write_bytes(b"x")
    table = run(folders, tmp_path, weights)
    files = write_report(table, tmp_path / "out")
    assert {kind: path.name for kind, path in files.items()} == {
        "html": "report.html",
        "md": "table.md",
        "json": "table.json",
    }
    read = Page()
    text = files["html"].read_text()
    read.feed(text)
    assert read.places and all(place.startswith("data:image/png;base64,") for place in read.places)
    assert "script" not in read.tags and "link" not in read.tags and "b" not in read.tags
    assert "url(" not in text and "@import" not in text
    for row in table.rows:
        assert row.name in read.text and row.note in read.text
    assert all(warning in read.text for warning in table.warnings)
    assert "<b>odd&name" in read.text and "0 bytes" in read.text
    # Curves of identity and quality, offsets, and four pairs of videos.
    assert read.tags.count("img") == 3 + 4
    content = json.loads(files["json"].read_text())
    assert content["rows"][1]["generated"] == table.row("FID").generated
    assert not list((tmp_path / "out").glob(".*"))


def test_markdown_and_json_of_a_table(folders, tmp_path):
    table = run(folders, tmp_path, {})
    text = to_markdown(table)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(table.rows)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "| FID ↓ | – | – |" in text and "- generated empty: empty: 0 bytes" in text
    assert json.loads(to_json(table))["examples"] == ["0", "1", "2", "3"]
    assert "Identity, second by second" in plots(table)
    assert "FID" in page(table)
