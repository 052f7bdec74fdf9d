"""Judging encoders: probes, fine-tuning, metrics and significance tests."""
