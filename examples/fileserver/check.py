#!/usr/bin/env python3
"""Checks fileserver: check.py FILESERVER

Statuses, headers, ranges, and paths that lead out of the directory. Then load:
clients in several threads, and wrk or else ab if there is one, while files are
replaced and removed. What a file holds and how long it is follows from its name
and a version number, and a client knows which versions there were while it
waited: an answer must be exactly what is due for one of them, so neither a
wrong byte nor a mix nor a version that is no more goes unseen. In the end no
mapping and no descriptor may be left, even if clients have hung up or stand
still. With few cycles, with very many, and with each verified.
WANE_OPTIONS is passed on. CHECK_SEED repeats the choices.
"""
import functools
import hashlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import checks  # noqa: E402

CLIENTS = 4
LOAD_SECONDS = 2
SLACK = 12  # mappings that a conservative collector may still take for held
WITHIN = 30  # seconds in which what should happen soon has happened
HELD_BYTES = 24 << 20  # more than there is room for between two programs

# In wrk: the first line of a file says how long it is.
WRK_SCRIPT = """
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args)
  paths, at, wrong, right = args, 0, 0, 0
end
function request()
  at = at % #paths + 1
  return wrk.format("GET", paths[at])
end
function response(status, headers, body)
  local size = body:match("^%S+ %d+ (%d+)\\n")
  if status == 200 and tonumber(size) == #body then
    right = right + 1
  else
    wrong = wrong + 1
  end
end
function done()
  local all_right, all_wrong = 0, 0
  for _, thread in ipairs(threads) do
    all_right = all_right + thread:get("right")
    all_wrong = all_wrong + thread:get("wrong")
  end
  print("right " .. all_right .. " wrong " .. all_wrong)
end
"""


@functools.lru_cache(maxsize=64)
def content(name, version):
    """What the file holds; None: it is not there. Two and two are of one size,
    so that only inode and time tell them apart."""
    rng = random.Random(f"{name} {version // 2}")
    size = rng.choice([60, 4096, 50000]) + rng.randrange(40)
    if name.startswith("large"):
        size = rng.randrange(1 << 20, 3 << 20)
    if name.startswith("gone") and version % 4 == 1:
        return b""
    if name.startswith("gone") and version % 4 == 3:
        return None
    head = f"{name} {version} {size}\n".encode()
    return head + hashlib.shake_128(head).digest(size - len(head))


class Files:
    """The files that are replaced: begun is the version that is there or being
    put there, done is there or was."""

    def __init__(self, root, rng):
        self.served = os.path.join(root, "served")
        self.spare = os.path.join(root, "spare")
        self.rng = rng
        os.mkdir(self.served)
        os.mkdir(self.spare)
        self.names = ([f"file{i}.txt" for i in range(8)] +
                      [f"gone{i}" for i in range(5)] + ["large1", "large2"])
        self.begun = {name: -1 for name in self.names}
        self.done = dict(self.begun)
        for name in self.names:
            self.renew(name)

    def renew(self, name):
        version = self.begun[name] + 1
        data = content(name, version)
        spare = os.path.join(self.spare, name)
        path = os.path.join(self.served, name)
        if data is not None:
            with open(spare, "wb") as file:
                file.write(data)
        self.begun[name] = version
        if data is None:
            os.unlink(path)
        else:
            os.replace(spare, path)
        self.done[name] = version

    def renew_until(self, event):
        while not event.wait(0.002):
            self.renew(self.rng.choice(self.names))


