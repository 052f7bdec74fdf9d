"""Training at a site and pretraining on the server: objective, engine, checkpoints, privacy."""
