"""The benchmark of learning in short: the smallest networks on its eight clips."""

import csv
import dataclasses

import numpy as np
import pytest
import stand_in
from PIL import Image

from benchmarks import overfit
from memo_jax.config import VAEConfig
from memo_jax.errors import UserError
from memo_jax.weights.spec import Part, read_spec

STEPS = 100


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """Of the smallest whole model, for the smallest pictures: 32 x 32 pixels, 4 x 4 latents."""
    spec = read_spec(stand_in.write_tiniest(tmp_path_factory.mktemp("spec") / "tiniest"))
    vae = VAEConfig(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)
    sampler = dataclasses.replace(spec.sampler, image_size=32)
    return dataclasses.replace(spec, sampler=sampler, parts=spec.parts | {"vae": Part(vae)})


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`command(losses, *more)` runs the command where training gives these losses."""

    def command(losses, *more):
        monkeypatch.setattr(overfit, "overfit", lambda *args, **more: losses)
        overfit.main([f"--output={tmp_path / 'curve'}", *more])
        return tmp_path / "curve"

    return command


def test_the_loss_falls(spec, tmp_path):
    losses = overfit.overfit(tmp_path, spec, steps=STEPS, seed=0)
    assert len(losses) == STEPS and np.isfinite(losses).all()
    # That of a single step depends on the noise levels drawn.
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_latents_of_the_start_are_standard(spec):
    pictures = np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)
    model = overfit.fresh(spec, 0, pictures)
    vae = model.modules["vae"]
    mean, logvar = vae.encode(pictures.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(mean.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(mean.std((0, 1, 2)), 1, atol=1e-4)
    assert (logvar == overfit.LOG_VARIANCE).all()
    assert vae.config.scaling_factor == model.spec.parts["vae"].config.scaling_factor == 1


def test_a_loss_that_falls_far_is_drawn_and_written(command, capsys):
    losses = list(np.geomspace(0.8, 0.02, 40))
    folder = command(losses)
    assert "first loss 0.8000" in capsys.readouterr().out
    with (folder / "overfit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    np.testing.assert_allclose([float(row["loss"]) for row in rows], losses, atol=1e-6)
    assert Image.open(folder / "overfit.png").size == (800, 450)
    assert sorted(path.name for path in folder.iterdir()) == ["overfit.csv", "overfit.png"]


def test_a_loss_that_does_not_is_exit_1(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command([0.8] * 10 + [0.081] * 10)
    assert ended.value.code == 1 and "must be under 0.1" in capsys.readouterr().err


def test_mistakes_are_one_line(command, tmp_path):
    with pytest.raises(UserError, match="--steps 9, expected 10"):
        command([], "--steps=9")
    (tmp_path / "curve").touch()
    with pytest.raises(UserError, match="cannot be written"):
        command([0.5] * 20)


def test_a_stop_is_no_result(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(overfit.training, "main", lambda arguments: None)
    monkeypatch.setattr(overfit, "read_metrics", lambda run: [{"loss_unfiltered": 1.0}] * 3)
    with pytest.raises(UserError, match="stopped after 3 of 20 steps"):
        overfit.overfit(tmp_path, spec, steps=20, seed=0)
