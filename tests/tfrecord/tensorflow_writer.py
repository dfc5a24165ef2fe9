"""Writes TFRecords with TensorFlow itself; run by the Python of tensorflow-io's environment.

python tensorflow_writer.py FOLDER    reads FOLDER/values.npz, writes FOLDER/in/*.tfrecord
"""

import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(folder):
    values = np.load(folder / "values.npz")
    (folder / "in").mkdir()
    for compression in ("", "GZIP", "ZLIB"):
        options = tf.io.TFRecordOptions(compression_type=compression)
        path = folder / "in" / f"wav{compression}.tfrecord"
        with tf.io.TFRecordWriter(str(path), options) as writer:
            for frames, samples in zip(values["frames"], values["samples"], strict=True):
                writer.write(of_wav(frames, samples))
    with tf.io.TFRecordWriter(str(folder / "in" / "sequence.tfrecord")) as writer:
        for frames, samples in zip(values["frames"], values["samples"], strict=True):
            writer.write(sequence(frames, samples))
    with tf.io.TFRecordWriter(str(folder / "in" / "video.tfrecord")) as writer:
        for path in sorted(folder.glob("*.mp4")):
            writer.write(example({"video": coded([path.read_bytes()]), "label": ints([1])}))


def coded(values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def floats(values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def ints(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(values):
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def png(frame):
    return tf.io.encode_png(frame).numpy()


def of_wav(frames, samples):
    wave = tf.audio.encode_wav(samples[:, None] / np.float32(32768), 16000)
    return example(
        {
            "frames": coded([png(frame) for frame in frames]),
            "sound": coded([wave.numpy()]),
            "fps": floats([25.0]),
            "label": ints([int(samples[0]) % 3]),
        }
    )


def sequence(frames, samples):
    steps = tf.train.FeatureList(feature=[coded([png(frame)]) for frame in frames])
    context = {"sound": ints(samples.tolist()), "rate": ints([16000]), "label": ints([2])}
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(feature_list={"frames": steps}),
    ).SerializeToString()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # TensorFlow's threads end badly when Python takes its modules apart
