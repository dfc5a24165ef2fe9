"""Sounds for tests, as samples and as files."""

import wave

import numpy as np


def tone(seconds, rate=16000):
    t = np.arange(round(seconds * rate)) / rate
    return (12000 * np.sin(2 * np.pi * (200 * t + 200 * t**2))).astype(np.int16)


def write_wav(path, samples, rate=16000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path
