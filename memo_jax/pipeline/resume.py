"""A run that can stop and go on: its frames so far and its carry, in a folder beside the video.

<output>.partial/
  run.json        what the run is made from; another run does not go on from it
  frames/         the frames so far, lossless
  carry-<frames>/ the carry after that many, an Orbax checkpoint
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from memo_jax.diffusion.rollout import Carry
from memo_jax.errors import UserError, one_line
from memo_jax.io.segments import Segments


class Partial:
    """The folder of an unfinished run.

    A carry is written before the frames that belong to it are sealed, under a name that says how
    many they are: a kill at any moment leaves one pair that fits, or none and a fresh start.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, Any]):
        """Open the folder, or make it.

        Raises:
          UserError: it belongs to a run made from something else, or cannot be written.
        """
        self.folder = folder.absolute()
        self._note = self.folder / "run.json"
        text = json.dumps(dict(made_from), indent=1, sort_keys=True)
        try:
            (self.folder / "frames").mkdir(parents=True, exist_ok=True)
            if self._note.exists():
                self._same(json.loads(self._note.read_text("utf-8")), json.loads(text))
            else:
                self._note.write_text(text, "utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: {one_line(error)}; remove it to start anew") from error
        self.frames = Segments(self.folder / "frames")

    def carry(self, like: Carry) -> Carry | None:
        """The carry to go on from, with the structure of `like`; None at the very start.

        Raises:
          UserError: it cannot be read, or frames are there without it.
        """
        path = self._carry_path(self.frames.sealed)
        if not self.frames.sealed:
            return None
        shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), like)
        try:
            restored = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
                path, ocp.args.PyTreeRestore(item=_leaves(like), restore_args=_on_host(like))
            )
            leaves = [jnp.asarray(restored[str(i)]) for i in range(len(restored))]
            carry = jax.tree.unflatten(jax.tree.structure(like), leaves)
            if jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), carry) != shapes:
                raise ValueError("its shapes are those of another model")
        except Exception as error:  # Orbax raises many kinds for damaged files
            raise UserError(
                f"{path} cannot be gone on from ({one_line(error)[:120]}); "
                f"remove {self.folder} to start anew"
            ) from error
        return carry

    def done(self) -> Iterator[np.ndarray]:
        """The frames so far."""
        return self.frames.read()

    def save(self, carry: Carry, frames: int) -> None:
        """Keep all frames appended so far, of which there are `frames`, and the carry after
        them."""
        if frames == self.frames.sealed:
            return
        before = list(self.folder.glob("carry-*"))
        path = self._carry_path(frames)
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(path, _leaves(carry), force=True)
        self.frames.seal()
        for old in before:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Throw the folder away; the video is done."""
        shutil.rmtree(self.folder)

    def _carry_path(self, frames: int) -> Path:
        return self.folder / f"carry-{frames}"

    def _same(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                if isinstance(old.get(name), Mapping) and isinstance(new.get(name), Mapping):
                    self._same(old[name], new[name])
                raise UserError(
                    f"{self.folder} was begun with {name} {old.get(name)}, now it is "
                    f"{new.get(name)}; give the same options, or remove it to start anew"
                )


def _leaves(carry: Carry) -> dict[str, Any]:
    """The carry's leaves by number: checkpoints say nothing of our classes."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(carry))}


def _on_host(carry: Carry) -> dict[str, ocp.RestoreArgs]:
    return {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in _leaves(carry)}
