"""Heat maps as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

from longcat.stages.formats.heat_map import HeatMap, color, digits_color, draw_heat_maps

SPACE = "{http://www.w3.org/2000/svg}"


def test_colors_go_from_light_to_dark() -> None:
    assert (color(0.0), color(1.0), color(2.0)) == ("#f7fbff", "#08306b", "#08306b")
    assert color(0.5) == "#8096b5"  # (247 + 8) / 2 = 127.5, (251 + 48) / 2 = 149.5, (255 + 107) / 2 = 181
    assert (digits_color(0.0), digits_color(1.0)) == ("#000000", "#ffffff")


def test_every_cell_is_drawn_in_its_place() -> None:
    drawn = draw_heat_maps(
        [
            HeatMap("<base>: recall", "tokens", "depth", ["512", "1,024"], ["0", "1"], [[0.25, None], [1.0, 0.0]]),
            HeatMap("other", "tokens", "depth", ["512"], ["0"], [[0.5]]),
        ]
    )
    first, second = ElementTree.fromstring(drawn).findall(f"{SPACE}g")  # noqa: S314  our own
    boxes = first.findall(f"{SPACE}rect")
    assert [(box.get("x"), box.get("y"), box.get("fill")) for box in boxes] == [
        ("64", "52", color(0.25)),
        ("128", "52", "#eeeeee"),
        ("64", "78", color(1.0)),
        ("128", "78", color(0.0)),
    ]
    texts = [text.text for text in first.findall(f"{SPACE}text")]
    assert texts == ["<base>: recall", "depth", "512", "1,024", "tokens", "0", "0.25", "1", "1.00", "0.00"]
    # Below the first one: 52 above its cells, two rows of 26, 24 below.
    assert second.get("transform") == "translate(0,128)"
