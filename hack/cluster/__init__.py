"""A real single-node Kubernetes for development, without Docker and without an image registry.

Run it from the repository root: ``python3 -m hack.cluster up``. Standard library only.
See docs/embedded-cluster.md.
"""
