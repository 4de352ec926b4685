#!/usr/bin/env python3
"""Checks uvloop: check.py UVLOOP

The sums must be those that Python counts; every timer must be closed and freed
(on the loop's thread, or the program aborts), most of them while the loop runs,
and the loop must be empty in the end. Requests too late must say so; bad input.
WANE_OPTIONS is passed on.
"""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import checks  # noqa: E402


class Checks(checks.Checks):
    def report(self, name, code, *args, options=""):
        done = self.run(*args, options=options)
        self.check(f"{name}: exit", done.returncode == code,
                   f"exit {done.returncode}: {done.stderr[-2000:]}")
        got = dict(line.rsplit(" ", 1) for line in
                   done.stdout.decode().split("\n") if line)
        if done.returncode != code or not got:
            return None
        self.check(f"{name}: loop", got.pop("loop", "") == "empty", done)
        got = {key: int(value) for key, value in got.items()}
        self.check(f"{name}: requests", got["requests"] == args[0], got)
        self.check(f"{name}: timers", got["timers"] == got["closed"] ==
                   got["freed"] == args[0], got)
        return got

    def count(self, name, files, requests, options, most):
        paths = list(files)
        lines = sum(files[paths[i % len(paths)]] for i in range(requests))
        got = self.report(name, 0, requests, 600000, *paths, options=options)
        if got:
            self.check(f"{name}: lines", got["lines"] == lines and
                       got["late"] == got["failed"] == 0, got)
            self.check(f"{name}: closed while the loop ran",
                       got["closed while the loop ran"] >= most * requests, got)

    def bad_input(self, root, path):
        for args in ([], [1], [1, 1], ["x", 1, path], [1, "", path],
                     ["-1", 1, path], [1, "99999999999999999999", path]):
            done = self.run(*args)
            self.check(f"usage {args}", done.returncode == 2 and
                       b"usage: " in done.stderr and not done.stdout, done)
        got = self.report("missing", 1, 6, 600000, path, root + "/missing",
                          root)
        self.check("missing: failed", got and got["failed"] == 4, got)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    checks = Checks(os.path.abspath(sys.argv[1]))
    with tempfile.TemporaryDirectory() as root:
        files = {}
        for number in range(20):
            path = os.path.join(root, f"f{number}")
            files[path] = number * 997
            with open(path, "wb") as file:
                file.write(b"some line\n" * files[path] + b"end")
        # 64 KiB for each request: a cycle every hundred or so.
        checks.count("few cycles", files, 3000, "", 0.5)
        checks.count("many cycles", files, 3000, "stress=alloc:25", 0.8)
        checks.count("fewer than at once", files, 3, "", 0)
        zero = "/dev/zero"  # has no end
        got = checks.report("late", 0, 12, 20, zero)
        checks.check("late: all", got and got["late"] == 12 and
                     got["lines"] == 0, got)
        checks.bad_input(root, next(iter(files)))
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
