"""Build UMIM's container images without a Docker daemon: `python3 -m hack.images` (standard library only)."""
