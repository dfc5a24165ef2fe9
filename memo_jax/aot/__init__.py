"""Programs compiled ahead of time for chips that are not there, and what that tells."""
