"""HTML from values, escaped by construction: text becomes markup only here. Site names and titles are hostile input."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already. Anything else is escaped when it is put into an element."""

    html: str


Content = Markup | str | int | float | None


def element(tag: str, *content: Content, **attributes: str | None) -> Markup:
    """`element("p", "a < b", class_="note")`; a trailing underscore keeps clear of Python's keywords, inner ones become hyphens."""
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opening = "".join(f' {name}="{html.escape(value, quote=True)}"' for name, value in named)
    return Markup(f"<{tag}{opening}>" if tag == "col" else f"<{tag}{opening}>{join(content).html}</{tag}>")


def join(content: Iterable[Content], separator: str = "") -> Markup:
    return Markup(separator.join(text(part) for part in content))


def text(content: Content) -> str:
    if isinstance(content, Markup):
        return content.html
    return "" if content is None else html.escape(str(content), quote=True)


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]], *, numbers: Sequence[int] = (), caption: str = "") -> Markup:
    """A table that scrolls sideways on a narrow screen; the columns `numbers` are set right. The first cell of a row heads it."""

    def cells(row: Sequence[Content]) -> Markup:
        first, *rest = row
        return join(
            [
                element("th", first, scope="row"),
                *(element("td", cell, class_="number" if i in numbers else None) for i, cell in enumerate(rest, start=1)),
            ]
        )

    heading = join(element("th", title, scope="col", class_="number" if i in numbers else None) for i, title in enumerate(head))
    body = join(element("tr", cells(row)) for row in rows)
    inner = join([element("caption", caption) if caption else None, element("thead", element("tr", heading)), element("tbody", body)])
    return element("div", element("table", inner), class_="scroll", tabindex="0")


def section(name: str, title: str, *content: Content) -> Markup:
    return element("section", element("h2", title), *content, id=name)


def figure(name: str, caption: str, *, label: str) -> Markup:
    """The place where the page's script draws the figure `name`."""
    drawing = element("div", class_="plot", data_figure=name, role="img", aria_label=label)
    return element("figure", drawing, element("figcaption", caption))


def note(*content: Content) -> Markup:
    return element("p", *content, class_="note")
