"""What each stage of training trains (METHOD, "Training"; arXiv:2412.04448, section 3).

Stage "vae" is ours: MEMO takes Stable Diffusion's autoencoder as it is, and a model that is made
from nothing needs one of its own. Stage "distill" is ours, too (see `train.distill`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memo_jax.errors import UserError

# A table of sines that checkpoints carry along, not a weight.
CONSTANT = r".*/pos_encoder/pe"

VAE = "vae"
DISTILL = "distill"

_MOVING_PARTS = (
    r"diffusion_net/.*/audio_modules/.*",
    r"diffusion_net/.*/motion_modules/.*",
)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
      name: as `TrainConfig.stage` has it.
      trains: patterns of parameter paths, matched whole; all else is frozen.
      moving: whether samples are clips and audio and motion modules run; otherwise a sample is
        one frame, nothing is heard, and past frames are not looked at.
      learning_rate: constant.
      steps: updates.
    """

    name: str
    trains: tuple[str, ...]
    moving: bool
    learning_rate: float
    steps: int

    @property
    def components(self) -> tuple[str, ...]:
        """The networks that run in every step; the VAE apart from the others, or alone."""
        if self.name == VAE:
            return ("vae",)
        nets = ("reference_net", "diffusion_net", "image_proj")
        return (*nets, "audio_proj") if self.moving else nets

    def trained(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` that this stage trains, in their order.

        Raises:
          UserError: a pattern matches none.
        """
        return matching(f"stage {self.name}", self.trains, paths)


def matching(what: str, patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Paths that some pattern matches whole, constants left out, in their order.

    Raises:
      UserError: a pattern matches none.
    """
    weights = [path for path in paths if not re.fullmatch(CONSTANT, path)]
    found: set[str] = set()
    for pattern in patterns:
        hits = {path for path in weights if re.fullmatch(pattern, path)}
        if not hits:
            raise UserError(
                f"{what} trains {pattern!r}, which matches none of the model's "
                f"{len(weights)} parameters; is the model of another kind?"
            )
        found |= hits
    return [path for path in weights if path in found]


# Of 2a the paper says no more than that it begins stage 2; its length is our choice. Spatial
# attention is trained with the norms and projections of its transformer.
STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "1",
            (r"reference_net/.*", r"diffusion_net/.*/attentions/.*", r"image_proj/.*"),
            moving=False,
            learning_rate=1e-5,
            steps=15_000,
        ),
        Stage(
            "2a",
            (*_MOVING_PARTS, r"audio_proj/.*"),
            moving=True,
            learning_rate=1e-5,
            steps=15_000,
        ),
        Stage(
            "2b",
            (r"reference_net/.*", r"diffusion_net/.*", r"image_proj/.*", r"audio_proj/.*"),
            moving=True,
            learning_rate=1e-5,
            steps=600_000,
        ),
        # The published release's script: audio and motion modules alone.
        Stage("finetune", _MOVING_PARTS, moving=True, learning_rate=1e-5, steps=10_000),
        # What the other networks give is the same for the student and its teacher.
        Stage(DISTILL, (r"diffusion_net/.*",), moving=True, learning_rate=1e-5, steps=10_000),
        Stage(VAE, (r"vae/.*",), moving=False, learning_rate=1e-4, steps=100_000),
    )
}
