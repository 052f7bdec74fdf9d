"""No code of this project can run what a file says: nothing is unpickled, evaluated or handed to a shell."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("umim", "operator", "hack") for path in ROOT.glob(f"{folder}/**/*.py"))

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
"""Their loaders run code that the file chooses."""
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    # Tensors are safetensors: torch's own format is a pickle, also with weights_only.
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.utils.model_zoo.load_url",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.full_load_all",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
NUMPY_READERS = {"numpy.load", "numpy.lib.format.read_array", "numpy.lib.npyio.NpzFile", "numpy.lib.format.open_memmap"}
"""May only be called where everybody sees that no pickle is read."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_ever_unpickled_or_evaluated(path: Path) -> None:
    assert dangers(path.read_text()) == []


def test_the_sources_of_all_packages_are_looked_at() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in SOURCES}
    assert folders == {"umim", "operator", "hack"}
    assert len(SOURCES) > 150


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as harmless",
        "import os, dill",
        "import joblib.numpy_pickle",
        "from pickle import loads",
        "from _pickle import Unpickler",
        "import marshal",
        "import shelve",
        "def late():\n    import cloudpickle",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module as get\nget('dill')",
        "__import__('pickle')",
        "eval(text)",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "import builtins\nbuiltins.eval(text)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "from torch import load as read\nread(path)",
        "from torch import hub\nhub.load(path)",
        "import torch.jit\ntorch.jit.load(path)",
        "read = torch.load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, None, True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import numpy as np\nnp.load(path, **options)",
        "from numpy import load\nload(path, allow_pickle=1)",
        "from numpy.lib import format\nformat.read_array(file)",
        "read(path, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(path)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import yaml\nyaml.compose(text, Loader=yaml.FullLoader)",
        "from yaml import Loader",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess\nsubprocess.run(text, shell=flag)",
        "import os\nos.system(text)",
    ],
)
def test_the_search_finds_a_planted_danger(code: str) -> None:
    assert dangers(code)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import re\nre.compile(text)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.compose(text, Loader=yaml.SafeLoader)",
        "import json\njson.load(file)",
        "import subprocess\nsubprocess.run(command, shell=False)",
        "import importlib\nimportlib.import_module('json')",
    ],
)
def test_the_search_finds_no_danger_where_there_is_none(code: str) -> None:
    assert dangers(code) == []


@pytest.mark.parametrize("reader", [np.load, np.lib.format.read_array])
def test_numpy_unpickles_nothing_unless_it_is_told_to(reader: object) -> None:
    assert callable(reader)
    assert inspect.signature(reader).parameters["allow_pickle"].default is False


def test_pillow_does_not_fill_what_a_truncated_image_lacks() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def dangers(code: str) -> list[str]:
    """Return what code does that could run a file's or a text's content, in words. It sees through renamed imports."""
    tree = ast.parse(code)
    names = dict(pair for node in ast.walk(tree) for pair in imported(node))
    return [text for node in ast.walk(tree) for text in found(node, names)]


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the local and the full name of everything that a statement imports."""
    if isinstance(node, ast.Import):
        for name in node.names:
            yield name.asname or name.name.partition(".")[0], name.name if name.asname else name.name.partition(".")[0]
    if isinstance(node, ast.ImportFrom):
        for name in node.names:
            yield name.asname or name.name, f"{node.module}.{name.name}"


def found(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names if unsafe_module(name.name))
    elif isinstance(node, ast.ImportFrom):
        for name in node.names:
            full = f"{node.module}.{name.name}"
            if unsafe_module(full) or full in UNSAFE_CALLS or unsafe_loader(full):
                yield full
    elif isinstance(node, ast.Attribute):
        full = resolved(node, names)
        if full in UNSAFE_CALLS or unsafe_loader(full):
            yield full
    elif isinstance(node, ast.Call):
        yield from called(node, names)


def called(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = resolved(node.func, names).removeprefix("builtins.")
    keywords = {item.arg: item.value for item in node.keywords}
    if name in UNSAFE_CALLS:
        yield name
    if name == "importlib.import_module" and node.args and unsafe_module(str(constant(node.args[0]))):
        yield ast.unparse(node)
    if name in NUMPY_READERS and constant(keywords.get("allow_pickle")) is not False:
        yield f"{name} without allow_pickle=False"
    for keyword in ("allow_pickle", "shell"):
        if keyword in keywords and constant(keywords[keyword]) is not False:
            yield f"{keyword}={ast.unparse(keywords[keyword])}"


def resolved(node: ast.expr, names: dict[str, str]) -> str:
    """Return the dotted name that an expression means, with the imports' own names."""
    first, dot, rest = ast.unparse(node).partition(".")
    return names.get(first, first) + dot + rest


def constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def unsafe_module(name: str) -> bool:
    return name.partition(".")[0] in UNSAFE_MODULES


def unsafe_loader(name: str) -> bool:
    """Whether it is a loader of yaml that makes more than plain values."""
    return name.startswith("yaml.") and name.endswith("Loader") and name not in SAFE_LOADERS
