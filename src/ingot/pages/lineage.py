"""The whole graph, as far as it can be read."""

from __future__ import annotations

from ingot.pages import frame
from ingot.pages.drawing import draw
from ingot.pages.graph import everything
from ingot.pages.listing import notices
from ingot.pages.site import Site
from ingot.validate.report.page.markup import tag

#: More artifacts than these are a tangle; each has its own graph on its page.
MOST = 60


def render(site: Site) -> str:
    count = len(site.entries)
    lead = "From the training runs to what is served. Each node is a link."
    if count > MOST:
        lead += f" The {MOST} newest of {count:,} artifacts are shown; the page of an artifact has the graph around it."
    return frame.page(
        "Lineage",
        tag("h1", "Lineage"),
        notices(site),
        tag("p", lead, class_="lead"),
        draw(everything(site.family, MOST), "Lineage of the registry")
        if count
        else tag("p", "There is no artifact yet.", class_="lede"),
        site=site,
        here="/lineage",
    )
