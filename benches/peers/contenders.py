"""Who is measured: how barback and each peer are configured and called. Nothing here measures anything.

A contender is a program with one codec, a prefix of its own in the bucket and a directory of its own on the host, so that
no two of them ever see each other's objects, receipts or spools.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from measure import Command
from places import BUCKET, KEY, REGION, SECRET, Place

WAL_NAME = re.compile(r"[0-9A-F]{24}")
STANZA = "main"


@dataclass
class Server:
    """The cluster as a contender sees it: where it lies and how to ask it."""

    data: Path
    sockets: Path
    port: int


class Contender:
    """What all have in common. `jobs` is what the peer calls workers, processes or concurrency."""

    name = ""
    # What a level is called, where the program takes one.
    codec = ""
    restores_whole_recovery = False

    def __init__(self, place: Place, prefix: str, codec: str, jobs: int, ahead: bool = False) -> None:
        self.place, self.prefix, self.codec, self.jobs, self.ahead = place, prefix, codec, jobs, ahead
        self.host = place.dir("hosts", prefix)
        self.server = Server(self.host / "data", place.dir("sockets"), 0)

    def words(self) -> tuple[str, str]:
        """The codec's name and level: `zstd-1` is zstd at level 1, `gzip` is gzip at whatever the program thinks best."""
        name, _, level = self.codec.partition("-")
        return name, level

    def prepare(self) -> None:
        """Makes the archive usable for this server; not measured."""

    def push(self, wal: str) -> Command:
        """archive_command for `wal`, a path as the archiver gives it."""
        raise NotImplementedError

    def get(self, name: str, destination: str, expected: int = 0) -> Command:
        """restore_command."""
        raise NotImplementedError

    def backup(self) -> Command:
        raise NotImplementedError

    def restore(self, destination: Path) -> Command:
        """The newest backup into a directory that is not there."""
        raise NotImplementedError

    def absent_code(self) -> int:
        """How `get` ends when there is no such segment."""
        return 1

    def env(self) -> dict[str, str]:
        return self.place.env()

    def command(self, *argv: str | Path, expected: int = 0) -> Command:
        return Command([str(word) for word in argv], self.env(), self.server.data, expected)

    def as_setting(self, command: Command) -> str:
        """The command for postgresql.conf. The environment is given along: the server has another contender's."""
        extra = {name: value for name, value in command.env.items() if self.place.env().get(name) != value}
        words = [f"{name}={value}" for name, value in extra.items()]
        return " ".join((["env", *words] if words else []) + command.argv)

    def forget(self) -> None:
        """Empties the prefix and the host's memory of it, then makes it usable again."""
        bucket = self.place.bucket
        bucket.delete(list(bucket.sizes(f"{self.prefix}/")))
        for child in self.host.iterdir():
            if child != self.server.data:
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        self.prepare()

    def wal_objects(self) -> dict[str, int]:
        """The segments in the store with their sizes."""
        sizes = self.place.bucket.sizes(f"{self.prefix}/")
        return {key: size for key, size in sizes.items() if WAL_NAME.match(key.rsplit("/", 1)[-1])}

    def stored_bytes(self) -> int:
        """All bytes of base backups in the store."""
        sizes = self.place.bucket.sizes(f"{self.prefix}/")
        return sum(size for key, size in sizes.items() if not WAL_NAME.match(key.rsplit("/", 1)[-1]))


class Barback(Contender):
    """The program under test, by its own commands."""

    name = "barback"
    restores_whole_recovery = True
    # Commands of this build that know nothing of neighbours.
    without_jobs: frozenset[str] = frozenset()

    def env(self) -> dict[str, str]:
        store = {"BARBACK_STORE": f"s3://{BUCKET}/{self.prefix}", "BARBACK_SERVER": STANZA}
        return self.place.env(BARBACK_CACHE_DIR=str(self.place.dir("hosts", self.prefix, "cache")), **store)

    def push(self, wal: str) -> Command:
        return self.command(self._program(), "wal-archive", *self._ahead("wal-archive"), *self._compression(), wal)

    def get(self, name: str, destination: str, expected: int = 0) -> Command:
        return self.command(self._program(), "wal-restore", *self._ahead("wal-restore"), name, destination, expected=expected)

    def backup(self) -> Command:
        conninfo = f"host={self.server.sockets} port={self.server.port} user=postgres dbname=postgres"
        jobs = ["--jobs", str(self.jobs)]
        return self.command(self._program(), "backup", "--fast", *jobs, *self._compression(), "-d", conninfo)

    def restore(self, destination: Path) -> Command:
        return self.command(self._program(), "restore", destination, "--jobs", str(2 * self.jobs))

    def _program(self) -> str:
        return self.place.programs["barback"]

    def _ahead(self, command: str) -> list[str]:
        return ["--jobs", str(self.jobs)] if self.ahead and command not in self.without_jobs else []

    def _compression(self) -> list[str]:
        name, level = self.words()
        return ["--compression", name, *(["--compression-level", level] if level else [])]


