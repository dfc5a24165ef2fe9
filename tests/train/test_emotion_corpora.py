"""Corpora are read as they are published, and labels mean what the table says."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.errors import UserError
from memo_jax.train.emotion.corpora import CLASSES, CORPORA, LEFT_OUT, OUTPUT, read_corpus
from memo_jax.train.emotion.examples import split

# Every label of each corpus, as EmoBox's metadata and the corpora's own descriptions list them.
LABELS = {
    "aesdd": "a h f s d",
    "ased": "n f h s a",
    "asvpesd": "01 02 03 04 05 06 07 08 09 10 11 12 13 17",
    "cafe": "C D J N P S T",
    "casia": "neutral angry surprise sad happy fear",
    "cremad": "ANG DIS FEA HAP NEU SAD",
    "emns": "Disgust Excited Surprise Surprised Sad Sarcastic Happy Neutral Angry",
    "emodb": "anger boredem disgust fear happy Neutral sad W L E A F T N",
    "emovdb": "Amused Sleepy Angry Disgust Disgusted Neutral",
    "emovo": "neu dis gio pau rab sor tri",
    "emozionalmente": "anger disgust fear joy neutrality sadness surprise",
    "enterface": "an su fe ha sa di",
    "esd": "Neutral Angry Happy Sad Surprise",
    "iemocap": "neu hap ang sad exc fru fea sur dis oth xxx",
    "jlcorpus": "concerned apologetic angry sad assertive excited anxious neutral happy "
    "encouraging",
    "m3ed": "Neutral Surprise Disgust Anger Sad Happy Fear",
    "mead": "neutral angry contempt disgusted fear happy sad surprised",
    "meld": "neutral joy sadness surprise disgust anger fear",
    "mer2023": "neutral angry sad happy worried surprise",
    "mesd": "Anger Sadness Disgust Fear Neutral Happiness",
    "msppodcast": "U F D A S X C N O H",
    "oreau": "C T J P D S N",
    "pavoque": "angry neutral sad happy poker",
    "polish": "a n s",
    "ravdess": "01 02 03 04 05 06 07 08 Neutral Calm Happy Sad Angry Fearful Disgust Surprised",
    "resd": "happiness disgust anger fear enthusiasm neutral sadness",
    "savee": "a d f h n sa su",
    "shemo": "sad neutral fearful angry happy surprised A F H N S W",
    "subesco": "fear disgust surprise neutral happy angry sad",
    "tess": "fear disgust angry sad ps neutral happy",
    "turevdb": "Calm Happy Sad Angry",
    "urdu": "A H N S",
    "ravdess-song": "01 02 03 04 05 06",
    "mtg-jamendo": "action adventure advertising ambiental background ballad calm children "
    "christmas commercial cool corporate dark deep documentary drama dramatic dream emotional "
    "energetic epic fast film fun funny game groovy happy heavy holiday hopeful horror inspiring "
    "love meditative melancholic mellow melodic motivational movie nature party positive powerful "
    "relaxing retro romantic sad sexy slow soft soundscape space sport summer trailer travel "
    "upbeat uplifting",
}

# Paths as published -> (class, speaker).
PATHS = {
    "aesdd": {"anger/a01 (1).wav": ("angry", "1"), "disgust/d10 (06).b.wav": ("disgusted", "6")},
    "ased": {"Fear/f1-02-01-01-34.wav": ("fearful", "34")},
    "asvpesd": {"actor_12/03-01-06-01-02-12-02-01-01-16.wav": ("fearful", "12")},
    "cafe": {"Colere/Fort/01-C-2-1.wav": ("angry", "01"), "02-T-1-6.wav": ("sad", "02")},
    "casia": {"liuchanhg/surprise/201.wav": ("surprised", "liuchanhg")},
    "cremad": {"AudioWAV/1001_DFA_ANG_XX.wav": ("angry", "1001")},
    "emodb": {"wav/03a01Fa.wav": ("happy", "03"), "wav/16b10Lb.wav": ("others", "16")},
    "emovdb": {"bea_Amused/amused_1-15_0001.wav": ("happy", "bea")},
    "emovo": {"f1/gio-f1-b1.wav": ("happy", "f1")},
    "enterface": {
        "subject 1/anger/sentence 1/s1_an_1.avi": ("angry", "1"),
        "subject 3/happiness/sentence 2/s_3_ha_2.avi": ("happy", "3"),
    },
    "esd": {
        "0011/Surprise/0011_001401.wav": ("surprised", "0011"),
        "0001/Sad/train/0001_001001.wav": ("sad", "0001"),
    },
    "jlcorpus": {"JL(wav+txt)/female1_excited_10a_1.wav": ("happy", "female1")},
    "mead": {"W009/audio/contempt/level_1/001.m4a": ("others", "W009")},
    "mesd": {"Anger_F_A_abajo.wav": ("angry", "")},
    "oreau": {"session1/01a01C.wav": ("angry", "01")},
    "polish": {"1.s_dom_2.wav": ("fearful", "1")},
    "ravdess": {"Actor_12/03-01-06-01-02-01-12.wav": ("fearful", "12")},
    "savee": {"DC_sa01.wav": ("sad", "DC"), "JE/su03.wav": ("surprised", "JE")},
    "shemo": {"female/F21W05.wav": ("surprised", "F21")},
    "subesco": {"F_02_MONIKA_S_1_NEUTRAL_5.wav": ("neutral", "02F")},
    "tess": {
        "OAF_Fear/OAF_back_fear.wav": ("fearful", "OA"),
        "x/YAF_dog_ps.wav": ("surprised", "YA"),
    },
    "turevdb": {"Sound Source/Calm/1157_kz_2.wav": ("neutral", "1157")},
    "urdu": {"Angry/SM1_F1_A1.wav": ("angry", "SM1")},
    "ravdess-song": {"Actor_01/03-02-02-01-01-01-01.wav": ("neutral", "01")},
}


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")


def read(name, place):
    """{file name: (class, speaker)} of a corpus."""
    found, _ = read_corpus(name, place)
    return {r.path.name: (kind, r.speaker) for r, kind in found}


def test_the_table_has_all_of_emobox_and_both_of_song():
    assert set(LABELS) == set(CORPORA) and len(CORPORA) == 34


@pytest.mark.parametrize("name", CORPORA)
def test_every_documented_label_has_a_class(name):
    corpus = CORPORA[name]
    kinds = {corpus.class_of(label) for label in LABELS[name].split()}
    assert kinds <= {*CLASSES, LEFT_OUT} and len(kinds) > 2
    assert set(corpus.classes) >= {label.casefold() for label in LABELS[name].split()}


def test_eight_classes_go_to_eight_of_the_nine_outputs():
    assert list(OUTPUT) == list(CLASSES) and len(set(OUTPUT.values())) == 8
    assert set(range(9)) - set(OUTPUT.values()) == {EMOTIONS.index("unknown")}
    assert all(EMOTIONS[OUTPUT[name]] == name for name in CLASSES if name != "others")


@pytest.mark.parametrize("name", PATHS)
def test_names_of_files_say_label_and_speaker(name, tmp_path):
    touch(tmp_path, *PATHS[name], "._hidden.wav", "readme.txt")
    wanted = {path.rpartition("/")[2]: found for path, found in PATHS[name].items()}
    assert read(name, tmp_path) == wanted


def test_speech_and_song_of_ravdess_in_one_folder_are_two_corpora(tmp_path):
    touch(
        tmp_path, "03-01-05-01-01-01-07.wav", "03-02-04-01-01-01-07.wav", "01-01-03-01-01-01-07.mp4"
    )
    assert read("ravdess", tmp_path) == {"03-01-05-01-01-01-07.wav": ("angry", "07")}
    assert read("ravdess-song", tmp_path) == {"03-02-04-01-01-01-07.wav": ("sad", "07")}


def test_iemocap(tmp_path):
    wav, words = "Session1/sentences/wav/Ses01F_impro01", "Session1/dialog/EmoEvaluation"
    names = [f"Ses01F_impro01_{who}" for who in ("F000", "M001", "F002")]
    touch(tmp_path, *(f"{wav}/{name}.wav" for name in names), f"{words}/Ses01F_impro01.txt")
    (tmp_path / words / "Ses01F_impro01.txt").write_text(
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        + "".join(
            f"[6.2901 - 8.2357]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
            for name, label in zip(names, ("exc", "fru", "xxx"), strict=True)
        )
    )
    assert read("iemocap", tmp_path) == {
        "Ses01F_impro01_F000.wav": ("happy", "Ses01F"),
        "Ses01F_impro01_M001.wav": ("others", "Ses01M"),
    }


def test_meld_tells_clips_of_one_name_apart(tmp_path):
    places = {"train": "train/train_splits", "dev": "dev_splits_complete"}
    places["test"] = "output_repeated_splits_test"
    for part, label in zip(places, ("joy", "anger", "sadness"), strict=True):
        touch(tmp_path, f"{places[part]}/dia0_utt1.mp4")
        sheet = tmp_path / ("train" if part == "train" else ".") / f"{part}_sent_emo.csv"
        sheet.write_text(
            "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"
            f'1,"a, b",Joey,{label},0,1\n'
        )
    found, _ = read_corpus("meld", tmp_path)
    assert [(r.path.parent.name, kind, r.speaker) for r, kind in found] == [
        ("train_splits", "happy", "Joey"),
        ("dev_splits_complete", "angry", "Joey"),
        ("output_repeated_splits_test", "sad", "Joey"),
    ]


def test_sheets(tmp_path):
    emns, resd, msp = (tmp_path / name for name in ("emns", "resd", "msp"))
    touch(emns, "cleaned_webm/recorded_1.webm")
    (emns / "metadata.csv").write_text(
        "id|utterance|emotion|audio_recording\n1|so|Sarcastic|wavs/recorded_1.wav\n"
    )
    assert read("emns", emns) == {"recorded_1.webm": ("others", "")}
    touch(resd, "train/a.wav", "test/b.wav")
    (resd / "train.csv").write_text("name,path,emotion\nx,a.wav,enthusiasm\n")
    (resd / "test.csv").write_text("name,path,emotion\ny,b.wav,fear\n")
    assert read("resd", resd) == {"a.wav": ("happy", ""), "b.wav": ("fearful", "")}
    touch(msp, *(f"Audios/MSP_{i}.wav" for i in range(3)))
    labels = {
        "MSP_0.wav": {"EmoClass": "C", "SpkrID": 127},
        "MSP_1.wav": {"EmoClass": "X", "SpkrID": 127},
        "MSP_2.wav": {"EmoClass": "U", "SpkrID": "Unknown"},
    }
    (msp / "labels_consensus.json").write_text(json.dumps(labels))
    assert read("msppodcast", msp) == {
        "MSP_0.wav": ("others", "127"),
        "MSP_2.wav": ("surprised", ""),
    }


def test_sentences_of_long_recordings(tmp_path):
    touch(tmp_path, "pavoque-happy.flac")
    (tmp_path / "pavoque-happy.yaml").write_text(
        "- {prompt: a, text: 'Ja!', style: happy, start: 0.5, end: 2.25}\n"
        "- {prompt: b, text: Nein, style: happy, start: 2.25, end: 4}\n"
    )
    found, _ = read_corpus("pavoque", tmp_path)
    assert [(r.start, r.stop, kind) for r, kind in found] == [
        (0.5, 2.25, "happy"),
        (2.25, 4, "happy"),
    ]


def test_m3ed(tmp_path):
    touch(tmp_path, "modality_speech/A_film_1_1.wav")
    said = {"Speaker": "A", "EmoAnnotation": {"final_main_emo": "Anger"}}
    clip = {"SpeakerInfo": {"A": {"Name": "Li"}}, "Dialog": {"film_1_1": said}}
    (tmp_path / "annotation.json").write_text(json.dumps({"film": {"film_1": clip}}))
    assert read("m3ed", tmp_path) == {"A_film_1_1.wav": ("angry", "film Li")}


def test_moods_of_music_must_agree(tmp_path):
    touch(tmp_path, *(f"0{i}/{i}.low.mp3" for i in range(5)))
    tags = [
        "happy\tmood/theme---party",
        "happy\tmood/theme---sad",
        "film",
        "epic\tmood/theme---sad",
        "epic",
    ]
    (tmp_path / "autotagging_moodtheme.tsv").write_text(
        "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
        + "".join(
            f"track_{i}\tartist_{i}\talbum\t0{i}/{i}.mp3\t99.5\tmood/theme---{tag}\n"
            for i, tag in enumerate(tags)
        )
    )
    assert read("mtg-jamendo", tmp_path) == {
        "0.low.mp3": ("happy", "artist_0"),
        "3.low.mp3": ("sad", "artist_3"),
        "4.low.mp3": ("others", "artist_4"),
    }


def test_emobox_listings_are_read_from_where_they_lie(tmp_path):
    """Paths are relative to EmoBox's own folder, and speakers stand in the paths."""
    names = ["03-01-05-01-01-01-07", "03-01-04-01-01-01-08"]
    touch(tmp_path, *(f"downloads/ravdess/Actor/{name}.wav" for name in names))
    entries = [
        {
            "key": name,
            "dataset": "ravdess",
            "wav": f"downloads/ravdess/Actor/{name}.wav",
            "emo": emo,
        }
        for name, emo in zip(names, ("Angry", "Sad"), strict=True)
    ]
    listing = tmp_path / "data" / "ravdess" / "ravdess.jsonl"
    listing.parent.mkdir(parents=True)
    listing.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    wanted = {f"{names[0]}.wav": ("angry", "07"), f"{names[1]}.wav": ("sad", "08")}
    assert read("ravdess", listing) == wanted
    listing = listing.with_suffix(".json")
    listing.write_text(json.dumps({entry["key"]: entry for entry in entries}))
    assert read("ravdess", listing) == wanted


