"""Training of the emotion detector's classifier, from corpora of emotional speech and song."""
