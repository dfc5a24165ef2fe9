"""The autoencoder against recorded outputs."""

import dataclasses

import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.config import VAEConfig
from memo_jax.errors import UserError
from memo_jax.weights import load_torch


def test_recorded_outputs(golden, compiled):
    case = golden("h_vae")
    vae = load_torch("vae", case.config["kwargs"], case.w())
    assert vae.config.scaling_factor == case.config["scaling_factor"]
    image, latents = np.moveaxis(case.inp("image"), 1, -1), case.inp("latent")
    assert image.shape[1] // latents.shape[2] == vae.config.factor
    mean, logvar = compiled(vae, lambda m, x: m.encode(x))(image)
    assert relative_error(np.moveaxis(mean, -1, 1), case.out("mean")) <= 1e-5
    assert relative_error(np.moveaxis(logvar, -1, 1), case.out("logvar")) <= 1e-5
    images = compiled(vae, lambda m, x: m.decode(x))(np.moveaxis(latents, 1, -1))
    assert relative_error(np.moveaxis(images, -1, 1), case.out("decoded")) <= 1e-5


def test_an_unusual_autoencoder_is_refused(golden):
    kwargs = golden("h_vae").config["kwargs"]
    with pytest.raises(UserError, match="act_fn='relu' is not supported, expected 'silu'"):
        VAEConfig.from_torch({**kwargs, "act_fn": "relu"})
    with pytest.raises(UserError, match="12 channels do not divide"):
        dataclasses.replace(VAEConfig.from_torch(kwargs), block_out_channels=(12,))
