"""The report's page: one HTML file that needs no network. All text from a run folder is escaped."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Protocol

from PIL import Image
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from backbones.protocol import to_rgb
from sweep.errors import SweepError
from sweep.machine.paths import write_atomically
from sweep.report.glossary import explanation

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; background: #f6f7f9; margin: 0; }
main { max-width: 1280px; margin: 0 auto; padding: 24px 24px 64px; }
h1 { font-size: 26px; margin: 8px 0 4px; } h2 { font-size: 19px; margin: 0 0 8px; }
h1 { overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid #e2e5ea; border-radius: 8px; padding: 20px 24px; margin: 16px 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; } .two section { margin: 0; min-width: 0; }
p { margin: 6px 0; } .quiet { color: #5d6778; } code, pre { font: 13px ui-monospace, monospace; }
pre { background: #f1f3f6; padding: 10px 12px; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 520px; } .wide { overflow-x: auto; }
.grid { display: grid; gap: 12px; }
.grid > div { min-width: 0; } .verdict { font-size: 16px; }
abbr { text-decoration: underline dotted #9aa3b0; text-underline-offset: 3px; cursor: help; }
summary { cursor: pointer; font-weight: 600; font-size: 19px; } dt { font-weight: 600; } dd { margin: 0 0 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; border-bottom: 1px solid #edf0f3; white-space: nowrap; }
td.long { white-space: normal; min-width: 220px; }
th { color: #5d6778; font-weight: 600; position: sticky; top: 0; background: #fff; }
table.sortable th { cursor: pointer; user-select: none; }
th[aria-sort=ascending]::after { content: " ▲"; } th[aria-sort=descending]::after { content: " ▼"; }
td.number, th.number { text-align: right; }
.legend span { margin-right: 18px; }
.legend i { display: inline-block; width: 14px; height: 14px; margin-right: 6px; border: 1px solid #c6ccd4; }
.images { display: flex; flex-wrap: wrap; gap: 14px; } figure.image { margin: 0; width: 132px; font-size: 13px; }
figure.image img { width: 132px; height: 132px; object-fit: contain; background: #eef0f3; image-rendering: auto; }
figure.image.wide, figure.image.wide img { width: 404px; max-width: 100%; }
figcaption { overflow-wrap: anywhere; } figure.text { margin: 0; width: 360px; max-width: 100%; font-size: 13px; }
blockquote { margin: 0 0 4px; padding: 8px 10px; background: #eef0f3; overflow-wrap: anywhere; }
figcaption .path { color: #5d6778; font: 11px ui-monospace, monospace; }
@media (max-width: 900px) { .two { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 600px) { main { padding: 12px 10px 32px; } section { padding: 14px 12px; } }
"""

SORTING = """
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
"""

FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#1d2430"}


class Plotted(Protocol):
    """Turns a figure into HTML, and keeps it under its name."""

    def __call__(self, name: str, figure: Figure, *, least_width: int = 0) -> str:
        """See `plot`."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: The text to show.
        value: The value to sort by: a number if the column has numbers; the text if it is None.
    """

    text: str
    value: float | str | None = None


@dataclass
class Page:
    """A page that is being built: a list of sections, each already HTML.

    Attributes:
        title: The title of the page.
    """

    title: str
    _sections: list[str] = field(default_factory=list)

    def add(self, *sections: str) -> None:
        """Add a section, or two side by side."""
        body = "".join(f"<section>{section}</section>" for section in sections)
        self._sections.append(f'<div class="two">{body}</div>' if len(sections) > 1 else body)

    def html(self) -> str:
        """Return the whole page."""
        title = escape(self.title)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n<title>{title}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n'
            f"<body><main><h1>{title}</h1>\n" + "\n".join(self._sections) + f"\n</main><script>{SORTING}</script>"
            "</body></html>\n"
        )

    def write(self, target: Path) -> None:
        """Write the whole page to a file.

        Raises:
            SweepError: The file cannot be written.
        """
        html = self.html()
        try:
            write_atomically(
                target, lambda partial: partial.write_text(html, encoding="utf-8", errors="backslashreplace")
            )
        except OSError as error:
            raise SweepError(f"cannot write {target}: {error.strerror}; give another file with --out") from error


