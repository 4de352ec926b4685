#!/usr/bin/env python3
"""Checks weakcache: check.py WEAKCACHE

The answers must be those that Python finds in the same files with the same
random numbers; no path may have two documents at once; every entry must go with
its document, all of them in the end, and none with an older one (the counts
must balance). Runs with few cycles and with very many; tries bad input.
WANE_OPTIONS is passed on. CHECK_SEED repeats a run.
"""
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import checks  # noqa: E402

SLACK = 8  # documents that a conservative collector may still take for held
MASK = (1 << 64) - 1


def make_files(root, rng, count, size):
    contents = {}
    for number in range(count):
        folder = os.path.join(root, f"d{number % 5}", "e" * (number % 3 + 1))
        os.makedirs(folder, exist_ok=True)
        lines = [rng.randbytes(rng.randint(0, 60)).replace(b"\n", b"")
                 for _ in range(rng.randint(0, size))]
        content = b"\n".join(lines) + rng.choice([b"", b"\n"])
        path = os.path.join(folder, f"f{number}")
        with open(path, "wb") as file:
            file.write(content)
        contents[path] = content.count(b"\n") + (content[-1:] not in (
            b"", b"\n"))
    return contents


def randoms(seed):
    state = seed
    while True:
        state = (state + 0x9e3779b97f4a7c15) & MASK
        z = ((state ^ state >> 30) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ z >> 27) * 0x94d049bb133111eb) & MASK
        yield z ^ z >> 31


def expect(files, threads, requests):
    """How many lines are in the files that will be asked for."""
    total = 0
    for seed in range(1, threads + 1):
        numbers = randoms(seed)
        for _ in range(requests):
            total += files[next(numbers) % len(files)]
    return total


class Checks(checks.Checks):
    def serve(self, root, files, threads, requests, options=""):
        name = f"{len(files)} files, {threads} threads, '{options}'"
        done = self.run(threads, requests, root, options=options)
        self.check(f"{name}: exit", done.returncode == 0,
                   f"exit {done.returncode}: {done.stderr[-2000:]}")
        if done.returncode != 0:
            return None
        got = {key: int(value) for key, value in
               (line.rsplit(" ", 1) for line in done.stdout.decode().split("\n")
                if line)}
        # nftw's order is the directory's, which is the order of os.scandir.
        self.check(f"{name}: files", got["files"] == len(files), got)
        self.check(f"{name}: failed", got["failed"] == 0, got)
        self.check(f"{name}: doubles", got["doubles"] == 0, got)
        self.check(f"{name}: answers", got["lines"] ==
                   expect(walk(root, files), threads, requests), got)
        self.check(f"{name}: requests", got["hits"] + got["loads"] ==
                   threads * requests, got)
        self.check(f"{name}: entries", got["entries"] <= len(files), got)
        left = got["entries after a collection"]
        self.check(f"{name}: all gone", left <= SLACK, got)
        self.check(f"{name}: balance", got["loads"] - got["raced"] ==
                   got["removed"] + got["spared"] + left, got)
        return got

    def bad_input(self, root):
        for args in ([], [2, 10], ["0", 10, root], [65, 10, root],
                     [2, "x", root], [2, "-1", root], [2, "", root],
                     [2, 10, root + "/missing"], [2, 10, root + "/none"],
                     [2, 10, ""]):
            done = self.run(*args)
            self.check(f"bad input {args}", done.returncode == 2 and
                       (b"weakcache: " in done.stderr or
                        b"usage: " in done.stderr) and not done.stdout, done)


def walk(folder, files):
    """The line counts of all files in the order in which nftw meets them."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += walk(entry.path, files)
            elif entry.is_file(follow_symlinks=False):
                found.append(files[entry.path])
    return found


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seed = int(os.environ.get("CHECK_SEED", random.randrange(1 << 32)))
    print(f"CHECK_SEED={seed}")
    rng = random.Random(seed)
    checks = Checks(os.path.abspath(sys.argv[1]))
    with tempfile.TemporaryDirectory() as root:
        few, many = os.path.join(root, "few"), os.path.join(root, "many")
        few_files = make_files(few, rng, 24, 40)
        many_files = make_files(many, rng, 400, 400)
        os.makedirs(os.path.join(root, "none", "at", "all"))
        os.symlink("f0", os.path.join(few, "link"))
        os.mkfifo(os.path.join(few, "pipe"))
        checks.serve(few, few_files, 4, 20000)
        checks.serve(many, many_files, 4, 2500)
        checks.serve(many, many_files, 1, 1000)
        spared = 0
        for turn in range(10):  # it takes a stop at the right moment
            for every in (20, 60, 200):
                got = checks.serve(few, few_files, 4, 5000,
                                   f"stress=alloc:{every}")
                spared += got["spared"] if got else 0
            if spared > 0:
                break
        checks.check("some entry was renewed before its cleanup came",
                     spared > 0, spared)
        checks.bad_input(root)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
