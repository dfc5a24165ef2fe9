"""What the corpora's folders say: made here as their pages describe them."""

import json

import pytest

from memo_jax.errors import UserError
from memo_jax.prepare.corpora import CORPORA, Facts, NotOfCorpus, facts
from memo_jax.prepare.embed import Span
from memo_jax.prepare.run import inputs
from memo_jax.train.emotion.corpora import CORPORA as LABELLED


@pytest.fixture(autouse=True)
def _clear():
    from memo_jax.prepare import corpora

    corpora._read.cache_clear()


def put(path, text="video"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_plain_folder_says_nothing(tmp_path):
    assert facts("", tmp_path / "x.mp4") == Facts()


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("RD_Radio1_000.mp4", "RD_Radio1"),
        ("WDA_BarackObama_001.mp4", "WDA_BarackObama"),
        ("WRA_KellyAyotte.mp4", "WRA_KellyAyotte"),
    ],
)
def test_hdtf_names_the_video(tmp_path, name, who):
    found = facts("hdtf", tmp_path / name)
    assert (found.corpus, found.identity, found.emotion) == ("HDTF", who, "")


def test_vfhq_names_a_person_in_a_video(tmp_path):
    found = facts("vfhq", tmp_path / "Clip+-2_g1xAbc9E+P0+C1+F1537-1825.mp4")
    assert (found.corpus, found.identity) == ("VFHQ", "-2_g1xAbc9E+P0")


def test_celebv_hq_labels_clips_and_parts_of_them(tmp_path):
    table = {
        "clips": {
            "M2Ohb0FAaJU_1": {"attributes": {"emotion": {"sep_flag": False, "labels": "anger"}}},
            "_0tf2n3rlJU_0": {
                "attributes": {
                    "emotion": {
                        "sep_flag": True,
                        "labels": [
                            {"emotion": "neutral", "start_sec": 0, "end_sec": 0.28},
                            {"emotion": "contempt", "start_sec": 1.28, "end_sec": 3.28},
                        ],
                    }
                }
            },
        }
    }
    put(tmp_path / "celebvhq_info.json", json.dumps(table))
    whole = facts("celebv-hq", tmp_path / "processed/M2Ohb0FAaJU_1.mp4")
    assert (whole.emotion, whole.identity, whole.spans) == ("angry", "", ())
    parts = facts("celebv-hq", tmp_path / "processed/_0tf2n3rlJU_0.mp4")
    assert parts.spans == (Span(0.0, 0.28, "neutral"), Span(1.28, 3.28, "other"))
    with pytest.raises(NotOfCorpus):
        facts("celebv-hq", tmp_path / "processed/other_0.mp4")


def test_celebv_hq_without_its_table_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no celebvhq_info\.json in any folder above"):
        facts("celebv-hq", tmp_path / "x.mp4")
    put(tmp_path / "celebvhq_info.json", "{")
    with pytest.raises(UserError, match="cannot be read; download it again"):
        facts("celebv-hq", tmp_path / "x.mp4")


def test_multitalk_takes_what_its_tables_hold(tmp_path):
    put(tmp_path / "annotations/german.json", json.dumps({"a_0": {"youtube_id": "a"}}))
    assert facts("multitalk", tmp_path / "multitalk_dataset/german/a_0.mp4").corpus == "MultiTalk"
    with pytest.raises(NotOfCorpus):
        facts("multitalk", tmp_path / "multitalk_dataset/german/b_0.mp4")
    assert facts("multitalk", tmp_path / "multitalk_dataset/dutch/b_0.mp4").identity == ""


def test_mead_labels_people_and_emotions_and_has_its_sound_aside(tmp_path):
    video = put(tmp_path / "M003/video/front/contempt/level_1/001.mp4")
    assert facts("mead", video) == Facts(
        "MEAD", "M003", "other", licence="research only, see MEAD's page"
    )
    sound = put(tmp_path / "M003/audio/contempt/level_1/001.m4a")
    assert facts("mead", video).sound == str(sound)
    for wrong in ("M003/video/front/merry/level_1/001.mp4", "M003/001.mp4"):
        with pytest.raises(NotOfCorpus):
            facts("mead", tmp_path / wrong)


@pytest.mark.parametrize(
    "label", "angry contempt disgusted fear happy neutral sad surprised".split()
)
def test_meads_labels_mean_what_the_detector_is_trained_on(tmp_path, label):
    found = facts("mead", tmp_path / f"W009/video/left_30/{label}/level_2/010.mp4").emotion
    wanted = LABELLED["mead"].class_of(label)
    assert found == ("other" if wanted == "others" else wanted)


def test_inputs_are_named_from_the_patterns_root_and_strangers_passed_over(tmp_path):
    for name in ("b/RD_Radio1_000.mp4", "a/WDA_X_001.mp4", "a/readme.mp4"):
        put(tmp_path / name)
    found, passed = inputs([str(tmp_path / "**/*.mp4")], "hdtf")
    assert [video.name for video in found] == ["a/WDA_X_001.mp4", "b/RD_Radio1_000.mp4"]
    assert passed == 1 and len({video.key for video in found}) == 2
    again, _ = inputs([str(tmp_path)], "")
    assert {v.name: v.key for v in found}.items() <= {v.name: v.key for v in again}.items()
    (single,), _ = inputs([str(tmp_path / "a/readme.mp4")], "")
    assert single.name == "readme.mp4"


def test_two_inputs_of_one_name_are_refused(tmp_path):
    put(tmp_path / "a/x.mp4"), put(tmp_path / "b/x.mp4")
    with pytest.raises(UserError, match=r"two inputs are called 'x.mp4'"):
        inputs([str(tmp_path / "a"), str(tmp_path / "b")], "")


def test_every_corpus_is_told_in_the_guide():
    from pathlib import Path

    guide = (Path(__file__).parents[2] / "docs/preparing.md").read_text()
    assert all(f"`{name}`" in guide for name in CORPORA)


def test_an_unknown_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="no corpus 'mad'; expected one of hdtf"):
        facts("mad", tmp_path)
