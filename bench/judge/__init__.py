"""The judge: what certifies a model, by its own code. Nothing here imports a file of the contestant's source."""
