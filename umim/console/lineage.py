"""The family of a model as plain geometry, which a template draws as SVG, and in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from umim.api.base import ModelReference, shortened
from umim.cli.resources import Model
from umim.console.words import count, figure

NODE_WIDTH, NODE_HEIGHT = 264, 64
GAP_X, GAP_Y = 24, 36
MARGIN = 4
MOST_NODES = 40
MOST_NAME = 32
"""Characters of a name that fit into a box."""
THIS_ONE = " (this one)"


@dataclass(frozen=True)
class Node:
    """A model of the graph."""

    name: str
    digest: str
    parent: str | None
    """Name of the model that it was trained from, where that is in the graph, too."""
    made: str
    """How: fedavg, round demo-1."""
    facts: str
    """Who took part and how well it does."""
    href: str | None
    """Where it is described. None: the GlobalModel no longer exists."""
    current: bool = False
    """Whether the page is about this one."""


@dataclass(frozen=True)
class Box:
    """A node, placed."""

    node: Node
    x: int
    y: int

    @property
    def title(self) -> str:
        """The name, cut to the box; of the page's own model with a mark."""
        mark = THIS_ONE if self.node.current else ""
        return shortened(self.node.name, MOST_NAME - len(mark)) + mark


@dataclass(frozen=True)
class Graph:
    """Boxes and the arrows between them, from parents down to children."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int, int, int], ...]
    """From x, y to x, y."""
    width: int
    height: int
    left_out: int
    """Older models that are not drawn."""
    node_width: int = NODE_WIDTH
    node_height: int = NODE_HEIGHT


def family(model: Model, models: Iterable[Model]) -> Graph:
    """Return a model with its ancestors and all that was trained from it."""
    near = [one for one in models if one.namespace == model.namespace]
    by_name = {one.name: one for one in near}
    chain = _ancestors(model, by_name)
    members = {one.name for one in chain}
    children: dict[str, list[Model]] = {}
    for one in near:
        if (parent := _parent(one, by_name)) is not None:
            children.setdefault(parent.name, []).append(one)
    below = [model]
    for one in below:
        below += [child for child in children.get(one.name, []) if child.name not in members]
        members |= {child.name for child in children.get(one.name, [])}
    nodes = [node(one, by_name, current=one.name == model.name) for one in near if one.name in members]
    return place(nodes)


def campaign(lineage: Sequence[ModelReference], models: Iterable[Model], namespace: str) -> Graph:
    """Return the models of a campaign in their order; those that were deleted since are there by name alone."""
    by_name = {one.name: one for one in models if one.namespace == namespace}
    nodes = []
    for before, one in zip((None, *lineage), lineage, strict=False):
        parent = before.name if before is not None else None
        found = by_name.get(one.name)
        if found is not None and found.spec.digest == one.digest:
            made = node(found, by_name)
            nodes.append(Node(made.name, made.digest, parent, made.made, made.facts, made.href))
        else:
            nodes.append(Node(one.name, one.digest, parent, "no longer in the cluster", "", None))
    return place(nodes)


def node(model: Model, by_name: dict[str, Model], *, current: bool = False) -> Node:
    """Return a model as a node."""
    spec = model.spec
    parent = _parent(model, by_name)
    facts = []
    if spec.contributors:
        images = sum(one.samples for one in spec.contributors)
        facts.append(f"{count(len(spec.contributors), 'site')}, {count(images, 'image')}")
    if "loss_after" in spec.metrics:
        facts.append(f"loss {figure(spec.metrics['loss_after'])}")
    return Node(
        name=model.name,
        digest=spec.digest,
        parent=parent.name if parent is not None else None,
        made=f"{spec.strategy}, round {spec.round.name}",
        facts=", ".join(facts) or "start model: no hospital's images",
        href=f"/models/{model.namespace}/{model.name}",
        current=current,
    )


def place(nodes: Sequence[Node]) -> Graph:
    """Return the nodes in rows by generation: a first child below its parent, further ones in columns of their own."""
    depths = _depths(nodes)
    ordered = sorted(nodes, key=lambda one: (depths[one.name], one.name))
    drawn = ordered[-MOST_NODES:]
    top = min((depths[one.name] for one in drawn), default=0)
    columns = _columns(drawn)
    boxes = {
        one.name: Box(
            one,
            MARGIN + columns[one.name] * (NODE_WIDTH + GAP_X),
            MARGIN + (depths[one.name] - top) * (NODE_HEIGHT + GAP_Y),
        )
        for one in drawn
    }
    arrows = [_arrow(boxes[one.parent], boxes[one.name]) for one in drawn if one.parent in boxes]
    return Graph(
        boxes=tuple(boxes.values()),
        arrows=tuple(arrows),
        width=max((box.x for box in boxes.values()), default=0) + NODE_WIDTH + MARGIN,
        height=max((box.y for box in boxes.values()), default=0) + NODE_HEIGHT + MARGIN,
        left_out=len(ordered) - len(drawn),
    )


def _parent(model: Model, by_name: dict[str, Model]) -> Model | None:
    """Return the model that this one was trained from, if it is still there with the digest that was recorded."""
    reference = model.spec.parent
    found = by_name.get(reference.name) if reference is not None else None
    return found if found is not None and reference is not None and found.spec.digest == reference.digest else None


def _ancestors(model: Model, by_name: dict[str, Model]) -> list[Model]:
    chain = [model]
    seen = {model.name}
    while (parent := _parent(chain[-1], by_name)) is not None and parent.name not in seen:
        chain.append(parent)
        seen.add(parent.name)
    return chain


def _depths(nodes: Sequence[Node]) -> dict[str, int]:
    """Return the generation of each node, from 0. A circle, which only a forged registry has, ends where it closes."""
    by_name = {one.name: one for one in nodes}
    depths: dict[str, int] = {}
    for one in nodes:
        path: list[str] = []
        name: str | None = one.name
        while name in by_name and name not in depths and name not in path:
            path.append(name)
            name = by_name[name].parent
        base = depths.get(name, -1) if name is not None else -1
        for number, step in enumerate(reversed(path), start=1):
            depths[step] = base + number
    return depths


def _columns(nodes: Sequence[Node]) -> dict[str, int]:
    """Return the column of each node; ``nodes`` is sorted by generation."""
    columns: dict[str, int] = {}
    has_child: set[str] = set()
    free = 0
    for one in nodes:
        if one.parent in columns and one.parent not in has_child:
            columns[one.name] = columns[one.parent]
            has_child.add(one.parent)
        else:
            columns[one.name] = free
            free += 1
    return columns


def _arrow(parent: Box, child: Box) -> tuple[int, int, int, int]:
    half = NODE_WIDTH // 2
    return parent.x + half, parent.y + NODE_HEIGHT, child.x + half, child.y
