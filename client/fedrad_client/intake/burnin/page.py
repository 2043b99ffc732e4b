"""What waits, as a page with the pictures in it and the commands to type. Local: it shows what nobody else may see."""

import base64
from pathlib import Path

from fedrad_client.intake.burnin import queue
from fedrad_client.intake.burnin.queue import Waiting
from fedrad_client.intake.codes import CODES
from fedrad_common.page import document
from fedrad_common.page.markup import Markup, element, join, section


def page(home: Path) -> str:
    """The whole page. A picture that was lost is left out."""
    waiting = queue.entries(home)
    title = f"{len(waiting)} {'picture' if len(waiting) == 1 else 'pictures'} to review"
    body = join(
        [
            element(
                "header",
                element("p", "fedrad · review", class_="eyebrow"),
                element("h1", title),
                element(
                    "p", "This page shows patients' images and names: it is for this site only. Delete it.", class_="banner", role="alert"
                ),
            ),
            element("main", *(_one(home, one) for one in waiting)),
        ]
    )
    return document(title, body, {})


def _one(home: Path, waiting: Waiting) -> Markup:
    path = queue.picture_path(home, waiting)
    content = base64.b64encode(path.read_bytes() if path.is_file() else b"").decode()
    # Of our own making to the last character: base64 and a number.
    picture = Markup(f'<img style="max-width:100%" src="data:image/png;base64,{content}">')
    boxes = "; ".join(f"{box.top},{box.left},{box.bottom},{box.right}" for box in waiting.boxes)
    words = f"{waiting.code}: {CODES[waiting.code]}. {waiting.rows}×{waiting.columns}, device {waiting.device[:8]}."
    verbs = ("--release", "--mask", "--reject")
    return section(
        f"picture-{waiting.id}",
        waiting.id,
        element("p", words),
        element("p", picture),
        element("p", f"Found at {boxes}" if boxes else "No line of text was found."),
        element("pre", "\n".join(f"fedrad-site review {waiting.id} {verb}" for verb in verbs)),
    )
