"""Results in words: medians with quartiles, and every bar we set ourselves with whether it was met."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

US = "barback"
LIMITS = {"zstd -1 to curl", "zstd -3 and SHA-256 alone", "the pauses alone", "cp -a", "cp -a and cp", "curl", "openssl", "zstd", "true"}
TITLES = {
    "one": "one 16 MiB segment, start to exit",
    "neighbour": "a neighbour that is already in the store",
    "drain": "draining a backlog of ready segments",
    "replay": "restoring WAL, 50 ms of replay between calls",
    "absent": "a segment that is not there",
    "backup": "base backup, 2 jobs",
    "restore": "restoring it",
    "pitr": "a whole recovery: files and WAL, to the end",
}
# Times as good as barman-cloud must be for the second face, by codec.
FACE_BARS = {"none": 6, "gzip": 3, "lz4": 6, "snappy": 6, "zstd": 6}
# What "flat" means when a cluster grows.
FLAT = 1.25


@dataclass
class Medians:
    """What was measured after the first round, by row and by who."""

    runs: list[dict]
    groups: dict[tuple[str, str], list[dict]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for run in self.runs:
            if run["round"] > 0:
                self.groups.setdefault((run["row"], run["who"]), []).append(run)

    def of(self, row: str, who: str, what: str = "wall_s") -> float | None:
        """The median, or nothing where nobody measured it."""
        values = self.values(row, who, what)
        return statistics.median(values) if values else None

    def values(self, row: str, who: str, what: str) -> list[float]:
        return [run[what] for run in self.groups.get((row, who), []) if what in run]

    def rows(self) -> list[str]:
        """In the order in which they are told."""
        seen = list(dict.fromkeys(row for row, _ in self.groups))
        order = list(TITLES)
        return sorted(seen, key=lambda row: (order.index(row) if row in order else len(order), seen.index(row)))

    def who(self, row: str) -> list[str]:
        """barback first, then the peers, then the limits, the faster ones first."""
        names = [who for measured, who in self.groups if measured == row]
        return sorted(names, key=lambda who: (not who.startswith(US), who in LIMITS, self.of(row, who) or 0))

    def ours(self, row: str, who: str) -> float | None:
        """barback's time that `who` is held against: with the same codec where it has that, else with its default."""
        codec = who.rsplit(" ", 1)[-1]
        tries = (self.of(row, f"{US}{ending}") for ending in (f" {codec}", "", " zstd-1"))
        return next((time_s for time_s in tries if time_s is not None), None)

    def best_peer(self, row: str) -> float | None:
        peers = [self.of(row, who) for who in self.who(row) if not who.startswith(US) and who not in LIMITS]
        return min((value for value in peers if value is not None), default=None)


@dataclass
class Bar:
    """A promise: `value` is not above `bound`. Either is nothing where it was not measured."""

    row: str
    words: str
    value: float | None
    bound: float | None
    unit: str = "s"

    def verdict(self) -> str:
        if self.value is None or self.bound is None:
            return "not measured"
        return "met" if self.value <= self.bound else "MISSED"


def bars(medians: Medians) -> list[Bar]:
    """All bars, in the order of the rows."""
    of = medians.of

    def against(row: str, words: str, factor: float, who: str, ours: str = US, what: str = "wall_s") -> Bar:
        bound = of(row, who, what)
        unit = {"wall_s": "s", "cpu_s": "s of CPU", "bytes": "bytes"}[what]
        return Bar(row, words, of(row, ours, what), None if bound is None else bound * factor, unit)

    best = medians.best_peer("restore")
    found = [
        against("one", "1/8 of barman-cloud", 1 / 8, "barman-cloud"),
        against("one", "pgBackRest", 1, "pgBackRest"),
        against("one", "WAL-G", 1, "WAL-G"),
        against("one", "1.3 x `zstd -1` piped into `curl`", 1.3, "zstd -1 to curl"),
        Bar("neighbour", "5 ms", of("neighbour", US), 0.005),
        against("neighbour", "1/2 of pgBackRest", 1 / 2, "pgBackRest"),
        against("drain", "pgBackRest / 1.3", 1 / 1.3, "pgBackRest"),
        against("drain", "barman-cloud / 10", 1 / 10, "barman-cloud"),
        against("drain", "1.3 x codec and digest", 1.3, "zstd -3 and SHA-256 alone", what="cpu_s"),
        against("replay", "1.1 x the pauses alone", 1.1, "the pauses alone"),
        Bar("absent", "8 ms", of("absent", US), 0.008),
        against("absent", "1/20 of barman-cloud", 1 / 20, "barman-cloud"),
        against("backup", "pgBackRest, zstd 1", 1, "pgBackRest zstd-1", "barback zstd-1"),
        against("backup", "WAL-G, zstd", 1, "WAL-G zstd", "barback zstd-1"),
        against("backup", "1/2 of barman-cloud, lz4", 1 / 2, "barman-cloud lz4", "barback lz4"),
        against("backup", "1/8 of barman-cloud, gzip", 1 / 8, "barman-cloud gzip", "barback gzip"),
        against("backup", "barman-cloud's bytes + 5 %, gzip", 1.05, "barman-cloud gzip", "barback gzip", "bytes"),
        Bar("restore", "1/2 of the best peer", of("restore", "barback zstd-1"), best and best / 2),
        against("pitr", "1.25 x copying by hand", 1.25, "cp -a and cp", "barback zstd-1"),
        *_growth_bars(medians),
        *_face_bars(medians),
    ]
    return [bar for bar in found if bar.row in medians.rows() or bar.row.startswith("growth")]


