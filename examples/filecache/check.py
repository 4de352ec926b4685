#!/usr/bin/env python3
"""Checks filecache: check.py FILECACHE

Runs it over a tree made here, with every kind of thing to be skipped in it, and
over trees that change meanwhile; adds up the numbers of its JSON, which the
program takes from the library, from its own threads and from /proc/self/maps;
tries bad arguments, signals, a closed output, few descriptors, little memory, a
terminal. WANE_OPTIONS is passed on. CHECK_SEED repeats a tree.
"""
import fcntl
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import checks  # noqa: E402

PLAIN = 150  # ordinary files in the tree
PATH_MAX = 4096


def put(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def make_plain(root, rng, count):
    root = os.fsencode(root)
    for number in range(count):
        size = rng.choice([1, 100, 4095, 4096, 4097, 20000, 300000])
        words = b" the quick brown fox " * (size // 21 + 1)
        name = rng.choice([b"f%d", b"f %d", b"f\n%d", b"f\xff%d", b"f\\012%d"])
        put(os.path.join(root, b"d%d" % (number % 7), name % number),
            words[:size])


def make_deep(root):
    """Folders in each other until their paths are too long for the system,
    with a file in each; how many of the files have paths it takes."""
    name, reachable = "n" * 200, 0
    fd, length = os.open(root, os.O_RDONLY), len(root)
    while length < PATH_MAX + 500:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, length = below, length + 1 + len(name)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        with open(os.open("file", os.O_WRONLY, dir_fd=fd), "wb") as file:
            file.write(b"in the depths")
        # A folder is opened with a '/' behind; both with a NUL.
        reachable += length + 1 + 1 <= PATH_MAX and length + 6 <= PATH_MAX
    os.close(fd)
    return reachable


def make_tree(root, rng, privileged):
    """Fills root; what filecache should say of it."""
    make_plain(root, rng, PLAIN)
    deep = make_deep(root)
    put(f"{root}/linked", b"the one of two names" * 400)
    os.link(f"{root}/linked", f"{root}/d0/other name")
    put(f"{root}/empty", b"")
    put(f"{root}/locked/file", b"secret")
    put(f"{root}/unreadable", b"secret")
    os.chmod(f"{root}/locked", 0)
    os.chmod(f"{root}/unreadable", 0)
    os.mkfifo(f"{root}/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(root, os.O_RDONLY)  # the whole path may be too long
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    os.symlink("linked", f"{root}/link")
    os.symlink("..", f"{root}/d1/loop")
    os.symlink("nowhere", f"{root}/dangling")
    return {"files": PLAIN + deep + 2 + 2 * privileged,
            "skipped_unreadable": 1 + 2 * (not privileged),
            "skipped_vanished": 0, "skipped_special": 2, "skipped_empty": 1,
            "skipped_symlink": 3, "skipped_mount": 0}


def child_of(pid):
    """A process that this one has started, or None."""
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat", encoding="latin-1") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                    return int(entry)
        except (OSError, IndexError):
            continue
    return None


def is_at_work(pid, root):
    """Whether the run that pid has started has files of root mapped."""
    child = child_of(pid)
    try:
        with open(f"/proc/{child}/maps", encoding="latin-1") as maps:
            return f" {root}/" in maps.read()
    except OSError:
        return False


def catches(pid, number):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        caught = re.search(r"SigCgt:\s*(\w+)", status.read())[1]
    return int(caught, 16) >> (number - 1) & 1


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


class Checks(checks.Checks):
    def __init__(self, program, user):
        super().__init__(program)
        self.user = user

    def run(self, *args, **more):
        return super().run(*args, user=self.user, **more)

    def start(self, *args, **more):
        return subprocess.Popen([self.program, *map(str, args)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                user=self.user, **more)

    def sums(self, name, run, shared):
        """What holds of the numbers of any run."""
        def check(what, ok):
            self.check(f"{name}: {what}", ok, run)

        opens = run["opens_asked"] - run["opens_failed"]
        check("opens are maps and calls saved",
              opens == run["mmap_calls"] + run["calls_saved"])
        check("all was unmapped", run["unmapped"] == run["mmap_calls"])
        check("none is live", run["mappings_live"] == 0)
        check("none is mapped", run["mapped_after"] == 0)
        check("peak", run["mappings_peak"] <= run["mmap_calls"] and
              (run["mappings_peak"] > 0) == (opens > 0))
        check("matches", run["windows_matched"] <= opens)
        check("files opened", run["files_opened"] <= min(run["files"], opens))
        check("pauses", run["pause_p50_ns"] <= run["pause_p99_ns"] and
              run["pause_p50_ns"] <= run["pause_max_ns"])
        check("a cycle", run["cycles"] >= 1)
        if shared:
            # With two names for one of the files.
            check("maps", run["mmap_calls"] >= run["files_opened"] - 1)
        else:
            check("a map for each open",
                  run["mmap_calls"] == opens and run["calls_saved"] == 0)
            check("what is held is mapped",
                  run["views_held"] <= run["mapped_before"])

    def result(self, name, done, expected=None):
        """The JSON of a run that went well, with its sums checked."""
        self.check(f"{name}: exit", done.returncode == 0,
                   f"exit {done.returncode}: {done.stderr[-2000:]}")
        self.check(f"{name}: silent", not done.stderr, done.stderr[-2000:])
        if done.returncode != 0:
            return None
        got = json.loads(done.stdout)
        for key, shared in ("shared", True), ("not_shared", False):
            if key in got:
                self.sums(f"{name}: {key}", got[key], shared)
                for what, count in (expected or {}).items():
                    self.check(f"{name}: {key}: {what}",
                               got[key][what] == count,
                               f"{got[key][what]}, not {count}")
        return got

    def steady(self, tree, expected, threads, options=""):
        """A tree that stays as it is: every open must succeed."""
        name = f"{threads} threads, '{options}'"
        got = self.result(name, self.run(
            "--json", "--seconds", 0.5, "--threads", threads, tree,
            options=options), expected)
        if not got:
            return
        self.check(f"{name}: threads", got["threads"] == threads, got)
        self.check(f"{name}: interrupted", got["interrupted"] is False, got)
        for key in "shared", "not_shared":
            run = got[key]
            self.check(f"{name}: {key}: all could be opened",
                       run["opens_failed"] == 0 < run["opens_asked"], run)
            self.check(f"{name}: {key}: no byte changed",
                       run["windows_changed"] == 0, run)
            self.check(f"{name}: {key}: found some",
                       run["windows_matched"] > 0 < run["views_held"], run)
            self.check(f"{name}: {key}: time", 4e8 < run["run_ns"] < 6e10, run)
        self.check(f"{name}: saved some", got["shared"]["calls_saved"] > 0, got)

    def one_map_each(self, tree, expected):
        """Without cycles nothing dies, so each file is mapped exactly once,
        however many threads race for it and however many names it has."""
        got = self.result("no cycles", self.run(
            "--json", "--seconds", 1, "--threads", 8, tree,
            options="gc_percent=-1"), expected)
        run = got["shared"] if got else None
        if run and run["cycles"] == 1 and run["files_opened"] == run["files"]:
            self.check("no cycles: a map for each file",
                       run["mmap_calls"] == run["files"] - 1 ==
                       run["mappings_peak"] == run["mapped_before"], run)
        elif run:
            print("no cycles: too slow to open every file")

    def only(self, tree):
        got = self.result("--no-share", self.run(
            "--json", "--no-share", "--seconds", ".2", "--files", 10, tree),
            {"files": 10})
        self.check("--no-share: one run", got and "shared" not in got, got)
        got = self.result("--files", self.run(
            "--json", "--seconds", "0.2", "--files=1000000", tree))
        self.check("--files: both runs", got and "shared" in got and
                   "not_shared" in got, got)

    def table(self, tree):
        done = self.run("--seconds", "0.3", tree)
        text = done.stdout.decode()
        self.check("table", done.returncode == 0 and not done.stderr, done)
        self.check("table: columns", re.search(r"shared +not shared\n", text),
                   text)
        for title in ("opens asked", "mmap calls made", "mmap calls saved",
                      "peak mappings", "unmapped by cleanups", "cycles",
                      "pause p50, ms", "pause p99, ms", "pause max, ms",
                      "peak RSS, MiB", "skipped, unreadable"):
            row = re.search(f"^ *{title}  +([0-9.,]+) +([0-9.,]+)$", text,
                            re.MULTILINE)
            self.check(f"table: {title}", row, text)
        done = self.run("--seconds", "0.3", "--no-share", tree)
        self.check("table: one column", done.returncode == 0 and re.search(
            r"^ *mmap calls saved +0$", done.stdout.decode(), re.MULTILINE),
            done)

    def terminal(self, tree, columns):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                    struct.pack("HHHH", 24, columns, 0, 0))
        with subprocess.Popen([self.program, "--json", "--seconds", "1", tree],
                              stdout=subprocess.PIPE, stderr=theirs,
                              user=self.user) as child:
            os.close(theirs)
            shown = b""
            try:
                while block := os.read(ours, 4096):
                    shown += block
            except OSError:  # EIO: the other end is closed
                pass
            os.close(ours)
            report = child.communicate(timeout=600)[0]
        lines = shown.split(b"\r\x1b[K")
        self.check("terminal: exit", child.returncode == 0 and
                   json.loads(report), (child.returncode, report))
        self.check("terminal: width",
                   max(map(len, lines)) < columns, shown)
        self.check("terminal: gone at the end", lines[-1] == b"", shown)
        self.check("terminal: both runs", any(
            line.startswith(b"shared: ") for line in lines) and any(
            line.startswith(b"not shared: ") for line in lines), shown)
        if columns > 90:
            self.check("terminal: numbers", all(re.fullmatch(
                rb"(not )?shared: \d+ opens/s  \d+ mapped  \d+ unmapped  heap "
                rb"[\d.]+ MiB  \d+ cycles  pause [\d.]+ ms", line)
                for line in lines if line), shown)

    def changing(self, root, rng):
        """Files that go, or become something else, while threads want them."""
        tree = os.path.join(root, "changing")
        make_plain(tree, rng, 40)
        for number in range(8):
            put(f"{tree}/v{number}", b"the" * 5000)
        new = os.path.join(root, "new")
        with self.start("--json", "--seconds", 4, "--threads", 4,
                        tree) as child:
            self.check("changing: begun", wait_for(
                lambda: is_at_work(child.pid, tree)))
            time.sleep(0.3)
            os.unlink(f"{tree}/v0")
            os.unlink(f"{tree}/v1")
            put(new, b"another the" * 3000)
            os.rename(new, f"{tree}/v2")
            put(new, b"")
            os.rename(new, f"{tree}/v3")
            os.mkfifo(new)
            os.rename(new, f"{tree}/v4")
            os.symlink("v7", new)  # which is followed now
            os.rename(new, f"{tree}/v5")
            os.unlink(f"{tree}/v6")  # somebody may see it gone
            os.mkdir(f"{tree}/v6")
            out, err = child.communicate(timeout=600)
        done = subprocess.CompletedProcess((), child.returncode, out, err)
        got = self.result("changing", done)
        if got:
            first, second = got["shared"], got["not_shared"]
            self.check("changing: vanished", 2 <= first["skipped_vanished"]
                       == 4 - first["skipped_special"], first)
            self.check("changing: special", first["skipped_special"] >= 1,
                       first)
            self.check("changing: empty", first["skipped_empty"] == 1, first)
            self.check("changing: failed opens", first["opens_failed"] >= 5,
                       first)
            self.check("changing: no byte changed",
                       first["windows_changed"] == 0, first)
            self.check("changing: walked anew", first["files"] == 48 and
                       second["files"] == 42, got)

    def all_gone(self, root, rng):
        """When no file is left, there is nothing to wait for."""
        tree = os.path.join(root, "gone")
        make_plain(tree, rng, 20)
        begin = time.monotonic()
        with self.start("--json", "--seconds", 300, tree) as child:
            wait_for(lambda: is_at_work(child.pid, tree))
            shutil.rmtree(tree)
            out, err = child.communicate(timeout=600)
        self.check("all gone: at once", time.monotonic() - begin < 200)
        # The second run finds nothing. The first is reported all the same.
        self.check("all gone: exit", child.returncode == 1 and
                   b"gone: No such file" in err, err)
        got = json.loads(out) if out else {}
        self.check("all gone: one run", list(got)[2:] == ["shared"], got)
        if "shared" in got:
            self.sums("all gone", got["shared"], True)
            self.check("all gone: counted",
                       got["shared"]["skipped_vanished"] == 20, got)

    def cut_short(self, root, rng):
        tree = os.path.join(root, "cut")
        make_plain(tree, rng, 20)
        with self.start("--json", "--seconds", 300, tree) as child:
            wait_for(lambda: is_at_work(child.pid, tree))
            time.sleep(0.2)
            for folder, _, names in os.walk(tree):
                for name in names:
                    os.truncate(os.path.join(folder, name), 0)
            err = child.communicate(timeout=600)[1]
        self.check("cut short: told", child.returncode == 1 and
                   b"filecache: " in err, err)

    def bad_arguments(self, tree):
        for args in (["--threads", "0"], ["--threads", "x"], ["--threads="],
                     ["--threads", "257"], ["--threads", "-1"],
                     ["--threads", " 1"], ["--threads", "9" * 30],
                     ["--seconds", "0"], ["--seconds", "-1"],
                     ["--seconds", "nan"], ["--seconds", "inf"],
                     ["--seconds", "0x1"], ["--seconds", "1e1"],
                     ["--seconds", "1s"], ["--seconds", ""],
                     ["--seconds", "1.2.3"], ["--seconds", "86401"],
                     ["--files", "0"], ["--files", "many"],
                     ["--files", "9" * 30], ["--no-share=1"], ["--nonsense"],
                     ["-x"], ["--threads"], [tree, tree]):
            done = self.run("--json", *args)
            self.check(f"bad arguments {args}", done.returncode == 2 and
                       not done.stdout and re.fullmatch(
                           rb"\S*filecache: [^\n]+\nusage: [^\n]+\n",
                           done.stderr), done)
        done = self.run("--help")
        self.check("help", done.returncode == 0 and not done.stderr and
                   b"--no-share" in done.stdout, done)

    def bad_directories(self, tree, root):
        os.mkdir(f"{root}/nothing")
        os.mkdir(f"{root}/no files")
        os.mkfifo(f"{root}/no files/pipe")
        put(f"{root}/no files/below/empty", b"")
        os.symlink("../nowhere", f"{root}/no files/link")
        places = [f"{root}/missing", f"{root}/nothing", f"{root}/no files", "",
                  f"{tree}/linked", f"{tree}/pipe", f"{tree}/dangling",
                  f"{tree}/linked/below", f"{root}/{'n' * 300}"]
        if os.geteuid() != 0 or self.user is not None:
            places.append(f"{tree}/locked")
        for place in places:
            for json_too in [], ["--json"]:
                done = self.run("--seconds", 300, *json_too, place)
                self.check(f"bad directory '{place}'", done.returncode == 1 and
                           not done.stdout and re.fullmatch(
                               rb"filecache: [^\n]+\n", done.stderr), done)

    def odd_directories(self, root, rng):
        for name in ("with\nnewline", "with space", "with\\012",
                     "ends (deleted)"):
            place = os.path.join(root, name)
            make_plain(place, rng, 10)
            got = self.result(f"directory {name!r}", self.run(
                "--json", "--seconds", "0.2", place), {"files": 10})
            self.check(f"directory {name!r}: seen", got and
                       got["shared"]["mapped_before"] > 0, got)
        os.symlink("with space", f"{root}/by link")
        got = self.result("directory by a link", self.run(
            "--json", "--seconds", "0.2", "./by link/", cwd=root))
        self.check("directory by a link: seen", got and
                   got["shared"]["mapped_before"] > 0, got)

    def interrupt(self, tree, number, whole_group, early):
        name = f"signal {number}, {whole_group=}, {early=}"
        with self.start("--json", "--seconds", 300, "--threads", 3, tree,
                        start_new_session=True) as child:
            wait_for((lambda: catches(child.pid, number)) if early else
                     (lambda: is_at_work(child.pid, tree)))
            if whole_group:
                os.killpg(child.pid, number)
            else:
                child.send_signal(number)
            out, err = child.communicate(timeout=600)
        done = subprocess.CompletedProcess((), child.returncode, out, err)
        got = self.result(name, done)
        self.check(f"{name}: says so", got and got["interrupted"] is True and
                   "not_shared" not in got, got)
        if not early:
            self.check(f"{name}: report", got and
                       got["shared"]["opens_asked"] > 0, got)

    def killed(self, tree):
        with self.start("--json", "--seconds", 300, tree) as child:
            wait_for(lambda: is_at_work(child.pid, tree))
            os.kill(child_of(child.pid), signal.SIGKILL)
            out, err = child.communicate(timeout=600)
        self.check("killed", child.returncode == 1 and not out and
                   b"killed" in err, (child.returncode, out, err))

    def closed_output(self, tree):
        args = [self.program, "--seconds", "0.2", "--threads", "2", tree]

        def code(more=(), **how):
            return subprocess.run(args + list(more), check=False, timeout=600,
                                  user=self.user, stderr=subprocess.PIPE,
                                  **how)

        for more in (), ("--json",), ("--help",):
            with open("/dev/full", "wb") as full:
                done = code(more, stdout=full)
            self.check(f"full disk {more}", done.returncode == 1, done)
            for default in True, False:  # what SIGPIPE does
                reader, writer = os.pipe()
                os.close(reader)
                done = code(more, stdout=writer, restore_signals=default)
                os.close(writer)
                self.check(f"broken pipe {more} {default}", done.returncode ==
                           (-signal.SIGPIPE if default else 1), done)
            done = code(more, preexec_fn=lambda: os.close(1))
            self.check(f"no output {more}", done.returncode == 1 and
                       b"filecache: " in done.stderr, done)
        for closed in [0], [2], [0, 2]:
            done = self.run("--json", "--seconds", "0.2", tree,
                            preexec_fn=lambda which=closed:
                            [os.close(fd) for fd in which])
            self.result(f"closed {closed}", done)

    def few_descriptors(self, tree, expected):
        """No mapping keeps a descriptor."""
        few = (12, 12)
        done = self.run("--json", "--seconds", 0.5, tree, preexec_fn=lambda:
                        resource.setrlimit(resource.RLIMIT_NOFILE, few))
        got = self.result("few descriptors", done, expected)
        for run in (got["shared"], got["not_shared"]) if got else ():
            self.check("few descriptors: enough", run["opens_failed"] == 0, run)

    def little_memory(self, tree):
        def limited(mib):
            size = (mib << 20, mib << 20)
            return lambda: resource.setrlimit(resource.RLIMIT_AS, size)
        if self.run("--help", preexec_fn=limited(512)).returncode != 0:
            print("little memory: not possible with this build (sanitizer?)")
            return
        for mib in 64, 128, 192, 256, 512:
            done = self.run("--json", "--seconds", 0.3, "--threads", 2, tree,
                            preexec_fn=limited(mib))
            name = f"{mib} MiB of address space"
            if done.returncode == 0:
                self.result(name, done)
            else:
                self.check(name, done.returncode == 1 and
                           b"filecache: " in done.stderr and
                           b"still mapped" not in done.stderr,
                           f"exit {done.returncode}: {done.stderr[-2000:]}")


def check_all(checks, root, seed):
    rng = random.Random(seed)
    tree = os.path.join(root, "tree")
    os.mkdir(tree)
    expected = make_tree(tree, rng, os.geteuid() == 0 and checks.user is None)
    checks.bad_arguments(tree)
    checks.bad_directories(tree, root)
    for threads in 1, 2, 7, 32:
        checks.steady(tree, expected, threads)
    checks.steady(tree, expected, 2, "stress=alloc:300")
    checks.steady(tree, expected, 3, "verify=1")
    checks.one_map_each(tree, expected)
    checks.only(tree)
    checks.table(tree)
    checks.terminal(tree, 50)
    checks.terminal(tree, 200)
    checks.changing(root, rng)
    checks.all_gone(root, rng)
    checks.cut_short(root, rng)
    checks.odd_directories(root, rng)
    for number in signal.SIGINT, signal.SIGTERM:
        for whole_group in False, True:
            for early in False, True:
                checks.interrupt(tree, number, whole_group, early)
    checks.killed(tree)
    checks.closed_output(tree)
    checks.few_descriptors(tree, expected)
    checks.little_memory(tree)
    os.chmod(f"{tree}/locked", 0o700)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seed = int(os.environ.get("CHECK_SEED", random.randrange(1 << 32)))
    print(f"CHECK_SEED={seed}")
    with tempfile.TemporaryDirectory() as root:
        root = os.path.realpath(root)
        os.chmod(root, 0o755)
        program, user = os.path.abspath(sys.argv[1]), None
        if os.geteuid() == 0:  # root may read everything: try as nobody
            copy = shutil.copy(program, os.path.join(root, "filecache"))
            os.chmod(copy, 0o755)
            if Checks(copy, 65534).run("--help").returncode == 0:
                program, user = copy, 65534
        checks = Checks(program, user)
        check_all(checks, root, seed)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
