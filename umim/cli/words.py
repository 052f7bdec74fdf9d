"""Figures of resources in words, the same in the command line tool and in the web console. Pure; needs no rich."""

from __future__ import annotations

from datetime import datetime, timedelta

from umim.api.artifacts import ModelManifest
from umim.api.base import Metrics
from umim.api.globalmodel import GlobalModelSpec

COMPACT = frozenset({"vit_pico_patch8_64", "vit_nano_patch8_64"})
"""Encoders that timm knows once ``umim.models.compact`` is imported. Here as names: that module needs torch."""
NONE = "-"
"""Stands for what there is not, or what is not known."""


def age(created: datetime, now: datetime) -> str:
    """Return how long ago something was, in the largest two units, as kubectl does: 3d4h, 5m12s, 40s."""
    return short_duration(now - created)


def short_duration(value: timedelta) -> str:
    """Return a duration in its largest two units, without units that are 0."""
    seconds = max(0, int(value.total_seconds()))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"


def size(number_bytes: int) -> str:
    """Return a size with a binary unit and three digits: 21.4 MiB."""
    value, unit = float(number_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def short(digest: str | None) -> str:
    """Return the first 12 digits of a digest: enough to tell models apart on a screen."""
    return digest[:12] if digest else NONE


def loss_change(metrics: Metrics | None) -> tuple[str, str, str]:
    """Return loss before, loss after and the change in per cent, each as text; a dash where it was not let out."""
    before, after = (metrics or {}).get("loss_before"), (metrics or {}).get("loss_after")
    change = f"{100 * (after - before) / before:+.0f} %" if before and after is not None else NONE
    return (NONE if before is None else f"{before:.3f}", NONE if after is None else f"{after:.3f}", change)


def loading_code(folder: str, manifest: ModelManifest | GlobalModelSpec) -> str:
    """Return the lines that load a pulled model with timm."""
    own = "import umim.models.compact  # registers the name with timm\n" if manifest.architecture in COMPACT else ""
    return (
        f"import timm, safetensors.torch\n{own}"
        f'model = timm.create_model("{manifest.architecture}", img_size={manifest.image_size}, num_classes=0)\n'
        f'model.load_state_dict(safetensors.torch.load_file("{folder}/model.safetensors"))'
    )
