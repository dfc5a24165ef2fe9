"""The command, from corpora to a component of a model; features are heard once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import emotion2vec, quick_compilation, random_module, same_weights, small_model
from sounds import tone, write_wav

from memo_jax.audio.emotion import EMOTIONS, EmotionDetector
from memo_jax.command import read_config, with_config
from memo_jax.config import EmotionClassifierConfig
from memo_jax.errors import UserError
from memo_jax.train.emotion import features
from memo_jax.train.emotion.__main__ import main, parser
from memo_jax.train.emotion.features import Hearer, Store, cut, fit_length, hear
from memo_jax.train.emotion.readers import Recording
from memo_jax.weights.exporting import export_model
from memo_jax.weights.folder import read_component, write_model
from memo_jax.weights.found import only
from memo_jax.weights.importing import import_model
from memo_jax.weights.sources import load_model
from memo_jax.weights.spec import read_spec

CONFIG = Path(__file__).parents[2] / "configs" / "emotion.py"
QUICK = ["--quiet", "--channels", "16", "--epochs", "3", "--batch-size", "8"]


@pytest.fixture(autouse=True, scope="module")
def _alone():
    """The command must not move the tests' compilation cache."""
    with pytest.MonkeyPatch.context() as patch, quick_compilation():
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
        yield


@pytest.fixture(scope="module")
def listening():
    return emotion2vec()


@pytest.fixture(scope="module")
def model(tmp_path_factory, listening):
    """A whole model whose classifier is another one."""
    config, module = listening
    wide = EmotionClassifierConfig(in_features=config.width, layers=2, channels=4)
    folder = tmp_path_factory.mktemp("model") / "small"
    classifier = (wide, random_module("emotion_classifier", wide))
    parts = {"emotion2vec": (config, module), "emotion_classifier": classifier}
    write_model(folder, small_model(**parts))
    return folder


@pytest.fixture(scope="module")
def cremad(tmp_path_factory):
    """Eight speakers of two emotions, which differ in loudness over time."""
    folder = tmp_path_factory.mktemp("cremad") / "AudioWAV"
    folder.mkdir()
    for who in range(8):
        for kind, slope in (("ANG", 1.0), ("SAD", 0.1)):
            for level in ("LO", "HI"):
                samples = tone(0.1 + who / 1000) * slope
                name = f"{1001 + who}_DFA_{kind}_{level}.wav"
                samples = samples + (level == "HI") * 100
                write_wav(folder / name, samples.astype(np.int16))
    return folder.parent


@pytest.fixture(scope="module")
def precomputed(tmp_path_factory):
    """Another corpus, of features: every class far from the others."""
    folder = tmp_path_factory.mktemp("savee")
    rng = np.random.default_rng(0)
    labels = ("a", "d", "f", "h", "n", "sa", "su")
    for who in ("DC", "JE", "JK", "KL"):
        for kind, label in enumerate(labels):
            for take in range(6):
                value = 5 * np.eye(7, 32)[kind] + rng.normal(size=(4, 32))
                np.save(folder / f"{who}_{label}{take:02d}.npy", value.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory, model, cremad, precomputed):
    """A finished run."""
    run = tmp_path_factory.mktemp("run") / "run"
    data = [f"cremad={cremad}", f"savee={precomputed}"]
    line = ["--data", *data, "--run", str(run), "--model", str(model), *QUICK]
    main([*line, "--into", str(run.parent / "new")])
    return run, line


def test_the_table_is_written_in_three_forms(done):
    run, _ = done
    rows = json.loads((run / "results.json").read_text())["table"]
    assert [row["corpus"] for row in rows] == ["CREMA-D", "SAVEE", "overall"]
    assert [(row["train"], row["test"]) for row in rows] == [(24, 8), (126, 42), (150, 50)]
    assert [row["split"] for row in rows] == ["speaker", "speaker", ""]
    assert "overall" in (run / "results.txt").read_text()
    assert len((run / "results.csv").read_text().splitlines()) == 4


def test_the_classifier_is_a_component_that_goes_out_and_comes_back(done, tmp_path):
    run, _ = done
    spec = read_spec(run / "model", whole=False)
    module = read_component(run / "model", spec, "emotion_classifier", jnp.float32)
    assert module.config.num_emotions == len(EMOTIONS) == 9
    export_model(run / "model", tmp_path / "out")
    settings = tmp_path / "out" / "misc" / "audio_emotion_classifier" / "config.json"
    assert json.loads(settings.read_text())["num_emotion_classes"] == 9
    import_model([tmp_path / "out"], tmp_path / "back")
    assert only(tmp_path / "back", "emotion_classifier").parameters > 0
    again = read_component(
        tmp_path / "back",
        read_spec(tmp_path / "back", whole=False),
        "emotion_classifier",
        jnp.float32,
    )
    assert same_weights(module, again)


