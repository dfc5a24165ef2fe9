"""The networks. Modules are Flax NNX used as frozen pytrees: every leaf is a parameter."""
