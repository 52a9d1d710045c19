"""What a piece of work took: wall time, CPU time and peak memory of every process it started, daemons too.

A peer that answers early and goes on in the background would look cheap if only its first process were counted. So this
process adopts orphans (Linux's child subreaper): a daemon's CPU time is handed to us when it ends, like any child's.

Control groups are not used: their memory counts the page cache, which says how much was read, not how much a program needs.
"""

import ctypes
import os
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
# A daemon that does not end within this time is a fault of the run, not a long job.
DAEMON_TIMEOUT_S = 180
# Looking at memory may take a fiftieth of one core.
SAMPLING_SHARE = 50
FIRST_INTERVAL_S, LAST_INTERVAL_S = 0.001, 0.05


class Failed(Exception):
    """A command ended in a way that was not expected; the text holds what it said."""


@dataclass(frozen=True)
class Command:
    """A program with its arguments, the whole environment it gets, and how it may end."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path | None = None
    expected: int = 0

    def text(self) -> str:
        """How it would be typed, for the results."""
        return shlex.join(self.argv)


@dataclass
class Session:
    """One measured piece of work: calls and pauses in a row. `servers` are our children that are not part of it."""

    servers: set[int]
    log: Path
    cpu_s: float = 0.0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self._memory = _MemoryWatch(self.servers)
        self.began = time.perf_counter()

    def call(self, command: Command) -> float:
        """Runs it to its end; seconds from start to exit, as PostgreSQL would see it."""
        began = time.perf_counter()
        code = self.wait(self.start(command))
        took = time.perf_counter() - began
        if code != command.expected:
            self._memory.stop()
            said = self.log.read_text(errors="replace")[-2000:]
            raise Failed(f"{command.text()} ended with {code} and not {command.expected}: {said}")
        return took

    def start(self, command: Command) -> subprocess.Popen:
        """Starts it; the caller waits with `wait`."""
        # Between its fork and its exec a child shows this process's memory as its own.
        with self.log.open("w") as log, self._memory.spawning:
            return subprocess.Popen(
                command.argv, env=command.env, cwd=command.cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait(self, child: subprocess.Popen) -> int:
        """Its exit code; its CPU time and that of all it waited for are booked."""
        _, status, usage = os.wait4(child.pid, 0)
        self.cpu_s += usage.ru_utime + usage.ru_stime
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode

    def finish(self) -> dict[str, float]:
        """Stops the clock, then waits for what still runs in the background, whose CPU time and memory count."""
        wall_s = time.perf_counter() - self.began
        deadline = time.monotonic() + DAEMON_TIMEOUT_S
        while orphans := [pid for pid in _children(os.getpid()) if pid not in self.servers]:
            pid, _, usage = os.wait4(orphans[0], os.WNOHANG)
            if pid:
                self.cpu_s += usage.ru_utime + usage.ru_stime
            elif time.monotonic() > deadline:
                self._memory.stop()
                raise Failed(f"process {orphans[0]} is still there after {DAEMON_TIMEOUT_S} s")
            else:
                time.sleep(0.005)
        return {"wall_s": wall_s, "cpu_s": self.cpu_s, "peak_kib": self._memory.stop()}


def adopt_orphans() -> None:
    """Processes whose parent ends become our children. Once, at the start."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "could not become the subreaper")


class _MemoryWatch:
    """Looks at the tree's memory again and again, often at the beginning and seldom in a long run."""

    def __init__(self, servers: set[int]) -> None:
        self._servers = servers
        self._peak_kib = 0
        self.spawning = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak_kib

    def _watch(self) -> None:
        began = time.perf_counter()
        pause = FIRST_INTERVAL_S
        while not self._ended.wait(pause):
            looked = time.perf_counter()
            with self.spawning:
                self._peak_kib = max(self._peak_kib, _memory_kib(_tree(self._servers)))
            cost = time.perf_counter() - looked
            wanted = min(LAST_INTERVAL_S, (looked - began) / SAMPLING_SHARE)
            pause = max(FIRST_INTERVAL_S, wanted, cost * SAMPLING_SHARE if looked - began > 0.1 else 0)


def _tree(servers: set[int]) -> list[int]:
    """Everything below us but the servers."""
    found: list[int] = []
    waiting = [pid for pid in _children(os.getpid()) if pid not in servers]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(_children(pid))
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _memory_kib(pids: list[int]) -> int:
    """Of one process its peak so far. Of several the sum of proportional sizes: shared pages are there once."""
    if len(pids) == 1:
        return _field_kib(f"/proc/{pids[0]}/status", "VmHWM:")
    return sum(_field_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids)


def _field_kib(path: str, name: str) -> int:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0