class Barman(Contender):
    """barman-cloud: a program for each call, which takes one segment."""

    name = "barman-cloud"
    programs = "barman"

    def push(self, wal: str) -> Command:
        return self.command(self._program("wal-archive"), *self._compression(), self._url(), STANZA, wal)

    def get(self, name: str, destination: str, expected: int = 0) -> Command:
        return self.command(self._program("wal-restore"), self._url(), STANZA, name, destination, expected=expected)

    def backup(self) -> Command:
        reach = ["-h", str(self.server.sockets), "-p", str(self.server.port), "-U", "postgres"]
        jobs = ["--immediate-checkpoint", "-J", str(self.jobs)]
        return self.command(self._program("backup"), *self._compression(), *jobs, *reach, self._url(), STANZA)

    def restore(self, destination: Path) -> Command:
        return self.command(self._program("restore"), self._url(), STANZA, self._newest(), destination)

    def _newest(self) -> str:
        argv = [self._program("backup-list"), "--format", "json", self._url(), STANZA]
        said = subprocess.run(argv, env=self.env(), check=True, capture_output=True, text=True).stdout
        return max(backup["backup_id"] for backup in json.loads(said)["backups_list"])

    def _program(self, command: str) -> str:
        return str(Path(self.place.programs[self.programs]) / f"barman-cloud-{command}")

    def _url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def _compression(self) -> list[str]:
        name, level = self.words()
        return ([] if name == "none" else [f"--{name}"]) + (["--compression-level", level] if level else [])


class BarbackAsBarman(Barman):
    """barback called by the names of barman-cloud, with the same words."""

    name = "barback as barman-cloud"
    programs = "links"

    def env(self) -> dict[str, str]:
        return self.place.env(BARBACK_CACHE_DIR=str(self.place.dir("hosts", self.prefix, "cache")))


class PgBackRest(Contender):
    """pgBackRest, configured by a file as its users do; `ahead` is archive-async."""

    name = "pgBackRest"
    restores_whole_recovery = True

    def prepare(self) -> None:
        self.host.joinpath("pgbackrest.conf").write_text(self._configuration())
        online = ["--no-online"] if self.server.port == 0 else []
        done = subprocess.run(self._call("stanza-create", *online).argv, env=self.env(), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"pgbackrest stanza-create: {done.stdout}{done.stderr}")

    def push(self, wal: str) -> Command:
        return self._call("archive-push", wal)

    def get(self, name: str, destination: str, expected: int = 0) -> Command:
        return self._call("archive-get", name, destination, expected=expected)

    def backup(self) -> Command:
        return self._call("backup", "--type", "full", "--start-fast", "--no-expire-auto")

    def restore(self, destination: Path) -> Command:
        destination.mkdir(mode=0o700)
        workers = ["--process-max", str(2 * self.jobs), "--pg1-path", str(destination)]
        return self._call("restore", *workers, "--archive-mode", "off")

    def _call(self, command: str, *arguments: str, expected: int = 0) -> Command:
        configuration = ["--config", str(self.host / "pgbackrest.conf"), "--stanza", STANZA]
        return self.command(self.place.programs["pgbackrest"], *configuration, command, *arguments, expected=expected)

    def env(self) -> dict[str, str]:
        library = Path(self.place.programs["pgbackrest"]).parent.parent / "lib"
        # Debian's package unpacked beside libraries the machine lacks; elsewhere the directory says nothing.
        own = library.is_dir() and library != Path("/usr/lib")
        return self.place.env(LD_LIBRARY_PATH=str(library)) if own else self.place.env()

    def _configuration(self) -> str:
        name, level = self.words()
        settings: dict[str, str | int | Path] = {
            "repo1-type": "s3",
            "repo1-path": f"/{self.prefix}",
            "repo1-s3-bucket": BUCKET,
            "repo1-s3-endpoint": "localhost",
            "repo1-s3-uri-style": "path",
            "repo1-s3-region": REGION,
            "repo1-s3-key": KEY,
            "repo1-s3-key-secret": SECRET,
            "repo1-storage-port": self.place.port,
            "repo1-storage-ca-file": self.place.authority(),
            "repo1-retention-full": 9,
            "compress-type": {"zstd": "zst", "gzip": "gz"}.get(name, name),
            **({"compress-level": level} if level else {}),
            "process-max": self.jobs,
            "archive-async": "y" if self.ahead else "n",
            "spool-path": self.place.dir("hosts", self.prefix, "spool"),
            "lock-path": self.place.dir("hosts", self.prefix, "lock"),
            "log-level-file": "off",
            "log-level-console": "warn",
        }
        stanza: dict[str, str | int | Path] = {"pg1-path": self.server.data, "pg1-socket-path": self.server.sockets, "pg1-user": "postgres"}
        if self.server.port:
            stanza["pg1-port"] = self.server.port
        sections = {"global": settings, STANZA: stanza}
        return "".join(
            f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in lines.items()) for title, lines in sections.items()
        )


