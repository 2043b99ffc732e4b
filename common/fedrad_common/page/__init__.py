"""One self-contained HTML page: own style, plotly inlined once, and a content policy that lets nothing in from any network."""

import base64
import hashlib
import json
from collections.abc import Mapping

from fedrad_common.page.drawing import Spec
from fedrad_common.page.markup import Markup, text
from fedrad_common.page.style import CSS, SCRIPT


def document(title: str, body: Markup, figures: Mapping[str, Spec]) -> str:
    """The whole page; without figures there is no script on it. The same values give the same bytes."""
    scripts = [_plotly(), SCRIPT] if figures else []
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    # In a JSON block no "<" may stand: the parser of HTML would see a tag's end before the one of JSON sees a string.
    data = json.dumps(dict(figures), allow_nan=False, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c").replace("&", "\\u0026")
    loaded = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body.html}\n"
        f'<script type="application/json" id="figures">{data}</script>\n{loaded}</body>\n</html>\n'
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
