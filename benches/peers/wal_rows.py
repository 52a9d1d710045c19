"""The rows about WAL: one segment, its neighbours, a backlog, recovery, a segment that is not there."""

import filecmp
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from contenders import Contender
from measure import Command, Session
from places import Place

ABSENT = "0000000100000FFF000000FF"
# How long PostgreSQL is taken to replay a segment in the row `replay`.
REPLAY_S = 0.05
# A call of some milliseconds is measured several times in a round.
CALLS = 5

Record = Callable[[str, str, dict], None]


@dataclass
class WalRows:
    """The rows, on segments of a cluster. `record` takes the row's name, who, and what was measured."""

    place: Place
    segments: list[Path]
    skeleton: Callable[[Path], Path]
    record: Record

    def one(self, contender: Contender, number: int, row: str = "one") -> None:
        """One segment from the program's start to its exit, with nothing in the background."""
        segment = self._segment(number)
        self._into(contender, [segment], ready=False)
        session = self._session()
        session.call(contender.push(f"pg_wal/{segment.name}"))
        measured = session.finish()
        objects = contender.wal_objects()
        measured["bytes"] = sum(objects.values())
        self.place.bucket.delete(list(objects))
        self.record(row, contender.name, measured)

    def face(self, contender: Contender, number: int) -> None:
        """The same by the words of barman-cloud, a row for each codec."""
        self.one(contender, number, f"face {contender.codec}")

    def absent(self, contender: Contender, _number: int) -> None:
        """A segment that is not there, as at the end of every recovery and every few seconds on a standby."""
        self._into(contender, [], ready=False)
        for _ in range(CALLS):
            session = self._session()
            session.call(contender.get(ABSENT, "pg_wal/RECOVERYXLOG", contender.absent_code()))
            self.record("absent", contender.name, session.finish())

    def neighbour(self, contender: Contender, number: int) -> None:
        """A call for a segment that an earlier call has already brought into the store."""
        for at in range(CALLS):
            self._start_over(contender)
            first = 1 + (number * CALLS + at) % (len(self.segments) - 2)
            asked, neighbour = self.segments[first : first + 2]
            self._into(contender, [asked, neighbour])
            earlier = self._session()
            earlier.call(contender.push(f"pg_wal/{asked.name}"))
            earlier.finish()
            _acknowledge(contender, asked.name)
            session = self._session()
            session.call(contender.push(f"pg_wal/{neighbour.name}"))
            self.record("neighbour", contender.name, session.finish())

    def drain(self, contender: Contender) -> None:
        """A backlog of ready segments, called as the archiver calls: one after the other, the oldest first."""
        self._start_over(contender)
        backlog = self.segments[1:]
        self._into(contender, backlog)
        session = self._session()
        for segment in backlog:
            session.call(contender.push(f"pg_wal/{segment.name}"))
            _acknowledge(contender, segment.name)
        measured = session.finish()
        objects = contender.wal_objects()
        if len(objects) < len(backlog):
            raise AssertionError(f"{contender.name} acknowledged {len(backlog)} segments and stored {len(objects)}")
        measured["bytes"], measured["segments"] = sum(objects.values()), len(backlog)
        self.record("drain", contender.name, measured)

    def replay(self, contender: Contender) -> None:
        """What `drain` has stored, fetched as recovery does: a call, some time of replay, the next call."""
        wanted = self.segments[1:]
        self._into(contender, [])
        got = self.place.dir("got")
        destination = contender.server.data / "pg_wal" / "RECOVERYXLOG"
        session = self._session()
        for segment in wanted:
            session.call(contender.get(segment.name, "pg_wal/RECOVERYXLOG"))
            destination.rename(got / segment.name)
            time.sleep(REPLAY_S)
        measured = session.finish()
        different = [segment.name for segment in wanted if not filecmp.cmp(segment, got / segment.name, shallow=False)]
        if different:
            raise AssertionError(f"{contender.name} restored other bytes of {different}")
        shutil.rmtree(got)
        measured["segments"] = len(wanted)
        self.record("replay", contender.name, measured)

    def replay_alone(self) -> None:
        """The limit of `replay`: the pauses, and nothing else."""
        began = time.perf_counter()
        for _ in self.segments[1:]:
            time.sleep(REPLAY_S)
        self.record("replay", "the pauses alone", {"wall_s": time.perf_counter() - began, "segments": len(self.segments) - 1})

    def try_push(self, contender: Contender) -> None:
        """One segment there, unmeasured: whoever cannot even that is left out."""
        self._start_over(contender)

    def try_get(self, contender: Contender) -> None:
        """A segment that is not there, unmeasured."""
        session = self._session()
        session.call(contender.get(ABSENT, "pg_wal/RECOVERYXLOG", contender.absent_code()))
        session.finish()

    def _start_over(self, contender: Contender) -> None:
        self._into(contender, [])
        contender.forget()
        self._warm_up(contender)

    def _warm_up(self, contender: Contender) -> None:
        """What is learned of a store once is learned before the measurement, by everybody."""
        self._into(contender, self.segments[:1])
        session = self._session()
        session.call(contender.push(f"pg_wal/{self.segments[0].name}"))
        session.finish()
        self.place.bucket.delete(list(contender.wal_objects()))

    def _into(self, contender: Contender, segments: Iterable[Path], ready: bool = True) -> None:
        """The host's data directory with these segments in pg_wal, and marked as the archiver finds them."""
        wal = self.skeleton(contender.server.data) / "pg_wal"
        for segment in segments:
            os.link(segment, wal / segment.name)
            if ready:
                (wal / "archive_status" / f"{segment.name}.ready").touch()

    def _segment(self, number: int) -> Path:
        return self.segments[number % len(self.segments)]

    def _session(self) -> Session:
        return Session(self.place.pids(), self.place.dir("log") / "called")


