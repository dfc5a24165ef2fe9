"""Every config file loads, whole and in its variants, and sets options that exist."""

from pathlib import Path

import pytest
import stand_in
from small_model import quick_compilation

from memo_jax import sample
from memo_jax.command import read_config, with_config
from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError
from memo_jax.train import __main__ as training
from memo_jax.train.checkpoint import latest, trained_values
from memo_jax.train.config import TrainConfig
from memo_jax.train.distill import Recipe
from memo_jax.train.run import RunConfig

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.py"))
SAMPLE = CONFIGS / "sample.py"
TINY = sorted((CONFIGS / "tiny").glob("*.py"))
TRAINING = [CONFIGS / f"{name}.py" for name in ("stage1", "stage2a", "stage2b", "finetune")]
DISTILL = [CONFIGS / "distill.py", CONFIGS / "tiny/distill.py"]
TRAINED = {
    "stage1": {"reference_net", "diffusion_net", "image_proj"},
    "stage2a": {"diffusion_net", "audio_proj"},
    "stage2b": {"reference_net", "diffusion_net", "image_proj", "audio_proj"},
    "finetune": {"diffusion_net"},
    "tiny/vae": {"vae"},
    "tiny/stage1": {"reference_net", "diffusion_net", "image_proj"},
    "tiny/stage2a": {"reference_net", "diffusion_net", "image_proj", "audio_proj"},
    "tiny/stage2b": {"reference_net", "diffusion_net", "image_proj", "audio_proj"},
    "distill": {"diffusion_net"},
    "tiny/distill": {"diffusion_net"},
}


def name(path):
    """A config's, below the folder of them."""
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def test_there_are_some():
    assert SAMPLE in FILES and {name(path) for path in TRAINING + DISTILL + TINY} == TRAINED.keys()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_loads(path):
    config = read_config(str(path))
    assert len(config) and config.is_locked
    assert read_config(f"{path}:").to_dict() == config.to_dict()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_an_unknown_variant(path):
    with pytest.raises(UserError, match="no-such-variant"):
        read_config(f"{path}:no-such-variant")


@pytest.mark.parametrize(("variant", "steps"), [("", 20), ("fast", 8)])
def test_sample(variant, steps):
    args = with_config(sample.parser(), ["--config", f"{SAMPLE}:{variant}", "--seed", "5"])
    assert (args.steps, args.guidance, args.seed, args.crop) == (steps, 3.5, 5, "auto")
    typed = with_config(sample.parser(), ["--steps", "3", "--config", f"{SAMPLE}:{variant}"])
    assert (typed.steps, typed.seed) == (3, 0)


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("path", TRAINING, ids=name)
def test_training(path, variant):
    """METHOD's recipe; nothing is left to a default that it names."""
    fields = read_config(f"{path}:{variant}").to_dict()
    RunConfig.from_dict(fields.pop("run"))
    config = TrainConfig.from_dict(fields)
    assert path.stem == ("finetune" if config.stage == "finetune" else f"stage{config.stage}")
    assert (config.rate, config.grad_clip, config.robust_threshold) == (1e-5, 1.0, 0.1)
    assert (config.drop.audio, config.optimizer, config.weight_decay) == (0.05, "adamw", 0.01)
    steps = {"1": 15_000, "2a": 15_000, "2b": 600_000 - 15_000, "finetune": 10_000}
    assert config.total_steps == (2 if variant else steps[config.stage])
    past = {"1": (0,), "2b": (16, 32, 48)}.get(config.stage, (16,))
    if not variant:
        assert config.past_choices == past


@pytest.mark.parametrize("path", DISTILL, ids=name)
def test_distillation(path):
    """The teacher takes about the steps that its model does; a student of guidance alone has the
    levels at which it is a teacher itself."""
    own = 10 if "tiny" in path.parts else 20
    recipes = {}
    for variant in ("", "guidance"):
        fields = read_config(f"{path}:{variant}").to_dict()
        RunConfig.from_dict(fields.pop("run"))
        config = TrainConfig.from_dict(fields)
        assert set(vars(config.drop).values()) == {0.0} and config.robust_threshold is None
        recipes[variant] = Recipe.of(config, SamplerConfig(steps=own, guidance=2.5))
        assert recipes[variant].guidance == 2.5
    four, guidance = recipes.values()
    assert (four.steps, guidance.substeps) == (4, 1)
    assert guidance.steps == (four.steps - 1) * four.substeps + 1 in (own, own - 1)


@pytest.fixture(scope="module")
def tiniest(tmp_path_factory):
    """Data, and a model whose step compiles in seconds, in the place of `tiny`."""
    folder = tmp_path_factory.mktemp("configs")
    stand_in.write_data(folder / "data", size=16)
    stand_in.write_tiniest(folder / "model")
    return folder


@pytest.mark.parametrize("path", [*TRAINING, DISTILL[0], *TINY], ids=name)
def test_training_two_steps(path, tiniest):
    run = tiniest / name(path)
    places = [f"--{name}={tiniest / name}" for name in ("data", "model")]
    with quick_compilation():
        training.main([f"--config={path}:smoke", *places, f"--run={run}", "--distributed=off"])
    assert latest(run) == 2 and len(stand_in.losses(run)) == 2
    assert trained_values(run).keys() == TRAINED[name(path)]