def test_a_copy_of_the_model_hears_with_the_new_classifier(done, model):
    run, _ = done
    new, old = load_model(run.parent / "new", jnp.float32), load_model(model, jnp.float32)
    spec = read_spec(run / "model", whole=False)
    alone = read_component(run / "model", spec, "emotion_classifier", jnp.float32)
    assert same_weights(new.modules["emotion_classifier"], alone)
    assert same_weights(new.modules["emotion2vec"], old.modules["emotion2vec"])
    config = new.spec.parts["emotion2vec"].config
    detector = EmotionDetector(
        new.modules["emotion2vec"], new.modules["emotion_classifier"], shortest=config.shortest
    )
    assert detector(np.random.default_rng(0).normal(size=400)).shape == (2,)


def test_a_finished_run_again_hears_and_trains_nothing(done, monkeypatch, capsys):
    run, line = done
    before = (run / "results.json").read_bytes()
    monkeypatch.setattr(features, "read_recording", lambda *_: pytest.fail("heard again"))
    main([*line[:-7], *[option for option in QUICK if option != "--quiet"]])
    assert "epoch" not in capsys.readouterr().err
    assert (run / "results.json").read_bytes() == before


def test_other_settings_are_another_run(done):
    _, line = done
    with pytest.raises(
        UserError, match="holds a run with other clip, seed, examples; give another"
    ):
        main([*line, "--seed", "5", "--clip", "2"])


def test_a_stopped_run_goes_on_to_the_same_table(tmp_path, precomputed):
    def line(run):
        options = ["--data", f"savee={precomputed}", "--run", str(run), "--epochs", "60"]
        return [*options, "--patience", "60", "--channels", "512", "--batch-size", "32"]

    main([*line(tmp_path / "whole"), "--quiet"])
    command = [sys.executable, "-m", "memo_jax.train.emotion", *line(tmp_path / "parts")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    ) as process:
        for told in process.stderr:
            if told.startswith("mlp epoch 3:"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM and "goes on from there" in rest
    assert not (tmp_path / "parts" / "results.json").exists()
    main([*line(tmp_path / "parts"), "--quiet"])
    # The command was compiled with LLVM's optimisations, which may round otherwise.
    whole, parts = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")
    )
    assert len(parts["mlp"]["history"]) == len(whole["mlp"]["history"]) == 60
    assert parts["mlp"]["history"][2]["loss"] == pytest.approx(whole["mlp"]["history"][2]["loss"])


def test_features_are_the_mean_over_time_of_what_the_detector_hears(listening, tmp_path):
    config, module = listening
    samples = tone(0.05)  # 800 samples: a length that is not cut
    path = write_wav(tmp_path / "a.wav", samples)
    hearer = Hearer(module, shortest=config.shortest, batch=2)
    heard = hear([Recording(path, "a")], Store(tmp_path / "features"), hearer, quiet=True)
    x = samples.astype(np.float64) / 32768
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    want = np.asarray(module(jnp.asarray(x, jnp.float32)[None])).mean(axis=1)
    np.testing.assert_allclose(heard.features[0], want, atol=2e-5)


def test_features_are_kept_by_content_and_by_weights(listening, tmp_path, monkeypatch):
    config, module = listening
    hearer = Hearer(module, shortest=config.shortest, batch=2)
    for name in "ab":
        write_wav(tmp_path / f"{name}.wav", tone(0.05))
    write_wav(tmp_path / "c.wav", tone(0.06))
    calls = []
    monkeypatch.setattr(hearer, "_mean", lambda *a, mean=hearer._mean: calls.append(1) or mean(*a))
    recordings = [Recording(tmp_path / f"{name}.wav", "x") for name in "abc"]
    recordings.append(Recording(tmp_path / "c.wav", "x", start=0.01, stop=0.05))
    first = hear(recordings, Store(tmp_path / "kept"), hearer, quiet=True)
    assert len(set(first.keys)) == 3 and first.keys[0] == first.keys[1] and calls
    calls.clear()
    (tmp_path / "c.wav").rename(tmp_path / "moved.wav")
    moved = [*recordings[:2], Recording(tmp_path / "moved.wav", "x"), recordings[3]]
    moved[3] = Recording(tmp_path / "moved.wav", "x", start=0.01, stop=0.05)
    second = hear(moved, Store(tmp_path / "kept"), hearer, quiet=True)
    assert not calls and second.keys == first.keys
    for a, b in zip(first.features, second.features, strict=True):
        assert np.array_equal(a, b)
    other = Hearer(random_module("emotion2vec", config), shortest=config.shortest, batch=2)
    assert not set(hear(moved, Store(tmp_path / "kept"), other, quiet=True).keys) & set(first.keys)


