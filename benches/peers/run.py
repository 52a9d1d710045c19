"""One run of the whole bench: who takes part, which rows in which order, and where the results go. Called by run.sh.

In every round each row is measured once for each contender, and who begins changes from round to round, so that a machine
that grows warm, or busy, does so for everybody.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import report
from backup_rows import BackupRows, Grown
from cluster import Cluster
from contenders import Barback, BarbackAsBarman, Barman, Contender, PgBackRest, WalG, versions
from machine import about_this_machine
from measure import Command, Failed, adopt_orphans
from places import Place
from wal_rows import Limits, WalRows

ROWS = ["one", "face", "absent", "neighbour", "drain", "replay", "backup", "restore", "pitr", "growth"]
FACE_CODECS = ["none", "gzip", "lz4", "snappy", "zstd"]


@dataclass(frozen=True)
class Size:
    """How much work a run is."""

    segments: int
    recovery_segments: int
    cluster_mib: int
    tables: int
    # MiB and small tables of the clusters that are compared in the row `growth`.
    growth: tuple[tuple[int, int], ...]


WHOLE = Size(65, 50, 1024, 500, ((1024, 0), (2048, 0), (4096, 0), (8192, 0), (1024, 1_000), (1024, 9_000), (1024, 49_000)))
SMALL = Size(9, 8, 96, 100, ((96, 0), (192, 0), (96, 1_000)))


class Run:
    """What is measured goes through `record`; the contenders that could not even begin are in `left_out`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.place = Place(args.scratch, dict(pair.split("=", 1) for pair in args.program))
        self.rounds, self.only, self.size = args.rounds, args.only or ROWS, SMALL if args.small else WHOLE
        self.cores = os.cpu_count() or 1
        self.jobs = 2
        self.round = 0
        self.measured: list[dict] = []
        self.left_out: dict[str, str] = {}
        self.commands: dict[str, str] = {}

    def record(self, row: str, who: str, measured: dict) -> None:
        # The first round fills caches and is not counted.
        self.measured.append({"row": row, "who": who, "round": self.round, **measured})

    def wanted(self, *rows: str) -> bool:
        return any(row in self.only for row in rows)

    def has(self, *programs: str) -> bool:
        return all(program in self.place.programs for program in programs)

    def all_rows(self) -> None:
        """Everything, in order."""
        self.place.start_store()
        cluster = Cluster(self.place, "cluster")
        cluster.start()
        if self.wanted(*ROWS[:6]):
            self.wal(cluster)
        if self.wanted("backup", "restore", "pitr"):
            self.backups(cluster)
        cluster.stop()
        if self.wanted("growth"):
            self.growth()

    def wal(self, cluster: Cluster) -> None:
        """The rows about WAL."""
        say(f"making {self.size.segments} segments of WAL")
        rows = WalRows(self.place, cluster.make_wal(self.size.segments), cluster.skeleton, self.record)
        limits = Limits(self.place, rows.segments, self.cores, self.record)
        jobs = self.jobs
        alone = self.ready(rows, self.make("one", "zstd-1", 1))
        faces = self.ready(rows, self.faces()) if self.wanted("face") else []
        ahead = self.ready(rows, self.make("ahead", "zstd-3", jobs, ahead=True)) if self.wanted("neighbour", "drain", "replay") else []
        neighbours = [contender for contender in ahead if takes_neighbours(contender)]
        for number in self.every_round("WAL"):
            limits.measure(number, self.wanted("one"))
            if self.wanted("one"):
                self.turn(alone, rows.one)
            if self.wanted("absent"):
                self.turn(alone, rows.absent)
            self.turn(faces, rows.face)
            if self.wanted("neighbour"):
                self.turn(neighbours, rows.neighbour)
            if self.wanted("drain", "replay"):
                limits.drain()
                rows.replay_alone()
                self.turn(ahead, partial(self.drain_and_replay, rows))

    def faces(self) -> list[Contender]:
        """barman-cloud, and barback by its names, with each codec."""
        kinds: list[type[Barman]] = [Barman, BarbackAsBarman] if self.has("barman") else []
        return [kind(self.place, f"face-{kind.programs}-{codec}", codec, 1) for codec in FACE_CODECS for kind in kinds]

    def drain_and_replay(self, rows: WalRows, contender: Contender, _number: int) -> None:
        """The second takes what the first has stored."""
        rows.drain(contender)
        if self.wanted("replay"):
            rows.replay(contender)

    def backups(self, cluster: Cluster) -> None:
        """The rows about base backups and recovery."""
        say(f"filling the cluster up to {self.size.cluster_mib} MiB")
        cluster.fill(self.size.cluster_mib)
        cluster.add_tables(self.size.tables)
        cluster.forget_wal()
        rows = BackupRows(self.place, cluster, self.record)
        contenders = self.introduced(rows, self.base_backup_contenders())
        # Whoever wants to see only what is made of a backup needs one.
        for _ in self.every_round("base backup", most=None if self.wanted("backup") else 0):
            self.turn(contenders, rows.backup)
        by_hand = rows.copy_by_hand()
        limits = Limits(self.place, [], self.cores, self.record)
        if self.wanted("restore"):
            for _ in self.every_round("restore"):
                limits.copy(by_hand)
                self.turn(contenders, rows.restore)
        if self.wanted("pitr"):
            self.recoveries(cluster, rows, [each for each in contenders if not each.codec.startswith("gzip")], by_hand)

    def recoveries(self, cluster: Cluster, rows: BackupRows, contenders: list[Contender], by_hand: Path) -> None:
        """A whole recovery each, to the end of the same WAL."""
        say(f"making {self.size.recovery_segments} segments to be replayed, and archiving them for everybody")
        cluster.make_wal(self.size.recovery_segments)
        cluster.settle()
        expected = cluster.rows()
        for contender in contenders:
            rows.archive_all(contender)
            # Where a tool can fetch WAL before it is asked for, it does.
            contender.ahead = not isinstance(contender, Barman)
            contender.prepare()
        for _ in self.every_round("recovery"):
            rows.recovery_by_hand(by_hand, expected)
            self.turn(contenders, partial(rows.recovery, expected))

    def growth(self) -> None:
        """Only of barback: the question is whether it stays flat."""
        say("clusters that grow")
        contender = Barback(self.place, "growth", "zstd-1", self.jobs)
        for mib, tables in self.size.growth:
            grown = Grown(self.place, mib, tables, contender, self.record)
            for _ in self.every_round(f"cluster of {grown.label}", most=3):
                grown.measure()
            grown.remove()

    def make(self, prefix: str, codec: str, jobs: int, ahead: bool = False) -> list[Contender]:
        """Every peer that is here, with this codec."""
        kinds = {"barback": Barback, "barman": Barman, "pgbackrest": PgBackRest, "walg": WalG}
        return [
            kind(self.place, f"{prefix}-{program}", codec, jobs, ahead and program != "barman")
            for program, kind in kinds.items()
            if self.has(program)
        ]

    def base_backup_contenders(self) -> list[Contender]:
        """barback once for each codec in which a peer is held against it."""
        chosen: list[tuple[type[Contender], str, str]] = [(Barback, "barback", "zstd-1"), (PgBackRest, "pgbackrest", "zstd-1")]
        chosen += [(WalG, "walg", "zstd")]
        for codec in ("lz4", "gzip"):
            chosen += [(Barback, "barback", codec), (Barman, "barman", codec)] if self.has("barman") else []
        return [kind(self.place, f"base-{program}-{codec}", codec, self.jobs) for kind, program, codec in chosen if self.has(program)]

    def ready(self, rows: WalRows, contenders: list[Contender]) -> list[Contender]:
        """Those who can archive a segment and see that one is not there."""
        able = []
        for contender in contenders:
            try:
                self.trial(contender, "wal-archive", rows.try_push)
                self.trial(contender, "wal-restore", rows.try_get)
            except (Failed, OSError) as failure:
                self.leave_out(f"{contender.name} {contender.codec}", failure)
                continue
            able.append(contender)
            name = f"{contender.name} {contender.codec}{' ahead' if contender.ahead else ''}"
            self.note(f"{name}: archive", contender.push("%p"))
            self.note(f"{name}: restore", contender.get("%f", "%p"))
        return able

    def trial(self, contender: Contender, command: str, attempt: Callable[[Contender], None]) -> None:
        """A barback whose command does not take --jobs yet is called without, and its row says nothing about neighbours."""
        try:
            attempt(contender)
        except Failed as failure:
            if not (isinstance(contender, Barback) and contender.ahead):
                raise
            self.leave_out(f"barback {command} --jobs (the rows stand there without it)", failure)
            contender.without_jobs |= {command}
            attempt(contender)

    def introduced(self, rows: BackupRows, contenders: list[Contender]) -> list[Contender]:
        """Those who know what to do with this server."""
        able = []
        for contender in contenders:
            try:
                rows.introduce(contender)
            except (Failed, OSError) as failure:
                self.leave_out(f"{contender.name} {contender.codec}", failure)
                continue
            able.append(contender)
            self.note(f"{contender.name} {contender.codec}: base backup", contender.backup())
        return able

    def note(self, name: str, command: Command) -> None:
        """For the results, without the scratch directory's name."""
        self.commands[name] = command.text().replace(f"{self.place.root}/", "")

    def leave_out(self, who: str, why: Exception) -> None:
        self.left_out[who] = str(why)[-300:]
        say(f"LEFT OUT: {who}: {self.left_out[who]}")

    def turn(self, contenders: list[Contender], row: Callable[[Contender, int], None]) -> None:
        """Each of them once; another one begins in each round."""
        for at in range(len(contenders)):
            contender = contenders[(at + self.round) % len(contenders)]
            try:
                row(contender, self.round)
            except (Failed, OSError, AssertionError) as failure:
                # An hour of results is not thrown away for one of them; the failure stands in the report.
                self.leave_out(f"{contender.name} {contender.codec} failed in round {self.round}", failure)

    def every_round(self, what: str, most: int | None = None) -> Iterator[int]:
        """Round 0, which is not counted, and the others."""
        rounds = self.rounds if most is None else min(self.rounds, most)
        for number in range(rounds + 1):
            self.round = number
            began = time.monotonic()
            yield number
            say(f"{what}: round {number} of {rounds} took {time.monotonic() - began:.0f} s")


