"""A record as a video again."""
