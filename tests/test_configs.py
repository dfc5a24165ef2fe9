"""Every config file loads, whole and in its variants, and sets options that exist."""

from pathlib import Path

import pytest

from memo_jax import sample
from memo_jax.command import read_config, with_config
from memo_jax.errors import UserError

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
SAMPLE = FILES[0].parent / "sample.py"


def test_there_are_some():
    assert SAMPLE in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads(path):
    config = read_config(str(path))
    assert len(config) and config.is_locked
    assert read_config(f"{path}:").to_dict() == config.to_dict()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_unknown_variant(path):
    with pytest.raises(UserError, match="no-such-variant"):
        read_config(f"{path}:no-such-variant")


@pytest.mark.parametrize(("variant", "steps"), [("", 20), ("fast", 8)])
def test_sample(variant, steps):
    args = with_config(sample.parser(), ["--config", f"{SAMPLE}:{variant}", "--seed", "5"])
    assert (args.steps, args.guidance, args.seed, args.crop) == (steps, 3.5, 5, "auto")
    typed = with_config(sample.parser(), ["--steps", "3", "--config", f"{SAMPLE}:{variant}"])
    assert (typed.steps, typed.seed) == (3, 0)
