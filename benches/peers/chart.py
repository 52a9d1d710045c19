"""The results as a picture: each row's times beside barback's. A bar to the right is slower than barback, one to the left faster.

Times of one row differ from those of another by four orders of magnitude, hence ratios on a logarithmic scale, whose
natural beginning is 1; the absolute time stands on each bar.
"""

import math
from html import escape

from report import LIMITS, TITLES, US, Medians, seconds

WIDTH, LEFT, RIGHT, TOP = 860, 200, 90, 76
LINE, GAP, HEADING = 17, 14, 20
TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; } .row { font-weight: 600; } .quiet, .tick { fill: #57606a; }
.us { fill: #0969da; } .peer { fill: #8c959f; } .limit { fill: #c8a64b; }
line { stroke: #d0d7de; } .one { stroke: #57606a; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .quiet, .tick { fill: #9198a1; }
  .us { fill: #4493f8; } .peer { fill: #6e7681; } .limit { fill: #9e7c22; }
  line { stroke: #3d444d; } .one { stroke: #9198a1; }
}
"""


def svg(about: dict, runs: list[dict]) -> str:
    """One group of bars for each row in which somebody stands beside barback."""
    medians = Medians(runs)
    groups = [group for row in TITLES if (group := _group(medians, row))]
    ratios = [ratio for _, bars in groups for _, _, ratio in bars] or [1]
    scale = _Scale(min(0.5, *ratios), max(2, *ratios))
    height = TOP + sum(HEADING + LINE * len(bars) + GAP for _, bars in groups) + 8
    note = f"{about['stamp'][:10]}, {about['machine']['cores']} cores, medians of {about['rounds']} rounds"
    note += ", a quick try" if about["small"] else ""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">', f"<style>{STYLE}</style>"]
    parts.append('<text class="title" x="12" y="20">Times beside barback: to the right slower than it, to the left faster</text>')
    parts.append(f'<text class="quiet" x="12" y="38">{escape(note)}; logarithmic scale; yellow: limits of the machine</text>')
    parts += _ticks(scale, height)
    at = TOP
    for title, bars in groups:
        parts.append(f'<text class="row" x="12" y="{at + 13}">{escape(title)}</text>')
        at += HEADING
        for who, time_s, ratio in bars:
            parts += _bar(scale, at, who, time_s, ratio)
            at += LINE
        at += GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """Ratios to columns of the picture."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = math.log(low), math.log(high)

    def x(self, ratio: float) -> float:
        share = (math.log(ratio) - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def holds(self, ratio: float) -> bool:
        return self.low - 1e-9 <= math.log(ratio) <= self.high + 1e-9


def _group(medians: Medians, row: str) -> tuple[str, list[tuple[str, float, float]]] | None:
    bars = []
    for who in medians.who(row):
        time_s, ours = medians.of(row, who), medians.ours(row, who)
        if time_s is not None and ours:
            bars.append((who, time_s, time_s / ours))
    return (TITLES[row], bars) if len(bars) > 1 else None


def _ticks(scale: _Scale, height: int) -> list[str]:
    parts = []
    for tick in TICKS:
        if scale.holds(tick):
            x = scale.x(tick)
            kind = ' class="one"' if tick == 1 else ""
            parts.append(f'<line{kind} x1="{x}" y1="{TOP - 10}" x2="{x}" y2="{height - 8}"/>')
            parts.append(f'<text class="tick" x="{x}" y="{TOP - 16}" text-anchor="middle">{tick:g}x</text>')
    return parts


def _bar(scale: _Scale, at: int, who: str, time_s: float, ratio: float) -> list[str]:
    kind = "us" if who.startswith(US) else "limit" if who in LIMITS else "peer"
    begin, end = sorted((scale.x(1), scale.x(ratio)))
    if end - begin < 4:
        begin, end = begin - 2, begin + 2
    return [
        f'<text x="{LEFT - 14}" y="{at + 12}" text-anchor="end">{escape(who)}</text>',
        f'<rect class="{kind}" x="{begin:.1f}" y="{at + 2}" width="{end - begin:.1f}" height="{LINE - 4}" rx="1"/>',
        f'<text class="quiet" x="{end + 6:.1f}" y="{at + 12}">{seconds(time_s)}</text>',
    ]
