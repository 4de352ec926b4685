#!/usr/bin/env python3
"""Checks filehandle against a search of its own: check.py FILEHANDLE

Compares what it prints for a few hundred known and random files with what
Python finds in them; looks whether the report charges the right line of main.c
and nearly all forgotten files were closed; does it again with a cycle at every
few allocations (a net on the outer struct would close files that are still
read), and with fewer file descriptors than forgotten files; tries bad input.
WANE_OPTIONS is passed on. CHECK_SEED repeats a run.
"""
import os
import random
import re
import resource
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import checks  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SLACK = 4  # files that a conservative collector may still take for reachable


def make_files(root, rng):
    """The files, the first few of them odd ones."""
    contents = [b"", b"\n", b"needle", b"needle\n\n\n", b"no newline at end",
                b"a\0needle\0\nafter\0\n", b"x" * 100000 + b"needle\nlast",
                b"\n" * 40000 + b"needle", b"needl\ne", b"\xff\xfeneedle\r\n"]
    contents += [b"needle\n" + b"a line after\n" * 60000] * 20
    words = [b"hay", b"straw", b"needle", b"stack", b"nee", b"dle"]
    while len(contents) < 300:
        lines = [b" ".join(rng.choices(words, [9, 9, .05, 9, 9, 9], k=8))
                 for _ in range(rng.randint(0, 60))]
        contents.append(b"\n".join(lines) + rng.choice([b"", b"\n"]))
    paths = []
    for number, content in enumerate(contents):
        paths.append(os.path.join(root, f"f{number}"))
        with open(paths[-1], "wb") as file:
            file.write(content)
    return paths, contents


def expect(path, content, after):
    """What filehandle should print for a file; and whether it has a match."""
    path = path.encode()
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    found = [i for i, line in enumerate(lines) if b"needle" in line][:1]
    out = [b"%s:%d:%s\n" % (path, i + 1, lines[i]) for first in found
           for i in range(first, min(first + after + 1, len(lines)))]
    out.append(b"%s: %d lines, %s\n" % (
        path, len(lines), b"a match" if found else b"no match"))
    return b"".join(out), len(found)


def line_of(place):
    with open(os.path.join(HERE, "main.c"), encoding="ascii") as source:
        return next(number for number, line in enumerate(source, 1)
                    if f"/* place: {place} */" in line)


class Checks(checks.Checks):
    def search(self, name, paths, contents, after, exact=False, **more):
        expected = [expect(*file, after) for file in zip(paths, contents)]
        output = b"".join(text for text, _ in expected)
        matches = sum(found for _, found in expected)
        done = self.run(str(after), "needle", *paths, **more)
        self.check(f"{name}: exit", done.returncode == (0 if matches else 1),
                   f"exit {done.returncode}: {done.stderr[-2000:]}")
        self.check(f"{name}: lines", done.stdout.startswith(output),
                   f"{done.stdout[:300]} and so on")
        report = done.stdout[len(output):].decode(errors="replace")
        counts = re.search(r"descriptors: (\d+) before a collection, (\d+) "
                           r"after\n", report)
        nets = {int(line): (int(opened), int(forgotten))
                for line, opened, forgotten in re.findall(
                    r"main\.c:(\d+): (\d+) opened, (\d+) never closed", report)}
        self.check(f"{name}: report", counts and len(nets) == 2, report)
        if not counts or len(nets) != 2:
            return
        careful = nets.get(line_of("careful"))
        careless = nets.get(line_of("careless"), (0, 0))
        before, left = int(counts[1]), int(counts[2])
        self.check(f"{name}: careful", careful == (len(paths), 0), report)
        self.check(f"{name}: careless", careless[0] == len(paths) and
                   matches - SLACK <= careless[1] <= matches,
                   f"{matches} matches: {report}")
        self.check(f"{name}: descriptors", left == matches - careless[1] and
                   (not exact or before == matches), report)

    def bad_input(self, root, paths):
        for args in ([], ["1"], ["1", "needle"], ["x", "needle", paths[2]],
                     ["", "needle", paths[2]], ["-1", "needle", paths[2]]):
            done = self.run(*args)
            self.check(f"usage {args}", done.returncode == 2 and
                       b"usage: " in done.stderr and not done.stdout, done)
        for path, why in ((root, b"Is a directory"),
                          (root + "/missing", b"No such file"), ("", b"No such"),
                          (paths[0] + "/x", b"Not a directory")):
            done = self.run("0", "needle", path, paths[2])
            self.check(f"bad file '{path}'", done.returncode == 2 and
                       done.stderr.startswith(b"filehandle: ") and
                       why in done.stderr and b"f2:1:needle" in done.stdout,
                       done)
        done = self.run("0", "needle", *paths[:2])
        self.check("no match", done.returncode == 1, done)
        with open("/dev/full", "wb") as full:
            code = subprocess.run([self.program, "0", "needle", paths[2]],
                                  stdout=full, stderr=subprocess.DEVNULL,
                                  check=False).returncode
        self.check("full disk", code == 2, f"exit {code}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seed = int(os.environ.get("CHECK_SEED", random.randrange(1 << 32)))
    print(f"CHECK_SEED={seed}")
    checks = Checks(os.path.abspath(sys.argv[1]))
    with tempfile.TemporaryDirectory() as root:
        files = make_files(root, random.Random(seed))
        checks.search("no cycles", *files, 0, exact=True,
                      options="gc_percent=-1")
        checks.search("some cycles", *files, 3)
        checks.search("many cycles", *files, 100000,
                      options="stress=alloc:3")
        checks.search("few descriptors", *files, 1, options="gc_percent=-1",
                      preexec_fn=lambda: resource.setrlimit(
                          resource.RLIMIT_NOFILE, (40, 40)))
        checks.bad_input(root, files[0])
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
