"""Whether a head's pictures are good enough: measured, or judged by HyperIQA."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from memo_jax.prepare.reasons import Reject

SIDE = 256  # pixels at which sharpness is measured, whatever the clip's size


@dataclass(frozen=True)
class QualityConfig:
    """What a clip's pictures must be.

    Attributes:
      sharpness: least variance of the Laplacian of the grey picture at 256 pixels.
      darkest: least mean brightness, of 255.
      brightest: most.
      hyperiqa: least score of the first picture, where HyperIQA's weights are given; the paper's.
    """

    sharpness: float = 20.0
    darkest: float = 30.0
    brightest: float = 235.0
    hyperiqa: float = 40.0


def measured(
    crops: Sequence[UInt8[np.ndarray, "s s 3"]], config: QualityConfig
) -> dict[str, float]:
    """Scores without any model: the offline default, no replacement of HyperIQA.

    Returns:
      `laplacian_sharpness` (the worst picture's) and `brightness` (the mean).

    Raises:
      Reject: blurred, too dark or too bright.
    """
    sharpness, brightness = np.inf, []
    for crop in crops:
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        sharpness = min(sharpness, float(cv2.Laplacian(small, cv2.CV_64F).var()))
        brightness.append(float(grey.mean()))
    light = float(np.mean(brightness))
    if not config.darkest <= light <= config.brightest:
        raise Reject(
            "exposure",
            f"brightness {light:.0f}, expected {config.darkest:g} to {config.brightest:g}",
        )
    if sharpness < config.sharpness:
        raise Reject("blurred", f"sharpness {sharpness:.1f}, expected {config.sharpness:g}")
    return {"laplacian_sharpness": sharpness, "brightness": light}


class HyperIQA:
    """HyperIQA with weights that the user has, on the first picture of a clip."""

    def __init__(self, weights: str):
        from memo_jax.judges import hyperiqa

        self._judge = hyperiqa.load(weights)

    def __call__(
        self, crops: Sequence[UInt8[np.ndarray, "s s 3"]], config: QualityConfig
    ) -> dict[str, float]:
        """Returns `hyperiqa`; raises Reject below the threshold."""
        score = self._judge.score(crops[0])
        if score < config.hyperiqa:
            raise Reject("quality", f"HyperIQA {score:.1f}, expected {config.hyperiqa:g}")
        return {"hyperiqa": score}
