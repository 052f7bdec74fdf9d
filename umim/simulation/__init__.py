"""Rounds and campaigns in one process, without a cluster, by the very functions that the Jobs run."""
