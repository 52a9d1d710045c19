"""Puts a run's results into docs/performance.md and its chart beside it, so that no number there was ever typed.

    python3 benches/peers/publish.py [RESULTS.jsonl]      the newest in benches/peers/results/ when none is named
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
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else max((HERE / "results").glob("peers-*.jsonl"))
    first, *runs = [json.loads(line) for line in results.read_text().splitlines()]
    about = first["about"]
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{block(about, runs, results.stem)}\n\n{END}{after}")
    (DOCS / "performance.svg").write_text(chart.svg(about, runs))


def block(about: dict, runs: list[dict], stem: str) -> str:
    """The chart, what is lost, every bar and every row; the commands stay with the raw results."""
    medians = report.Medians(runs)
    raw = f"../benches/peers/results/{stem}"
    lost = [f"- {loss}." for loss in report.losses(medians)] or ["Nothing in this run."]
    parts = [report.heading(about), f"[Commands]({raw}.md), [every measurement]({raw}.jsonl).", ""]
    parts += ["![times beside barback](performance.svg)", "", "### Where we lose", "", *lost, ""]
    parts += ["### Every bar", "", *report.bar_table(medians), "", "### Every row", "", *report.row_table(medians)]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
