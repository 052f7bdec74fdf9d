"""The kopf operator of UMIM."""
