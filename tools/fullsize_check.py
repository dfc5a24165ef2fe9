"""Run both UNets at released size on rule-made weights and compare with recorded outputs.

    python tools/fullsize_check.py full_8x8.npz

The archive (with its .json beside it) holds inputs and PyTorch's outputs of two clips of two
denoising steps, guided; the 2.5 billion weights follow from the names and shapes in
tests/manifests. Needs about 16 GB of memory and some minutes; CI does not run it.
"""

import argparse
import gc
import json
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from memo_jax.models.reference_net import ReferenceFeatures
from memo_jax.weights import load_torch

MANIFESTS = Path(__file__).parents[1] / "tests" / "manifests"
SEEDS = {"reference_net": 101, "diffusion_net": 202}
GUIDED = np.array([False, True])  # the null branch does not see the portrait
BOUND = 1e-4


class RuleMade(Mapping):
    """The weights of one manifest, each made when it is asked for and kept nowhere."""

    def __init__(self, net: str, params: Mapping[str, dict], buffers: list[str]):
        self.net, self.params, self.buffers = net, params, set(buffers)

    def __len__(self) -> int:
        return len(self.params)

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = tuple(self.params[name]["shape"])
        if name in self.buffers:
            return position_code(shape)
        key = np.array([zlib.crc32(name.encode()), SEEDS[self.net]], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        n = random.standard_normal(size=shape, dtype=np.float32)
        if len(shape) == 1:
            n *= np.float32(0.1 if name.endswith(".weight") else 0.02)
            return n + np.float32(1) if name.endswith(".weight") else n
        if name.endswith("embedding_table.weight"):
            n *= np.float32(0.5)
        else:
            n *= np.float32(1 / np.sqrt(np.prod(shape[1:])))
        return n


def position_code(shape: tuple[int, ...]) -> np.ndarray:
    """Sines and cosines of the frame's number, alternating, float32."""
    _, frames, width = shape
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000) / width))
    angles = np.arange(frames, dtype=np.float32)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(shape)


def check_weights(made: RuleMade, recorded: Mapping[str, list]) -> None:
    """Raise ValueError unless the recorded sums and first values are those of our weights."""
    for name, (total, absolute, first) in recorded.items():
        w = made[name].astype(np.float64)
        got = (w.sum(), np.abs(w).sum(), *w.ravel()[:3])
        if not np.allclose(got, (total, absolute, *first), rtol=1e-6, atol=1e-3):
            raise ValueError(f"{made.net} {name}: sums {got[:2]}, recorded {(total, absolute)}")


def load(net: str, recorded: Mapping[str, list], manifests: Path) -> nnx.Module:
    """The network with its rule-made weights, through the tables that load published ones."""
    manifest = json.loads((manifests / f"{net}.json").read_text())
    made = RuleMade(net, manifest["params"], manifest["buffers"])
    with Step(f"{net}: make and load {manifest['n_parameters'] / 1e6:.0f} M weights"):
        check_weights(made, recorded)
        return load_torch(net, manifest["config"], made)


