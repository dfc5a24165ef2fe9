"""A clip's record with other latents, all else in it as it was, to the byte."""

import json

import numpy as np
from jaxtyping import Float16

PICTURES = ("images", "image_ends")


def with_latents(
    record: bytes,
    mean: Float16[np.ndarray, "n h w z"],
    std: Float16[np.ndarray, "n h w z"],
    *,
    drop_images: bool = False,
) -> bytes:
    """A record (`memo_jax.data.record`) with these latents in the place of any it has.

    Entries that the schema does not know stay too, so the record is not taken apart and encoded
    anew.

    Args:
      record: one that `decode` accepts.
      mean: of the posterior of every frame, unscaled.
      std: its standard deviation.
      drop_images: leave the pictures out.
    """
    length = int.from_bytes(record[:8], "little")
    header, old = json.loads(record[8 : 8 + length]), memoryview(record)[8 + length :]
    left_out = {"latents_mean", "latents_std", *(PICTURES if drop_images else ())}
    kept = {"__metadata__": header.pop("__metadata__")}
    arrays = bytearray()

    def add(name: str, kind: str, shape: list[int], data: bytes | memoryview) -> None:
        begin = len(arrays)
        arrays.extend(data)
        kept[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, len(arrays)]}

    for name, entry in header.items():
        if name not in left_out:
            begin, end = entry["data_offsets"]
            add(name, entry["dtype"], entry["shape"], old[begin:end])
    for name, array in (("latents_mean", mean), ("latents_std", std)):
        add(name, "F16", list(array.shape), np.asarray(array, "<f2").tobytes())
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the arrays
    return len(text).to_bytes(8, "little") + text + bytes(arrays)
