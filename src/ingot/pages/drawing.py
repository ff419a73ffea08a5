"""A graph as SVG: every node a link, what went in at the left, what came out at the right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ingot.pages.frame import address, artifact_address, origin_address, run_address
from ingot.pages.graph import Graph, Kind, Node
from ingot.pages.layout import HEIGHT, WIDTH, lay_out
from ingot.plan.figures import counted, elide
from ingot.validate.report.page.markup import Html, tag

#: Characters of a name, and of what stands under it, that a node has room for.
_TITLE, _NOTE = 23, 27
_COLUMNS = {Kind.RUN: 0, Kind.ADAPTER: 1, Kind.BASE: 1, Kind.ARTIFACT: 2}
_EDGE = 4  # pixels around the drawing, for lines and the outline of what has the focus


def draw(graph: Graph, label: str, own: str | None = None) -> Html:
    """The drawing, in a frame of its own that scrolls where it is wide. `own` is the key of the node to stress."""
    first = {key: _COLUMNS[node.kind] for key, node in graph.nodes.items()}
    late = [key for key, node in graph.nodes.items() if node.kind is not Kind.ARTIFACT]
    places = lay_out(list(graph.nodes), graph.edges, first=first, late=late)
    arrow = tag("path", d="M0 0L7 4L0 8z")
    marker = tag("marker", arrow, id="arrow", viewBox="0 0 8 8", refX=7, refY=4, markerWidth=8, markerHeight=8,
                 orient="auto", markerUnits="userSpaceOnUse")  # fmt: skip
    paths = [tag("path", d=_path(points), class_="edge", marker_end="url(#arrow)") for points in places.edges.values()]
    boxes = [_box(graph.nodes[key], *at, own=key == own) for key, at in places.nodes.items()]
    width, height = places.width + 2 * _EDGE, places.height + 2 * _EDGE
    svg = tag(
        "svg", tag("defs", marker), *paths, *boxes,
        width=width, height=height, viewBox=f"-{_EDGE} -{_EDGE} {width} {height}", role="group",
        aria_label=f"{label}: {counted(len(graph.nodes), 'node')}", class_="graph",
    )  # fmt: skip
    more = f"{counted(graph.left_out, 'more artifact')} would make it a tangle: see the pages of artifacts near them."
    return tag(
        "div",
        _key(graph),
        tag("div", svg, class_="scroller", tabindex=0, role="region", aria_label=label),
        tag("p", more, class_="muted") if graph.left_out else None,
    )


def _key(graph: Graph) -> Html:
    kinds = [kind for kind in Kind if any(node.kind is kind for node in graph.nodes.values())]
    return tag("ul", *(tag("li", str(kind), class_=f"kind {_class(kind)}") for kind in kinds), class_="legend")


def _box(node: Node, x: int, y: int, *, own: bool) -> Html:
    outside = node.kind is Kind.RUN and run_address(node.value) is not None
    classes = f"node {_class(node.kind)}" + (" freed" if node.freed else "") + (" own" if own else "")
    note = ", ".join([*node.tags, node.note]) if node.note else str(node.kind)
    title = re.sub(r"^https?://", "", node.title)
    texts = (
        tag("text", elide(title, _TITLE), x=12, y=20, class_="title"),
        tag("text", note[:_NOTE] + ("…" if len(note) > _NOTE else ""), x=12, y=37),
    )
    told = ", ".join([str(node.kind), node.title, note, *(["freed"] if node.freed else [])])
    return tag(
        "a",
        tag("title", told),
        tag("rect", x=x, y=y, width=WIDTH, height=HEIGHT, rx=6, class_="box"),
        tag("path", d=f"M{x + 2} {y + 8}V{y + HEIGHT - 8}", class_="stripe"),
        tag("svg", *texts, x=x, y=y, width=WIDTH - 4, height=HEIGHT),  # cuts off what is wider than the node
        href=_target(node),
        rel="noreferrer" if outside else None,
        class_=classes,
    )


def _target(node: Node) -> str:
    if node.kind is Kind.ARTIFACT:
        return artifact_address(node.value)
    if node.kind is Kind.RUN:
        return run_address(node.value) or address("/", q=node.value)
    return origin_address(node.value) if node.value else address("/", q=node.title)


def _class(kind: Kind) -> str:
    return kind.name.lower()


def _path(points: Sequence[tuple[int, int]]) -> str:
    """Curves that leave and enter level."""
    pieces = [f"M{points[0][0]} {points[0][1]}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        half = (x1 + x2) // 2
        pieces.append(f"C{half} {y1} {half} {y2} {x2} {y2}")
    return "".join(pieces)
