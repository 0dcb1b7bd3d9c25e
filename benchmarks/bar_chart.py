"""A horizontal bar chart as SVG: stacked parts, a label and a figure for each bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#3465a4", "#73a839", "#edb200", "#cc4a2e", "#7b5aa6", "#888888")
WIDTH, LEFT, RIGHT, ROW, BAR, HEAD = 890, 280, 80, 30, 20, 64


def bar_chart(title: str, unit: str, bars: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Bars from top to bottom, each of parts by name; the same part has the same colour everywhere."""
    parts = list(dict.fromkeys(part for _, values in bars for part in values))
    colour_of = dict(zip(parts, COLOURS, strict=False))
    longest = max(sum(values.values()) for _, values in bars)
    scale = (WIDTH - LEFT - RIGHT) / longest
    height = HEAD + ROW * len(bars) + 12
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="16" fill="#222222">{escape(title)}</text>',
    ]
    at = float(LEFT)
    for part in parts:
        out.append(f'<rect x="{at:.0f}" y="34" width="12" height="12" fill="{colour_of[part]}"/>')
        out.append(f'<text x="{at + 17:.0f}" y="45" fill="#222222">{escape(part)}</text>')
        at += 40 + 8 * len(part)
    for number, (name, values) in enumerate(bars):
        top = HEAD + ROW * number
        out.append(f'<text x="{LEFT - 8}" y="{top + 15}" text-anchor="end" fill="#222222">{escape(name)}</text>')
        x = float(LEFT)
        for part, value in values.items():
            out.append(
                f'<rect x="{x:.1f}" y="{top}" width="{value * scale:.1f}" height="{BAR}" fill="{colour_of[part]}"/>'
            )
            x += value * scale
        total = sum(values.values())
        out.append(f'<text x="{x + 6:.1f}" y="{top + 15}" fill="#222222">{total:.2f} {escape(unit)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
