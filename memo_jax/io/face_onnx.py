"""Faces and face embeddings by the published ONNX models, SCRFD and ArcFace, given by path."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from memo_jax.io.boxes import Face, largest_first, suppress
from memo_jax.io.paths import existing_file, fail

# SCRFD, as published (scrfd_10g_bnkps and its sizes).
SIDE = 640
STRIDES = (8, 16, 32)
ANCHORS = 2
CENTRE, SPREAD = 127.5, 128.0  # input is (RGB - CENTRE) / SPREAD
SAME_FACE = 0.4  # intersection over union
# Score thresholds, each with how much of the input the picture may fill: a face that fills
# the picture is larger than any anchor and is found once there is room around it.
ATTEMPTS = ((0.5, 1.0), (0.5, 0.5), (0.25, 1.0), (0.25, 0.5))

# ArcFace, as published (glintr100 and others of 112x112 input).
ALIGNED_SIDE = 112
ALIGNED_CENTRE, ALIGNED_SPREAD = 127.5, 127.5
# Where the five landmarks lie in an aligned face, (x, y).
ALIGNED_LANDMARKS = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


class OnnxFinder:
    """SCRFD. path: an .onnx file with 9 outputs (scores, boxes, landmarks at 3 strides).

    Raises UserError where the file is missing or another model, or onnxruntime is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._session = _session(path, "face detector")
        outputs = len(self._session.get_outputs())
        if outputs != 3 * len(STRIDES):
            raise fail(
                f"face detector {str(path)!r} has {outputs} outputs; expected an SCRFD "
                f"model with {3 * len(STRIDES)}, such as scrfd_10g_bnkps.onnx"
            )
        self._path = path

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces in a picture uint8 [H, W, 3] RGB, with landmarks, the largest first."""
        outputs: dict[float, list[np.ndarray]] = {}
        for threshold, fill in ATTEMPTS:
            scale = fill * SIDE / max(image.shape[:2])
            if fill not in outputs:
                outputs[fill] = _run(self._session, self._path, _letterbox(image, scale))
            faces = decode_scrfd(outputs[fill], threshold, scale)
            if faces:
                break
        return largest_first(suppress(faces, SAME_FACE))


def decode_scrfd(outputs: list[np.ndarray], threshold: float, scale: float) -> list[Face]:
    """Faces with a score of at least `threshold`, in pixels of the picture.

    outputs: scores [n, 1], then distances to the box's sides [n, 4], then landmark offsets
    [n, 10], each per stride, in units of the stride; n is rows x columns x anchors.
    scale: pixels of the network's input over pixels of the picture.
    """
    faces = []
    for level, stride in enumerate(STRIDES):
        scores = outputs[level].reshape(-1)
        picked = np.flatnonzero(scores >= threshold)
        across = SIDE // stride
        cell = picked // ANCHORS
        centre = np.stack([cell % across, cell // across], axis=-1) * float(stride)
        sides = outputs[level + 3].reshape(-1, 4)[picked] * stride
        low = (centre - sides[:, :2]) / scale
        high = (centre + sides[:, 2:]) / scale
        offsets = outputs[level + 6].reshape(-1, 5, 2)[picked] * stride
        points = ((centre[:, None] + offsets) / scale).astype(np.float32)
        for k, index in enumerate(picked):
            x, y = low[k]
            w, h = high[k] - low[k]
            box = (float(x), float(y), float(w), float(h))
            faces.append(Face(box, float(scores[index]), points[k]))
    return faces


class ArcFace:
    """Identity embeddings. path: an .onnx file, 112x112 in and 512 numbers out.

    Raises UserError where the file is missing or another model, or onnxruntime is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._session = _session(path, "face embedder")
        self._path = path

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """float32 [512] of a face in a picture uint8 [H, W, 3] RGB; as it comes, not of unit
        length, which is what the released model was trained on.

        Raises UserError for a face without landmarks, and for a model of another size.
        """
        if face.landmarks is None:
            raise fail(
                "the face has no landmarks, which its embedding needs; find it with an "
                "SCRFD model, such as scrfd_10g_bnkps.onnx"
            )
        move = similarity(face.landmarks, ALIGNED_LANDMARKS)
        aligned = cv2.warpAffine(image, move, (ALIGNED_SIDE, ALIGNED_SIDE), borderValue=0)
        pixels = (aligned.astype(np.float32) - ALIGNED_CENTRE) / ALIGNED_SPREAD
        output = _run(self._session, self._path, pixels)[0].reshape(-1)
        if output.shape != (512,):
            raise fail(
                f"face embedder {str(self._path)!r} gives {output.size} numbers; "
                "expected an ArcFace model with 512, such as glintr100.onnx"
            )
        return output.astype(np.float32)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The turn, scale and shift, float64 [2, 3], that bring source [n, 2] nearest to target.

    Least squares: as complex numbers, target = a * source + b has a closed solution, and
    multiplying by a complex number is exactly a turn and a scale.
    """
    s = source[:, 0] + 1j * source[:, 1].astype(np.float64)
    t = target[:, 0] + 1j * target[:, 1].astype(np.float64)
    from_mean = s - s.mean()
    a = np.vdot(from_mean, t - t.mean()) / np.vdot(from_mean, from_mean).real
    b = t.mean() - a * s.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _letterbox(image: np.ndarray, scale: float) -> np.ndarray:
    """The picture scaled into the upper left of a black square, float32 [640, 640, 3]."""
    height = min(SIDE, max(1, round(image.shape[0] * scale)))
    width = min(SIDE, max(1, round(image.shape[1] * scale)))
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    square[:height, :width] = cv2.resize(image, (width, height))
    return (square.astype(np.float32) - CENTRE) / SPREAD


def _session(path: str | os.PathLike[str], what: str) -> Any:
    """An onnxruntime session on the CPU."""
    file = existing_file(path, what)
    try:
        import onnxruntime
    except ImportError as error:
        raise fail(
            f"{what} {str(path)!r} needs onnxruntime, which is not installed; run "
            "pip install memo_jax[onnx]"
        ) from error
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class
        raise fail(
            f"{what} {str(path)!r} is not an ONNX model that can be read; download it again", error
        ) from error


def _run(session: Any, path: str | os.PathLike[str], pixels: np.ndarray) -> list[np.ndarray]:
    """Outputs of a network for one input [h, w, 3]."""
    feed = {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]}
    try:
        return session.run(None, feed)
    except Exception as error:  # its errors share no base class
        side = pixels.shape[0]
        raise fail(
            f"face model {str(path)!r} does not take a {side}x{side} picture; give "
            "the published file",
            error,
        ) from error
