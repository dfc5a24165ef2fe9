"""Run by test_spread: the same video on one device and on several, in one process of eight.

`python many_devices.py FILE ROWS MESH...` writes {"<mesh>/<what>": array} to FILE, an .npz; of
"one" is one device. ROWS are "own" or "mixed". A mesh may end in ":<variant>" of the sampler.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    # Busy machines: eight devices on few cores may wait long for each other.
    " --xla_cpu_collective_call_terminate_timeout_seconds=3000"
)
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
from small_model import quick_compilation, random_module
from smallest import PARTS

from memo_jax import config as configs
from memo_jax.audio.logmel import LogMelConfig
from memo_jax.config import SamplerConfig
from memo_jax.pipeline import Pipeline
from memo_jax.pipeline.hearing import Hearing
from memo_jax.pipeline.resume import Partial
from memo_jax.pipeline.scene import Scene
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import REQUIRED, ModelSpec, Part

FRAMES, SIDE = 4, 4
# Two levels, in the lower of which each device of four has one position.
UNET = {
    "block_out_channels": (32, 32),
    "down_attention": (True, False),
    "up_attention": (False, True),
    "layers_per_block": 1,
    "num_heads": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
SAMPLER = SamplerConfig(
    image_size=2 * SIDE, fps=25, clip_frames=FRAMES, past_frames=4, first_past_frames=4, steps=2
)
VARIANTS = {
    "": {},
    "low": {"device_memory": "low"},
    "unguided": {"guidance": 1.0, "past_frames": 8, "noise_span": 2},
    "fast": {
        "steps": 4,
        "guidance_interval": (0.5, 1.0),
        "cache_steps": 2,
        "latent_carry": True,
    },
}


def model(rows):
    """Every parameter is drawn; rows as in the paper ("own") or the release ("mixed")."""
    changed = {
        "reference_net": configs.ReferenceNetConfig(**UNET, face_rows=rows),
        "diffusion_net": configs.DiffusionNetConfig(
            **UNET,
            audio_attention_dim=8,
            motion=configs.MotionConfig(num_heads=2, attentions_per_block=1, max_frames=8),
            motion_resolutions=(1,),
            reference_rows=rows,
        ),
    }
    parts = PARTS | changed
    spec = ModelSpec(
        name="split",
        sampler=SAMPLER,
        parts={name: Part(parts[name], "drawn") for name in REQUIRED},
        log_mel=LogMelConfig(moments=2, bands=4),
    )
    return Model(spec, {name: random_module(name, parts[name]) for name in REQUIRED})


def scene_and_hearing():
    """A picture, and sound for two clips."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    scene = Scene(picture, None, picture, rng.normal(size=6).astype(np.float32))
    hidden = rng.normal(size=(2 * FRAMES, 2, 4)).astype(np.float32)
    return scene, Hearing(0.32, 2 * FRAMES, hidden, np.array([3, 5], np.int32), FRAMES)


def finished(run, begun=()):
    """What a run makes: frames as bytes, and what it would go on from, in float32."""
    found = {"pixels": np.concatenate([*begun, *run])}
    carry = run.carry
    leaves, _ = jax.tree_util.tree_flatten_with_path((carry.memory, carry.past))
    return found | {jax.tree_util.keystr(k): np.asarray(v, np.float32) for k, v in leaves}


def main(file, rows, meshes):
    jax.config.update("jax_default_matmul_precision", "highest")
    made, scene, hearing = model(rows), *scene_and_hearing()
    pipes, found = {}, {}

    def pipe(mesh, variant):
        if (mesh, variant) not in pipes:
            sampler = dataclasses.replace(SAMPLER, **VARIANTS[variant])
            chunk = 2 if variant == "unguided" else 1
            pipes[mesh, variant] = Pipeline(
                made, sampler=sampler, memory="normal", mesh=mesh, chunk=chunk
            )
        return pipes[mesh, variant]

    for asked in meshes:
        mesh, _, variant = asked.partition(":")
        for name, on in ((f"one:{variant}", None), (asked, mesh)):
            if f"{name}/pixels" not in found:
                run = pipe(on, variant).start(scene, hearing, seed=3)
                found |= {f"{name}/{k}": v for k, v in finished(run).items()}
        memory = jax.tree.leaves(run._carry.memory)
        found[f"{asked}/share"] = np.array(
            [leaf.addressable_shards[0].data.size / leaf.size for leaf in memory]
        )
    # A stop after the first clip; each goes on where another began.
    plain = [mesh for mesh in meshes if ":" not in mesh]
    goes_on = zip([None, *plain], [*plain, None], strict=True) if plain else ()
    for asked, on in goes_on:
        first = pipe(asked, "").start(scene, dataclasses.replace(hearing, frames=4), seed=3)
        first.hearing = dataclasses.replace(hearing, emotions=hearing.emotions[:1])
        begun = list(first)
        with tempfile.TemporaryDirectory() as folder:
            partial = Partial(Path(folder) / "p", {})
            partial.frames.append(begun[0])
            partial.save(first.carry, FRAMES)
            run = pipe(on, "").start(scene, hearing, seed=3)
            carry = Partial(Path(folder) / "p", {}).carry(run.carry_shapes)
        run = pipe(on, "").start(scene, hearing, seed=3, carry=carry)
        name = f"{asked} then {on}"
        found |= {f"{name}/{k}": v for k, v in finished(run, begun).items()}
    np.savez(file, **found)


if __name__ == "__main__":
    with quick_compilation():
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
