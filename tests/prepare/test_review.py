"""The review page: it shows a sample, takes decisions by key, and nobody else's."""

import http.client
import json
import threading
from contextlib import contextmanager

import av
import numpy as np
import pytest
from prepare_folder import VIDEOS, work

from memo_jax.data.store import Store
from memo_jax.prepare.listing import listed, name_of
from memo_jax.prepare.review.filter import read_review
from memo_jax.prepare.review.server import HOST, Review, server


@contextmanager
def serving(review):
    with server(review, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_address[1]
        finally:
            running.shutdown()
            thread.join()


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("review") / "set"
    work(path)
    return path


def test_a_page_shows_clips_and_writes_decisions(folder, tmp_path):
    csv = tmp_path / "review.csv"
    json_kind = {"Content-Type": "application/json"}
    with serving(Review(Store(folder), csv, sample=4, seed=1)) as port:
        status, page = ask(port, "GET", "/")
        assert status == 200 and b"keydown" in page
        status, found = ask(port, "GET", "/clips")
        clips = json.loads(found)
        assert status == 200 and len(clips) == 4
        assert set(clips[0]) == {"number", "name", "scores", "decision"}
        status, video = ask(port, "GET", f"/clip/{clips[0]['number']}.mp4")
        assert status == 200
        (tmp_path / "clip.mp4").write_bytes(video)
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 4
        for clip, decision in zip(clips, ("keep", "drop", "drop"), strict=False):
            body = json.dumps({"clip": clip["name"], "decision": decision})
            assert ask(port, "POST", "/decide", body, **json_kind)[0] == 200
            assert read_review(csv)[clip["name"]] == decision
    assert list(read_review(csv).values()).count("drop") == 2
    # Another sitting begins with what was decided.
    again = Review(Store(folder), csv, sample=4, seed=1)
    assert [about["decision"] for about in again.clips] == ["keep", "drop", "drop", ""]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/", None, {"Host": "evil.example"}, 403),
        ("GET", "/../review.csv", None, {}, 404),
        ("GET", "/clip/99.mp4", None, {}, 404),
        ("POST", "/decide", "clip=x", {"Content-Type": "text/plain"}, 403),
        ("POST", "/decide", "{", {"Content-Type": "application/json"}, 400),
        ("POST", "/decide", '{"clip": "x", "decision": "drop"}', {}, 403),
        (
            *("POST", "/decide", '{"clip": "x", "decision": "drop"}'),
            *({"Content-Type": "application/json"}, 400),
        ),
    ],
)
def test_strange_requests_change_nothing(folder, tmp_path, method, path, body, headers, status):
    csv = tmp_path / "review.csv"
    with serving(Review(Store(folder), csv, sample=2, seed=0)) as port:
        assert ask(port, method, path, body, **headers)[0] == status
    assert not csv.exists()


def test_a_sample_is_drawn_by_its_seed(folder, tmp_path):
    store = Store(folder)
    first, same, other = (
        [about["name"] for about in Review(store, tmp_path / "r.csv", 5, seed).clips]
        for seed in (0, 0, 1)
    )
    assert first == same != other
    everyone = Review(store, tmp_path / "r.csv", 1000, 0).clips
    assert len(everyone) == sum(VIDEOS.values())
    assert [about["name"] for about in everyone] == [name_of(clip) for _, clip in listed(store)]
    assert np.all(np.diff([about["number"] for about in everyone]) > 0)
