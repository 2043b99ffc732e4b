"""What a check found as a page with pictures, for where people would rather look. Local: it shows patients' images."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedrad_client.intake.quality.findings import Finding
from fedrad_client.intake.quality.subject import Subject
from fedrad_common.page import document
from fedrad_common.page.markup import Content, Markup, element, join, note, section, table

_WIDTH = 192  # pixels of a picture on the page
WORDS = {"pass": "PASS", "warn": "WARN", "fail": "FAIL", "skipped": "not told"}


def page(subject: Subject, findings: Sequence[Finding]) -> str:
    """The whole page, with the pictures in it."""
    manifest = subject.cohort.manifest
    title = f"data quality of generation {manifest.generation}"
    rows: list[list[Content]] = [[finding.check, WORDS[finding.verdict], finding.sentence, finding.remedy] for finding in findings]
    body = join(
        [
            element(
                "header",
                element("p", "fedrad · cohort check", class_="eyebrow"),
                element("h1", title),
                element("p", "This page shows patients' images: it is for this site only.", class_="banner", role="alert"),
            ),
            element(
                "main",
                section("findings", "Findings", table(["check", "", "what was found", "what to do"], rows)),
                *(_pictures(subject, number, finding) for number, finding in enumerate(findings) if finding.look),
            ),
        ]
    )
    return document(title, body, {})


def _pictures(subject: Subject, number: int, finding: Finding) -> Markup:
    groups = (element("p", *(_picture(subject, row) for row in group)) for group in finding.look)
    more = note(f"The first {len(finding.look)}.") if finding.figures.get("pairs", 0) > len(finding.look) else None
    return section(f"look-{number}", f"{finding.check}: {finding.sentence}", *groups, more)


def _picture(subject: Subject, row: int) -> Markup:
    owner, values = subject.cohort.owners[row], subject.cohort.labels[row]
    known = (f"{name} {value:.0f}" for name, value in zip(subject.label_names, values.tolist(), strict=True) if value == value)
    words = f"row {row} · patient {owner.patient[:8]} · {owner.part} · {', '.join(known) or 'no label'}"
    content = base64.b64encode(_png(subject.cohort.images[row])).decode()
    # Of our own making to the last character, but for the words, which `element` escapes.
    shown = Markup(f'<img width="{_WIDTH}" src="data:image/png;base64,{content}">')
    return element("span", shown, " ", element("small", words), " ", title=words)


def _png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """(H, W), or a volume's middle slice, in 8 bits."""
    picture = pixels if pixels.ndim == 2 else pixels[len(pixels) // 2]
    stream = io.BytesIO()
    image = Image.fromarray((picture >> 8).astype(np.uint8))
    image.thumbnail((2 * _WIDTH, 2 * _WIDTH))
    image.save(stream, "PNG")
    return stream.getvalue()
