"""Host side of generation: sound, pictures, faces and video in and out of plain numpy arrays."""
