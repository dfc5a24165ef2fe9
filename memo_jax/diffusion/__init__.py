"""Rectified flow: noise levels, Euler steps, guidance, and the rollout over clips."""
