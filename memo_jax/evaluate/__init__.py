"""Figures of generated videos: suites that generate them, read them and compare variants."""
