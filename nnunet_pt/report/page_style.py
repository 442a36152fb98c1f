"""Look and behaviour of report pages: one style sheet for light, dark and paper, and the script that sorts tables."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --text: #1b2431; --soft: #5a6676; --line: #dfe4ea; --page: #fbfcfd; --card: #fff;
  --stripe: #f4f6f9; --accent: #2f6fde; --warn: #8a5a00; --warn-back: #fff6e0; --warn-line: #eac77a; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ee; --soft: #99a5b5; --line: #2e3642; --page: #12161c;
  --card: #181d25; --stripe: #1d232c; --accent: #7caaff; --warn: #f0c96b; --warn-back: #2b2415;
  --warn-line: #6b5524; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--text);
  background: var(--page); margin: 0 auto; max-width: 84rem; padding: 2rem 1.5rem 4rem; display: grid;
  grid-template-columns: 11.5rem minmax(0, 1fr); column-gap: 2rem; align-items: start; }
header { grid-column: 1 / -1; border-bottom: 1px solid var(--line); margin-bottom: 1.75rem; padding-bottom: 1rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
header p { margin: .35rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
nav { position: sticky; top: 1.5rem; font-size: .92rem; }
nav ul { list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--line); }
nav a { display: block; padding: .22rem 0 .22rem .9rem; color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--accent); box-shadow: -2px 0 var(--accent); }
a:focus-visible, button:focus-visible, summary:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
section { margin-bottom: 2.75rem; }
h2 { font-size: 1.25rem; margin: 0 0 .3rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 52rem; } .lead { color: var(--soft); }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.warning { border: 1px solid var(--warn-line); border-left-width: 4px; background: var(--warn-back);
  color: var(--warn);
  border-radius: .4rem; padding: .55rem .9rem; margin: .8rem 0; max-width: none; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); gap: .7rem;
  margin: .9rem 0 1.1rem; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .55rem;
  padding: .55rem .85rem .65rem; }
.facts dt { color: var(--soft); font-size: .83rem; }
.facts dd { margin: 0; font-size: 1rem; font-weight: 600; line-height: 1.35; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: .55rem;
  background: var(--card);
  margin: .8rem 0 1.1rem; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .6rem .7rem .2rem; }
th, td { padding: .34rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; } tbody tr:hover { background: var(--stripe); }
th { position: sticky; top: 0; background: var(--card); color: var(--soft); font-weight: 600; font-size: .85rem;
  vertical-align: bottom; box-shadow: inset 0 -1px var(--line); }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; }
tr.marked td { background: var(--warn-back); }
th button { all: unset; cursor: pointer; } th button:hover { color: var(--accent); }
th button:focus-visible { outline: 2px solid var(--accent); }
th button::after { content: "\\2195"; opacity: .35; margin-left: .3em; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
figure { margin: .8rem 0 1.3rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--text); fill: currentColor; }
figure svg text { font-family: inherit !important; }
figure img { display: block; max-width: 100%; border-radius: .4rem; background: #000; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; max-width: 52rem; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem;
  margin: .9rem 0 1.1rem; }
.gallery.wide { grid-template-columns: repeat(auto-fill, minmax(min(23rem, 100%), 1fr)); }
.gallery figure { margin: 0; } .gallery img { width: 100%; height: auto; max-height: 22rem;
  object-fit: contain; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; margin: .5rem 0 .9rem; padding: 0;
  font-size: .9rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .4rem;
  vertical-align: -.05rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
footer { grid-column: 1 / -1; color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line);
  padding-top: .8rem; }
@media screen and (max-width: 60rem) { body { display: block; padding: 1.25rem 1rem 3rem; } nav { position: static;
  margin-bottom: 1.75rem; }
  nav ul { display: flex; flex-wrap: wrap; gap: 0 1.1rem; border: 0; } nav a { padding: .15rem 0; }
  nav a:hover { box-shadow: none; } td:not(.number) { min-width: 7rem; } }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --line: #ccc; --page: #fff; --card: #fff;
    --stripe: #fff; --accent: #000; --warn: #5b3c00; --warn-back: #fff6e0; --warn-line: #c9a24f; }
  body { display: block; max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; }
  nav, th button::after { display: none; } .scroll { max-height: none; overflow: visible; border: 0; }
  th { position: static; } th button { display: contents; } table { font-size: 8.5pt; } th, td { padding: .2rem .5rem; }
  .gallery.wide { grid-template-columns: 1fr 1fr; } thead { display: table-header-group; }
  h2, h3 { break-after: avoid; }
  figure, tr, .facts div, .warning { break-inside: avoid; } }
"""

SCRIPT: Final = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const missing = (row) => row.cells[column].dataset.value === "";
    const numbers = head.classList.contains("number");
    const compare = (a, b) => numbers ? key(a) - key(b) : words.compare(key(a), key(b));
    const rows = [...body.rows].sort((a, b) => missing(a) - missing(b) || (down ? compare(b, a) : compare(a, b)));
    body.append(...rows);
  }));
}
"""
