"""Pydantic models of the resources (umim.dev/v1alpha1), of artifact manifests and of Job configurations."""
