"""What makes the training batches of the tracks: the part of a track that belongs to the contestant."""
