"""The scratch cluster: what is backed up, and where the WAL of the run comes from."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

from places import START_TIMEOUT_S, Place, free_port

# Rows of about 600 bytes with their indexes, half of it random: neither all zeros nor all noise.
TABLE = """
CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), at timestamptz DEFAULT clock_timestamp(),
                name text, facts jsonb, changes int DEFAULT 0);
CREATE INDEX ON t (at); CREATE INDEX ON t (name);
"""
INSERT = """
INSERT INTO t (name, facts) SELECT md5(random()::text), jsonb_build_object('n', n, 'kind', 'order', 'note', md5(n::text),
    'at', clock_timestamp()) FROM generate_series(1, {rows}) n;
"""
UPDATE = "UPDATE t SET changes = changes + 1, at = clock_timestamp() WHERE random() < 0.01;"
# One statement for so many tables: a transaction's locks must fit into the lock table.
TABLES_AT_ONCE = 1000


class Cluster:
    """A running server whose archive_command copies every segment into the directory `wal`."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self.name = place, name
        self.data = place.root / name / "data"
        self.wal = place.dir(name, "wal")
        self.sockets = place.dir("sockets")
        self.port = free_port()
        self._bin = Path(place.programs["postgres"])

    def start(self) -> None:
        """Makes it with checksums, as anybody who cares for backups does, and starts it. It does not sync: that is not measured."""
        self.tool("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-k", "-D", str(self.data))
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.sockets), "port": self.port}
        settings |= {"fsync": "off", "archive_mode": "on", "archive_command": self.keeping(), "max_wal_size": "4GB"}
        settings |= {"wal_level": "replica", "autovacuum": "off", "synchronous_commit": "off", "shared_buffers": "256MB"}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._place.servers[self.name] = start_server(self._place, self.data, self._place.env())
        self.psql(TABLE)

    def stop(self) -> None:
        """Ends it in order; its directory stays."""
        server = self._place.servers.pop(self.name)
        server.send_signal(signal.SIGINT)
        server.wait(START_TIMEOUT_S)

    def keeping(self, also: str = "") -> str:
        """The archive_command: a tool's own, after the copy every segment of this cluster is kept in."""
        kept = f"cp %p {self.wal}/%f"
        return f"{kept} && {also}" if also else kept

    def archive_also(self, command: str) -> None:
        """From now on the archiver also calls `command`; with nothing, only the copies are made."""
        self.psql(f"ALTER SYSTEM SET archive_command = $${self.keeping(command)}$$")
        self.psql("SELECT pg_reload_conf()")
        # The archiver looks at its settings between two segments.
        time.sleep(0.3)

    def fill(self, mib: int) -> None:
        """Adds rows until the database has this size."""
        while int(self.psql("SELECT pg_database_size('postgres')")) < mib << 20:
            self.psql(INSERT.format(rows=50_000))
        self.psql(f"{UPDATE} CHECKPOINT")

    def add_tables(self, count: int) -> None:
        """Adds so many small tables, a file each."""
        for at in range(0, count, TABLES_AT_ONCE):
            last = min(count, at + TABLES_AT_ONCE) - 1
            self.psql(
                f"DO $$ BEGIN FOR n IN {at}..{last} LOOP EXECUTE format('CREATE TABLE small_%s AS SELECT 1 AS x', n);"
                " END LOOP; END $$"
            )
        self.psql("CHECKPOINT")

    def make_wal(self, count: int) -> list[Path]:
        """So many new whole segments of inserts and updates, archived; not the first, which is full of full pages."""
        first = self.psql("SELECT pg_walfile_name(pg_switch_wal())")
        self.psql("CHECKPOINT")
        while len(self._kept_after(first)) < count + 1:
            self.psql(INSERT.format(rows=8_000) + UPDATE)
        return self._kept_after(first)[1 : count + 1]

    def settle(self) -> None:
        """Switches to a new segment and waits until all before it are archived."""
        last = self.psql("SELECT pg_walfile_name(pg_switch_wal())")
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.psql(f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver") != "t":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the archiver did not come to {last}")
            time.sleep(0.05)

    def rows(self, port: int | None = None) -> int:
        return int(self.psql("SELECT count(*) FROM t", port))

    def psql(self, sql: str, port: int | None = None) -> str:
        """What the server answers, bare."""
        arguments = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.sockets), "-p", str(port or self.port), "-U", "postgres"]
        return self.tool("psql", *arguments, "-d", "postgres", "-c", sql)

    def tool(self, name: str, *arguments: str) -> str:
        """Runs one of PostgreSQL's programs; what it printed."""
        done = subprocess.run([self._bin / name, *arguments], env=self._place.env(), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"{name} {' '.join(arguments)[:200]}: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def forget_wal(self) -> None:
        """Removes the copies of what was archived so far: no backup that is still to come needs them."""
        self.settle()
        for segment in self.wal.iterdir():
            segment.unlink()

    def skeleton(self, at: Path) -> Path:
        """A data directory with nothing in it but what archivers look at: whose it is, and an empty pg_wal."""
        shutil.rmtree(at, ignore_errors=True)
        (at / "global").mkdir(parents=True)
        (at / "pg_wal" / "archive_status").mkdir(parents=True)
        shutil.copy(self.data / "PG_VERSION", at)
        shutil.copy(self.data / "global" / "pg_control", at / "global")
        return at

    def _kept_after(self, name: str) -> list[Path]:
        return sorted(path for path in self.wal.iterdir() if len(path.name) == 24 and path.name > name)


def start_server(place: Place, data: Path, env: dict[str, str], *options: str) -> subprocess.Popen:
    """Starts `postgres` as our own child and waits until it takes connections. What it says goes to `server.log`."""
    log = data.parent / f"{data.name}.server.log"
    with log.open("w") as file:
        argv = [str(Path(place.programs["postgres"]) / "postgres"), "-D", str(data), *options]
        server = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    wait_for(log, "database system is ready to accept connections", server)
    return server


def wait_for(log: Path, text: str, server: subprocess.Popen) -> None:
    """Until the server's log says it. Reading a file costs less than asking by SQL."""
    deadline = time.monotonic() + 20 * START_TIMEOUT_S
    while text not in log.read_text(errors="replace"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"the server did not say \"{text}\":\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.01)
