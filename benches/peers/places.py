"""Where a run lives: its directories, ports and certificate, the S3 server, and the environment every program gets."""

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from s3 import REGION, Bucket

KEY, SECRET, BUCKET = "peerskey", "peerssecret", "bkt"
START_TIMEOUT_S = 60


@dataclass
class Place:
    """The scratch directory of one run and what listens there. `servers` are the process ids of our own servers."""

    root: Path
    programs: dict[str, str]
    port: int = 0
    servers: dict[str, subprocess.Popen] = field(default_factory=dict)
    store: Bucket | None = None

    def dir(self, *names: str) -> Path:
        """A directory below the root, made if it is not there."""
        path = self.root.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def bucket(self) -> Bucket:
        """The one bucket everybody writes to."""
        assert self.store is not None, "the store is started first"
        return self.store

    def pids(self) -> set[int]:
        """Our children that no measurement counts."""
        return {server.pid for server in self.servers.values()}

    def env(self, **more: str) -> dict[str, str]:
        """What every program is given, and nothing else: the same store, trusted by the same certificate."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "LC_ALL": "C",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url(),
            "AWS_CA_BUNDLE": str(self.authority()),
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }

    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def authority(self) -> Path:
        return self.dir("certs") / "authority.pem"

    def start_store(self) -> None:
        """MinIO with a certificate of our own: pgBackRest speaks TLS only, so everybody does."""
        self.port = free_port()
        self._make_certificates()
        env = self.env(MINIO_ROOT_USER=KEY, MINIO_ROOT_PASSWORD=SECRET, MINIO_BROWSER="off", MINIO_CI_CD="on")
        argv = [self.programs["minio"], "server", "--quiet", "--certs-dir", str(self.dir("certs"))]
        argv += ["--address", f"127.0.0.1:{self.port}", str(self.dir("store"))]
        with (self.dir("log") / "minio").open("w") as log:
            self.servers["minio"] = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.store = Bucket(self.port, self.authority(), KEY, SECRET, BUCKET)
                self.store.create()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """Ends the servers that are still there, the youngest first."""
        for server in reversed(self.servers.values()):
            if server.poll() is None:
                # PostgreSQL throws its clients out at SIGINT and would wait for them at SIGTERM; MinIO ends at either.
                server.send_signal(signal.SIGINT)
                server.send_signal(signal.SIGTERM)
                server.wait(START_TIMEOUT_S)

    def _make_certificates(self) -> None:
        # An authority and a certificate below it: some clients refuse one that is both.
        certs = self.dir("certs")
        common = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        authority = ["-x509", "-subj", "/CN=barback bench", "-keyout", "authority.key", "-out", "authority.pem"]
        _openssl(certs, "req", *common, *authority)
        _openssl(certs, "req", *common, "-subj", "/CN=localhost", "-keyout", "private.key", "-out", "request.pem")
        (certs / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        signed = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", "30", "-extfile", "names"]
        _openssl(certs, "x509", "-req", "-in", "request.pem", *signed, "-out", "public.crt")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
