"""The whole graph, as far as it can be read."""

from __future__ import annotations

from ingot.pages import frame
from ingot.pages.drawing import draw
from ingot.pages.graph import everything
from ingot.pages.listing import notices
from ingot.pages.site import Site
from ingot.validate.report.page.markup import Child, tag


def render(site: Site) -> str:
    shown: list[Child] = [tag("p", "There is no artifact yet.", class_="lede")]
    if site.entries:
        lead = "From the training runs to what is served. Each node is a link."
        shown = [tag("p", lead, class_="lead"), draw(everything(site.family), "Lineage of the registry")]
    return frame.page("Lineage", tag("h1", "Lineage"), notices(site), *shown, site=site, here="/lineage")
