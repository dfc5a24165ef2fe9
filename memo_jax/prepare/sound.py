"""The sound that a record keeps: 16 bits at 16 kHz, as FLAC."""

import io

import av
import numpy as np
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.data.clip import BadRecord
from memo_jax.io.media import MEDIA_ERRORS


def flac(samples: Float[np.ndarray, " n"]) -> bytes:
    """Samples in [-1, 1] as a FLAC file; what is beyond is cut off."""
    whole = np.clip(np.rint(np.asarray(samples) * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


def heard(sound: bytes | memoryview) -> Float[np.ndarray, " n"]:
    """The samples of a record's sound, mono, at its own rate; raises BadRecord."""
    try:
        with av.open(io.BytesIO(bytes(sound)), "r") as container:
            parts = [f.to_ndarray() for f in container.decode(audio=0)]
    except MEDIA_ERRORS as error:
        raise BadRecord("header", f"the sound cannot be decoded ({error})") from error
    samples = np.concatenate([part.reshape(-1) for part in parts])
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -np.float32(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)
