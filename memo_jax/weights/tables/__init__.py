"""Rule tables, one module for each network."""
