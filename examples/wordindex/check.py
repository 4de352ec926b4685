#!/usr/bin/env python3
"""Checks wordindex against an independent count: check.py WORDINDEX

Makes a tree of known and of random files in a temporary directory, counts it
here in Python, and compares with what `WORDINDEX --json` says; then the exit
codes for bad input, an interrupt, and too little memory. WANE_OPTIONS is
passed on. CHECK_SEED repeats a run.
"""
import codecs
import collections
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LIMIT = 8 << 20
WORD = re.compile(rb"[A-Za-z\x80-\xff]+")


def make_known(root):
    def put(name, content):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return path

    put(b"plain", b"The cat, the hat: THE end.\n")
    put(b"empty", b"")
    put(b"no-newline", b"last word")
    put(b"lengths", b"a ab %s %s x%sy" % (b"b" * 64, b"c" * 65, b"d" * 300))
    put(b"sub/deep/er/utf8", "Größe größe Ελλάδα 日本語 naïve cat".encode())
    put(b"sub/latin1", "Größe".encode("latin-1"))
    put(b"sub/binary", b"\x7fELF\0 cat")
    put(b"late-nul", b"x " * 2048 + b"nul\0nul")
    put(b"late-latin1", b"y " * 2048 + b"gr\xf6\xdfe")
    put(b"cut-utf8", b"z" * 4095 + "é".encode() + b" after")
    put(b"cut-ascii", b"-" * 4090 + b"straddling")
    put(b"one-buffer", b"w" * 4 + b" " * 4092)
    put(b"overlong", b"\xc0\xaf cat")
    put(b"surrogate", b"\xed\xa0\x80 cat")
    put(b"half", b"end \xc3")
    put(b"at-limit", b"edge " + b" " * (LIMIT - 5))
    put(b"too-large", b"big " + b" " * LIMIT)
    put(b'odd "name"\n\\', b"quoted " * 9)
    put(b"odd \xff name", b"bytes " * 9)
    os.chmod(put(b"unreadable", b"secret"), 0)
    os.chmod(os.path.dirname(put(b"locked/file", b"secret")), 0)
    os.mkfifo(os.path.join(root, "pipe"))
    os.symlink("plain", os.path.join(root, "link"))
    os.symlink("..", os.path.join(root, "sub", "loop"))
    os.symlink("nowhere", os.path.join(root, "dangling"))


def make_random(root, rng):
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFéßжд日本".encode()
    letters = [bytes([c]) for c in letters[:32]] + ["éßжд日本"[i].encode()
                                                    for i in range(6)]
    vocabulary = [b"".join(rng.choices(letters, k=rng.randint(1, 12)))
                  for _ in range(20000)]
    for number in range(400):
        folder = os.path.join(root, f"r{number % 7}", f"s{number % 3}")
        os.makedirs(folder, exist_ok=True)
        size = int(rng.paretovariate(0.8) * 20)
        words = [vocabulary[int(rng.triangular(0, 19999, 0))]
                 for _ in range(min(size, 60000))]
        content = rng.choice([b" ", b"\n", b", ", b"42"]).join(words)
        if number % 20 == 0:  # noise, most of it not text
            content = rng.randbytes(rng.randint(0, 6)) + content
        with open(os.path.join(folder, f"f{number}"), "wb") as file:
            file.write(content)


def is_text(content):
    head = content[:4096]
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(head, final=len(head) < 4096)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def shown(text):
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "".join(chr(c) if c < 128 else "\ufffd" for c in text)


def expect(root, privileged):
    """What wordindex should say of root, and the words it should list."""
    totals = collections.Counter()
    counts = collections.Counter()
    files = collections.defaultdict(dict)
    locked = [os.path.join(root, name) for name in ("unreadable", "locked")]
    for folder, subfolders, names in os.walk(root):
        if folder == locked[1] and not privileged:
            totals["skipped_directory"] += 1
            subfolders.clear()
            continue
        for name in names + subfolders:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                totals["skipped_symlink"] += 1
            elif os.path.isdir(path):
                continue
            elif not os.path.isfile(path):
                totals["skipped_special"] += 1
            elif path == locked[0] and not privileged:
                totals["skipped_unreadable"] += 1
            else:
                with open(path, "rb") as file:
                    content = file.read()
                if not is_text(content):
                    totals["skipped_binary"] += 1
                    continue
                if len(content) > LIMIT:
                    totals["skipped_large"] += 1
                    continue
                totals["files"] += 1
                totals["bytes"] += len(content)
                found = collections.Counter(
                    word.lower() for word in WORD.findall(content)
                    if 2 <= len(word) <= 64)
                totals["words"] += sum(found.values())
                for word, count in found.items():
                    counts[word] += count
                    files[word][os.fsencode(path)] = count
    totals["distinct_words"] = len(counts)
    words = []
    for word in sorted(counts, key=lambda w: (-counts[w], w)):
        most = min(files[word], key=lambda p, w=word: (-files[w][p], p))
        words.append({"count": counts[word], "files": len(files[word]),
                      "word": shown(word), "most_in": shown(most)})
    return totals, words


