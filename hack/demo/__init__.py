"""The demonstration: three hospitals with real images, one round, from nothing to a published model."""
