"""Heads by Grounding DINO, which is asked for them in words. PyTorch runs it, as published.

After arXiv:2303.05499, by the class of Hugging Face's transformers. Only this step needs PyTorch,
and only where it is asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from memo_jax.errors import UserError, one_line
from memo_jax.io.boxes import Face, largest_first, suppress
from memo_jax.prepare.heads import HeadConfig

OVERLAP = 0.5  # of two boxes of one head
AT_ONCE = 4  # pictures


class GroundingDino:
    """Grounding DINO with weights that the user has, on PyTorch's GPU where it sees one.

    Attributes:
      searched: pixels of the longer side, as its published preprocessing scales pictures.
    """

    searched = 1333

    def __init__(self, folder: str, config: HeadConfig):
        """Loads it.

        Args:
          folder: as published: config.json, model.safetensors, preprocessor_config.json and the
            tokenizer's files. Pickled weights are not read.
          config: what it is asked for, and the least score.

        Raises:
          UserError: PyTorch is missing, or the folder does not hold this network.
        """
        self._config = config
        self._torch, self._pictures, tokenizer, self._net = _loaded(folder)
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._net.to(self._device).eval()
        self._words = dict(tokenizer(config.prompt, return_tensors="pt"))

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[list[Face]]:
        """What was asked for in each picture, the largest first; pictures are all of one size."""
        found: list[list[Face]] = []
        for first in range(0, len(pictures), AT_ONCE):
            found += self._some(pictures[first : first + AT_ONCE])
        return found

    def _some(self, pictures: Sequence[np.ndarray]) -> list[list[Face]]:
        made = self._pictures(
            images=list(pictures), return_tensors="pt", input_data_format="channels_last"
        )
        words = {name: ids.expand(len(pictures), -1) for name, ids in self._words.items()}
        given = {name: value.to(self._device) for name, value in {**made, **words}.items()}
        with self._torch.inference_mode():
            out = self._net(**given)
        # A box's score is that of the word that fits best; there is one word besides the ends.
        scores = out.logits.float().sigmoid().amax(dim=-1).cpu().numpy()
        boxes = out.pred_boxes.float().cpu().numpy()
        return [self._faces(s, b, p.shape) for s, b, p in zip(scores, boxes, pictures, strict=True)]

    def _faces(self, scores: np.ndarray, boxes: np.ndarray, shape: tuple[int, ...]) -> list[Face]:
        """Of one picture: scores [q], boxes [q,4] as centre and size over the picture's sides."""
        height, width = shape[:2]
        kept = scores >= self._config.score
        centre, size = boxes[kept, :2].astype(np.float64), boxes[kept, 2:].astype(np.float64)
        limits = np.array([width, height])
        low = np.clip((centre - size / 2) * limits, 0, limits)
        high = np.clip((centre + size / 2) * limits, 0, limits)
        corners = np.concatenate([low, high - low], axis=1).tolist()
        faces = [
            Face((x, y, w, h), float(score))
            for (x, y, w, h), score in zip(corners, scores[kept], strict=True)
            if min(w, h) >= 1
        ]
        return largest_first(suppress(faces, OVERLAP))


def _loaded(folder: str) -> tuple[Any, Any, Any, Any]:
    """PyTorch, and the folder's preprocessing, tokenizer and network."""
    path = Path(folder)
    expected = "a folder with config.json, model.safetensors, preprocessor_config.json and a "
    if not (path / "config.json").is_file():
        raise UserError(f"--dino {folder!r} has no config.json; expected {expected}tokenizer")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"--dino {folder!r} has no *.safetensors; expected {expected}tokenizer, and pickled "
            "weights are not read"
        )
    try:
        import torch
        from transformers import (
            AutoImageProcessor,
            AutoTokenizer,
            GroundingDinoForObjectDetection,
        )
    except ImportError as error:
        raise UserError(
            f"Grounding DINO runs in PyTorch, by transformers ({one_line(error)}): pip install "
            "memo_jax[prepare,convert], or leave --dino out"
        ) from error
    try:
        local = {"local_files_only": True, "trust_remote_code": False}
        with _quietly():
            pictures = AutoImageProcessor.from_pretrained(path, **local)
            tokenizer = AutoTokenizer.from_pretrained(path, **local)
            loaded: Any = GroundingDinoForObjectDetection.from_pretrained(
                path,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # the library raises many kinds for files that are not its own
        raise UserError(
            f"--dino {folder!r} cannot be read ({one_line(error)}); expected {expected}tokenizer, "
            "as published"
        ) from error
    network, about = loaded
    missing = sorted(about["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"--dino {folder!r} lacks {', '.join(missing[:3])}{more}; expected Grounding DINO's "
            "weights as published"
        )
    return torch, pictures, tokenizer, network


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and warnings: what matters is told by an error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