def _acknowledge(contender: Contender, name: str) -> None:
    """What the archiver does after a success."""
    status = contender.server.data / "pg_wal" / "archive_status"
    (status / f"{name}.ready").rename(status / f"{name}.done")


@dataclass
class Limits:
    """What this machine can do at all: the codec, the digest and the store, by other people's programs."""

    place: Place
    segments: list[Path]
    cores: int
    record: Record

    def measure(self, number: int, one: bool) -> None:
        """All limits of WAL, once; with `one`, also that of one segment by other people's programs."""
        segment = self.segments[number % len(self.segments)]
        put, get = self._curl("-T", str(segment)), self._curl("-o", "/dev/null")
        self._shell("limit PUT 16 MiB", "curl", put)
        self._shell("limit GET 16 MiB", "curl", get)
        session = self._session()
        session.call(Command(["true"], self.place.env()))
        self.record("limit starting a program", "true", session.finish())
        self._shell("limit SHA-256 of 16 MiB", "openssl", f"openssl dgst -sha256 {segment}")
        self._shell("limit zstd -1 of 16 MiB", "zstd", f"zstd -1 -q -c {segment} >/dev/null")
        self._shell(f"limit zstd -1 of 16 MiB, {self.cores} at once", "zstd", self._on_all_cores(f"zstd -1 -q -c {segment} >/dev/null"))
        if not one:
            return
        # From a pipe curl does not say what it signs unless told; the body goes unsigned, as it does with -T.
        piped = self._curl("-X", "PUT", "-H", "x-amz-content-sha256:UNSIGNED-PAYLOAD", "--data-binary", "@-")
        self._shell("one", "zstd -1 to curl", f"zstd -1 -q -c {segment} | {piped}")

    def drain(self) -> None:
        """The codec and the digest alone over the backlog of `drain`, on all cores."""
        names = self.place.dir("log") / "backlog"
        names.write_text("".join(f"{segment}\n" for segment in self.segments[1:]))
        each = 'zstd -3 -q -c "$0" >/dev/null && openssl dgst -sha256 "$0" >/dev/null'
        self._shell("drain", "zstd -3 and SHA-256 alone", f"xargs -P {self.cores} -n 1 sh -c '{each}' <{names}")

    def copy(self, tree: Path) -> None:
        """A copy of the tree on the same disk, the limit of any restore."""
        target = self.place.root / "copied"
        os.sync()
        self._shell("restore", "cp -a", f"cp -a {tree} {target}")
        shutil.rmtree(target)

    def _shell(self, row: str, who: str, script: str) -> None:
        session = self._session()
        session.call(Command(["bash", "-c", f"set -eo pipefail; {script}"], self.place.env()))
        self.record(row, who, session.finish())

    def _session(self) -> Session:
        return Session(self.place.pids(), self.place.dir("log") / "called")

    def _on_all_cores(self, script: str) -> str:
        return " & ".join([script] * self.cores) + " & wait"

    def _curl(self, *arguments: str) -> str:
        signed = '--aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY"'
        url = f"{self.place.url()}/{self.place.bucket.name}/limits/object"
        return f'curl -sS --fail --cacert "$AWS_CA_BUNDLE" {signed} {" ".join(arguments)} {url}'
