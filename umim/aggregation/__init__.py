"""Aggregation: validating the sites' updates and merging them into one model. ``names`` needs no torch."""
