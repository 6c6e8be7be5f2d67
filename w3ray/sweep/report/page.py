"""How do sections become a page, as Markdown and as one HTML file?"""

import html
from collections.abc import Sequence

from w3ray._text import one_line
from w3ray.sweep.report.findings import Findings
from w3ray.sweep.report.markup import fence_of, html_table, html_text, row_of, span
from w3ray.sweep.report.section import Section, svg

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem } p.lead { color: #475569 }
table { border-collapse: collapse; font-size: .9rem } th, td { padding: .25rem .7rem; text-align: right }
th { color: #64748b; font-weight: 500; border-bottom: 1px solid #cbd5e1 } td:nth-child(2) { text-align: left }
tr.best td { color: #c2410c; font-weight: 600 } pre { background: #f1f5f9; padding: .8rem; overflow-x: auto }
svg { width: 100%; height: auto } .facts { display: flex; gap: 2.5rem; flex-wrap: wrap; margin: 1.2rem 0 }
.facts b { display: block; font-size: 1.5rem; color: #0f172a } .facts span { color: #64748b; font-size: .85rem }
"""


def as_markdown(found: Findings, sections: Sequence[Section]) -> str:
    lines = [f"# Sweep {found.space.name}", "", span(found.lead()), ""]
    lines += [f"- **{value}** {what}" for value, what in found.facts()]
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        if section.figure is not None:
            lines += [f"![{section.title}]({section.name}.png)", ""]
        if section.table:
            head, *rows = section.table
            lines += [row_of(head), row_of(["---"] * len(head)), *map(row_of, rows), ""]
        lines += [f"- {text}" if len(section.text) > 1 else text for text in section.text]
    if command := found.command():
        fence = fence_of(command, least=3)
        lines += ["", "## The best point as a plain run", "", fence, command, fence]
    return "\n".join(lines) + "\n"


def as_html(found: Findings, sections: Sequence[Section]) -> str:
    parts = [f"<h1>Sweep {html.escape(found.space.name)}</h1><p class=lead>{html.escape(one_line(found.lead()))}</p>"]
    facts = "".join(f"<div><b>{html.escape(v)}</b><span>{html.escape(w)}</span></div>" for v, w in found.facts())
    parts.append(f"<div class=facts>{facts}</div>")
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.figure is not None:
            parts.append(svg(section.figure))
        if section.table:
            parts.append(html_table(section))
        parts += [f"<p>{html_text(text)}</p>" for text in section.text]
    if command := found.command():
        parts.append(f"<h2>The best point as a plain run</h2><pre>{html.escape(command)}</pre>")
    title = html.escape(f"Sweep {found.space.name}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
