"""Caching the VAE's latents in a data set, so that training need not encode its pictures."""
