"""A drawn world of talking faces: sound, pictures, and what is true of every frame."""
