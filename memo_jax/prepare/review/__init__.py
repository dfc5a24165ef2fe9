"""People look at a sample, and what they drop is left out."""
