"""Commented YAML of a resource, made from its pydantic model: every field with its description. Pure.

Prose begins with ``# ``. An optional field is a line that begins with ``#`` and no space: removing that one character
switches it on. So the text is valid as it stands and with every optional field switched on.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

WIDTH = 110
LONGEST_DESCRIPTION = 420
"""Characters. Of a longer description the first sentence is shown."""
OFF = re.compile(r"^( *)#(?=[a-zA-Z-])")
"""A line that is switched off; the prose of a block that is switched off has ``# `` after its own indentation."""


@dataclass(frozen=True)
class Choices:
    """What a skeleton fills in. Paths have dots, such as training.epochs; list items go by the path of their list."""

    given: Mapping[str, Any]
    """Values of fields that are set. Every required field needs one."""
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Values of optional fields that are switched off, where the default is none or tells nothing."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Fields that are named in prose only, since they exclude another one: under which condition they are for."""


def skeleton(model: type[BaseModel], choices: Choices, indent: int) -> list[str]:
    """Return the lines of a model's fields, indented by so many spaces."""
    return list(_fields(model, choices, "", " " * indent))


def switched_on(text: str) -> str:
    """Return the text with every optional field switched on."""
    return "\n".join(OFF.sub(r"\1", line) for line in text.splitlines()) + "\n"


def yaml_value(value: Any) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()


def _fields(model: type[BaseModel], choices: Choices, prefix: str, indent: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        key = info.alias or name
        yield from _field(key, info, choices, f"{prefix}{key}", indent)


def _field(key: str, info: FieldInfo, choices: Choices, path: str, indent: str) -> Iterator[str]:
    text = _described(info)
    if path in choices.instead:
        yield from _prose(f"{key}, {choices.instead[path]}: {text}", indent)
        return
    if path in choices.given:
        yield from _prose(text, indent)
        yield f"{indent}{key}: {yaml_value(choices.given[path])}"
        return
    if path in choices.examples:
        yield from _prose(text, indent)
        yield f"{indent}#{key}: {yaml_value(choices.examples[path])}"
        return
    nested, is_list = _nested(info.annotation)
    below = [one for one in choices.given if one.startswith(f"{path}.")]
    if nested is not None and (below or not is_list):
        yield from _block(key, nested, is_list, choices, path, indent, text, live=bool(below))
        return
    default = (
        None
        if info.default is PydanticUndefined and info.default_factory is None
        else info.get_default(call_default_factory=True, validated_data={})
    )
    if default is None:  # and no example: there is nothing that could be switched on
        yield from _prose(f"{key}: {text}", indent)
        return
    yield from _prose(text, indent)
    yield f"{indent}#{key}: {yaml_value(default)}"


def _block(
    key: str, model: type[BaseModel], is_list: bool, choices: Choices, path: str, indent: str, text: str, *, live: bool
) -> Iterator[str]:
    """Yield a field that has fields of its own: switched off as a whole unless one of them is given."""
    inner = list(_fields(model, choices, f"{path}.", f"{indent}{'    ' if is_list else '  '}"))
    if live:
        if is_list:
            first = next(number for number, line in enumerate(inner) if not line.lstrip().startswith("#"))
            inner[first] = f"{indent}  - {inner[first].lstrip()}"
        yield from _prose(text, indent)
        yield f"{indent}{key}:"
        yield from inner
        return
    if not any(OFF.match(line) for line in inner):  # nothing in it has a value to show
        yield from _prose(f"{key}: {text}", indent)
        return
    yield from _prose(text, indent)
    yield f"{indent}#{key}:"
    yield from inner


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the model in a field's type, and whether the field is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is list:
        return _nested(get_args(annotation)[0])[0], True
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is dict or not parts:
        return None, False
    return _nested(parts[0])


def _described(info: FieldInfo) -> str:
    text = " ".join((info.description or "").split())
    if len(text) <= LONGEST_DESCRIPTION:
        return text
    allowed = [str(value) for value in get_args(info.annotation)] if get_origin(info.annotation) is Literal else []
    choice = f" Allowed: {', '.join(allowed)}." if allowed else ""
    return f"{text.split('. ')[0]}.{choice} More: docs/reference/api.md."


def _prose(text: str, indent: str) -> list[str]:
    width = WIDTH - len(indent)
    return [f"{indent}# {line}" for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)]