def _face_bars(medians: Medians) -> list[Bar]:
    found = []
    for codec, times in FACE_BARS.items():
        row, theirs, ours = f"face {codec}", "barman-cloud", "barback as barman-cloud"
        for what, factor, unit in (("wall_s", 1 / times, "s"), ("bytes", 1.05, "bytes")):
            bound = medians.of(row, theirs, what)
            if bound is not None:
                words = f"1/{times} of barman-cloud" if what == "wall_s" else "barman-cloud's bytes + 5 %"
                found.append(Bar(row, words, medians.of(row, ours, what), bound * factor, unit))
    return found


def _growth_bars(medians: Medians) -> list[Bar]:
    """The dearest cluster against the first one: time by GB, and memory as it is."""
    found = []
    for row in ("growth backup", "growth restore"):
        names = [(name, who) for name, who in medians.groups if name.startswith(row)]
        for what, words in (("wall_s", "seconds by GB of the first cluster"), ("peak_kib", "memory of the first cluster")):
            costs = []
            for name, who in names:
                # "growth backup 1024 MiB, 1284 files"
                share = int(name.split()[2]) / 1024 if what == "wall_s" else 1024
                costs.append((medians.of(name, who, what) or 0) / share)
            if costs:
                unit = "s/GB" if what == "wall_s" else "MiB"
                found.append(Bar(row, f"{FLAT} x the {words}", max(costs), costs[0] * FLAT, unit))
    return found


def losses(medians: Medians) -> list[str]:
    """Where we lose in this run: bars that were missed, and peers that were faster."""
    found = [
        f"{TITLES.get(bar.row, bar.row)}: {_number(bar.value, bar.unit)}, where {bar.words} is {_number(bar.bound, bar.unit)}"
        for bar in bars(medians)
        if bar.verdict() == "MISSED"
    ]
    for row in TITLES:
        for who in medians.who(row):
            theirs, ours = medians.of(row, who), medians.ours(row, who)
            if theirs and ours and theirs < ours and who not in LIMITS and not who.startswith(US):
                found.append(f"{TITLES[row]}: {who} takes {seconds(theirs)}, barback {seconds(ours)}")
    return found


def text(about: dict, runs: list[dict]) -> str:
    """The whole report in Markdown."""
    medians = Medians(runs)
    parts = [heading(about), "", *bar_table(medians), "", *row_table(medians), "", "Commands:", ""]
    parts += [f"- {name}: `{command}`" for name, command in about["commands"].items()]
    return "\n".join(parts) + "\n"


def heading(about: dict) -> str:
    """What was measured where and when, and what is missing."""
    machine, versions = about["machine"], about["versions"]
    lines = [
        f"{about['stamp'][:10]}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux"
        f" {machine['kernel']}, load {machine['load_before']} before the run; medians of {about['rounds']} rounds;"
        f" commit {about['commit']}.",
        f"{', '.join(versions.values())}. The store is MinIO on loopback by TLS, for everybody.",
    ]
    if not about["whole"]:
        lines.append("**The run was cut short: rows are missing.**")
    if about["small"]:
        lines.append("**A quick try (`run.sh --small`): few rounds, little data. To be repeated before anything is read into it.**")
    if machine["load_before"] > 0.5:
        lines.append("**The machine was busy with something else: to be repeated on an idle one.**")
    lines += [f"Left out: {who}." for who in about["left_out"]]
    for name in ("barman-cloud", "pgBackRest", "WAL-G"):
        if name not in versions:
            lines.append(f"Left out: {name}, which is not on this machine.")
    return "\n".join(lines)


def bar_table(medians: Medians) -> list[str]:
    """Every bar, met or missed."""
    lines = ["| row | bar | barback | allowed | |", "|---|---|--:|--:|---|"]
    for bar in bars(medians):
        numbers = f"{_number(bar.value, bar.unit)} | {_number(bar.bound, bar.unit)}"
        lines.append(f"| {bar.row} | {bar.words} | {numbers} | {bar.verdict()} |")
    return lines


def row_table(medians: Medians) -> list[str]:
    """Every row, everybody."""
    lines = ["| row | who | time | quartiles | CPU s | peak MiB | stored bytes |", "|---|---|--:|--:|--:|--:|--:|"]
    for row in medians.rows():
        for at, who in enumerate(medians.who(row)):
            times = medians.values(row, who, "wall_s")
            low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
            cpu, peak, size = (medians.of(row, who, what) for what in ("cpu_s", "peak_kib", "bytes"))
            cells = [TITLES.get(row, row) if at == 0 else "", who, seconds(statistics.median(times)), f"{seconds(low)} to {seconds(high)}"]
            cells += ["" if cpu is None else f"{cpu:.3f}", "" if peak is None else f"{peak / 1024:.1f}"]
            cells += ["" if size is None else f"{size:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def seconds(value: float) -> str:
    """`4.7 ms`, `3.21 s`."""
    return f"{value * 1000:.1f} ms" if value < 0.9995 else f"{value:.2f} s"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    shapes: dict[str, Callable[[float], str]] = {"s": seconds, "bytes": lambda number: f"{number:.0f}"}
    return shapes[unit](value) if unit in shapes else f"{value:.2f} {unit}"
