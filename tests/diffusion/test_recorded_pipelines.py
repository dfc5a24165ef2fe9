"""Whole sampling runs, clip after clip, against recorded ones."""

import jax
import numpy as np
import pytest
from einops import rearrange
from golden_case import relative_error

from memo_jax.config import SamplerConfig
from memo_jax.diffusion import rollout as sampling
from memo_jax.diffusion.rollout import ClipInputs

CASES = ["j_pipeline_cfg1.0", "j_pipeline_cfg3.5", "j_pipeline_init2"]


def sampler_of(config):
    return SamplerConfig(
        image_size=config["image_px"],
        clip_frames=config["num_generated_frames_per_clip"],
        past_frames=config["num_past_frames"],
        first_past_frames=config["num_init_past_frames"],
        steps=config["inference_steps"],
        guidance=config["guidance_scale"],
        null_audio="zeros",
    )


def inputs_of(case, sampler):
    """(image, face) and all clips' inputs; a clip's emotion is its most frequent label."""
    clips = case.config["clips"]
    labels = case.inp("emotion_labels").reshape(clips, sampler.clip_frames)
    noise = [case.inp(f"clip{i}/noise") for i in range(clips)]
    return (
        rearrange(case.inp("pixel_values"), "b c h w -> b h w c"),
        case.inp("face_emb"),
        ClipInputs(
            rearrange(case.inp("audio_emb"), "(k f) w l d -> k 1 f w l d", k=clips),
            np.array([[np.bincount(row).argmax()] for row in labels], np.int32),
            rearrange(np.stack(noise), "k b c f h w -> k b f h w c"),
        ),
    )


def clip_frames(case, name):
    """A recorded clip's frames, channels last."""
    return rearrange(case.out(name), "b c f h w -> b f h w c")


@pytest.mark.parametrize("name", CASES)
def test_frames_and_memory(name, golden, recorded_generator, compiled):
    case = golden(name)
    sampler = sampler_of(case.config)
    image, face, inputs = inputs_of(case, sampler)
    key = jax.random.key(0)  # draws nothing: the recorded noise is given

    def run(generator, image, face, inputs):
        portrait = sampling.prepare_portrait(generator, sampler, image, face)
        carry = sampling.first_carry(generator, sampler, portrait, image)
        return portrait, sampling.rollout(generator, sampler, portrait, key, carry, inputs)

    portrait, (carry, frames) = compiled(recorded_generator(case), run)(image, face, inputs)
    clips = case.config["clips"]
    assert frames.shape[0] == clips == int(carry.clip)
    for i in range(clips):
        # In [0, 1], so an absolute difference; a frame is 255 steps of 4e-3.
        assert np.abs(frames[i] - clip_frames(case, f"clip{i}/video")).max() <= 1e-4
        if "emotion_used" in case.names(f"out/clip{i}/"):
            assert inputs.emotion[i, 0] == case.out(f"clip{i}/emotion_used")[-1]
    recorded = case.under(f"out/clip{clips - 1}/mem/")
    for path, want in recorded.items():
        layer, field = path.rsplit("/", 1)
        got = getattr(carry.memory.layers[layer], {"KV": "kv", "Z": "z"}[field])
        assert relative_error(got, want) <= 1e-4
    reference = rearrange(case.out("clip0/ref_latents")[:1], "b c h w -> b h w c")
    assert relative_error(portrait.latents, reference) <= 1e-5


def test_latents_of_the_past(golden, recorded_generator, compiled):
    """Portrait and past frames as the Reference Net gets them, from recorded frames."""
    case = golden("j_pipeline_init2")
    generator, sampler = recorded_generator(case), sampler_of(case.config)
    seen = np.repeat(rearrange(case.inp("pixel_values"), "b c h w -> b 1 h w c") / 2 + 0.5, 2, 1)
    encode = compiled(generator, lambda g, x: sampling._encode(g.vae, 2 * x - 1))
    for i in range(case.config["clips"]):
        want = rearrange(case.out(f"clip{i}/ref_latents"), "n c h w -> 1 n h w c")
        assert relative_error(encode(seen), want[:, 1:]) <= 1e-5
        seen = np.concatenate([seen, clip_frames(case, f"clip{i}/video")], axis=1)
        seen = seen[:, -sampler.past_frames :]
