"""Programs that Jobs run: ``python -m umim.entrypoints.NAME``."""

import os

# Read by OpenMP when torch is loaded, hence here, before any import of it. By default its threads wait by spinning.
# Measured on two CPUs, ViT-tiny: three trainings side by side 85-156 images/s each with this, 14-31 without; one
# alone 195-222 with this, 260 without. Sites may share a node, so the worst case counts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