def test_what_was_heard_before_a_stop_is_not_heard_again(listening, tmp_path, monkeypatch):
    config, module = listening
    hearer = Hearer(module, shortest=config.shortest, batch=1)
    recordings = [
        Recording(write_wav(tmp_path / f"{i}.wav", tone(0.05) + i), "x") for i in range(6)
    ]
    monkeypatch.setattr(features, "GROUP", 2)
    calls = []

    def mean(*arguments, kept=hearer._mean):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return kept(*arguments)

    monkeypatch.setattr(hearer, "_mean", mean)
    with pytest.raises(KeyboardInterrupt):
        hear(recordings, Store(tmp_path / "kept"), hearer, quiet=True)
    heard = hear(recordings, Store(tmp_path / "kept"), hearer, quiet=True)
    assert len(calls) == 4 + 4 and all(value is not None for value in heard.features)


def test_recordings_are_cut_at_thirty_seconds():
    second = 16000
    assert [len(piece) for piece in cut(np.zeros(65 * second))] == [480000, 480000, 80000]
    assert [len(piece) for piece in cut(np.zeros(30 * second + 100))] == [480000]
    assert [len(piece) for piece in cut(np.zeros(100))] == [100]


def test_few_lengths_are_compiled():
    lengths = {n: len(fit_length(np.zeros(n), 400)) for n in range(1, 480001, 37)}
    assert len(set(lengths.values())) < 180
    assert all(m == 400 for n, m in lengths.items() if n < 400)
    assert all(n - n / 16 <= m <= n for n, m in lengths.items() if n >= 400)
    assert len(fit_length(np.zeros(480000), 400)) == 480000


def test_damaged_recordings_are_named_and_too_many_refused(listening, tmp_path):
    config, module = listening
    hearer = Hearer(module, shortest=config.shortest, batch=8)
    recordings = [
        Recording(write_wav(tmp_path / f"{i}.wav", tone(0.02) + i), "x") for i in range(120)
    ]
    (tmp_path / "7.wav").write_bytes(b"not sound")
    heard = hear(recordings, Store(tmp_path / "kept"), hearer, quiet=True)
    assert list(heard.damaged) == [str(tmp_path / "7.wav")] and heard.features[7] is None
    assert sum(value is None for value in heard.features) == 1
    with pytest.raises(UserError, match="1 of 20 recordings cannot be read"):
        hear(recordings[:20], Store(tmp_path / "kept"), hearer, quiet=True)


def test_the_config_file_sets_the_options():
    args = with_config(parser(), ["--config", f"{CONFIG}:smoke", "--seed", "5"])
    assert (args.channels, args.epochs, args.seed, args.clip) == (32, 2, 5, 1.0)
    fields = set(read_config(str(CONFIG)))
    assert fields <= set(vars(parser().parse_args([])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "R"], "--data is missing"),
        (["--data", "savee=P"], "--run is missing"),
        (["--data", "savee", "--run", "R"], "expected NAME=PATH"),
        (["--data", "savee=P", "savee=P", "--run", "R"], "names savee twice"),
        (["--data", "save=P", "--run", "R"], "did you mean 'savee'"),
        (["--data", "savee=missing", "--run", "R"], "is no folder and no listing"),
        (["--data", "savee=P", "--run", "R", "--layers", "1"], "linear head"),
        (["--data", "savee=P", "--run", "R", "--epochs", "0"], "epochs is 0"),
        (["--data", "savee=P", "--run", "R", "--into", "N"], "--into is a copy of --model"),
        (["--data", "cremad=C", "--run", "R"], "--model is missing; .* emotion2vec must hear"),
        (["--data", "cremad=C", "--run", "R", "--model", "tiny"], "no emotion2vec to hear"),
        (["--data", "cremad=C", "--run", "R", "--model", "nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(options, message, precomputed, cremad, tmp_path):
    given = {"=P": f"={precomputed}", "=C": f"={cremad}"}
    line = [option[:-2] + given.get(option[-2:], option[-2:]) for option in options]
    line = [str(tmp_path / "run") if option == "R" else option for option in line]
    with pytest.raises(UserError, match=message) as error:
        main([*line, "--quiet"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_command_exits_with_2_and_one_line():
    command = [sys.executable, "-m", "memo_jax.train.emotion", "--run", "nowhere"]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    assert got.returncode == 2 and not got.stdout
    assert got.stderr.startswith("memo_jax.train.emotion: --data is missing")
    assert len(got.stderr.splitlines()) == 1
