"""How a trained encoder becomes the file that leaves a site, and what the encoding lost stays for the next round.

Error feedback (1-bit SGD, Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847): what bf16, int8 and top-k
lose of a change is added to the site's next change before that is encoded. The sum over the rounds loses little.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from umim.api.artifacts import ModelManifest, TensorInfo
from umim.api.hospital import PrivacySpec
from umim.api.jobs import SiteJobConfig
from umim.api.round import EncodingSpec
from umim.artifacts.encodings import SCALE, Changes, decode, encode, encoded_infos
from umim.artifacts.models import check_tensors
from umim.artifacts.tensors import TensorReader, open_safetensors
from umim.artifacts.writer import WrittenTensors, info_of, write_safetensors, writing_tensors
from umim.errors import ArtifactError
from umim.models.state import Tensors
from umim.training.privacy import clip_scale

LOG = logging.getLogger(__name__)
FOLDER = "residuals"
KEPT = 3
"""Residuals that a site keeps of one federation and kind of model: rounds may start from an older model again."""
LOSSY = frozenset({"bf16", "int8", "top-k"})
"""Encodings with error feedback. The rounding of delta to float32 is that of the model itself."""


class Residuals:
    """What the encoding lost of a site's updates, each under the update's digest, in the hospital's work volume.

    A round starts from a model, whose manifest names the updates that are in it: what was lost of this site's own is
    added, see ``last_update``. So a round gives the same update however often it is tried, and what was lost of an
    update that is in no model is not sent a second time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, config: SiteJobConfig) -> Residuals:
        """Return the residuals of this site in this federation for this kind of model."""
        kind = f"{config.architecture}-{config.image_size}"
        return cls(Path(config.work_path) / FOLDER / config.round_namespace / config.site / kind)

    def last_update(self, parent: ModelManifest, site: str) -> str | None:
        """Return the digest of this site's update that is in the parent. None: it has made none.

        The update itself is looked for before the site's name: models of equal bits share the manifest of the round
        that published them first, which may have called the same hospital otherwise.
        """
        by_site = {one.site: one.update_digest for one in parent.contributors}
        held = (digest for digest in by_site.values() if self._path(digest).exists())
        return next(held, by_site.get(site))

    def keep(self, written: Path, update_digest: str) -> None:
        """Move what was lost of an update here, where there is such a file.

        To be called before the update is committed: a Job that is killed right after the commit is not run again. What
        was lost of an update that nobody ever sees does no harm, since its digest is in no model.
        """
        if not written.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        written.replace(self._path(update_digest))

    def remove_old(self) -> None:
        """Remove all but the newest few. To be called after the commit: until then the last one may be needed again."""
        kept = sorted(self._folder.glob("*.safetensors"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        for old in kept[:-KEPT]:
            old.unlink(missing_ok=True)

    @contextmanager
    def opened(self, update_digest: str | None, infos: Mapping[str, TensorInfo]) -> Iterator[TensorReader | None]:
        """Open what was lost of an update, with one tensor of float32 for each of ``infos``.

        None where nothing was kept, or the file is damaged or of another shape; the log says why.
        """
        with ExitStack() as stack:
            found = None
            if update_digest is not None:
                path = self._path(update_digest)
                try:
                    found = stack.enter_context(open_safetensors(path))
                    check_tensors(found.infos, infos, path.name, "the model's is")
                    LOG.info("what the encoding lost of update %s is added to this one", update_digest)
                except ArtifactError as error:
                    LOG.warning("nothing that the last update may have lost is added to this one: %s", error)
                    found = None
            yield found

    def _path(self, update_digest: str) -> Path:
        return self._folder / f"{update_digest}.safetensors"


def write_update(
    protected: Tensors,
    parent: Tensors,
    encoding: EncodingSpec,
    privacy: PrivacySpec,
    residuals: Residuals,
    last_digest: str | None,
    path: Path,
    lost_path: Path,
) -> WrittenTensors:
    """Write a site's update to ``path``, and to ``lost_path`` what the encoding lost, where it loses anything.

    ``protected`` is what ``privacy.protect`` returned, ``last_digest`` names the site's update that is in the parent.
    One tensor at a time is held beside them. The sum of change and residual may exceed the hospital's clipNorm: then it
    is scaled down again, and what that cuts is not kept. With noise it is not, since noise is larger than any clipNorm
    and what comes after it reveals nothing more. Raises NotFiniteError when a change is not finite, ArtifactError when
    the encoding cannot hold the model.
    """
    chosen = encoding.format
    if chosen == "full":
        return write_safetensors(protected, path)
    infos = {name: info_of(value) for name, value in parent.items()}
    entries, plain = encoded_infos(infos, chosen, encoding.kept), encoded_infos(infos, "delta", 1.0)
    with ExitStack() as stack:
        before = stack.enter_context(residuals.opened(last_digest if chosen in LOSSY else None, plain))
        changes = _Changes(protected, parent, plain, before)
        clip_norm = None if before is None or privacy.noise_multiplier else privacy.clip_norm
        factor = clip_scale(changes, clip_norm)
        file = stack.enter_context(writing_tensors(path, entries))
        lost = stack.enter_context(writing_tensors(lost_path, plain)) if chosen in LOSSY else None
        for slot in file.layout.slots:
            name = slot.name if slot.name in plain else slot.name.removesuffix(SCALE)
            change = (changes[name] * factor).numpy()
            encoded = encode(name, change.astype("float32"), chosen, encoding.kept)
            file.write(slot.name, encoded[slot.name])
            if lost is not None and slot.name == name:  # both files have the tensors in the same order
                rest: Changes = (change.reshape(-1) - decode(name, encoded, change.shape, chosen)).astype("<f4")
                lost.write(name, rest.view("u1").data)
    return file.written


class _Changes(Mapping[str, Tensor]):
    """The changes to encode in float64, made when asked for."""

    def __init__(
        self, protected: Tensors, parent: Tensors, names: Mapping[str, TensorInfo], before: TensorReader | None
    ) -> None:
        self._protected = protected
        self._parent = parent
        self._names = names
        self._before = before

    def __getitem__(self, name: str) -> Tensor:
        change = self._protected[name].detach().cpu().to(torch.float64) - self._parent[name].detach().cpu().double()
        return change if self._before is None else change + self._before.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
