"""What a global model holds besides its encoder, as one file: the MIM decoder and shared heads.

The file describes its heads by itself, so that its digest stands for tensors and meaning alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from umim.api.globalmodel import SharedHead
from umim.artifacts.tensors import open_safetensors
from umim.artifacts.writer import WrittenTensors, write_safetensors
from umim.errors import ArtifactError
from umim.settings import first_problem

_HEADS = TypeAdapter(list[SharedHead])


def write_parts(tensors: Mapping[str, Tensor], heads: Sequence[SharedHead], path: Path) -> WrittenTensors | None:
    """Write the parts of a model to a file; returns None, and writes nothing, where there are none.

    ``tensors`` as from ``ModelState.parts``, ``heads`` what its heads mean. Equal parts give equal bytes.
    """
    if not tensors:
        return None
    ordered = sorted(heads, key=lambda head: head.task_name)
    return write_safetensors(tensors, path, _HEADS.dump_json(ordered, by_alias=True).decode())


def read_parts(path: Path) -> tuple[dict[str, Tensor], list[SharedHead]]:
    """Return the tensors and what the heads mean. Raises ArtifactError when the file is not one of ``write_parts``."""
    with open_safetensors(path) as reader:
        try:
            heads = _HEADS.validate_json(reader.note or "")
        except ValidationError as error:
            raise ArtifactError(f"{path.name} does not describe its heads: {first_problem(error)}") from error
        return {name: reader.read(name).clone() for name in reader.infos}, heads
