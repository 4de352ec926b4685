"""What the check.py of the examples share: running the program, and counting.

WANE_OPTIONS is passed on to it, with those of the run behind.
"""
import os
import subprocess


class Checks:
    def __init__(self, program):
        self.program = program
        self.passed = self.failed = 0

    def check(self, name, ok, detail=""):
        self.passed += bool(ok)
        self.failed += not ok
        if not ok:
            print(f"FAILED {name}: {detail}")

    def run(self, *args, options="", **more):
        given = os.environ.get("WANE_OPTIONS", "")
        joined = ",".join(filter(None, [given, options]))
        return subprocess.run([self.program, *map(str, args)],
                              capture_output=True, timeout=600, check=False,
                              env={**os.environ, "WANE_OPTIONS": joined},
                              **more)
