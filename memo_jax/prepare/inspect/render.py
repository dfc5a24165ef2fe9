"""A clip in words, and as a video with its sound."""

import tempfile
from pathlib import Path

import numpy as np

from memo_jax.data.clip import BadRecord, Clip, read_frame
from memo_jax.errors import UserError
from memo_jax.io.video_write import VideoWriter
from memo_jax.prepare.listing import name_of


def described(clip: Clip) -> str:
    """What a clip is, in a few lines."""
    seen = sorted({clip.emotions[i] if i >= 0 else "none" for i in clip.emotion.tolist()})
    lines = [
        f"{name_of(clip)}: {clip.frames} frames, {clip.frames / clip.fps:.2f} s at "
        f"{clip.fps:.3f} fps, {clip.size} pixels",
        f"corpus {clip.corpus or '-'}, identity {clip.identity or '-'}, label "
        f"{clip.clip_emotion or '-'}, licence {clip.licence or '-'}",
        f"emotions by frame: {', '.join(seen)}",
        f"audio {'x'.join(map(str, clip.audio.shape))}, face {len(clip.face)}"
        + (" (zeros: no face known)" if not np.any(clip.face) else ""),
        "scores: " + ", ".join(f"{k} {v:.3g}" for k, v in sorted(clip.scores.items())),
    ]
    return "\n".join(lines)


def write_clip(clip: Clip, path: Path) -> None:
    """A clip as a video with its sound.

    Raises:
      UserError: it has no pictures, one is damaged, or the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            sound = None
            if clip.sound is not None:
                sound = Path(folder, "sound.flac")
                sound.write_bytes(clip.sound)
            with VideoWriter(path, clip.size, clip.size, clip.fps, sound=sound) as writer:
                for i in range(clip.frames):
                    writer.write(read_frame(clip, i)[None])
    except BadRecord as error:
        raise UserError(f"{name_of(clip)}: {error}") from error
