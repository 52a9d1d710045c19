"""Runs barman-cloud-wal-archive and -wal-restore by Barman and by barback in turn, and prints what each took.

Called by wal.sh, with the Python that Barman runs on, whose boto3 removes objects between runs and tells their sizes.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import boto3

BUCKET = "bkt"
MIB = 1 << 20
# Option, suffix, how many times faster than Barman we must be.
CODECS = [("none", "", 6), ("gzip", ".gz", 3), ("lz4", ".lz4", 6), ("snappy", ".snappy", 6), ("zstd", ".zst", 6)]
ABSENT_BAR = 20
MEMORY_BAR_MIB = 48
BYTES_BAR = 1.05
ABSENT = "0000000100000FFF000000FF"


def main():
    parser = argparse.ArgumentParser()
    for name in ("barman", "barback", "wal", "scratch", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    args = parser.parse_args()
    s3 = boto3.client("s3")
    links = args.scratch / "bin"
    links.mkdir()
    for command in ("wal-archive", "wal-restore"):
        (links / f"barman-cloud-{command}").symlink_to(args.barback)
    programs = {"barman": args.barman, "barback": links}
    segments = sorted(args.wal.iterdir())
    measured = []
    # The first round fills caches and is not counted.
    for number in range(args.rounds + 1):
        segment = segments[number % len(segments)]
        for codec, suffix, _ in CODECS:
            key = f"pfx/main/wals/{segment.name[:16]}/{segment.name}{suffix}"
            # Who goes first alternates: neither always finds the other's warmth.
            for who in sorted(programs, reverse=number % 2 == 0):
                option = [] if codec == "none" else [f"--{codec}"]
                run = measure([programs[who] / "barman-cloud-wal-archive", *option, "s3://bkt/pfx", "main", segment], args, 0)
                run["bytes"] = s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"]
                s3.delete_object(Bucket=BUCKET, Key=key)
                measured.append({"what": f"archive {codec}", "who": who, "round": number, **run})
        for who in sorted(programs, reverse=number % 2 == 0):
            destination = args.scratch / "RECOVERYXLOG"
            run = measure([programs[who] / "barman-cloud-wal-restore", "s3://bkt/pfx", "main", ABSENT, destination], args, 1)
            measured.append({"what": "restore absent", "who": who, "round": number, **run})
        print(f"\rround {number} of {args.rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    counted = [run for run in measured if run["round"] > 0]
    table, passed = report(counted, args)
    print(table)
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%MZ")
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / f"wal-{stamp}.jsonl").write_text("".join(json.dumps(run) + "\n" for run in measured))
    (args.results / f"wal-{stamp}.md").write_text(table)
    sys.exit(0 if passed else 1)


def measure(command, args, expected):
    """One run: wall and CPU seconds from the kernel's own books, peak memory from GNU time, which is small itself."""
    memory = args.scratch / "memory"
    timed = ["/usr/bin/time", "-q", "-f", "%M", "-o", memory, *command]
    started = time.perf_counter()
    child = subprocess.Popen(timed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != expected:
        sys.exit(f"{' '.join(map(str, command))} ended with {child.returncode} and not {expected}: {said.decode()}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_kib": int(memory.read_text())}


def report(runs, args):
    lines = [
        f"WAL beside Barman 3.19.1: {datetime.now(timezone.utc):%Y-%m-%d}, {processor()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, Linux {platform.release()}, Python {platform.python_version()}, boto3 {boto3.__version__},",
        f"{version(args.barback)} at {commit()}; MinIO on loopback; medians of {args.rounds} rounds, 16 MiB mixed segments.",
        "",
        "| | Barman s | barback s | faster | bar | CPU s | CPU s | less | RSS MiB | RSS MiB | bytes | bytes | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    passed = True
    bars = [(f"archive {codec}", bar) for codec, _, bar in CODECS] + [("restore absent", ABSENT_BAR)]
    for what, bar in bars:
        theirs, ours = (
            {name: statistics.median(values) for name, values in columns(runs, what, who).items()}
            for who in ("barman", "barback")
        )
        # Memory is judged by the worst run, not the usual one.
        peak = max(columns(runs, what, "barback")["rss_kib"]) / 1024
        faster, less = theirs["wall_s"] / ours["wall_s"], theirs["cpu_s"] / ours["cpu_s"]
        row = [what, f"{theirs['wall_s']:.3f}", f"{ours['wall_s']:.3f}", f"{faster:.1f}x", f"{bar}x"]
        row += [f"{theirs['cpu_s']:.3f}", f"{ours['cpu_s']:.3f}", f"{less:.1f}x", f"{theirs['rss_kib'] / 1024:.1f}", f"{peak:.1f}"]
        missed = [faster < bar and "time", peak >= MEMORY_BAR_MIB and "memory"]
        if "bytes" in theirs:
            ratio = ours["bytes"] / theirs["bytes"]
            row += [f"{theirs['bytes']:.0f}", f"{ours['bytes']:.0f}", f"{ratio:.3f}"]
            missed.append(ratio > BYTES_BAR and "bytes")
        else:
            row += ["", "", ""]
        missed = [word for word in missed if word]
        passed = passed and not missed
        lines.append("| " + " | ".join(row) + (f" | MISSED: {', '.join(missed)} |" if missed else " |"))
    return "\n".join(lines) + "\n", passed


def columns(runs, what, who):
    chosen = [run for run in runs if (run["what"], run["who"]) == (what, who)]
    names = [name for name in ("wall_s", "cpu_s", "rss_kib", "bytes") if name in chosen[0]]
    return {name: [run[name] for run in chosen] for name in names}


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def version(barback):
    return subprocess.run([barback, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def commit():
    git = shutil.which("git")
    return subprocess.run([git, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip() if git else "?"


main()
