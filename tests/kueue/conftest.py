"""The fixtures of the end-to-end tests."""

from tests.e2e.conftest import launch, sites, start_model

__all__ = ["launch", "sites", "start_model"]
