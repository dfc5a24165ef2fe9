"""Which trainer a stage has."""

from jax.sharding import Mesh

from memo_jax.train.config import TrainConfig
from memo_jax.train.distill import Distiller
from memo_jax.train.stages import DISTILL, VAE
from memo_jax.train.step import Trainer
from memo_jax.train.vae import VAETrainer
from memo_jax.weights.spec import ModelSpec


def trainer_of(config: TrainConfig, spec: ModelSpec, mesh: Mesh) -> Trainer:
    """The trainer of the config's stage; raises as `Trainer`."""
    own: dict[str, type[Trainer]] = {VAE: VAETrainer, DISTILL: Distiller}
    return own.get(config.stage, Trainer)(config, spec, mesh)
