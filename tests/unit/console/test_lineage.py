"""The family of a model as geometry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.console.samples import digest, snapshot
from umim.console import lineage
from umim.console.lineage import MOST_NODES, NODE_HEIGHT, NODE_WIDTH, Node, campaign, family, place

# Parents before children, some without one: a forest.
FORESTS = st.lists(st.integers(-1, 30), min_size=1, max_size=MOST_NODES).map(
    lambda parents: [node(at, parent if parent < at else -1) for at, parent in enumerate(parents)]
)


def node(number: int, parent: int) -> Node:
    return Node(f"m{number:02}", digest(number), f"m{parent:02}" if parent >= 0 else None, "fedavg", "", None)


@given(nodes=FORESTS)
def test_no_two_boxes_overlap_and_all_are_inside(nodes: list[Node]) -> None:
    graph = place(nodes)
    assert len(graph.boxes) == len(nodes)
    for one in graph.boxes:
        assert 0 <= one.x <= graph.width - NODE_WIDTH
        assert 0 <= one.y <= graph.height - NODE_HEIGHT
        for other in graph.boxes:
            assert other is one or abs(one.x - other.x) >= NODE_WIDTH or abs(one.y - other.y) >= NODE_HEIGHT


@given(nodes=FORESTS)
def test_every_child_is_below_its_parent_and_has_one_arrow(nodes: list[Node]) -> None:
    graph = place(nodes)
    boxes = {box.node.name: box for box in graph.boxes}
    for box in graph.boxes:
        if box.node.parent is not None:
            assert box.y > boxes[box.node.parent].y
    assert len(graph.arrows) == sum(one.parent is not None for one in nodes)
    assert all(y1 < y2 for _, y1, _, y2 in graph.arrows)


def test_a_chain_is_one_column() -> None:
    assert {box.x for box in place([node(at, at - 1) for at in range(5)]).boxes} == {lineage.MARGIN}


def test_of_a_long_chain_the_newest_are_drawn_and_the_others_counted() -> None:
    graph = place([node(at, at - 1) for at in range(MOST_NODES + 10)])
    assert graph.left_out == 10
    assert graph.boxes[0].node.name == "m10"
    assert graph.boxes[0].y == lineage.MARGIN


def test_a_name_is_cut_to_its_box_and_the_pages_own_model_is_marked() -> None:
    long = Node("n" * 60, "", None, "fedavg", "", None)
    marked = Node("n" * 60, "", None, "fedavg", "", None, current=True)
    for one in (long, marked):
        assert len(place([one]).boxes[0].title) == lineage.MOST_NAME
    assert place([marked]).boxes[0].title.endswith("… (this one)")
    assert place([node(1, -1)]).boxes[0].title == "m01"


def test_a_circle_ends_where_it_closes() -> None:
    graph = place([Node("a", "", "b", "", "", None), Node("b", "", "a", "", "", None)])
    assert len(graph.boxes) == 2


def test_a_model_is_shown_with_ancestors_and_descendants_but_no_cousins() -> None:
    seen = snapshot()
    first, second, branch = (seen.model("federation", name) for name in ("spring-ct-1", "spring-ct-2", "branch"))
    assert first is not None
    assert second is not None
    assert branch is not None
    names = {box.node.name for box in family(first, seen.models).boxes}
    assert names == {"base", "spring-ct-1", "spring-ct-2", "branch"}
    assert {box.node.name for box in family(branch, seen.models).boxes} == {"base", "spring-ct-1", "branch"}
    assert [box.node.name for box in family(second, seen.models).boxes if box.node.current] == ["spring-ct-2"]


def test_a_campaigns_deleted_model_stays_in_its_line_without_a_link() -> None:
    seen = snapshot()
    graph = campaign(seen.federations[0].status.lineage, seen.models, "federation")
    assert [(box.node.name, box.node.href) for box in graph.boxes] == [
        ("gone", None),
        ("spring-ct-1", "/models/federation/spring-ct-1"),
        ("spring-ct-2", "/models/federation/spring-ct-2"),
    ]
    assert len(graph.arrows) == 2


def test_a_name_that_stands_for_another_digest_now_is_no_parent() -> None:
    seen = snapshot()
    references = [one.model_copy(update={"digest": digest(5)}) for one in seen.federations[0].status.lineage]
    assert all(box.node.href is None for box in campaign(references, seen.models, "federation").boxes)
