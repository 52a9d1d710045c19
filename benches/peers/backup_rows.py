"""The rows about base backups: taking one, restoring it, a whole recovery, and what becomes of it as clusters grow."""

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster, start_server, wait_for
from contenders import Contender, Server
from measure import Command, Session
from places import Place, free_port
from wal_rows import Record

RECOVERED = "archive recovery complete"

# Copies of more files stay until the end of the run.
MANY_FILES = 2000


@dataclass
class BackupRows:
    """The rows, on one running cluster."""

    place: Place
    cluster: Cluster
    record: Record

    def introduce(self, contender: Contender) -> None:
        """The contender learns which server this is, and the archive is made; not measured."""
        contender.server = Server(self.cluster.data, self.cluster.sockets, self.cluster.port)
        contender.forget()

    def backup(self, contender: Contender, _number: int, row: str = "backup") -> None:
        """A full backup into an empty archive, while the server archives with the same tool."""
        contender.forget()
        self.cluster.archive_also(contender.as_setting(contender.push("%p")))
        # The first segment of an archive tells a tool what it keeps in mind from then on.
        self.cluster.settle()
        self.cluster.psql("CHECKPOINT")
        os.sync()
        session = self._session()
        session.call(contender.backup())
        measured = session.finish()
        self.cluster.settle()
        self.cluster.archive_also("")
        measured["bytes"] = contender.stored_bytes()
        measured["cluster_bytes"] = _size(self.cluster.data / "base")
        self.record(row, _who(contender), measured)

    def restore(self, contender: Contender, _number: int, row: str = "restore") -> None:
        """That backup into an empty directory."""
        target = self._target()
        os.sync()
        session = self._session()
        session.call(contender.restore(target))
        self.record(row, _who(contender), session.finish())
        if not (target / "backup_label").exists():
            raise AssertionError(f"{contender.name} restored no backup_label")
        self._discard(target)

    def archive_all(self, contender: Contender) -> None:
        """Every segment of the cluster into this contender's archive, unmeasured: what is there stays as it is."""
        for segment in sorted(self.cluster.wal.iterdir()):
            session = self._session()
            session.call(contender.push(str(segment)))
            session.finish()

    def recovery(self, rows: int, contender: Contender, _number: int) -> None:
        """From an empty directory to a server that has replayed all WAL and takes connections."""
        target = self._target()
        os.sync()
        session = self._session()
        session.call(contender.restore(target))
        if not contender.restores_whole_recovery:
            # What their manuals ask the operator to write; barback and pgBackRest write it themselves.
            _configure_recovery(target, contender.as_setting(contender.get("%f", "%p")))
        self._recover(session, "pitr", _who(contender), target, contender.env(), rows)

    def recovery_by_hand(self, tree: Path, rows: int) -> None:
        """The limit of `recovery`: files and WAL from the same disk, nothing compressed, nobody asked."""
        target = self._target()
        os.sync()
        session = self._session()
        session.call(Command(["cp", "-a", str(tree), str(target)], self.place.env()))
        _configure_recovery(target, f"cp {self.cluster.wal}/%f %p")
        self._recover(session, "pitr", "cp -a and cp", target, self.place.env(), rows)

    def copy_by_hand(self) -> Path:
        """A plain directory of the cluster, taken by pg_basebackup; the WAL stays in the archive."""
        tree = self.place.root / "plain"
        shutil.rmtree(tree, ignore_errors=True)
        reach = ["-h", str(self.cluster.sockets), "-p", str(self.cluster.port), "-U", "postgres"]
        self.cluster.tool("pg_basebackup", *reach, "-X", "none", "-c", "fast", "--no-sync", "-D", str(tree))
        return tree

    def _recover(self, session: Session, row: str, who: str, target: Path, env: dict[str, str], rows: int) -> None:
        port = free_port()
        options = ["-c", f"port={port}", "-c", "archive_mode=off", "-c", "hot_standby=off"]
        server = start_server(self.place, target, env, *options)
        try:
            wait_for(target.parent / f"{target.name}.server.log", RECOVERED, server)
            wall_s = time.perf_counter() - session.began
            found = self.cluster.rows(port)
        finally:
            # At once: what the copy would still write is of no interest.
            server.send_signal(signal.SIGQUIT)
            session.wait(server)
        measured = session.finish()
        measured["wall_s"] = wall_s
        if found != rows:
            raise AssertionError(f"the copy of {who} has {found} rows, {rows} were expected")
        self.record(row, who, measured)
        shutil.rmtree(target)

    def _discard(self, target: Path) -> None:
        # For a minute or more ext4 gives an inode that was deleted to nobody, and looks at each on its way to a free one
        # (recently_deleted in fs/ext4/ialloc.c): the next restore of many files would be charged for that.
        if _files(target) > MANY_FILES:
            target.rename(self.place.root / f"discarded-{time.monotonic_ns()}")
        else:
            shutil.rmtree(target)

    def _target(self) -> Path:
        target = self.place.root / "restored"
        shutil.rmtree(target, ignore_errors=True)
        return target

    def _session(self) -> Session:
        return Session(self.place.pids(), self.place.dir("log") / "called")


class Grown:
    """A cluster of so many MiB and small tables: is a GB of a large one as cheap as of a small one?"""

    def __init__(self, place: Place, mib: int, tables: int, contender: Contender, record: Record) -> None:
        self._place, self._contender = place, contender
        self._cluster = Cluster(place, f"growth-{mib}-{tables}")
        self._cluster.start()
        self._cluster.fill(mib)
        self._cluster.add_tables(tables)
        self._cluster.forget_wal()
        self._rows = BackupRows(place, self._cluster, record)
        self._rows.introduce(contender)
        self.label = f"{_size(self._cluster.data / 'base') >> 20} MiB, {_files(self._cluster.data)} files"

    def measure(self) -> None:
        """A backup and its restore."""
        self._rows.backup(self._contender, 0, f"growth backup {self.label}")
        self._rows.restore(self._contender, 0, f"growth restore {self.label}")

    def remove(self) -> None:
        """Makes room for the next one."""
        self._cluster.stop()
        shutil.rmtree(self._place.root / self._cluster.name)


def _who(contender: Contender) -> str:
    return f"{contender.name} {contender.codec}"


def _configure_recovery(target: Path, restore_command: str) -> None:
    with (target / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = '{restore_command}'\n")
    (target / "recovery.signal").touch()


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _files(directory: Path) -> int:
    return sum(1 for path in directory.rglob("*") if path.is_file())