class Server:
    """A running server; the environment and Popen as checks.run has them."""

    def __init__(self, checks_, *args, options=""):
        given = os.environ.get("WANE_OPTIONS", "")
        joined = ",".join(filter(None, [given, options]))
        self.args = args
        self.process = subprocess.Popen(
            [checks_.program, *map(str, args)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, "WANE_OPTIONS": joined})
        line = self.process.stdout.readline().decode()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ serves (.*)\n", line)
        if not found:
            self.process.kill()
            sys.exit(f"FAILED start {args}: {line!r} "
                     f"{self.process.communicate()}")
        self.port = int(found[1])
        self.proc = f"/proc/{self.process.pid}"

    def mapped(self, folder):
        folder = os.path.realpath(folder) + "/"
        with open(f"{self.proc}/maps", encoding="utf-8",
                  errors="replace") as maps:
            return [line for line in maps if folder in line]

    def descriptors(self):
        return len(os.listdir(f"{self.proc}/fd"))

    def stop(self, number=signal.SIGTERM):
        """Exit status, the numbers of its last line, what else it said."""
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "does not end", {}, self.process.communicate()
        found = re.fullmatch(r"requests (\d+), mappings made (\d+), "
                             r"live (\d+), unmapped (\d+)\n", out.decode())
        numbers = map(int, found.groups()) if found else [-1] * 4
        return (self.process.returncode,
                dict(zip(("requests", "made", "live", "unmapped"), numbers)),
                (out, err))

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port,
                                          timeout=WITHIN)

    def ask(self, method, path, **headers):
        """One request on a connection of its own: the answer, its body."""
        connection = self.connect()
        connection.request(method, path, headers={
            key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def begin_download(self, path):
        """A connection that has read the beginning of an answer: it, that."""
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        link.settimeout(WITHIN)
        link.connect(("127.0.0.1", self.port))
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n"
                     "Connection: close\r\n\r\n".encode())
        return link, link.recv(1000)


def read_to_end(link):
    pieces = []
    try:
        while piece := link.recv(1 << 20):
            pieces.append(piece)
    except OSError as error:
        pieces.append(repr(error).encode())
    link.close()
    return b"".join(pieces)


def due(data, method, asked):
    """Status, body and other headers that are due if the file holds data.
    asked is the range's first and last byte."""
    if data is None:
        return 404, None, {}
    headers = {"Content-Length": str(len(data))}
    if method == "HEAD":
        return 200, b"", headers
    if not asked or not data:
        return 200, data, headers
    first, last = asked[0], min(asked[1], len(data) - 1)
    if first >= len(data):
        return 416, None, {"Content-Range": f"bytes */{len(data)}"}
    return 206, data[first:last + 1], {
        "Content-Length": str(last + 1 - first),
        "Content-Range": f"bytes {first}-{last}/{len(data)}"}


class Client(threading.Thread):
    """Asks for files until the event, and checks each answer."""

    def __init__(self, server, files, seed, event):
        super().__init__()
        self.server, self.files, self.event = server, files, event
        self.rng = random.Random(seed)
        self.tags = {}  # name, tag: its version
        self.last_tag = {}
        self.counts = {}  # by status
        self.wrong = []

    def run(self):
        connection = self.server.connect()
        while not self.event.is_set() and len(self.wrong) < 5:
            try:
                self.ask(connection)
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                connection.close()
            if self.rng.random() < 0.05:
                connection.close()
        connection.close()

    def ask(self, connection):
        name = self.rng.choice(self.files.names)
        kind = self.rng.choice(["all", "all", "range", "head", "tag"])
        method = "HEAD" if kind == "head" else "GET"
        asked, headers, tag = None, {}, None
        if kind == "range":
            first = self.rng.randrange(self.rng.choice([100, 5000, 1 << 21]))
            asked = first, first + self.rng.randrange(1 << 17)
            headers["Range"] = f"bytes={asked[0]}-{asked[1]}"
        elif kind == "tag" and name in self.last_tag:
            tag = headers["If-None-Match"] = self.last_tag[name]
        oldest = self.files.done[name]
        connection.request(method, "/" + name, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        newest = self.files.begun[name]
        self.counts[answer.status] = self.counts.get(answer.status, 0) + 1
        if answer.status == 304:
            is_right = oldest <= self.tags.get((name, tag), -1) <= newest
        else:
            is_right = any(self.is_due(name, version, method, asked, answer,
                                       body)
                           for version in range(oldest, newest + 1))
        if not is_right:
            self.wrong.append(f"{method} {name} {headers}: {answer.status} "
                              f"{answer.getheaders()} {body[:60]}, due: "
                              f"version {oldest} to {newest}")

    def is_due(self, name, version, method, asked, answer, body):
        data = content(name, version)
        status, data_due, headers = due(data, method, asked)
        if (answer.status != status or data_due not in (None, body) or
                any(answer.getheader(key) != value
                    for key, value in headers.items())):
            return False
        if status == 200 and method == "GET" and data:
            tag = answer.getheader("ETag")
            self.last_tag[name] = tag
            return self.tags.setdefault((name, tag), version) == version
        return True


def start_tool(folder, port, files):
    """Runs wrk or else ab, and gives its name and process; None: neither."""
    url = f"http://127.0.0.1:{port}"
    paths = ["/" + name for name in files.names if not name.startswith("gone")]
    seconds = str(round(LOAD_SECONDS))
    if shutil.which("wrk"):
        script = os.path.join(folder, "wrk.lua")
        with open(script, "w", encoding="ascii") as file:
            file.write(WRK_SCRIPT)
        command = ["wrk", "-t1", "-c8", f"-d{seconds}s", "-s", script, url,
                   "--", *paths]
    elif shutil.which("ab"):
        command = ["ab", "-q", "-k", "-l", "-c", "8", "-t", seconds, "-n",
                   "1000000", url + paths[0]]
    else:
        print("neither wrk nor ab: done without")
        return None, None
    return command[0], subprocess.Popen(command, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)


class Checks(checks.Checks):
    # ---- Single requests ----

    def answers(self, root):
        """The statuses and headers of single requests."""
        served = os.path.join(root, "single")
        make_single(root, served)
        server = Server(self, "--threads", 1, served)
        here = "<!DOCTYPE html>here\n"
        for path, status, kind, body in [
                ("/a.txt", 200, "text/plain", "0123456789"),
                ("/b.HTML", 200, "text/html", "b"),
                ("/sub/c.json", 200, "application/json", "{}"),
                ("/none", 200, "application/octet-stream", ""),
                ("/a%2etxt", 200, "text/plain", "0123456789"),
                ("/sub%2Fc.json?x=%00", 200, "application/json", "{}"),
                ("//sub/./c.json", 200, "application/json", "{}"),
                ("/sub/../a.txt", 200, "text/plain", "0123456789"),
                ("/sub/up", 200, None, "0123456789"),
                ("/index/", 200, "text/html", here),
                ("/to-index/", 200, "text/html", here),
                ("/index", 301, None, None), ("/index/x/", 200, None, None),
                ("/missing", 404, None, None), ("/a.txt/", 404, None, None),
                ("/" + "x" * 3000, 404, None, None),
                ("/loop", 403, None, None), ("/pipe", 403, None, None),
                ("/pipes/", 403, None, None),
                ("/%", 400, None, None), ("/a.txt%0", 400, None, None),
                ("/a.txt%00", 400, None, None), ("/%zz", 400, None, None)]:
            answer, got = server.ask("GET", path)
            self.check(f"GET {path}", answer.status == status and
                       body in (None, got.decode()) and
                       kind in (None, answer.getheader("Content-Type")),
                       f"{answer.status} {answer.getheaders()} {got[:100]}")
        self.escapes(server)
        self.listing(server)
        self.headers(server, served)
        self.ranges(server)
        self.cut_short(server, served)
        code, numbers, said = server.stop(signal.SIGINT)
        self.check("single: end", code == 0 and numbers["live"] == 0 and
                   numbers["made"] == numbers["unmapped"] > 0, said)

    def escapes(self, server):
        for path in ["/../secret", "/%2e%2e/secret", "/.%2E/secret",
                     "/sub/../../secret", "/sub/%2e%2e%2f..%2fsecret",
                     "/..%2fsecret", "/../single/a.txt", "/out", "/far",
                     "/away/secret", "/away/", "/..", "/../", "/%2e%2e"]:
            answer, got = server.ask("GET", path)
            self.check(f"escape {path}", answer.status == 403 and
                       b"secret" not in got, f"{answer.status} {got[:100]}")

    def listing(self, server):
        answer, got = server.ask("GET", "/odd/")
        found = re.findall(r'<a href="([^"]*)">([^<]*)</a>', got.decode())
        self.check("listing", answer.status == 200 and len(found) == 3 and
                   found[2] == ("./sub/", "sub/") and b".hidden" not in got,
                   found)
        for href, _ in found[:2]:
            answer, got = server.ask("GET", "/odd/" + href)
            self.check(f"listing: {href}", answer.status == 200 and
                       got == b"odd", f"{answer.status} {got[:100]}")

    def headers(self, server, served):
        answer, _ = server.ask("GET", "/a.txt")
        tag = answer.getheader("ETag")
        when = time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT",
            time.gmtime(os.stat(os.path.join(served, "a.txt")).st_mtime))
        self.check("Last-Modified", answer.getheader("Last-Modified") == when,
                   answer.getheaders())
        for tags, status in [(tag, 304), ("W/" + tag, 304), ("*", 304),
                             (f'"x", {tag}', 304), ('"x"', 200),
                             (tag[:-2] + '"', 200)]:
            answer, got = server.ask("GET", "/a.txt", If_None_Match=tags)
            self.check(f"If-None-Match {tags}", answer.status == status and
                       len(got) == (10 if status == 200 else 0) and
                       answer.getheader("Content-Length") == "10" and
                       answer.getheader("ETag") == tag, answer.getheaders())
        answer, _ = server.ask("GET", "/hard", If_None_Match=tag)
        self.check("a hard link is the same file", answer.status == 304,
                   answer.getheaders())
        answer, got = server.ask("HEAD", "/a.txt")
        self.check("HEAD", answer.status == 200 and not got and
                   answer.getheader("Content-Length") == "10",
                   answer.getheaders())
        answer, _ = server.ask("GET", "/index")
        self.check("Location", answer.getheader("Location") == "./index/",
                   answer.getheaders())
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "get"):
            answer, _ = server.ask(method, "/a.txt")
            self.check(method, answer.status == 405 and
                       answer.getheader("Allow") == "GET, HEAD",
                       f"{answer.status} {answer.getheaders()}")

    def ranges(self, server):
        digits = "0123456789"
        tag = server.ask("GET", "/a.txt")[0].getheader("ETag")
        for asked, status, body in [
                ("0-0", 206, "0"), ("2-4", 206, "234"), ("9-", 206, "9"),
                ("0-99", 206, digits), ("-3", 206, "789"),
                ("-99", 206, digits), ("5-99999999999999999999", 206, "56789"),
                ("10-", 416, None), ("99999999999999999999-", 416, None),
                ("-0", 416, None), ("4-2", 200, digits), ("-", 200, digits),
                ("1-2,4-5", 200, digits), ("x", 200, digits),
                ("1-2x", 200, digits), (" 1-2", 200, digits)]:
            answer, got = server.ask("GET", "/a.txt", Range=f"bytes={asked}")
            at = digits.find(body or "")
            total = {206: f"bytes {at}-{at + len(body or '') - 1}/10",
                     416: "bytes */10", 200: None}[status]
            self.check(f"Range {asked}", answer.status == status and
                       body in (None, got.decode()) and
                       answer.getheader("Content-Range") == total,
                       f"{answer.status} {answer.getheaders()} {got}")
        for only, status in [(tag, 206), ('"x"', 200)]:
            answer, _ = server.ask("GET", "/a.txt", Range="bytes=1-2",
                                   If_Range=only)
            self.check(f"If-Range {only}", answer.status == status,
                       answer.status)
        answer, _ = server.ask("GET", "/none", Range="bytes=0-1")
        self.check("Range of nothing", answer.status == 200, answer.status)

    def cut_short(self, server, served):
        """A file that is cut while it is sent: the server goes on."""
        path = os.path.join(served, "cut")
        with open(path, "wb") as file:
            file.write(bytes(HELD_BYTES))
        link, beginning = server.begin_download("/cut")
        os.truncate(path, 10)
        got = len(beginning + read_to_end(link))
        answer, body = server.ask("GET", "/cut")
        self.check("cut short", 0 < got < HELD_BYTES and
                   answer.status == 200 and body == bytes(10),
                   f"{got} bytes, then {answer.status} {body[:100]}")

    # ---- Load ----

    def load(self, root, rng, options):
        name = f"load '{options}'"
        folder = tempfile.mkdtemp(dir=root)
        files = Files(folder, rng)
        server = Server(self, "--port", 0, "--threads", 3, files.served,
                        options=options)
        at_start = server.descriptors()
        hold(server, files, "hung up")[0].close()
        slow = hold(server, files, "slow")
        still = hold(server, files, "still")
        clients = self.run_load(name, folder, server, files, rng)
        link, beginning, data = slow
        got = (beginning + read_to_end(link)).partition(b"\r\n\r\n")[2]
        self.check(f"{name}: a slow download", got == data,
                   f"{len(got)} bytes of {len(data)}, equal up to "
                   f"{len(os.path.commonprefix([got, data]))}")
        # One connection stands still; nothing else may be left of the load.
        self.check(f"{name}: descriptors", soon(
            lambda: server.descriptors() == at_start + 1),
                   f"{at_start}, then {server.descriptors()}")
        if options:  # cycles come soon, if there are requests
            self.check(f"{name}: unmapped while serving", soon(
                lambda: server.ask("GET", "/file0.txt")[1] and
                0 < len(server.mapped(files.served)) <= SLACK),
                       "".join(server.mapped(files.served)))
        code, numbers, said = server.stop()
        still[0].close()
        self.check(f"{name}: end", code == 0 and not said[1], f"{code} {said}")
        self.check(f"{name}: all unmapped", numbers["live"] == 0 and
                   numbers["made"] == numbers["unmapped"], said)
        answers = sum(sum(client.counts.values()) for client in clients)
        seen = len({key[1] for client in clients for key in client.tags})
        self.check(f"{name}: numbers", numbers["requests"] > answers and
                   seen < numbers["made"] < numbers["requests"],
                   f"{answers} answers, {seen} files, {numbers}")

    def run_load(self, name, folder, server, files, rng):
        """Clients, renewals and the tool, for a while."""
        event = threading.Event()
        clients = [Client(server, files, rng.random(), event)
                   for _ in range(CLIENTS)]
        threads = [threading.Thread(target=files.renew_until, args=[event]),
                   *clients]
        tool, process = start_tool(folder, server.port, files)
        for thread in threads:
            thread.start()
        time.sleep(LOAD_SECONDS)
        mapped = server.mapped(files.served)
        event.set()
        for thread in threads:
            thread.join()
        removed = [line for line in mapped if "/slow (deleted)" in line]
        self.check(f"{name}: what is sent is mapped", removed, mapped)
        for client in clients:
            self.check(f"{name}: answers", not client.wrong and client.counts,
                       "\n".join(client.wrong))
        said = process.communicate(timeout=WITHIN)[0].decode() if tool else ""
        self.check(f"{name}: {tool}", re.search(
            {"wrk": r"\nright [1-9]\d* wrong 0\n",
             "ab": r"Complete requests: +[1-9]\d*\nFailed requests: +0\n",
             None: ""}[tool], said) and "Socket errors" not in said and
                   "Non-2xx" not in said, said)
        return clients

    # ---- Bad input ----

    def bad_input(self, root):
        for args in ([], [root, root], ["--port", 65536, root],
                     ["--port", "x", root], ["--port", "", root],
                     ["--port", -1, root], ["--threads", 0, root],
                     ["--threads", 65, root], ["--what", root], ["--port"],
                     [""], [root + "/missing"], [self.program]):
            done = self.run(*args)
            self.check(f"bad input {args}", done.returncode == 2 and
                       (b"usage: " in done.stderr or
                        b"fileserver: " in done.stderr) and not done.stdout,
                       done)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            done = self.run("--port", taken.getsockname()[1], root)
            self.check("port taken", done.returncode == 2 and
                       b"fileserver: port " in done.stderr, done)
        server = Server(self, "/")  # of which the program itself is mapped
        code, _, said = server.stop()
        self.check("serving /", code == 0, f"{code} {said}")


