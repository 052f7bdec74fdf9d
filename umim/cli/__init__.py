"""The command line tool ``umim``. The only part of the package that may use the Kubernetes client; no torch."""