def heading(text: str) -> str:
    """Return a section's title."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, *, quiet: bool = False) -> str:
    """Return a paragraph of plain text."""
    return f'<p class="quiet">{escape(text)}</p>' if quiet else f"<p>{escape(text)}</p>"


def verdict(sentences: Iterable[str]) -> str:
    """The verdict above all tables, with its first sentence in bold."""
    first, *others = map(escape, sentences)
    rest = "".join(f"<p>{sentence}</p>" for sentence in others)
    return f'<div class="verdict"><p><b>{first}</b></p></div>{rest}'


def preformatted(text: str) -> str:
    """Return a command, or other text to copy."""
    return f"<pre>{escape(text)}</pre>"


def pairs(values: Mapping[str, str]) -> str:
    """Return a table of names and values, one pair per line."""
    rows = "".join(
        f'<tr><td class="quiet">{escape(name)}</td><td class="long">{escape(value)}</td></tr>'
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False) -> str:
    """A table, its headings explained where the glossary has them; `sortable` by a click on a heading."""
    kept = list(rows)
    numeric = [
        any(isinstance(row[i].value, float) for row in kept) and not any(isinstance(row[i].value, str) for row in kept)
        for i in range(len(columns))
    ]
    classes = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f"<th{c}>{_explained(name)}</th>" for name, c in zip(columns, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell(cell, c) for cell, c in zip(row, classes, strict=True)) + "</tr>" for row in kept
    )
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _explained(name: str) -> str:
    meaning = explanation(name)
    return escape(name) if meaning is None else f'<abbr title="{escape(meaning)}">{escape(name)}</abbr>'


def glossary(entries: Mapping[str, str]) -> str:
    """Words and what they mean, folded away until somebody asks."""
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in entries.items())
    return f"<details><summary>Glossary</summary><dl>{words}</dl></details>"


def grid(parts: Iterable[str], least_width: int) -> str:
    """Parts beside each other, as many as there is room for at `least_width` pixels each."""
    columns = f"grid-template-columns: repeat(auto-fill, minmax(min(100%, {least_width}px), 1fr))"
    return f'<div class="grid" style="{columns}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _cell(cell: Cell, attributes: str) -> str:
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    return f"<td{attributes}{value}>{escape(cell.text)}</td>"


def plot(figure: Figure, identity: str, *, least_width: int = 0) -> str:
    """A plotly figure, as wide as the page; scrolled sideways where the page is narrower than `least_width` pixels."""
    figure.update_layout(template="plotly_white", font=FONT, margin={"l": 64, "r": 24, "t": 56, "b": 56})
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,  # the page's head includes it once
        div_id=identity,
        config={
            "displaylogo": False,
            "responsive": True,
            "modeBarButtons": [["toImage", "resetScale2d"]],  # a row of ten covers what stands below it
            "showSendToCloud": False,  # a button that uploads the figure: a report stays where it is
        },
    )
    return f'<div class="wide"><div style="min-width: {least_width}px">{html}</div></div>'


def image(png_base64: str, lines: Sequence[str], path: str | None = None, *, wide: bool = False) -> str:
    """A small image with its caption, and its path below where it has one; three times as wide as high if `wide`."""
    caption = _caption(lines, path)
    return (
        f'<figure class="image{" wide" * wide}"><img alt="" src="data:image/png;base64,{png_base64}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def legend(colours: Mapping[str, tuple[int, int, int]]) -> str:
    """Names with their colours, red, green and blue from 0 to 255."""
    parts = (f'<span><i style="background: rgb{colour}"></i>{escape(name)}</span>' for name, colour in colours.items())
    return f'<p class="legend">{"".join(parts)}</p>'


def picture(shown: Image.Image, side: int) -> str:
    """A PNG of an image, at most `side` pixels high and wide, in base64."""
    small = to_rgb(shown).copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def quotation(text: str, lines: Sequence[str], path: str | None = None) -> str:
    """A text with its caption, and its place in its file below where it has one."""
    caption = _caption(lines, path)
    return f'<figure class="text"><blockquote>{escape(text)}</blockquote><figcaption>{caption}</figcaption></figure>'


def _caption(lines: Sequence[str], path: str | None) -> str:
    caption = "<br>".join(map(escape, lines))
    return caption if path is None else f'{caption}<br><span class="path">{escape(path)}</span>'


def images(figures: Iterable[str]) -> str:
    """Arrange several images or texts in rows."""
    return f'<div class="images">{"".join(figures)}</div>'
