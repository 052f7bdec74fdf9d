"""Encoders by timm name, masked image modelling and task heads."""
