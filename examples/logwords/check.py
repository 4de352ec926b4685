#!/usr/bin/env python3
"""Checks logwords against a search of its own: check.py LOGWORDS

Compares what it counts in known and random files with what Python finds in
them, with few threads and many, with few cycles and very many; looks whether a
pattern is compiled once while it is used, again when it was not, and given back
in the end; whether notes leave with their words; tries bad patterns, missing
files, bad input. WANE_OPTIONS is passed on. CHECK_SEED repeats a run.
"""
import collections
import os
import random
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import checks  # noqa: E402

KEEP_RECENT = 4
SLACK = 8  # objects that a conservative collector may still take for held
FEW = [b"error", b"^[a-z]+ warn", b"(disk|net)[0-9]$", b"x*zebra"]
BAD = [b"(open", b"[z-a]"]
WORDS = [b"error", b"warn", b"Warn", b"disk0", b"net1", b"the", b"a", b"of",
         b"zebra", b"xxzebra", b"don't", b"x-ray", b"", b"\xc3\xa4", b"42"]


def make_files(root, rng, count, lines):
    """The files by path, as lists of lines; odd ones first."""
    files = [[], [b""], [b"error"] * 3, [b"w" * 70000 + b" error " + b"v" * 9],
             [b"an error without an end"]]
    while len(files) < count:
        files.append([b" ".join(rng.choices(
            WORDS + [b"w%s" % bytes(rng.choices(b"abcdefghij", k=3))],
            k=rng.randint(0, 9))) for _ in range(rng.randint(0, lines))])
    paths = {}
    for number, content in enumerate(files):
        path = os.path.join(root, f"f{number}")
        paths[path] = content
        with open(path, "wb") as file:
            file.write(b"".join(line + b"\n" for line in content)
                       [:-1 if number == 4 else None])
    return paths


def words_of(line):
    return [word.lower() for word in re.findall(rb"[A-Za-z]+", line)]


def expect(files, patterns):
    matches = [0] * len(patterns)
    words = collections.Counter()
    for lines in files.values():
        for line in lines:
            found = [re.search(pattern, line) is not None
                     for pattern in patterns]
            matches = [a + b for a, b in zip(matches, found)]
            words.update(words_of(line) if any(found) else [])
    return matches, words


def numbers(line):
    return [int(number) for number in re.findall(rb"(?<= )\d+", line)]


class Checks(checks.Checks):
    def words_run(self, root, files, good, bad=(), missing=(), threads=4,
                  options=""):
        name = (f"{len(files)} files, {len(good)}+{len(bad)} patterns, "
                f"{threads} threads, '{options}'")
        list_path = os.path.join(root, "patterns")
        patterns = [*bad, *good]
        with open(list_path, "wb") as file:
            file.write(b"\n".join(patterns))
        done = self.run("--threads", threads, list_path, *files, *missing,
                        options=options)
        self.check(f"{name}: exit", done.returncode == bool(missing),
                   f"exit {done.returncode}: {done.stderr[-2000:]}")
        out = done.stdout.split(b"\n")
        if done.returncode > 1 or len(out) < 4:
            return None
        matches, words = expect(files, good)
        lines = sum(map(len, files.values()))
        expected = [b"match %d %s" % pair for pair in
                    zip([0] * len(bad) + matches, patterns)]
        self.check(f"{name}: matches", out[:len(patterns)] == expected, out)
        self.top(name, out[len(patterns):-4], files, good, words)
        self.check(f"{name}: totals", numbers(out[-4]) == [
            len(files) + len(missing), len(missing), lines, words.total(),
            len(words)], out[-4])
        once = sum(count == 1 for count in words.values())
        dropped, left, notes = numbers(out[-3])
        self.check(f"{name}: notes", [dropped, left] == [
            once, len(words) - once] and left <= notes <= left + SLACK,
                   out[-3])
        self.errors(name, done.stderr, bad, missing, threads)
        asked, compiled, freed = numbers(out[-2])
        told = done.stderr.count(b"Invalid argument")
        self.check(f"{name}: asked", asked == lines * len(good) + told, asked)
        self.check(f"{name}: freed", 0 <= compiled - freed <=
                   min(KEEP_RECENT, len(good)) + SLACK, out[-2])
        return compiled

    def top(self, name, shown, files, good, words):
        """The ten words, each with a place where it really is."""
        pattern = rb"word (\d+) (\w+) first in (.*):(\d+)"
        found = [re.fullmatch(pattern, line).groups() for line in shown]
        self.check(f"{name}: top", [int(row[0]) for row in found] == [
            count for _, count in words.most_common(10)], shown)
        for count, word, path, number in found:
            line = files[os.fsdecode(path)][int(number) - 1]
            self.check(f"{name}: word", words[word] == int(count) and
                       word in words_of(line) and
                       any(re.search(p, line) for p in good), (word, line))

    def errors(self, name, stderr, bad, missing, threads):
        told = [line for line in stderr.split(b"\n")
                if line.startswith(b"logwords: ")]
        for pattern in bad:
            count = told.count(b"logwords: '%s': Invalid argument" % pattern)
            self.check(f"{name}: bad pattern", 1 <= count <= threads, stderr)
        for path in missing:
            count = sum(line.startswith(b"logwords: %s: " % os.fsencode(path))
                        for line in told)
            self.check(f"{name}: missing", count == 1, stderr)

    def bad_input(self, paths):
        for args in ([], [paths[2]], ["--threads", "0", *paths[:2]],
                     ["--threads", "65", *paths[:2]],
                     ["--threads", "x", *paths[:2]], ["--threads", "2"],
                     [paths[0] + "/none", paths[2]], ["/", paths[2]]):
            done = self.run(*args)
            self.check(f"bad input {args}", done.returncode == 2 and
                       (b"logwords: " in done.stderr or
                        b"usage: " in done.stderr) and not done.stdout, done)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seed = int(os.environ.get("CHECK_SEED", random.randrange(1 << 32)))
    print(f"CHECK_SEED={seed}")
    rng = random.Random(seed)
    many = [b"w%c+" % letter for letter in b"abcdefghij"] + FEW + [
        b"w%c[a-e]" % letter for letter in b"fghij"]
    checks = Checks(os.path.abspath(sys.argv[1]))
    with tempfile.TemporaryDirectory() as root:
        files = make_files(root, rng, 60, 60)
        missing = [os.path.join(root, "missing"), root]
        for threads in (1, 4, 32):
            compiled = checks.words_run(root, files, FEW, threads=threads)
            checks.check("compiled once: held", compiled == len(FEW), compiled)
        compiled = checks.words_run(root, files, many, options="gc_percent=-1")
        checks.check("compiled once: no cycle", compiled == len(many),
                     compiled)
        compiled = checks.words_run(root, files, many,
                                    options="stress=alloc:50")
        checks.check("compiled again", compiled and compiled > len(many),
                     compiled)
        checks.words_run(root, files, many, BAD, missing, 32)
        checks.words_run(root, files, FEW, BAD, missing, 3, "verify=1")
        checks.words_run(root, files, many, BAD, missing, 5,
                         "verify=1,stress=alloc:300")
        checks.words_run(root, files, [], BAD, [])
        checks.bad_input(list(files))
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