class Checks:
    def __init__(self, program, user):
        self.program, self.user = program, user
        self.passed = self.failed = 0

    def run(self, *args, **more):
        return subprocess.run([self.program, *args], capture_output=True,
                              user=self.user, timeout=600, check=False, **more)

    def check(self, name, ok, detail=""):
        self.passed += bool(ok)
        self.failed += not ok
        if not ok:
            print(f"FAILED {name}: {detail}")

    def same_counts(self, root, totals, words, *args):
        done = self.run("--json", "--top", "10000", *args, root)
        name = " ".join(["counts", *args])
        self.check(name, done.returncode == 0,
                   f"exit {done.returncode}: {done.stderr[-2000:]}")
        if done.returncode != 0:
            return
        got = json.loads(done.stdout)
        for key in got:
            if key in totals or key.startswith("skipped_"):
                self.check(f"{name}: {key}", got[key] == totals.get(key, 0),
                           f"{got[key]}, not {totals.get(key, 0)}")
        self.check(f"{name}: words", got["top"] == words[:10000],
                   next((pair for pair in zip(got["top"], words)
                         if pair[0] != pair[1]),
                        f"{len(got['top'])} of {len(words)}"))

    def bad_input(self, root):
        for args in (["--threads", "0"], ["--threads", "x"], ["--top", "-1"],
                     ["--top", ""], ["--threads=99999999999999999999"],
                     ["--limit-mb", "1e3"], ["--nonsense"], [root, root],
                     [root + "/missing"], [""], ["/dev/null"],
                     [root + "/pipe"], [root + "/dangling"]):
            done = self.run(*args)
            self.check(f"bad input {args}", done.returncode == 2 and
                       b"wordindex: " in done.stderr and not done.stdout, done)
        done = self.run("--help")
        self.check("help", done.returncode == 0 and b"--limit-mb" in
                   done.stdout, done)
        with open("/dev/full", "wb") as full:
            code = subprocess.run([self.program, root + "/plain"], stdout=full,
                                  stderr=subprocess.DEVNULL, check=False,
                                  user=self.user).returncode
        self.check("full disk", code == 1, f"exit {code}")

    @staticmethod
    def catches_interrupt(child):
        with open(f"/proc/{child.pid}/status", encoding="ascii") as status:
            caught = re.search(r"SigCgt:\s*(\w+)", status.read())[1]
        return int(caught, 16) >> (signal.SIGINT - 1) & 1

    def interrupt(self):
        with subprocess.Popen([self.program, "--json", "--threads", "1"],
                              stdout=subprocess.PIPE, user=self.user) as child:
            while child.poll() is None and not self.catches_interrupt(child):
                time.sleep(0.01)
            time.sleep(0.1)
            child.send_signal(signal.SIGINT)
            report = json.loads(child.communicate(timeout=600)[0])
        self.check("interrupt", child.returncode ==
                   (130 if report["interrupted"] else 0), child.returncode)

    def little_memory(self, root):
        def limited(mib):
            size = (mib << 20, mib << 20)
            return lambda: resource.setrlimit(resource.RLIMIT_AS, size)
        if self.run("--help", preexec_fn=limited(512)).returncode != 0:
            print("little memory: not possible with this build (sanitizer?)")
            return
        for mib in (32, 64, 96, 128, 192, 256):
            done = self.run("--threads", "2", root, preexec_fn=limited(mib))
            self.check(f"{mib} MiB of address space", done.returncode == 0 or
                       (done.returncode == 1 and b"wordindex: " in done.stderr),
                       f"exit {done.returncode}: {done.stderr[-2000:]}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seed = int(os.environ.get("CHECK_SEED", random.randrange(1 << 32)))
    print(f"CHECK_SEED={seed}")
    with tempfile.TemporaryDirectory() as root:
        root = os.path.realpath(root)
        os.chmod(root, 0o755)
        program, user = os.path.abspath(sys.argv[1]), None
        tree = os.path.join(root, "tree")
        os.mkdir(tree)
        make_known(tree)
        make_random(tree, random.Random(seed))
        if os.geteuid() == 0:  # root may read everything: try as nobody
            copy = shutil.copy(program, os.path.join(root, "wordindex"))
            os.chmod(copy, 0o755)
            if Checks(copy, 65534).run("--help").returncode == 0:
                program, user = copy, 65534
        checks = Checks(program, user)
        totals, words = expect(tree, os.geteuid() == 0 and user is None)
        for args in ([], ["--threads", "1"], ["--threads", "8"],
                     ["--threads", "64", "--limit-mb", "4"]):
            checks.same_counts(tree, totals, words, *args)
        plain = os.path.join(tree, "plain")
        checks.same_counts(plain, {"files": 1, "words": 6, "bytes": 27},
                           [{"count": n, "files": 1, "word": w,
                             "most_in": plain} for n, w in
                            ((3, "the"), (1, "cat"), (1, "end"), (1, "hat"))])
        checks.bad_input(tree)
        checks.interrupt()
        checks.little_memory(tree)
        os.chmod(os.path.join(tree, "locked"), 0o700)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