def test_a_listing_of_ones_own(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    listing = tmp_path / "mine.csv"
    listing.write_text("path,label,speaker,split\na.wav,happy,me,train\nb.wav,Other,you,dev\n")
    found, _ = read_corpus("mine", listing)
    assert [(r.speaker, r.split, kind) for r, kind in found] == [
        ("me", "train", "happy"),
        ("you", "valid", "others"),
    ]


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("cremad", ["1001_DFA_JOY_XX.wav", "1001_DFA_ZEN_HI.wav"], "'joy' .1 files., 'zen' .1"),
        ("cremad", ["1001_DFA_ANG_XX.wav", "song.mp3"], "1 of 2 entries .* such as 'song'"),
        ("cremad", [], "holds no recordings"),
        ("cremd", ["1001_DFA_ANG_XX.wav"], "no corpus 'cremd'; did you mean 'cremad'"),
        ("resd", ["a.wav"], "no .*train.csv"),
        ("msppodcast", ["Labels/labels_consensus.json"], "cannot be read"),
        ("asvpesd", ["03-01-17-01-02-12-02-01-01-16.wav"], "every label is one that is left out"),
    ],
)
def test_a_folder_that_is_not_the_corpus_is_told_in_one_line(name, files, message, tmp_path):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message) as error:
        read_corpus(name, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "holds no recordings"),
        ("path,mood\na.wav,happy\n", "a row has no label; expected one of the columns label, emo"),
        ("path,label,split\na.wav,happy,rest\n", "split 'rest'; expected one of train"),
        ("path,label,split\na.wav,happy,train\na.wav,happy,\n", "some rows name a split"),
        ("path,label\na.wav,bliss\n", "'bliss'"),
        ("path,label\nb.wav,happy\n", "files are missing"),
        ("path,label,start\na.wav,happy,soon\n", "'soon' is no time"),
    ],
)
def test_a_wrong_listing_is_told_in_one_line(text, message, tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_corpus("mine", tmp_path / "mine.csv")
    assert "\n" not in str(error.value)


people = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=8, max_size=60)


