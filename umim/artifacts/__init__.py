"""Artifacts: the object store, tensors files, manifests. Only ``tensors`` and ``models`` need torch."""
