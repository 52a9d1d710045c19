"""Records how the barman-cloud commands of an installed Barman read their command lines, for src/cli/barman/tests.rs.

    VENV/bin/python tools/record-barman-argv.py     writes fixtures/barman-argv/

Runs each command on thousands of command lines, none of which gets as far as a store (their URLs are none), and keeps
what a caller can see: the exit code and stderr, and where the line was accepted, the values that Python's argparse gave
the command. The command lines are made from what the commands' own --help lists, and from the hand-picked ones below.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import re
import sys
from importlib import metadata

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "barman-argv"
COLUMNS = 80
WIDTHS = [1, 20, 41, 57, 80, 100, 132, 250]
# What each command needs to be accepted. "x" is no URL, so that nothing happens after that.
ENOUGH = {
    "wal-archive": ["x", "s", "w"],
    "wal-restore": ["x", "s", "n", "d"],
    "backup": ["x", "s"],
    "backup-list": ["x", "s"],
    "backup-show": ["x", "s", "b"],
    "backup-delete": ["x", "s", "-b", "b"],
    "backup-keep": ["x", "s", "b", "-r"],
    "check-wal-archive": ["x", "s"],
    "restore": ["x", "s", "b", "d"],
}
# A value that an option takes, by what the usage text calls it; anything else takes "foo".
GOOD = {
    "READ_TIMEOUT": "30", "JOBS": "3", "MAX_ARCHIVE_SIZE": "2GB", "MIN_CHUNK_SIZE": "6MB", "MAX_BANDWIDTH": "7MiB",
    "TAGS_LIST": "k,v", "TAGS_APPEND": "k,v", "HISTORY_TAGS_LIST": "k,v", "HISTORY_TAGS_APPEND": "k,v",
    "ENCRYPTION": "AES256", "COMPRESSION_LEVEL": "high", "MAX_BLOCK_SIZE": "1MB", "MAX_CONCURRENCY": "4",
    "MAX_SINGLE_PUT_SIZE": "5MB", "PARALLEL": "8", "MINIMUM_REDUNDANCY": "2", "DELETE_BATCH_SIZE": "10",
    "TIMELINE": "3", "TARGET_TLI": "latest", "NAME:LOCATION": "a:/b", "AWS_AWAIT_SNAPSHOTS_TIMEOUT": "9",
    "AWS_SNAPSHOT_LOCK_COOL_OFF_PERIOD": "5", "AWS_SNAPSHOT_LOCK_DURATION": "5",
    "AWS_SNAPSHOT_LOCK_EXPIRATION_DATE": "2024-01-07T21:53:00.606Z",
}  # fmt: skip
# How many command lines of each command are made up.
BY_CHANCE = 60
BAD = ["foo", "-1", "0", "", "1.5", "10M"]

SIZES = '''1|1B|1b|b|B|MB|IB|1.5MB|.5MB|1.MB|1e3MB|1_000|1_0MB|+5|+5MB|-5MB| 10 | 10MB|10MB |10 MB|10 M B|1YB|1ZiB|1.5|1.5B|\
1.9kib|0.5B|0.0001KB|10M|10m|10iB|10Ki|10KKB|inf|infMB|nanMB|NaN|1e400YB|٣|٣MB|1.5miB|0x10|1,5MB|1kb|1KiB|1.0B|10 iB|1QB|\
99999999999999999999999|\u00a010\u00a0|1 0|1.5.5MB|1EB|1PB|1TB|3.999999KB|1__0|_1|1_|1._5MB|1_.5MB|eMB|.MB|0.1YiB|ß|ä'"\\MB'''
INTS = '''1_0| 5 |+5|٣|１२|1 0|0x5|5L|007|-0|+0|1__0|99999999999999999999|-99999999999999999999|\u20035|5\n|५|--5|+-5|+|-|²|_5|5_|\
1\x1c|\u20031\u0085|\'\'|"|ä\u0301\u200b|it's'''
TAGS = '''a,b|a,b,c|a|a,|,b| a , b |aws:x,y|AWS:x,y|a;b,c|ä,b|a,ä|a b,c d|a,b=c|a\n,b| ,b|| |a,"b"|a,٣|xaws:,b|a\u00a0b,c|aws,b|\
_.:/=+-@,x|aw,b|a,\x1fb|é'''
CSV = '''a,b|a,b,c|a|a,|,b| a , b |"a,b",c|"a""b",c|a,"b\nc"|a,b\nc,d|a\n,b|a,"b|"a"x,b|a "b",c|| |\n|,|a,b\r|a,b\n\r\n|a, "b,c"|"a|\
'a,b',c|a\\,b,c|\n\na,b|"a\n,b",c|a,"|"|"",""|""""|"a"",b|"a" ,b|"a"\n,b|ä,ö|a,b,|,,|aws:a,b'''
NAMES = '''last|LAST|auto|Oldest|20260101T000000|20260101T000000x|x20260101T000000| |20260101T000000\n|20260101t000000|latest|\
latest-full|last-full|last-failed|first|oldest|٢0260101T000000|2026010T0000000|ä|a/b'''
LEVELS = '''low|LOW|Medium|hIgh|1|-22|+5| 5|1_0||99999999999999999999|max| low|٣|--5|5\n|-|²|-٣|5 |Low\n|1.5'''
DATES = '''2024-01-07T21:53:00Z|2024-1-7T1:3:0.6Z|2024-01-07T21:53:00.606|2024-13-07T21:53:00.606Z|2024-02-30T21:53:00.606Z|\
2024-02-29T21:53:00.6060001Z|2024-01-07t21:53:00.606z| 2024-01-07T21:53:00.606Z|2024-01-07T21:53:61.606Z|2023-02-29T0:0:0.0Z|\
24-01-07T21:53:00.606Z|0000-01-07T21:53:00.606Z|2024-01-07T24:53:00.606Z|2024-01-07T21:53:00.606Z |2024-01- 7T21:53:00.1Z|\
2024-1-07T21:60:00.606Z|2024-01-07T21:53:00.Z|2024-001-07T21:53:00.1Z|2024-+1-07T21:53:00.1Z|2024-00-07T1:1:1.1Z|2024-1-0T1:1:1.1Z'''
LINES = {
    "wal-archive": """x s|x|x s -z w|-z x s w|x -z s w|x s w -z|x -- s w|x s -- w|x s w --|-- x s w|x -- -- a|x -- a --|x s -- --
        -z --lz4 x s w|--lz4 -z x s w|--xz --zstd --snappy x s w|-zz x s w|-zj x s w|-z --gzip x s w|-zvt x s w|-ztfoo x s w
        --tags a,b x s w|--tags a,b -z x s w|--tags a,b -- x s w|x s w --tags a,b|--tags a,b c,d -z x s w|--tags -z x s w
        --tags a,b --tags c,d -z x s w|--tag a,b --tag c,d x s w|--tag a,b --tags c,d -z x s w|--tags c,d --tag a,b x s w
        --tag= --tags a,b -z x s w|--tags=a,b x s w|--tags=a,b c,d x s w|--tag=a,b --tag= x s w|x s w --tags|x s w --tags=
        x s w --history-tags|x s w --history-tag a,b --history-tags c,d|x s w --history-tags a,b --tags c,d
        x s w --tags a,b c|x s w --tags a,b c --bogus|--bogus --tags c|--history-tags a,b -z x s w --tags c,d
        x s w -e AES256|x s w -eaws:kms|x s w -e=AES256|x s w -e|x s w -e -z|x s w -e -- AES256|x s w -e aws:kms -e AES256
        x s w --compression-level -5|x s w --compression-level=-5|x s w --compression-level -x|x s w --compression-level
        -z -e AES256 --compression-level 3 --endpoint-url u --tags a,b c,d --history-tags e,f --cloud-provider aws-s3 x s w""",
    "wal-restore": """x s n|x s|x|x s n d e|x s --no-partial n d|x s n --no-partial d|x --no-partial s n d|--no-partial x s n d
        x s n d -p 4|x s n d -p4|x s n d -p=4|x s n d -p -4|x s n d -p4x|x s n d -p|x s -p 4 --spool-dir /q n d|x s n d -tp4
        --endpoint-url u --cloud-provider aws-s3 x s --read-timeout=60 n d|x s n d --par 3 --parallel 4|x s -- n -- d""",
    "backup": """|x|x s t|-5 s|-5 -x|-5 -.5|-5 -1.5|-5 -5.|-5 -5x|--=x|-=x|- -|- - -|--|x --|-- x|-- x s|-- x -- s|x s --|x s -- --
        x s -v|x s -vv|x s -vvv|x s -v -v --verbose|x s -q|x s -qq|x s -v -q|x s -q -v|x s -vq|x s -tv|x s -vt|x s -vJ3|x s -vJ 3
        x s -vJ|x s -v=3|x s -v=|x s -v3|x s -vx|x s -v-q|x s --verbose=3|x s --test=|x s -t=|x s -tt|--ver|--vers|--verb|--v
        --version|-V|-VV|-Vx|-vV|-xV|x --version|--bogus --version|--version --bogus|--version --ver|--ver --version|-J0 -V|-V -J0
        --help=|-h|-h foo x s|-hfoo x s|x s -h -v|x s -h|--bogus|-x|x s --bogus|x s --bogus=3|x s --bogus 3|x s -x -y z|x s -Z=
        x s --endpoint-url|x s --endpoint-url=|x s --endpoint-url= -v|x s --endpoint-url u --endpoint-url w|--end u x s --endp=w
        x s -d -5|x s -d -x|x s -d --|x s -d-- |x s --dbname=--|x s -J--|x s -d=|x s -d|x s -d -v|x s --dbname -d -d|-d=a=b x s
        x s --profile a|x s --profile a -P b|x s -P b --profile a|x s -Pa|x s -P=a|x s --aws-profile=a|x s --pro a|x s -P a=b
        x s --credential default|x s --default default|x s --azure-credential azure-cli --default managed-identity|x s --cred no
        x s --snapshot-disk a --snapshot-disk b|x s --snapshot-instance a|x s --snapshot-instance=|x s --gcp-zone a --snapshot-zone b
        x s --snapshot-zone b --gcp-zone a|x s --snapshot-d a --snapshot-i b|x s --snapshot-disk=|x s --aws-s governance
        x s --aws-snapshot-lock-duration 3 --aws-snapshot-lock-expiration-date 2024-1-7T1:3:0.6Z|x s --aws-snapshot-lock-d 3
        x s --aws-snapshot-lock-expiration-date 2024-1-7T1:3:0.6Z --aws-snapshot-lock-duration 3|x s --gcp-p p --gcp-z z
        x s --tag|x s --tag -- a,b|x s --ta a,b|x s --ta=a,b|x s --t|x s --tags a,b --tags c,d|x s --tags|x s --tag= --tag a,b
        x s -z -j|x s -j -z|x s -zj|x s --gz --bz|x s --lz4 -z|x s --snappy --lz4|x s -S 1GB --max-archive-size 2GB|-z -z x s
        --user postgres --name backup-20261123083817 --gzip --encryption aws:kms --immediate-checkpoint --jobs 4 x s
        x -z s|-z x s|x s -z|x -J 3 s|x s y -z|x y z -z s|x s -e none|x s -e aes256|x s --encryption=aws:kms|x s --enc AES256
        x s -J|x s -J -z|x s -J3 -J4|x s -J 0|x s --jo=0|x s --jobs=0 --bogus|--bogus --jobs=0|--jobs 0 -- --ver|-z --ver -j""",
    "backup-list": """x s --format json|x s --format=console|x s --format Console|x s --format=|x s --format|--f json x s|-h|x -h s
        x s -t|x s y|x s --format json --format console|x s -j|x s -- --format json""",
    "backup-show": """x s|x s b c|x s --format json b|--format json x s b|x --format json s b|x s b --format text|x s latest|x s -1|x s -""",
    "backup-delete": """x s|x|x s -b b|x s -r p|x s -b b -r p|x s -r p -b b|x s -bb|x s -b b -b c|x s -b|x s -r|x s -b=|x s -r=
        x s -b b --dry-run -m 2 --batch-size 3 --check-object-lock|--retention-policy p x s|--ret p x s|x s -m 2|x s y -m 2
        x s -b b --retention-policy=|x s --backup-id --dry-run|x s -b -- b|x s y|--dry-run x|x s --backup b -r|x s -b--""",
    "backup-keep": """x s b|x s|x s b -r|x s b -s|x s b --target full|x s b --target standalone|x s b -r -s|x s b -s -r|x s b -rs
        x s b --target full -r|x s b -r --target full|x s b --rel --status|x s b --target|x s b --target=full -s|x s -s b|-s x s b
        x s b -rr|x s b --target full --target standalone|x s -r|x s b c|x s b c -r|x s b --target bad -r""",
    "check-wal-archive": """x s --timeline 2|x s --timeline=2|x s --timeline|--timeline 2 x s|x s y|x|x s --ti 2|x s --t 2|x s -t|-t x s""",
    "restore": """x s b|x s|x s b d e|x s b -v d|x s -v b d|x -v s b d|-v x s b d|x s b d -v|x s b --cloud-provider aws-s3 d
        --cloud-provider aws-s3 --endpoint-url u x s b d|--endpoint-url u x s b --cloud-provider aws-s3 --credential default d
        x s b d --target-time t|x s b d --target-lsn l|x s b d --target-time t --target-lsn l|x s b d --target-lsn l --target-time t
        x s b d --target-tli 0|x s b d --target-tli current|x s b d --target-tli CURRENT|x s b d --target-t 1|x s auto d --target-l l
        x s b d --tablespace a:/b --tablespace c:/d:e|x s b d --tablespace a|x s b d --tablespace|x s b d --tablespace a: -t
        x s b d --snapshot-recovery-instance i|x s b d --snapshot-r i|x s b d --gcp-zone z --snapshot-recovery-zone y|x s b d --aws-r r
        x s -- b d|x -- s b d|x s b -- d|x s b d --|-- x s b d|x s b d -- e""",
}  # fmt: skip


def main():
    if sys.version_info[:2] != (3, 11):
        sys.exit("argparse's texts are those of Python 3.11: run this with a Barman installed there")
    barman = Barman()
    OUT.mkdir(parents=True, exist_ok=True)
    defaults = {name: barman.run(name, words)["parsed"] for name, words in ENOUGH.items()}
    usages = {name: {str(width): barman.usage(name, width) for width in WIDTHS} for name in ENOUGH}
    # A long name stands on a line of its own; argparse knows the program by argv[0].
    usages["backup"]["as a-rather-long-name-for-a-backup-program"] = barman.usage(
        "backup", COLUMNS, "a-rather-long-name-for-a-backup-program"
    )
    write(OUT / "usage.json", [json.dumps(usages, indent=1, ensure_ascii=False, sort_keys=True)])
    write(OUT / "defaults.json", [json.dumps(defaults, indent=1, sort_keys=True)])
    lines = []
    for name in ENOUGH:
        for words in unique(itertools.chain(by_hand(name), by_rule(barman, name), by_chance(barman, name))):
            lines.append(recorded(barman.run(name, words), name, words, usages, defaults))
    write(OUT / "argv.jsonl", lines)
    print(f"{len(lines)} command lines of Barman {barman.version}")


def by_hand(name):
    for words in re.split(r"[|\n]", LINES[name]):
        yield words.split()
    # Words with spaces in them.
    yield [*ENOUGH[name], "--bogus with space"]
    yield ["-x y", *ENOUGH[name]]
    yield [*ENOUGH[name], "-t foo"]
    yield [*ENOUGH[name], "--bogus ü", "ü"]
    if name == "backup-delete":
        yield ["x", "s", "-r", "RECOVERY WINDOW OF 7 DAYS"]
        yield ["x", "s", "--retention-policy=RECOVERY WINDOW OF 7 DAYS"]
        yield ["--retention-policy", "REDUNDANCY 3", "x", "s"]


def by_rule(barman, name):
    enough = ENOUGH[name]
    options = options_of(barman.run(name, ["--help"], columns=300)["stdout"])
    shared = options_of(barman.run("check-wal-archive", ["--help"], columns=300)["stdout"])
    for spellings, metavar in options:
        # What all commands share is tried out on one; abbreviations depend on the command.
        own = name == "check-wal-archive" or (spellings, metavar) not in shared
        good = GOOD.get(metavar, metavar.strip("{}").split(",")[-1] if metavar.startswith("{") else "foo")
        for spelling in spellings:
            yield from spellings_of(spelling, metavar and good, enough) if own else ()
        # Every abbreviation, also those that are ambiguous or another option.
        for long in (spelling for spelling in spellings if spelling.startswith("--")):
            value = ["=" + good] if metavar else [""]
            for end in range(3, len(long)):
                yield [*enough, long[:end] + value[0]]
        if metavar and own:
            for bad in [*BAD, *special_values(metavar)]:
                yield [*enough, f"{spellings[0]}={bad}"]
    # Every pair of flags, for those that exclude one another.
    flags = [spellings[0] for spellings, metavar in options if not metavar and spellings[0] not in ("-V", "--help")]
    for first, second in itertools.permutations(flags, 2):
        yield [*enough, first, second]


def by_chance(barman, name):
    """Always the same command lines for a command, made of what it knows and what it does not."""
    chance = random.Random(name)
    options = options_of(barman.run(name, ["--help"], columns=300)["stdout"])
    spellings = [spelling for names, _ in options for spelling in names if spelling not in ("-V", "--version", "--help")]
    values = [*GOOD.values(), *BAD, "full", "json", "aws-s3", "-", "a=b", "ä", "two words", "-two words"]

    def word():
        kind, spelling = chance.random(), chance.choice(spellings)
        if kind < 0.25:
            return spelling
        if kind < 0.35:
            return spelling[: chance.randint(2, len(spelling))]
        if kind < 0.45:
            return spelling + "=" + chance.choice(values)
        if kind < 0.50:
            return "-" + "".join(chance.choices("vqtzjebrsPp=3-x", k=chance.randint(1, 4)))
        if kind < 0.55:
            return "--"
        return chance.choice(values) if kind < 0.8 else "x"

    for _ in range(BY_CHANCE):
        yield [word() for _ in range(chance.randint(1, 9))]


def spellings_of(spelling, good, enough):
    if not good:
        yield [spelling, *enough]
        yield [*enough, spelling]
        yield [*enough, spelling + "=1"]
        yield [enough[0], spelling, *enough[1:]]
        return
    yield [spelling, good, *enough]
    yield [*enough, spelling, good]
    yield [*enough, spelling, "--", good]
    yield [*enough, f"{spelling}={good}"]
    yield [*enough, spelling]
    yield [*enough, spelling, "-v"]
    yield [enough[0], spelling, good, *enough[1:]]
    if not spelling.startswith("--"):
        yield [*enough, spelling + good]
        yield [*enough, "-t" + spelling[1:] + good]


def special_values(metavar):
    kinds = {
        "MAX_ARCHIVE_SIZE": SIZES, "JOBS": INTS, "MINIMUM_REDUNDANCY": INTS, "READ_TIMEOUT": INTS, "TAGS_APPEND": TAGS,
        "TAGS_LIST": CSV, "BACKUP_NAME": NAMES, "COMPRESSION_LEVEL": LEVELS, "AWS_SNAPSHOT_LOCK_EXPIRATION_DATE": DATES,
        "AWS_SNAPSHOT_LOCK_DURATION": "1|36500|36501| 5|٣", "AWS_SNAPSHOT_LOCK_COOL_OFF_PERIOD": "1|72|73|+5",
        "TARGET_TLI": "current|latest|CURRENT|1| 1|+1|99999999999999999999",
    }  # fmt: skip
    values = kinds[metavar].split("|") if metavar in kinds else []
    if metavar == "TAGS_APPEND":
        values += ["a" * 128 + ",b", "a" * 129 + ",b", "a," + "b" * 256, "a," + "b" * 257]
    return values


def options_of(help_text):
    """Spellings and metavar ("" for a flag) of every option in a help text."""
    options = []
    for line in help_text.split("\n"):
        if not re.match(r"  -", line):
            continue
        parts = re.split(r" {2,}", line.strip())[0].split(", ")
        names = [part.split(" ", 1)[0] for part in parts]
        options.append((names, parts[0].split(" ", 1)[1].strip("[]").removesuffix(" ...") if " " in parts[0] else ""))
    return options


def recorded(seen, name, words, usages, defaults):
    line = {"command": name, "argv": words, "exit": seen["exit"]}
    if seen["parsed"] is not None:
        line["exit"] = None
        line["parsed"] = {key: value for key, value in seen["parsed"].items() if defaults[name][key] != value}
    elif "Traceback" in seen["stderr"]:
        line["crash"] = seen["stderr"].strip().split("\n")[-1]
    elif seen["exit"] == 0:
        line["stdout"] = seen["stdout"] if re.fullmatch(r"[a-z-]+ [0-9.]+\n", seen["stdout"]) else "(help)"
    else:
        usage = usages[name][str(COLUMNS)]
        line["usage"] = seen["stderr"].startswith(usage)
        line["stderr"] = seen["stderr"].removeprefix(usage)
    return json.dumps(line, ensure_ascii=False)


def unique(lines):
    return (list(words) for words in dict.fromkeys(tuple(words) for words in lines))


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


class Barman:
    """The commands, loaded once; each run happens in a child of its own."""

    def __init__(self):
        distribution = metadata.distribution("barman")
        self.version = distribution.version
        entry_points = {point.name: point for point in distribution.entry_points}
        self.commands = {name: entry_points[f"barman-cloud-{name}"].load() for name in ENOUGH}

    def usage(self, name, columns, program=None):
        stderr = self.run(name, ["-h"], columns, program)["stderr"]
        return stderr[: stderr.rindex("\n", 0, -1) + 1]

    def run(self, name, words, columns=COLUMNS, program=None):
        pipes = {stream: os.pipe() for stream in ("stdout", "stderr", "parsed")}
        child = os.fork()
        if child == 0:
            os.dup2(pipes["stdout"][1], 1)
            os.dup2(pipes["stderr"][1], 2)
            self.be(name, words, columns, program, pipes["parsed"][1])
        for _, write_end in pipes.values():
            os.close(write_end)
        seen = {}
        for stream, (read_end, _) in pipes.items():
            with open(read_end, encoding="utf-8", errors="surrogateescape") as file:
                seen[stream] = file.read()
        _, status = os.waitpid(child, 0)
        parsed = json.loads(seen["parsed"]) if seen["parsed"] else None
        return seen | {"exit": os.waitstatus_to_exitcode(status), "parsed": parsed}

    def be(self, name, words, columns, program, parsed_fd):
        """Runs the command in this process and ends it; what argparse returned goes into `parsed_fd`."""
        os.environ.update(COLUMNS=str(columns), AWS_EC2_METADATA_DISABLED="true")
        sys.argv = [f"/usr/bin/{program or 'barman-cloud-' + name}", *words]
        returned = []
        parse_args = argparse.ArgumentParser.parse_args

        def watched(parser, *args, **kwargs):
            returned.append(parse_args(parser, *args, **kwargs))
            return returned[-1]

        argparse.ArgumentParser.parse_args = watched
        status = 0
        try:
            self.commands[name]()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            print(f"Traceback\n{type(error).__name__}: {error}", file=sys.stderr)
            status = 1
        if returned:
            os.write(parsed_fd, json.dumps(vars(returned[0]), default=str).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
