"""Programs that Jobs run: ``python -m umim.entrypoints.NAME``."""
