"""Every page as HTML: whole, linked, and with what the records say on it, whatever they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ingot.errors import IngotError
from ingot.pages import compare
from ingot.pages.routes import Answer, answer
from ingot.record.form import AdapterLabel
from ingot.registry.entry import Entry
from ingot.registry.store import Registry
from ingot.registry.tags import append_tags
from tests.cli import toys
from tests.pages import example
from tests.pages.reading import Page, read

#: What pages consist of: no script, no image, no frame, no style of an element's own.
KNOWN = {
    *("html", "head", "meta", "title", "link", "body", "nav", "main", "header", "footer", "section", "div", "span"),
    *("h1", "h2", "h3", "p", "a", "ul", "li", "dl", "dt", "dd", "code", "pre", "time", "strong", "small", "wbr"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("form", "label", "input", "select", "option", "button"),
    *("svg", "defs", "marker", "path", "rect", "text"),
}
PLANTED = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>&amp;"


def named(registry: Registry, name: str) -> Entry:
    return next(entry for entry in registry.entries() if entry.name == name)


def got(registry: Registry, target: str) -> Page:
    found = answer(registry.layout, target)
    assert found.status == 200
    return read(found.body)


def names_in_order(page: Page) -> list[str]:
    return [one.text for one in page.all("th") if one.attributes.get("scope") == "row"]


# -- the table


def test_every_artifact_stands_in_the_table_with_what_is_known_of_it(registry: Registry) -> None:
    page = got(registry, "/")
    assert names_in_order(page) == [entry.name for entry in registry.entries()]
    rows = {row.text.split("format")[0]: row.text for row in page.all("tr") if "row" in row.attributes.get("role", "")}
    assert "85.8 %" in rows["tiny-8b-support-v2"]
    assert "champion" in rows["tiny-8b-support-v2"]
    assert "a gate failed" in rows["tiny-8b-support-v1-bfloat16"]
    assert "freed" in rows["tiny-8b-support-v1-float32"]
    assert "elsewhere" in rows["loose-experiment"]


@pytest.mark.parametrize("column", ["name", "size", "made", "score", "state", "format", "tags"])
def test_a_column_sorts_and_its_link_turns_the_order_around(registry: Registry, column: str) -> None:
    page = got(registry, f"/?sort={column}")
    [link] = [one for one in page.all("a") if one.attributes.get("class") == "chosen"]
    assert link.text.casefold().startswith(column)
    turned = got(registry, link.attributes["href"])
    assert names_in_order(turned) == names_in_order(page)[::-1]
    if column == "name":
        assert names_in_order(page) == sorted(names_in_order(page), key=str.casefold)
    if column == "size":
        sizes = [named(registry, name).facts.nbytes for name in names_in_order(page)]
        assert sizes == sorted(sizes, reverse=True)


def test_all_words_of_a_filter_must_be_found(registry: Registry) -> None:
    assert names_in_order(got(registry, "/?q=STYLED+facts&sort=name")) == [
        "tiny-8b-styled-with-facts", "tiny-8b-styled-with-facts-bfloat16",
    ]  # fmt: skip
    assert names_in_order(got(registry, "/?q=champion")) == ["tiny-8b-support-v2"]
    assert names_in_order(got(registry, "/?q=freed")) == ["tiny-8b-support-v1-float32"]
    run = quote(example.RUNS[1], safe="")
    assert len(names_in_order(got(registry, f"/?q={run}"))) == 2
    digest = named(registry, "tiny-8b-styled").facts.outputs[0].sha256
    assert "tiny-8b-styled" in names_in_order(got(registry, f"/?q=sha256:{digest[:10]}"))
    assert names_in_order(got(registry, "/?q=no-such-thing")) == []


def test_what_was_typed_into_the_filter_comes_back_as_text(registry: Registry) -> None:
    page = got(registry, f"/?q={quote(PLANTED)}&sort={quote(PLANTED)}&order={quote(PLANTED)}")
    assert [one.attributes["value"] for one in page.all("input") if one.attributes["name"] == "q"] == [PLANTED]
    assert not page.all("script")


# -- one artifact


def test_the_page_of_an_artifact_has_all_that_is_known_of_it(registry: Registry) -> None:
    entry = named(registry, "tiny-8b-support-v2")
    page = got(registry, f"/artifact/{entry.identity}")
    for file in entry.facts.files:
        assert file.sha256 in page.text
    for text in (
        entry.identity, entry.facts.plan_digest, str(entry.place), "champion", "85.8 %", "84.5 %", "+1.3",
        "at most 2 points", "0.00210", "depth: the candidate is an endpoint", "acme/tiny-8b", "ingot verify . --read",
    ):  # fmt: skip
        assert text in page.text
    history = [row.text for row in page.all("tr") if row.text.startswith("champion")]
    assert [row[-len("tiny-8b-support-v1") :] for row in history] == ["tiny-8b-support-v1", "tiny-8b-support-v2"]


def test_every_link_of_every_page_leads_somewhere(registry: Registry) -> None:
    waiting = ["/"]
    seen: set[str] = set()
    outside: set[str] = set()
    while waiting:
        target = waiting.pop().partition("#")[0]
        if target in seen or not target:
            continue
        seen.add(target)
        for link in got(registry, target).links:
            if link.startswith(("/", "#")):
                waiting.append(link)
            else:
                outside.add(link)
    assert {target.split("/")[1].split("?")[0] for target in seen} == {"", "artifact", "input", "lineage", "diff"}
    assert sum(target.startswith("/artifact/") for target in seen) == 12
    assert outside == set(example.RUNS[:2])


def test_training_runs_are_links_only_to_the_web_and_tell_nobody_from_where(registry: Registry) -> None:
    for name in ("tiny-8b-support-v2", "instruct-style-lora-r1"):
        page = got(registry, f"/artifact/{named(registry, name).identity}")
        leaving = [one for one in page.all("a") if not one.attributes["href"].startswith(("/", "#"))]
        assert all(one.attributes["rel"] == "noreferrer" for one in leaving)
        assert {one.attributes["href"] for one in leaving} <= set(example.RUNS[:2])
        assert example.RUNS[2] in page.text


def test_a_freed_artifact_has_a_page_that_says_how_it_comes_back(registry: Registry) -> None:
    entry = named(registry, "tiny-8b-support-v1-float32")
    text = got(registry, f"/artifact/{entry.identity}").text
    assert f"ingot registry rebuild {entry.identity[:12]}" in text
    assert "How to verify it" in text  # the card stays


def test_a_card_that_was_changed_is_shown_with_a_word_of_warning(tmp_path: Path) -> None:
    registry = one(tmp_path)
    [entry] = registry.entries()
    assert "not the one that was recorded" not in got(registry, f"/artifact/{entry.identity}").text
    card = Path(entry.place or "") / "README.md"
    card.chmod(0o644)
    card.write_text("other", encoding="utf-8")
    assert "not the one that was recorded" in got(registry, f"/artifact/{entry.identity}").text


def test_a_tag_and_a_name_are_addresses_too(registry: Registry) -> None:
    for ref, name in (("champion", "tiny-8b-support-v2"), ("prod%2Feu", "tiny-8b-support-v1"),
                      ("loose-experiment", "loose-experiment")):  # fmt: skip
        found = answer(registry.layout, f"/artifact/{ref}")
        assert found.status == 303
        assert found.headers["Location"] == f"/artifact/{named(registry, name).identity}"


# -- adapters, lineage, comparisons


def test_an_adapter_is_followed_to_all_that_was_made_of_it(registry: Registry) -> None:
    weights = named(registry, "tiny-8b-support-v1").facts.weights("0")
    assert weights is not None
    page = got(registry, f"/input/{weights.sha256}")
    made = {
        "tiny-8b-support-v1", "tiny-8b-support-v1-float32", "tiny-8b-support-v1-bfloat16", "tiny-8b-support-v2",
        "instruct-support-lora-r0", "tiny-8b-styled", "tiny-8b-styled-with-facts", "tiny-8b-styled-with-facts-bfloat16",
    }  # fmt: skip
    rows = set(names_in_order(page))
    assert made < rows
    assert not rows & {"loose-experiment", "instruct-style-lora-r1", "instruct-facts-lora-r2", "tiny-8b"}
    nodes = {one.text for one in page.all("title") if one.text.startswith("artifact, ")}
    assert len(nodes) == len(made) + 1  # the one with the long name
    assert set(example.RUNS[:2]) <= set(page.links)


def test_a_comparison_tells_what_differs(registry: Registry) -> None:
    one_, other = named(registry, "tiny-8b-support-v1"), named(registry, "tiny-8b-support-v2")
    page = got(registry, f"/diff?a={one_.identity}&b={other.identity}")
    for text in ("style-lora, v3", "0.8575", "model.layers.0.self_attn.q_proj.weight", "17 tensors the same, 4 not"):
        assert text in page.text
    assert [option.text for option in page.all("option") if "selected" in option.attributes] == [one_.name, other.name]
    same = got(registry, f"/diff?a={one_.identity}&b={one_.identity}")
    assert "Nothing differs" in same.text


def test_large_artifacts_are_read_only_when_that_is_asked_for(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "SMALL_NBYTES", 0)
    one_, other = named(registry, "tiny-8b-support-v1"), named(registry, "tiny-8b-support-v2")
    page = got(registry, f"/diff?a={one_.identity}&b={other.identity}")
    assert "cannot be told from the records alone" in page.text
    [link] = [link for link in page.links if "read=1" in link]
    assert "17 tensors the same, 4 not" in got(registry, link).text
    compare._reading.acquire()
    try:
        busy = answer(registry.layout, link)
    finally:
        compare._reading.release()
    assert busy.status == 500
    assert "another page is reading two artifacts" in read(busy.body).text


# -- what is not there


@pytest.mark.parametrize(
    "target",
    [
        "/nothing", "/artifact/", f"/artifact/{'0' * 64}", f"/artifact/{'0' * 64}/report", f"/input/{'0' * 64}",
        "/artifact/../../etc/passwd", "/artifact/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/artifact/%00",
        "/..%2fregistry.json",
        f"/diff?a={'0' * 64}&b={'0' * 64}", "/diff?a=../x", "/artifact/" + "A" * 64, f"/artifact/{'0' * 64}%0a",
        "/style.css/x", "//", "/artifact/%ff%fe",
    ],
)  # fmt: skip
def test_an_unknown_address_is_a_small_page_with_the_way_home(registry: Registry, target: str) -> None:
    found = answer(registry.layout, target)
    assert found.status == 404
    page = read(found.body)
    assert "/" in page.links
    assert "Traceback" not in page.text
    assert "root:" not in page.text


def test_files_of_the_registry_are_no_addresses(registry: Registry) -> None:
    entry = registry.entries()[0]
    for target in ("/registry.json", "/index.sqlite", "/tags.jsonl", f"/records/{entry.identity}/ingot.json",
                   f"/artifact/{entry.identity}/ingot.json", f"/artifact/{entry.identity}/report"):  # fmt: skip
        assert answer(registry.layout, target).status == 404


def test_an_address_that_cannot_be_read_is_refused(registry: Registry) -> None:
    for target in ("http://[", "/?" + "&".join("q=x" for _ in range(100))):
        assert answer(registry.layout, target).status == 400


# -- registries in every state


def one(folder: Path, **more: Any) -> Registry:
    registry = Registry.open(folder / "registry", create=True)
    toys.make_base(folder / "tiny")
    toys.make_adapter(folder / "lora")
    example.make(registry, "only", folder / "tiny", {folder / "lora": AdapterLabel()}, **more)
    return registry


def test_an_empty_registry_has_pages_that_say_so(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path / "registry", create=True)
    assert "There is no artifact yet" in got(registry, "/").text
    assert "There is no artifact yet" in got(registry, "/lineage").text
    assert "It takes two artifacts" in got(registry, "/diff").text


def test_what_cannot_be_read_is_told_of_and_the_rest_is_shown(tmp_path: Path) -> None:
    registry = one(tmp_path)
    broken = registry.layout.artifacts / "broken"
    broken.mkdir()
    (broken / "ingot.json").write_text("<b>no record</b>")
    with registry.layout.tags.open("ab") as file:
        file.write(b"damaged\n")
    page = got(registry, "/")
    assert names_in_order(page) == ["only"]
    [notice] = [element for element in page.all("div") if element.attributes.get("class") == "notice"]
    assert str(broken) in notice.text
    assert "line 1 is damaged" in notice.text
    got(registry, "/lineage")


def test_a_record_that_goes_bad_between_two_looks_is_an_error_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = one(tmp_path)
    [entry] = registry.entries()

    def fail(*_: object) -> None:
        raise IngotError("<i>the record is gone</i>", hint="Look.")

    monkeypatch.setattr(Registry, "record", fail)
    found = answer(registry.layout, f"/artifact/{entry.identity}")
    assert found.status == 500
    assert "<i>the record is gone</i>" in read(found.body).text


def test_the_report_is_served_as_it_is_and_in_a_sandbox(tmp_path: Path) -> None:
    registry = one(tmp_path)
    [entry] = registry.entries()
    report = registry.layout.records / entry.identity / "report.html"
    link = f"/artifact/{entry.identity}/report"
    assert link not in got(registry, f"/artifact/{entry.identity}").links
    report.write_bytes(b"<!DOCTYPE html><p>whatever")
    assert link in got(registry, f"/artifact/{entry.identity}").links
    found = answer(registry.layout, link)
    assert found.body == b"<!DOCTYPE html><p>whatever"
    rules = [rule.strip() for rule in found.policy.split(";")]
    assert rules[0] == "sandbox"
    assert "default-src 'none'" in rules
    assert not any(rule.startswith("script-src") for rule in rules)


def test_a_report_that_is_a_link_out_of_the_registry_is_not_followed(tmp_path: Path) -> None:
    registry = one(tmp_path)
    [entry] = registry.entries()
    (tmp_path / "secret").write_text("secret")
    (registry.layout.records / entry.identity / "report.html").symlink_to(tmp_path / "secret")
    found = answer(registry.layout, f"/artifact/{entry.identity}/report")
    assert found.status != 200
    assert found.body != b"secret"


def hostile(folder: Path) -> Registry:
    """Every text that a record or a tag may hold, out to break the page."""
    registry = Registry.open(folder / "registry", create=True)
    name = PLANTED.replace("/", "")
    toys.make_base(folder / name)
    toys.make_adapter(folder / f"{name}-lora", base_model_name_or_path=PLANTED)
    evaluation = example.evaluation(0.5, name=PLANTED)
    evaluation["gates"] = [{"name": PLANTED, "limit": PLANTED, "found": PLANTED, "ok": True}, {"ok": 1}, "x"]
    evaluation |= {
        "evaluated_on": PLANTED, "reference": {"name": PLANTED}, "candidate": PLANTED, "left_out": [PLANTED, 3],
        "tokens": ["x", None], "weights": [], "logits": {"mean_kl": "x", "top1": True}, "harness": "none",
    }  # fmt: skip
    label = AdapterLabel(PLANTED, f"https://tracker.example/{PLANTED.replace(' ', '')}")
    worse = AdapterLabel("\u202e\x1b[31m", "javascript:alert(3)")
    make = example.make
    adapter, base = folder / f"{name}-lora", folder / name
    make(registry, "one", base, {adapter: label}, release=PLANTED, version=PLANTED, evaluation=evaluation)
    entry = make(registry, "two", base, {adapter: worse}, release="x" * 3000, dtype="F32", evaluation={"tasks": 3})
    append_tags(registry.disk, registry.layout.tags, [(PLANTED, entry.identity)])
    return registry


def test_no_text_of_a_record_becomes_markup(tmp_path: Path) -> None:
    registry = hostile(tmp_path)
    one_, two = (named(registry, name) for name in ("one", "two"))
    weights = one_.facts.weights("0")
    assert weights is not None
    for target in ("/", "/lineage", "/diff", f"/diff?a={one_.identity}&b={two.identity}", f"/input/{weights.sha256}",
                   f"/artifact/{one_.identity}", f"/artifact/{two.identity}"):  # fmt: skip
        page = got(registry, target)
        assert {one.name for one in page.elements} <= KNOWN, target
        for element in page.elements:
            assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
            for link in (element.attributes.get("href"), element.attributes.get("action")):
                assert link is None or link.startswith(("/", "#", "https://tracker.example/"))
        assert "\x1b" not in page.text
        assert "\u202e" not in page.text
    assert PLANTED in got(registry, f"/artifact/{one_.identity}").text
    assert "javascript:alert(3)" in got(registry, f"/artifact/{two.identity}").text


def test_the_style_and_the_icon_come_with_the_package(registry: Registry) -> None:
    style, icon = (answer(registry.layout, target) for target in ("/style.css", "/icon.svg"))
    assert style.type.startswith("text/css")
    assert b".artifacts" in style.body
    assert b"prefers-color-scheme: dark" in style.body
    assert not [word for word in (b"url(", b"@import", b"http") if word in style.body]
    assert icon.type == "image/svg+xml"


def test_policies_allow_nothing_from_elsewhere(registry: Registry) -> None:
    found: Answer = answer(registry.layout, "/")
    rules = dict(rule.strip().split(" ", 1) for rule in found.policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert set(rules.values()) <= {"'none'", "'self'"}
    assert "script-src" not in rules
