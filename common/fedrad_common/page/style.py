"""The page's look: one calm column, light or dark as the reader's machine is, legible on a phone and on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --panel: #f5f5f2; --ink: #1c2326; --ink-2: #4d585c; --quiet: #9aa4a8; --line: #e2e4e0; --accent: #0b6e75;
  --accepted: #d7ebdf; --late: #f6e7bf; --refused: #dfe3f2; --rejected: #f4d4cd; --missing: #ececea; --warn: #8a4b08; --warn-bg: #fdf3e1;
  --series-1: #0b6e75; --series-2: #c2571a; --series-3: #5a5fb0; --series-4: #a8326f;
  --series-5: #5c7f16; --series-6: #a37b0c; --series-7: #2f7fc1; --series-8: #7a5c45;
}
@media (prefers-color-scheme: dark) {
  :root:not([data-paper]) {
    --paper: #14181a; --panel: #1c2225; --ink: #e8ecec; --ink-2: #aeb8bb; --quiet: #6f7b80; --line: #2d3539; --accent: #5cc3c9;
    --accepted: #1f4434; --late: #51431a; --refused: #2f3757; --rejected: #5a2c25; --missing: #292f32; --warn: #f0c27b; --warn-bg: #33291a;
    --series-1: #5cc3c9; --series-2: #ee9a63; --series-3: #a3a8ee; --series-4: #e787b5;
    --series-5: #a9cc63; --series-6: #dcb955; --series-7: #7fbdf0; --series-8: #c7a78f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1.5rem; }
.eyebrow { margin: 0; color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: .35rem 0 1.1rem; font-size: clamp(1.5rem, 4.5vw, 2.2rem); font-weight: 600; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 0 0 .9rem; font-size: 1.3rem; font-weight: 600; letter-spacing: -.005em; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; font-weight: 600; }
section { margin-top: 3.25rem; scroll-margin-top: 1rem; }
p { margin: .6rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; max-width: 46rem; }
li { margin: .45rem 0; }
a { color: var(--accent); text-underline-offset: .15em; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem 1.5rem; margin: 0; }
dt { color: var(--ink-2); font-size: .8rem; }
dd { margin: 0; }
nav { margin-top: 1.2rem; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
code { font: .86em/1.5 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
.lead { font-size: 1.12rem; line-height: 1.65; }
.note, figcaption, caption { color: var(--ink-2); font-size: .87rem; line-height: 1.5; }
.banner { margin: 1.5rem 0 0; padding: .8rem 1.1rem; max-width: none; background: var(--warn-bg); color: var(--warn);
  border-left: 3px solid var(--warn); border-radius: 3px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .8rem; margin-top: 1.4rem; }
.tile { display: flex; flex-direction: column; padding: .9rem 1.1rem; background: var(--panel); border-radius: 6px; }
.tile .name { color: var(--ink-2); font-size: .82rem; }
.tile strong { font-size: 1.7rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { font-size: .9rem; font-variant-numeric: tabular-nums; }
.tile small { margin-top: auto; padding-top: .3rem; color: var(--ink-2); font-size: .78rem; }
figure { margin: 1.2rem 0; }
figcaption { margin-top: .3rem; max-width: 46rem; }
.plot { min-height: 8rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem; }
.scroll { margin: 1.1rem 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; overflow-wrap: normal; }
caption { padding-bottom: .5rem; text-align: left; }
th, td { padding: .45rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; font-weight: 400; }
thead th { color: var(--ink-2); font-size: .8rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
th + th, th + td, td + td { padding-left: 1.1rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td code { overflow-wrap: anywhere; }
#protocol td, #records td { overflow-wrap: anywhere; }
.grid { border-collapse: separate; border-spacing: 2px; table-layout: fixed; }
.grid th, .grid td { padding: .3rem .1rem; border: 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; vertical-align: middle; }
.grid col.site { width: 7.5rem; } .grid col.words { width: 12.5rem; }
.grid thead th { font-size: .74rem; text-align: center; } .grid thead th:first-child, .grid thead .words { text-align: left; }
.grid .cell { border-radius: 3px; text-align: center; font-size: .71rem; }
.accepted { background: var(--accepted); } .late { background: var(--late); } .refused { background: var(--refused); }
.rejected { background: var(--rejected); } .missing { background: var(--missing); }
.grid .words { padding-left: .8rem; color: var(--ink-2); font-size: .82rem; white-space: normal; }
details { margin-top: 1.2rem; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--ink-2); font-size: .85rem; }
@media (max-width: 40rem) { body { padding: 1.5rem 1rem 3rem; } section { margin-top: 2.5rem; } tbody th { white-space: nowrap; } }
@media print {
  :root { --paper: #fff; } .tiles { grid-template-columns: repeat(4, 1fr); }
  body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; } .scroll { overflow: visible; }
  table { font-size: 8pt; } .tile { border: 1px solid var(--line); } h2 { break-after: avoid; }
  figure, .tile, tr, .pair { break-inside: avoid; } .number { white-space: normal; }
  .pair { grid-template-columns: 1fr 1fr; gap: 0 1rem; } .pair .plot { min-height: 0; }
  .cell, .tile { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

# Draws every figure's place, again when the theme turns, and in the light theme while printing.
SCRIPT = """
const specs = JSON.parse(document.getElementById('figures').textContent);
const places = [...document.querySelectorAll('[data-figure]')];
const config = {displayModeBar: false, displaylogo: false, responsive: true, showLink: false};
function resolve(value, style) {
  if (typeof value === 'string') {
    const named = /^var\\((--[a-z0-9-]+)\\)$/.exec(value);
    return named ? style.getPropertyValue(named[1]).trim() : value;
  }
  if (Array.isArray(value)) return value.map(inner => resolve(inner, style));
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, style)]));
  return value;
}
function draw() {
  const style = getComputedStyle(document.documentElement);
  const paper = 'paper' in document.documentElement.dataset;
  for (const place of places) {
    const spec = resolve(specs[place.dataset.figure], style);
    if (paper) spec.layout.width = place.closest('.pair') ? 325 : 680;
    Plotly.react(place, spec.data, spec.layout, config);
  }
}
draw();
const dark = matchMedia('(prefers-color-scheme: dark)');
dark.addEventListener('change', draw);
addEventListener('beforeprint', () => {
  document.documentElement.dataset.paper = '';
  document.querySelectorAll('details').forEach(part => { part.open = true; });
  draw();
});
addEventListener('afterprint', () => { delete document.documentElement.dataset.paper; draw(); });
"""
