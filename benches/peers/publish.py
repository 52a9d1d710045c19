"""Puts a run's results into docs/performance.md and its chart beside it, so that no number there was ever typed.

    python3 benches/peers/publish.py [RESULTS.jsonl]...      the newest in benches/peers/results/ when none is named

Several are shown one after the other, each with its own circumstances; nothing is reckoned across them.
"""

import json
import sys
from pathlib import Path

import chart
import report

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"
BEGIN, END = "<!-- results: written by benches/peers/publish.py -->", "<!-- end of results -->"


def main() -> None:
    """Rewrites what stands between the two marks."""
    files = [Path(name) for name in sys.argv[1:]] or [max((HERE / "results").glob("peers-*.jsonl"))]
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    blocks, charted, first = [], [], None
    for results in files:
        head, *runs = [json.loads(line) for line in results.read_text().splitlines()]
        blocks.append(block(head["about"], runs, results.stem))
        first = first or head["about"]
        known = {run["row"] for run in charted}
        charted += [run for run in runs if run["row"] not in known]
    (DOCS / "performance.svg").write_text(chart.svg(first, charted))
    body = "\n\n".join(["![times beside barback](performance.svg)", *blocks])
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


def block(about: dict, runs: list[dict], stem: str) -> str:
    """What is lost, every bar and every row of one run; the commands stay with the raw results."""
    medians = report.Medians(runs)
    raw = f"../benches/peers/results/{stem}"
    lost = [f"- {loss}." for loss in report.losses(medians)] or ["Nothing in this run."]
    parts = [f"### {stem}", "", report.heading(about), f"[Commands]({raw}.md), [every measurement]({raw}.jsonl).", ""]
    parts += ["#### Where we lose", "", *lost, ""]
    parts += ["#### Every bar", "", *report.bar_table(medians), "", "#### Every row", "", *report.row_table(medians)]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
