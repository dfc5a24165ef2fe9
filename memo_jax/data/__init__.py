"""Stored clips, and the batches that training cuts from them."""