@given(people, st.integers(0, 99))
def test_no_speaker_and_no_content_is_on_both_sides(drawn, seed):
    speakers = [f"s{who}" if who else "" for who, _ in drawn]
    labels = [f"l{kind}" for _, kind in drawn]
    keys = [f"{who}{kind}" if who % 2 else f"{i}" for i, (who, kind) in enumerate(drawn)]
    for by_speaker in (True, False):
        held, how = split(speakers, labels, keys, by_speaker=by_speaker, share=0.25, seed=[seed])
        again, _ = split(speakers, labels, keys, by_speaker=by_speaker, share=0.25, seed=[seed])
        assert np.array_equal(held, again)
        owners = speakers if how == "speaker" else keys
        for owner in set(owners):
            assert len({side for side, own in zip(held, owners, strict=True) if own == owner}) == 1
        if how == "speaker":
            assert not any(side for side, own in zip(held, owners, strict=True) if not own)


@pytest.mark.parametrize(
    ("people", "how"), [(24, "speaker"), (4, "speaker"), (2, "file (2 speakers)")]
)
def test_three_to_one(people, how):
    speakers = [f"{i % people}" for i in range(480)]
    labels = [f"{i % 7}" for i in range(480)]
    keys = [f"{i}" for i in range(480)]
    held, found = split(speakers, labels, keys, by_speaker=True, share=0.25, seed=[1])
    assert found == how and abs(held.mean() - 0.25) < 0.01
    other, _ = split(speakers, labels, keys, by_speaker=True, share=0.25, seed=[2])
    assert not np.array_equal(held, other)
    if found != "speaker":
        shares = [
            held[[i for i, own in enumerate(labels) if own == kind]].mean() for kind in set(labels)
        ]
        assert max(abs(np.array(shares) - 0.25)) < 0.01
