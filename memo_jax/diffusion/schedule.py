"""What each step of the sampler evaluates: all of it, or less where it approximates.

Which steps have guidance and which reuse deep features is known before a program is traced, from
the sampler alone.
"""

from dataclasses import dataclass

import numpy as np

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.flow import sampling_sigmas
from memo_jax.diffusion.guidance import guided


@dataclass(frozen=True, order=True)
class Kind:
    """What a step evaluates: `guided`, the null branch too; `whole`, all levels of the Diffusion
    Net, otherwise the first one, with what an earlier step gave of those below."""

    guided: bool
    whole: bool


@dataclass(frozen=True)
class Evaluations:
    """How often a clip's latents pass the Diffusion Net, each branch of guidance for itself:
    through all levels (`whole`), or through the first one alone (`shallow`)."""

    whole: int
    shallow: int

    def __str__(self) -> str:
        return f"{self.whole} + {self.shallow} shallow" if self.shallow else str(self.whole)


def kinds(sampler: SamplerConfig) -> tuple[Kind, ...]:
    """What each step evaluates, the noisiest first.

    A step takes deep features of its own branches that are fewer than `cache_steps` steps old;
    those of the conditional branch serve on where guidance ends.
    """
    low, high = (np.float32(level) for level in sampler.guidance_interval)
    found: list[Kind] = []
    age = sampler.cache_steps  # steps since deep features were made
    for sigma in sampling_sigmas(sampler.steps)[:-1]:
        with_null = guided(sampler.guidance) and bool(low <= sigma <= high)
        # Deep features of a null branch that paused are too old.
        missing = with_null and bool(found) and not found[-1].guided
        whole = missing or age >= sampler.cache_steps
        age = 1 if whole else age + 1
        found.append(Kind(with_null, whole))
    return tuple(found)


def evaluations(sampler: SamplerConfig) -> Evaluations:
    """What a clip costs; a frame costs the same, since all frames of a clip pass together."""
    steps = kinds(sampler)
    whole = sum(1 + kind.guided for kind in steps if kind.whole)
    return Evaluations(whole, sum(1 + kind.guided for kind in steps) - whole)
