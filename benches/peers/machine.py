"""What must be known of the machine to judge a result: its processor, its memory, and how busy it was at the beginning."""

import os
import platform
from pathlib import Path


def about_this_machine() -> dict[str, str | int | float]:
    """For the head of the results; nothing in it names the machine."""
    return {
        "processor": _line("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(int(_line("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def _line(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return ""