def takes_neighbours(contender: Contender) -> bool:
    """Whether a call may find its segment already stored by an earlier one."""
    without = isinstance(contender, Barback) and "wal-archive" in contender.without_jobs
    return contender.ahead and not without


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benches/peers/run.sh")
    parser.add_argument("--scratch", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--program", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--commit", default="unknown", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="how often each row is measured for each contender (5; 2 with --small)")
    parser.add_argument("--only", action="append", choices=ROWS, help="only this row; may be repeated")
    parser.add_argument("--small", action="store_true", help="a quick try: few segments, a small cluster")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.small else 5)
    adopt_orphans()
    # Whoever ends this process ends its servers too.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit("interrupted"))
    run = Run(args)
    before = about_this_machine()
    whole = False
    try:
        run.all_rows()
        whole = True
    finally:
        run.place.stop()
        if any(each["round"] > 0 for each in run.measured):
            write(run, args, before, whole)


def write(run: Run, args: argparse.Namespace, before: dict, whole: bool) -> None:
    """The raw results and the report, also of a run that was cut short."""
    about = {"versions": versions(run.place.programs), "commit": args.commit, "machine": before, "rounds": args.rounds}
    about |= {"only": run.only, "size": vars(run.size), "left_out": run.left_out, "commands": run.commands}
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%MZ")
    about |= {"stamp": stamp, "small": args.small, "whole": whole, "jobs": run.jobs}
    results = run.place.dir("results")
    lines = [{"about": about}, *run.measured]
    (results / f"peers-{stamp}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = report.text(about, run.measured)
    (results / f"peers-{stamp}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
