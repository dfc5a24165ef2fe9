"""Published judges of video, from their PyTorch weights: shot cuts, lip sync, picture quality.

Each has `load(path)` and runs in float32 at the highest precision on every platform, because its
numbers are held against published ones.
"""
