#!/usr/bin/env python3
"""Runs Barman's cloud commands many times in one process: a process for each would take half a second to start.

To be run with the Python of an installed Barman. Reads calls from standard input, one JSON list of words a line, the first
of them the command without its `barman-cloud-`; answers each with one line of JSON: {"stdout", "stderr", "code"}.
The environment leads the commands to their store, as ever.
"""

import contextlib
import importlib
import io
import json
import logging
import sys
import traceback

MODULES = {
    "backup-list": "cloud_backup_list",
    "backup-show": "cloud_backup_show",
    "backup-keep": "cloud_backup_keep",
    "backup-delete": "cloud_backup_delete",
    "check-wal-archive": "cloud_check_wal_archive",
}


def run(command, arguments):
    """One call of a command: what it prints and the code it ends with."""
    main = importlib.import_module("barman.clients." + MODULES[command]).main
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    # Each call sets up logging to the standard error of its own.
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    sys.argv = ["barman-cloud-" + command]
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Exception:  # pylint: disable=broad-except
            # As the interpreter ends a program that fails.
            traceback.print_exc()
            code = 1
    return {"stdout": stdout.getvalue(), "stderr": stderr.getvalue(), "code": code}


for line in sys.stdin:
    words = json.loads(line)
    print(json.dumps(run(words[0], words[1:])), flush=True)
