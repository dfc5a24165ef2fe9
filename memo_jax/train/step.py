"""The training step: one program on a mesh, (state, frozen, batch) -> (state, metrics)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray

from memo_jax import sharding
from memo_jax.data.windows import AUDIO_WINDOW, WindowConfig
from memo_jax.errors import UserError
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.platform import on_platform
from memo_jax.train import conditions, lora
from memo_jax.train import optimizer as optimizers
from memo_jax.train.config import TrainConfig
from memo_jax.train.loss import Nets, kept_loss
from memo_jax.train.parts import check, running_parts
from memo_jax.train.stages import matching
from memo_jax.train.state import Params, TrainState
from memo_jax.weights import build
from memo_jax.weights.components import component
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import ModelSpec

# Latents of a picture in mid-grey, among the frozen parameters.
GREY_MEAN, GREY_STD = "grey/mean", "grey/std"


class Trainer:
    """A model's training in one stage, on one mesh.

    Attributes:
      config, spec, mesh: as given.
      shapes: of all parameters that the step reads, by whole path.
      trained: paths of those that it changes: kernels' low-rank factors where the config says so.
    """

    # loss: the mean over kept samples, which is what gradients are of; 0 where none is, and then,
    # as in the release, the optimizer's momentum and weight decay still move the parameters.
    # loss_unfiltered: over all. dropped, kept: counts of samples. grad_norm: before clipping.
    # losses: [b], in the batch's order. finite: whether all of it is; if not, nothing has changed.
    metrics = (
        *("loss", "loss_unfiltered", "dropped", "kept", "grad_norm", "lr", "losses", "finite"),
    )

    def __init__(self, config: TrainConfig, spec: ModelSpec, mesh: Mesh) -> None:
        """Raises UserError where config, model and mesh do not go together."""
        self.config, self.spec, self.mesh = config, spec, mesh
        pictures = ("vae",) if config.form == "images" else ()
        self._names = tuple(dict.fromkeys((*config.what.components, *pictures)))
        self._parts = running_parts(config, spec)
        check(config, self._parts, self.image_size, mesh.size)
        dtype = jnp.dtype(config.dtype)
        self._graphs: dict[str, nnx.GraphDef] = {}
        self.shapes: dict[str, jax.ShapeDtypeStruct] = {}
        for name in self._names:
            self._graphs[name], leaves = component(name).abstract(self._parts[name], dtype)
            self.shapes |= {f"{name}/{path}": leaf for path, leaf in leaves.items()}
        self._adapted: list[str] = []
        if config.lora_rank:
            self._adapted = lora.targets(config.lora_targets, self.shapes)
            factors = jax.eval_shape(self._factors)
            self.trained = list(factors)
        else:
            learn = [path for path in self.shapes if path.split("/")[0] in config.what.components]
            self.trained = matching(f"stage {config.stage}", config.patterns, learn)
            factors = {}
        self._reference_learns = any(
            path.startswith(("reference_net/", "image_proj/")) for path in self.trained
        )
        self._programs: dict[int, Any] = {}
        self._optimizer = optimizers.make(config)
        self._rate = optimizers.learning_rate(config)
        whole = sharding.whole(mesh)
        # Low-rank factors are small: whole on every device, they need no rule.
        layout = sharding.shardings(self.shapes, mesh) | dict.fromkeys(factors, whole)
        shapes = {**self.shapes, **factors}
        self._trained = {
            path: jax.ShapeDtypeStruct(shapes[path].shape, jnp.float32, sharding=layout[path])
            for path in self.trained
        }
        self._frozen = {
            path: jax.ShapeDtypeStruct(leaf.shape, self._kept(path, leaf), sharding=layout[path])
            for path, leaf in self.shapes.items()
            if path not in self._trained
        }
        if config.what.moving:
            side = self.image_size // self._parts["vae"].factor
            grey = (side, side, self._parts["vae"].latent_channels)
            self._frozen |= {
                path: jax.ShapeDtypeStruct(grey, jnp.float32, sharding=whole)
                for path in (GREY_MEAN, GREY_STD)
            }

    @property
    def image_size(self) -> int:
        """Pixels of the square that it trains on."""
        return self.config.image_size or self.spec.sampler.image_size

    @property
    def window(self) -> WindowConfig:
        """What the loader must put into samples."""
        config = self.config
        return WindowConfig(
            frames=config.sample_frames,
            past_frames=max(config.past_choices),
            form=config.form,
            decoupled=config.decoupled,
            same_clip_fallback=config.same_clip_fallback,
            still_past=config.still_past,
            portrait_past=config.portrait_past,
            other_past=config.other_past,
            audio_edge=config.audio_edge,
        )

    def past_frames(self, step: int) -> int:
        """How many past frames the batch of this step has; the same in every process."""
        choices = self.config.past_choices
        draw = np.random.default_rng((self.config.seed, step))
        return int(choices[draw.integers(len(choices))])

    def abstract(self) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
        """State and frozen parameters as shapes that know where they lie."""
        whole = sharding.whole(self.mesh)
        count: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        layout = {path: leaf.sharding for path, leaf in self._trained.items()}
        shapes, places = optimizers.state_layout(self._optimizer, self._trained, layout, whole)
        state = TrainState(
            step=count,
            trained=dict(self._trained),
            opt_state=jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                shapes,
                places,
            ),
            ema=None if self.config.ema_decay is None else dict(self._trained),
        )
        return state, dict(self._frozen)

    def abstract_batch(self, past_frames: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A whole batch as shapes, for compiling ahead."""
        config, vae = self.config, self._parts["vae"]
        b, f, s = config.batch_size, config.sample_frames, self.image_size
        rows = {"latents": (b, f), "past": (b, past_frames), "reference": (b,)}
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "face": ((b, self._parts["image_proj"].embedding_dim), np.float32),
            "emotion": ((b,), np.int32),
        }
        if config.form == "images":
            rows["frames"] = rows.pop("latents")
            shapes |= {name: ((*n, s, s, vae.in_channels), np.uint8) for name, n in rows.items()}
        else:
            side = (s // vae.factor, s // vae.factor, vae.latent_channels)
            for name, n in rows.items():
                shapes |= {f"{name}_{m}": ((*n, *side), np.float32) for m in ("mean", "std")}
        heard = self.spec.parts["audio_proj"].config
        audio = (b, f, AUDIO_WINDOW, heard.layers, heard.channels)
        shapes["audio"] = (audio, ml_dtypes.bfloat16)
        place = sharding.over_batch(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            for name, (shape, dtype) in shapes.items()
        }

    def init(self, model: Model) -> tuple[TrainState, Params]:
        """The beginning: the model's parameters, in float32, laid out on the mesh.

        Raises:
          ValueError: the model is not of this spec, or holds trained parameters in less precision.
        """
        values = self.values(model)
        values |= self._factors() if self.config.lora_rank else {}
        state, frozen = self.abstract()
        expected: dict[str, Any] = {**state.trained, **frozen}
        for path, leaf in expected.items():
            if path in (GREY_MEAN, GREY_STD):
                continue
            if path not in values or values[path].shape != leaf.shape:
                raise ValueError(f"the model's {path} is not what its spec means: {leaf.shape}")
            if path in state.trained and values[path].dtype != jnp.float32:
                raise ValueError(f"{path} is {values[path].dtype}; read the model in float32")
        if GREY_MEAN in frozen:
            values |= self._grey(model)
        trained = _laid_out(values, state.trained)
        places = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
        beginning = TrainState(
            step=_laid_out({"step": 0}, {"step": state.step})["step"],
            trained=trained,
            opt_state=jax.jit(self._optimizer.init, out_shardings=places)(trained),
            # Copies, because a state's buffers are given away one by one.
            ema=None if state.ema is None else _laid_out(values, state.ema),
        )
        return beginning, _laid_out(values, frozen)

    def values(self, model: Model) -> dict[str, Any]:
        """The model's parameters by whole path, those that no step of this stage reads too."""
        return {
            f"{name}/{path}": value
            for name in self._names
            for path, value in build.flatten(nnx.state(model.modules[name])).items()
        }

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """This process's rows of a batch as the loader gives them, on the mesh.

        Raises:
          UserError: the data is of other sizes than the model's.
        """
        known = self.abstract_batch(0)
        missing = sorted(set(known) - set(batch))
        if missing:
            raise UserError(f"the batch has no {', '.join(missing)}; is form={self.config.form!r}?")
        for name, leaf in known.items():
            skipped = 2 if name.startswith("past") else 1  # rows, and past frames
            if batch[name].shape[skipped:] != leaf.shape[skipped:]:
                raise UserError(
                    f"the data's {name} are {batch[name].shape[skipped:]}, the model trains on "
                    f"{leaf.shape[skipped:]}; set image_size or frames, or prepare the data anew"
                )
        return sharding.put_batch({name: batch[name] for name in known}, self.mesh)

    def step(self, past_frames: int) -> Any:
        """The jitted (state, frozen, batch) -> (state, metrics); the state is donated.

        Of longer pasts the program takes the last `past_frames`.
        """
        if past_frames not in self._programs:
            places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract()[0])
            self._programs[past_frames] = jax.jit(
                functools.partial(self._step, past_frames),
                donate_argnums=0,
                out_shardings=(places, sharding.whole(self.mesh)),
            )
        return self._programs[past_frames]

    def weights(self, state: TrainState, frozen: Params, *, ema: bool = False) -> Params:
        """The parameters that training has changed, by the paths of the model's own: what is
        trained (or its average), low-rank changes merged into their kernels. float32."""
        values = state.ema if ema else state.trained
        if values is None:
            raise ValueError("this state has no average; set ema_decay")
        if not self._adapted:
            return values
        kernels = {f"{path}/kernel": frozen[f"{path}/kernel"] for path in self._adapted}
        return jax.jit(lora.merged, static_argnums=2)(kernels, values, self._scale)

    @property
    def _scale(self) -> float:
        return self.config.lora_alpha / self.config.lora_rank

    def _factors(self) -> dict[str, np.ndarray]:
        return lora.start(self._adapted, self.shapes, self.config.lora_rank, self.config.seed)

    def _kept(self, path: str, leaf: jax.ShapeDtypeStruct) -> Any:
        """The dtype that a frozen parameter is stored in: matrices' is what they are multiplied in,
        which changes no result. Others are read in float32, and so are emotion tables, which pass a
        SiLU before they are multiplied. Kernels with low-rank changes stay exact: what is added
        to them is often below the last bit of bfloat16."""
        if leaf.ndim < 2 or path.endswith("/embedding"):
            return jnp.float32
        adapted = path.removesuffix("/kernel") in self._adapted
        return jnp.float32 if adapted else jnp.dtype(self.config.dtype)

    def _grey(self, model: Model) -> dict[str, np.ndarray]:
        graphdef, params = nnx.split(model.modules["vae"])
        channels = self._parts["vae"].in_channels
        grey = np.zeros((1, self.image_size, self.image_size, channels), np.float32)

        def encode(params: Any, images: Array) -> tuple[Array, Array]:
            vae: Any = nnx.merge(graphdef, params)
            return vae.encode(images)

        mean, logvar = jax.jit(encode)(params, grey)
        return {GREY_MEAN: np.asarray(mean[0]), GREY_STD: np.exp(0.5 * np.asarray(logvar[0]))}

    def nets(self, trained: Params, frozen: Params) -> Nets:
        """The networks of these parameters, low-rank changes merged in; for use in a program."""
        if self._adapted:
            params = lora.merged(frozen, trained, self._scale)
        else:
            params = {**frozen, **trained}
        by_name: dict[str, Params] = {name: {} for name in self._names}
        for path in self.shapes:
            name, below = path.split("/", 1)
            by_name[name][below] = params[path]
        return {
            name: nnx.merge(self._graphs[name], build.unflatten(values))
            for name, values in by_name.items()
        }

    def _step(
        self, past_frames: int, state: TrainState, frozen: Params, batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(self.config.seed), state.step)
        total, losses, kept, gradients = self._gradients(
            past_frames, key, state.trained, frozen, batch
        )
        count = jnp.maximum(jnp.sum(kept), 1).astype(jnp.float32)
        gradients = jax.tree.map(lambda g: g / count, gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.all(jnp.isfinite(losses)) & jnp.isfinite(norm)

        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        ema, decay = state.ema, self.config.ema_decay
        if decay is not None:
            ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, trained)
        new = TrainState(state.step + 1, trained, opt_state, ema)
        # Elementwise, so that both never exist at once.
        state = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return state, {
            "loss": total / count,
            "loss_unfiltered": jnp.mean(losses),
            "dropped": jnp.sum(~kept),
            "kept": jnp.sum(kept),
            "grad_norm": norm,
            "lr": jnp.asarray(self._rate(new.step - 1), jnp.float32),
            "losses": losses,
            "finite": finite,
        }

    def _gradients(
        self,
        past_frames: int,
        key: Array,
        trained: Params,
        frozen: Params,
        batch: Mapping[str, Array],
    ) -> tuple[Array, Array, Array, Params]:
        """Sum of kept losses, all losses, which are kept, and the sum's gradients.

        Every device computes its own rows, as if there were no other. Left to cut the program
        itself, the compiler sends activations to where the kernels' parts lie.
        """
        specs, rest = (
            {path: leaf.sharding.spec for path, leaf in leaves.items()}
            for leaves in (self._trained, self._frozen)
        )

        def own(
            key: Array, trained: Params, frozen: Params, rows: Array, batch: Mapping[str, Array]
        ) -> tuple[Array, Array, Array, Params]:
            part = functools.partial(self._part, past_frames, key, trained, frozen)
            with on_platform(self.mesh.devices.flat[0].platform):
                total, losses, kept, gradients = self._accumulated(part, rows, batch)
            everywhere = (sharding.DATA, sharding.FSDP)
            # Of a kernel that is cut, the layer has summed it over fsdp already.
            gradients = {
                path: jax.lax.psum(g, everywhere[: 1 if sharding.FSDP in specs[path] else 2])
                for path, g in gradients.items()
            }
            return jax.lax.psum(total, everywhere), losses, kept, gradients

        rows = jnp.arange(self.config.batch_size, dtype=jnp.int32)
        return jax.shard_map(
            own,
            mesh=self.mesh,
            in_specs=(P(), specs, rest, sharding.BATCH, sharding.BATCH),
            out_specs=(P(), sharding.BATCH, sharding.BATCH, specs),
            check_vma=False,  # attention's kernels do not say how their results vary
        )(key, trained, frozen, rows, dict(batch))

    def _accumulated(
        self, part: Callable[..., Any], rows: Int[Array, " b"], batch: Mapping[str, Array]
    ) -> tuple[Array, Array, Array, Params]:
        """What `_gradients` gives, of one device's rows: at once or part by part."""
        if self.config.accumulate == 1:
            (total, (losses, kept)), gradients = part(rows, batch)
            return total, losses, kept, gradients
        cut = "(m a) ... -> a m ..."
        parts = jax.tree.map(
            lambda x: rearrange(x, cut, a=self.config.accumulate), (rows, dict(batch))
        )

        def add(carry: Any, some: Any) -> tuple[Any, Any]:
            (total, told), gradients = part(*some)
            return jax.tree.map(jnp.add, carry, (total, gradients)), told

        zeros = {
            path: jnp.zeros(leaf.sharding.shard_shape(leaf.shape), jnp.float32)
            for path, leaf in self._trained.items()
        }
        (total, gradients), told = jax.lax.scan(add, (jnp.float32(0), zeros), parts)
        losses, kept = (rearrange(x, "a m -> (m a)") for x in told)
        return total, losses, kept, gradients

    def _part(
        self,
        past_frames: int,
        key: Array,
        trained: Params,
        frozen: Params,
        rows: Int[Array, " m"],
        batch: Mapping[str, Array],
    ) -> Any:
        """((sum of kept losses, (losses, kept)), gradients) of some of a batch's rows."""
        inputs = self._inputs(past_frames, key, self.nets(trained, frozen), frozen, rows, batch)

        def loss(trained: Params) -> tuple[Array, tuple[Array, Array]]:
            total, told = kept_loss(
                self.nets(trained, frozen),
                inputs,
                self.config.robust_threshold,
                loss=self.config.loss,
                reference_learns=self._reference_learns,
                remat=self.config.remat,
            )
            return total, (told.losses, told.kept)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    def _inputs(
        self,
        past_frames: int,
        key: Array,
        nets: Nets,
        frozen: Params,
        rows: Int[Array, " m"],
        batch: Mapping[str, Array],
    ) -> conditions.Inputs:
        config, net = self.config, nets["diffusion_net"]
        grey = (frozen[GREY_MEAN], frozen[GREY_STD]) if GREY_MEAN in frozen else None
        found = conditions.moments(batch, past_frames, nets.get("vae"), config.encode_frames)
        return conditions.prepared(
            batch,
            conditions.sample_keys(key, rows),
            jax.lax.stop_gradient(found),
            scaling=self._parts["vae"].scaling_factor,
            rates=config.drop,
            grey=grey,
            norms=_norms(net),
            null_emotion=net.config.null_emotion,
            levels=self._levels,
        )

    def _levels(self, keys: PRNGKeyArray) -> Float[Array, " b"]:
        """The noise levels of the samples with these keys."""
        return conditions.sigmas(keys, self.config.level_mean)


def _norms(net: DiffusionNet) -> int:
    return net.emotion_norms if net.config.audio_modules else 0


def _laid_out(values: Mapping[str, Any], like: Mapping[str, Any]) -> Params:
    """Arrays of the host on the mesh, in the dtypes and places of `like`."""
    laid: Params = {}
    for path, leaf in like.items():
        value = np.asarray(values[path]).astype(leaf.dtype)
        laid |= sharding.put({path: value}, {path: leaf.sharding})
    return laid