def hold(server, files, name):
    """A download that has begun, of a file that is removed then: its socket,
    what was read, what the file holds."""
    data = hashlib.shake_128(name.encode()).digest(HELD_BYTES)
    path = os.path.join(files.served, name)
    with open(path, "wb") as file:
        file.write(data)
    link, beginning = server.begin_download("/" + name.replace(" ", "%20"))
    os.unlink(path)
    return link, beginning, data


def soon(is_true):
    """Whether it is true before long; not if the server is gone."""
    end = time.monotonic() + WITHIN
    try:
        while not (result := is_true()) and time.monotonic() < end:
            time.sleep(0.001)
    except (OSError, http.client.HTTPException):
        return False
    return result


def make_single(root, served):
    """What the single requests ask for, and what they must not get."""
    def make(path, text):
        os.makedirs(os.path.dirname(os.path.join(served, path)), exist_ok=True)
        with open(os.path.join(served, path), "w", encoding="utf-8") as file:
            file.write(text)

    make("a.txt", "0123456789")
    make("b.HTML", "b")
    make("none", "")
    make("sub/c.json", "{}")
    make("index/index.html", "<!DOCTYPE html>here\n")
    make("index/x/y", "")
    make('odd/<b>"&#%3f\'é', "odd")
    make("odd/javascript:1", "odd")
    make("odd/.hidden", "")
    make("odd/sub/file", "")
    make("pipes/z", "")
    make("../secret", "secret")
    os.link(f"{served}/a.txt", f"{served}/hard")
    for link, target in [("sub/up", "../a.txt"), ("to-index", "index"),
                         ("loop", "loop"), ("out", "../secret"),
                         ("far", f"{root}/secret"), ("away", "..")]:
        os.symlink(target, f"{served}/{link}")
    os.mkfifo(f"{served}/pipe")
    os.mkfifo(f"{served}/pipes/index.html")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seed = int(os.environ.get("CHECK_SEED", random.randrange(1 << 32)))
    print(f"CHECK_SEED={seed}")
    rng = random.Random(seed)
    all_checks = Checks(os.path.abspath(sys.argv[1]))
    with tempfile.TemporaryDirectory() as root:
        all_checks.answers(root)
        all_checks.bad_input(root)
        for options in ("", "stress=alloc:101", "stress=alloc:1009,verify=1"):
            all_checks.load(root, rng, options)
    print(f"{all_checks.passed} passed, {all_checks.failed} failed")
    sys.exit(all_checks.failed > 0)


if __name__ == "__main__":
    main()
