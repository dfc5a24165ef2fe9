"""Faces: the front door to the finders, and the choice of the one face to animate."""

from __future__ import annotations

import os
from collections.abc import Sequence

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face, FaceFinder
from memo_jax.io.face_onnx import ArcFace, OnnxFinder
from memo_jax.io.haar import HaarFinder
from memo_jax.io.paths import fail

__all__ = ["ArcFace", "Face", "FaceFinder", "HaarFinder", "OnnxFinder", "choose_face"]

# Other faces larger than this share of the largest could as well be the one that was meant.
COMPARABLE = 0.5


def choose_face(
    faces: Sequence[Face], which: str | int = "auto", path: str | os.PathLike[str] = ""
) -> Face:
    """The face to animate, of faces sorted the largest first.

    which: "auto" is the only one of its size, "largest", or a number counted from 0.
    path: the picture, for messages.
    Raises UserError where there is no face, no such number, or where "auto" finds several of
    comparable size (above half the area of the largest).
    """
    name = f" in {str(path)!r}" if str(path) else ""
    word = str(which).strip().lower()
    if not faces:
        raise fail(
            f"no face found{name}; use a frontal portrait, or say where the head is "
            "with --crop x,y,w,h, or take the whole picture with --crop none"
        )
    if word == "largest":
        return faces[0]
    if word == "auto":
        if len(faces) > 1 and faces[1].area > COMPARABLE * faces[0].area:
            raise _several(faces, name)
        return faces[0]
    if word.isdecimal() and len(word) < 10 and int(word) < len(faces):
        return faces[int(word)]
    raise fail(
        f"face {which!r} is not among those found{name}: {_listed(faces)}; choose one "
        "with --face N, or --face largest"
    )


def _several(faces: Sequence[Face], name: str) -> UserError:
    return fail(
        f"{len(faces)} faces found{name} as x,y,w,h: {_listed(faces)}; choose one with "
        "--face N, or --face largest"
    )


def _listed(faces: Sequence[Face]) -> str:
    """Number and box of every face, such as "0 at 10,20,96,96, 1 at ..."; at most eight."""
    shown = [
        f"{k} at {','.join(str(round(v)) for v in f.box)} (score {f.score:.2f})"
        for k, f in enumerate(faces[:8])
    ]
    return ", ".join(shown) + (", ..." if len(faces) > 8 else "")
