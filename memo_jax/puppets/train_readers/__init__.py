"""Training of `memo_jax.puppets.readers` on drawn pictures, and what it reaches."""
