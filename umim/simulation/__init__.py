"""Federations in one process, without a cluster: the same training, aggregation and distillation code."""
