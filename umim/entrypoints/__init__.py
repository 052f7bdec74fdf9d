"""Programs that Jobs run: ``python -m umim.entrypoints.NAME``."""

import os

# Read by OpenMP when torch is loaded, hence here, before any import of it. By default its threads wait by spinning:
# three trainings side by side on two CPUs were 3 to 8 times slower that way, and one alone gains nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