class Step:
    """Says what goes on and how long it took."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> "Step":
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error) -> None:
        print(f"{self.what}: {time.perf_counter() - self.start:.1f} s", flush=True)


class Errors:
    """The worst difference of each group of outputs, relative to the largest recorded value."""

    def __init__(self):
        self.worst: dict[str, tuple[float, str]] = {}

    def add(self, group: str, name: str, got, want, scale: float | None = None) -> None:
        """`scale` stands for the largest recorded value where `want` are means near zero."""
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            raise ValueError(f"{group} {name}: shape {got.shape}, recorded {want.shape}")
        error = float(np.abs(got - want).max() / (scale or np.abs(want).max()))
        error = np.inf if np.isnan(error) else error
        self.worst[group] = max(self.worst.get(group, (-1.0, "")), (error, name))

    def report(self) -> bool:
        """Print the table; whether all is within the bound."""
        for group, (error, name) in self.worst.items():
            print(f"{group:<40} {error:9.2e}  {name}")
        return all(error <= BOUND for error, _ in self.worst.values())


def split(net: nnx.Module, call):
    """`call(net, ...)` as one program, the weights among its arguments."""
    graphdef, state = nnx.split(net)
    run = jax.jit(lambda state, *args: call(nnx.merge(graphdef, state), *args))
    return lambda *args: jax.block_until_ready(run(state, *args))


def reference(
    archive: Mapping[str, np.ndarray], meta: Mapping, manifests: Path, errors: Errors
) -> dict[int, dict[str, np.ndarray]]:
    """Features of every clip under their recorded names."""
    net = load("reference_net", meta["reference_net_checks"], manifests)
    run = split(net, lambda net, latents, faces: net(latents, faces))
    features = {}
    for clip in clips(meta):
        latents = rearrange(archive[f"in/clip{clip}/ref_latents"], "n c h w -> n h w c")
        with Step(f"reference_net, clip {clip}"):
            named = run(np.stack([latents, latents]), archive["in/context"]).named()
        for name, shape in meta["ref_shapes"].items():
            got, where = named[name], f"out/clip{clip}/ref/{name}"
            rows = got.reshape(len(got), -1).astype(np.float64)
            rms, group = archive[f"{where}/row_rms"], f"features, clip {clip}"
            strided = got.reshape(-1)[:: shape["stride"]]
            errors.add(f"{group}: values", name, strided, archive[f"{where}/strided"])
            errors.add(f"{group}: row rms", name, np.sqrt((rows**2).mean(1)), rms)
            mean = archive[f"{where}/row_mean"]
            errors.add(f"{group}: row mean", name, rows.mean(1), mean, scale=float(rms.max()))
        features[clip] = named
    return features


def diffusion(
    archive: Mapping[str, np.ndarray],
    meta: Mapping,
    manifests: Path,
    features: dict[int, dict[str, np.ndarray]],
    errors: Errors,
) -> None:
    """Memory and velocity of every clip and step."""
    net = load("diffusion_net", meta["diffusion_net_checks"], manifests)
    remember = split(net, lambda net, named, memory: net.remember(named, memory))
    predict = split(net, lambda net, *args: net(*args, GUIDED))
    faces, emotion = archive["in/context"], archive["in/emotion"].astype(np.int32)
    memory = None
    for clip in clips(meta):
        clip_features = ReferenceFeatures.from_named(features[clip], batch=2)
        with Step(f"diffusion_net, memory of clip {clip}"):
            memory = remember(clip_features, memory)
        for name, layer in memory.layers.items():
            for key, got in (("KV", np.asarray(layer.kv)), ("Z", np.asarray(layer.z))):
                where = f"out/clip{clip}/mem/{name}/{key}"
                if where not in archive:
                    where, got = f"{where}_strided", got.ravel()[:: -(-got.size // 512)]
                errors.add(f"memory, clip {clip}: {key}", name, got, archive[where])
        condition = archive[f"in/clip{clip}/audio_cond"]
        audio = np.concatenate([np.zeros_like(condition), condition])
        for call in (c for c in meta["calls"] if c["net"] == "diffusion_net"):
            if call["clip"] != clip:
                continue
            where = f"clip{clip}/step{call['step']}"
            latents = rearrange(archive[f"in/{where}/latents"], "b c f h w -> b f h w c")
            timesteps = jnp.full((2,), call["timestep"], jnp.float32)
            with Step(f"diffusion_net, {where}"):
                got = predict(
                    np.concatenate([latents, latents]),
                    timesteps,
                    clip_features,
                    faces,
                    audio,
                    emotion,
                    memory,
                )
            got = rearrange(np.asarray(got), "b f h w c -> b c f h w")
            group = f"prediction, clip {clip}, step {call['step']}"
            errors.add(group, f"t = {call['timestep']:.0f}", got, archive[f"out/{where}/pred"])


def clips(meta: Mapping) -> list[int]:
    """The clips that were recorded."""
    return sorted({call["clip"] for call in meta["calls"]})


def main() -> int:
    """Exit status 0 if all is within the bound."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="full_8x8.npz, with full_8x8.json beside it")
    parser.add_argument("--manifests", type=Path, default=MANIFESTS, help="parameter names")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    archive = np.load(args.archive)
    meta = json.loads(args.archive.with_suffix(".json").read_text())
    errors = Errors()
    features = reference(archive, meta, args.manifests, errors)
    gc.collect()  # the Reference Net's weights go before the Diffusion Net's come
    diffusion(archive, meta, args.manifests, features, errors)
    print(f"\n{'max |difference| / max |recorded|':<40} {'worst':>9}  where")
    return 0 if errors.report() else 1


if __name__ == "__main__":
    sys.exit(main())
