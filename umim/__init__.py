"""UMIM: federated training of a universal medical imaging model on Kubernetes."""

__version__ = "0.1.0"
