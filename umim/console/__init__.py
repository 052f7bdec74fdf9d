"""The web console: read-only pages of rounds, campaigns, models and hospitals, from the API server and Prometheus."""
