"""Hundreds of malformed inputs: each is told in one error, and none leaves a file."""

import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sounds import tone, write_wav

from memo_jax import sample
from memo_jax.errors import UserError
from memo_jax.pipeline import Pipeline, pipeline
from memo_jax.weights.sources import load_model

PORTRAIT = sample.ASSETS / "portrait.png"
RECORDING = sample.ASSETS / "recording.wav"


@pytest.fixture(autouse=True, scope="module")
def _alone():
    """The command must not move the tests' compilation cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
        yield


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", jax.numpy.float32)


class Reached(Exception):
    """Everything was in order, and generation would start."""


# In place of nnx: taking a model apart is most of the time that a refusal takes.
WEIGHTLESS = SimpleNamespace(split=lambda module: (None, None), to_pure_dict=lambda state: None)


def reach(self, *args, **options):
    raise Reached


OUTCOMES: Counter = Counter()
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30).map(str), st.floats().map(str), st.just("1e999"), WORDS
)
BOXES = st.lists(st.integers(-(10**6), 10**6), max_size=6).map(lambda v: ",".join(map(str, v)))
TIMES = st.lists(
    st.tuples(NUMBERS, NUMBERS, st.sampled_from(["happy", "sad", "", "9", "hapy"])), max_size=3
).map(lambda spans: ",".join(f"{a}-{b}:{e}" for a, b, e in spans))
PATHS = st.one_of(WORDS, st.sampled_from(["", ".", "@long", "/proc/1/mem", "/dev/null"]))
VALUES = {
    **dict.fromkeys(("steps", "seed", "guidance", "chunk", "crf"), NUMBERS),
    **dict.fromkeys(("model", "config", "face-models", "image", "audio", "preview"), PATHS),
    **dict.fromkeys(("vocals", "dtype", "face"), WORDS),
    "output": st.tuples(PATHS, st.sampled_from(["", ".mp4", ".MOV", ".gif"])).map("".join),
    "crop": st.one_of(WORDS, BOXES),
    "emotion": st.one_of(WORDS, TIMES),
}
FLAGS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda flag: VALUES[flag].map(lambda value: f"--{flag}={value}")
)


class Originals(dict):
    """Whole small files by option, bytes and extension; told in few words where a test fails."""

    def __repr__(self):
        return "originals"


@pytest.fixture(scope="module")
def originals(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    small = Image.open(PORTRAIT).convert("RGB").resize((64, 64))
    found = Originals(image=[], audio=[], model=tiny)
    for extension in ("png", "jpg", "webp", "gif"):
        small.save(folder / f"a.{extension}")
        found["image"].append(((folder / f"a.{extension}").read_bytes(), extension))
    found["audio"].append((write_wav(folder / "a.wav", tone(0.2)).read_bytes(), "wav"))
    with av.open(str(folder / "a.flac"), "w") as output:
        stream = output.add_stream("flac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(0.2)[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    found["audio"].append(((folder / "a.flac").read_bytes(), "flac"))
    return found


def damaged(content, how, seed):
    """Bytes that are cut, overwritten, shifted, or nothing but noise."""
    rng = np.random.default_rng(seed)
    content = np.frombuffer(content, np.uint8).copy()
    if how == "cut":
        return content[: rng.integers(0, len(content) // 2)].tobytes()
    if how == "tail":
        return content[rng.integers(8, len(content)) :].tobytes()
    if how == "random":
        return rng.bytes(rng.integers(0, 3000))
    content[: rng.integers(8, 200)] = rng.integers(0, 256)
    return content.tobytes()


@given(data=st.data())
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def tries(originals, data):
    """Files are damaged, or options are. The model is in memory already and generation is never
    reached, so that hundreds of tries are quick; all else is the real command."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder, tiny = Path(name), originals["model"]
        patch.chdir(folder)
        patch.setattr(pipeline, "load_model", lambda *s: tiny if s[0] == "tiny" else load_model(*s))

        patch.setattr(Pipeline, "start", reach)
        patch.setattr(pipeline, "nnx", WEIGHTLESS)
        arguments = ["--audio", str(RECORDING), "--image", str(PORTRAIT), "--crop", "none"]
        if data.draw(st.booleans()):
            option = data.draw(st.sampled_from(["image", "audio"]))
            content, extension = data.draw(st.sampled_from(originals[option]))
            how = data.draw(st.sampled_from(["cut", "tail", "random", "head"]))
            seed = data.draw(st.integers(0, 2**32 - 1))
            (folder / f"in.{extension}").write_bytes(damaged(content, how, seed))
            arguments += [f"--{option}", f"in.{extension}"]
        else:
            arguments += data.draw(st.lists(FLAGS, min_size=1, max_size=3))
        arguments = [argument.replace("@long", "x" * 5000) for argument in arguments]
        before = {p.name for p in folder.iterdir()}
        try:
            sample.main(["--output", "o.mp4", *arguments])
            OUTCOMES["preview"] += 1  # with --preview=<odd name>.png nothing is wrong
            return
        except UserError as error:
            assert str(error).strip()
            OUTCOMES["refused"] += 1
        except SystemExit as end:
            assert end.code == 2
            OUTCOMES["refused"] += 1
        except Reached:
            OUTCOMES["reached"] += 1
        assert {p.name for p in folder.iterdir()} == before


def test_malformed_input_is_told_and_leaves_nothing(originals):
    tries(originals)
    assert OUTCOMES["refused"] >= 200, OUTCOMES