class WalG(Contender):
    """WAL-G, configured by its environment. It always sends neighbours along; a concurrency of 1 is without them.

    Written by its documentation and not run yet: it could not be had where this was written.
    """

    name = "WAL-G"

    def env(self) -> dict[str, str]:
        jobs = str(self.jobs if self.ahead or self.server.port else 1)
        concurrency = {"WALG_UPLOAD_CONCURRENCY": jobs, "WALG_UPLOAD_DISK_CONCURRENCY": jobs}
        return self.place.env(
            WALG_S3_PREFIX=f"s3://{BUCKET}/{self.prefix}",
            WALG_S3_CA_CERT_FILE=str(self.place.authority()),
            WALG_COMPRESSION_METHOD=self.words()[0],
            WALG_DOWNLOAD_CONCURRENCY=str(2 * self.jobs),
            AWS_ENDPOINT=self.place.url(),
            AWS_S3_FORCE_PATH_STYLE="true",
            PGDATA=str(self.server.data),
            PGHOST=str(self.server.sockets),
            PGPORT=str(self.server.port),
            PGUSER="postgres",
            PGDATABASE="postgres",
            **concurrency,
        )

    def push(self, wal: str) -> Command:
        return self.command(self.place.programs["walg"], "wal-push", wal)

    def get(self, name: str, destination: str, expected: int = 0) -> Command:
        return self.command(self.place.programs["walg"], "wal-fetch", name, destination, expected=expected)

    def absent_code(self) -> int:
        return 74

    def backup(self) -> Command:
        return self.command(self.place.programs["walg"], "backup-push", "--full", self.server.data)

    def restore(self, destination: Path) -> Command:
        return self.command(self.place.programs["walg"], "backup-fetch", destination, "LATEST")


def versions(programs: dict[str, str]) -> dict[str, str]:
    """What each program says of its version, by name."""
    asked = {"barback": ["barback", "--version"], "pgBackRest": ["pgbackrest", "version"], "WAL-G": ["walg", "--version"]}
    calls = {name: [programs[program], word] for name, (program, word) in asked.items() if program in programs}
    if "barman" in programs:
        calls["barman-cloud"] = [str(Path(programs["barman"]) / "barman-cloud-backup"), "--version"]
    calls["PostgreSQL"] = [str(Path(programs["postgres"]) / "postgres"), "--version"]
    calls |= {"zstd": ["zstd", "--version"], "curl": ["curl", "--version"]}
    return {name: f"{name} {_version(argv)}" for name, argv in calls.items()}


def _version(argv: list[str]) -> str:
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+\S*", said)
    return found.group().rstrip(",") if found else "of an unknown version"
