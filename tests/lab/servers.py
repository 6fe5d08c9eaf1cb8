"""Object stores and a web server on loopback for tests, real programs of .venv/servers, and the
proxy before them that repairs what they do wrong and injects faults.

Session fixtures (conftest.py): `s3` (moto; any key is right), `s3_strict` (rclone, checks
signatures), `gcs` (Google's emulator), `web` (rclone serve http, ranges, no listing). Each is a
`Store`; `server.use(monkeypatch)` sets the variables
of the environment. What a proxy was asked stands in `proxy.asked`, and
`proxy.faults = [Fault("503", times=2)]` makes the next two answers 503.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.lab import ROOT

PROGRAMS = ROOT / ".venv" / "servers" / "bin"
KEY, SECRET = "AKIALABLABLAB", "lab-secret-that-no-text-may-hold"
CLEAN = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS")


@dataclass
class Fault:
    """What the proxy does to answers instead of passing them on.

    Attributes:
      kind: a status such as "503", "reset" (no answer), "truncate" (half of the body), "stall"
        (half of the body, then silence), "flip" (one bit of the body), "flip_sent" (one bit of the
        request's body).
      times: how often; then answers are right again.
      match: a regular expression that "METHOD /path" must hold.
      every: of the requests that match only each so many-th is hurt.
      headers, body: of a status.
    """

    kind: str
    times: int = 10**9
    match: str = ""
    every: int = 1
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    seen: int = 0

    def hits(self, request: str) -> bool:
        if self.times <= 0 or not re.search(self.match, request):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.times -= 1
        return True


class Proxy:
    """Passes requests on to a server, repairs what is wrong with its answers, and injects faults.

    Args:
      upstream: port of the server on loopback.
      kind: "s3", "gcs" or "web", whose answers are repaired.

    Attributes:
      faults: a list of Fault, tried in order.
      asked: "METHOD /path" of all requests so far.
    """

    def __init__(self, upstream: int, kind: str):
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def answer(self):
                proxy.answer(self, upstream, kind)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # a client that has seen enough

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def count(self, match: str) -> int:
        """How many requests so far hold the regular expression."""
        return sum(bool(re.search(match, request)) for request in self.asked)

    def answer(self, client, upstream, kind):
        request = f"{client.command} {urllib.parse.unquote(client.path)}"
        body = client.rfile.read(int(client.headers.get("Content-Length") or 0))
        with self._lock:
            self.asked.append(request)
            fault = next((fault for fault in self.faults if fault.hits(request)), None)
        if fault and fault.kind == "reset":
            linger = struct.pack("ii", 1, 0)
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.connection.shutdown(socket.SHUT_RDWR)
            client.close_connection = True
            return
        if fault and fault.kind.isdigit():
            return self.send(client, int(fault.kind), fault.headers, fault.body)
        if fault and fault.kind == "flip_sent" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        headers = dict(client.headers.items())
        repair = {"gcs": _ask_gcs}.get(kind, _ask)
        status, headers, content = repair(upstream, client.command, client.path, headers, body)
        if kind == "s3" and status == 200 and "Content-Range" in headers:
            status = 206  # rclone says 200
        if fault and fault.kind == "flip" and content:
            content = bytearray(content)
            content[len(self.asked) * 7919 % len(content)] ^= 1  # never twice the same
        if fault and fault.kind in ("truncate", "stall"):
            self.send(client, status, headers, content, part=len(content) // 2)
            if fault.kind == "stall":
                self.closing.wait(60)
            client.close_connection = True
            return
        self.send(client, status, headers, content)

    def send(self, client, status, headers, content, part=None):
        client.send_response_only(status)
        length = headers.get("Content-Length", len(content))
        if client.command != "HEAD":
            length = len(content)
        drop = ("content-length", "transfer-encoding", "connection")
        for name, value in headers.items():
            if name.lower() not in drop:
                client.send_header(name, value)
        client.send_header("Content-Length", str(length))
        client.end_headers()
        if client.command != "HEAD":
            client.wfile.write(content[:part])
            client.wfile.flush()


_kept = threading.local()  # one connection a thread and server


def _ask(port, method, path, headers, body):
    """Status, headers and body of a server's answer."""
    for attempt in range(2):
        connections = _kept.__dict__.setdefault("connections", {})
        connection = connections.setdefault(
            port, http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        )
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, dict(answer.getheaders()), content
        except (OSError, http.client.HTTPException):
            connection.close()
            connections.pop(port)
            if attempt:
                raise
    raise AssertionError


def _ask_gcs(port, method, path, headers, body):
    """The emulator as Google's own servers would be: ranges, generations, HEAD, lists."""
    parts = urllib.parse.urlsplit(path)
    query = dict(urllib.parse.parse_qsl(parts.query))
    listing = re.fullmatch(r"/storage/v1/b/([^/]+)/o", parts.path)
    if listing or "list-type" in query:
        bucket = listing[1] if listing else parts.path.strip("/")
        wanted = urllib.parse.urlencode({"prefix": query.get("prefix", "")})
        status, kept, content = _ask(
            port, "GET", f"/storage/v1/b/{bucket}/o?{wanted}", {"Host": "x"}, b""
        )
        if status != 200:
            return status, kept, b"<Error><Code>NoSuchBucket</Code></Error>"
        first = query.get("startOffset", query.get("start-after", ""))
        items = [item for item in json.loads(content).get("items", ()) if item["name"] >= first]
        if listing:
            return status, kept, json.dumps({"kind": "storage#objects", "items": items}).encode()
        return status, {"Content-Type": "application/xml"}, _xml(items, query).encode()
    headers = {name.lower(): value for name, value in headers.items()}
    span = headers.pop("range", None)
    create = method == "PUT" and headers.get("x-goog-if-generation-match") == "0"
    if create and _ask(port, "GET", path, {"Host": "x"}, b"")[0] == 200:
        return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
    status, kept, content = _ask(port, "GET" if method == "HEAD" else method, path, headers, body)
    # TensorStore reads objects by ?alt=media; what else is JSON of the emulator's own
    mark = hashlib.md5(body or content).hexdigest()
    if status == 200 and not (listing or parts.path.startswith("/upload")):
        kept |= {
            "x-goog-generation": kept.get("x-goog-generation", "1"),
            "ETag": f'"{mark}"',
        }
        kept["Last-Modified"] = formatdate(usegmt=True)
    if status != 200 or method not in ("GET", "HEAD"):
        return status, kept, content
    if span:
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", span).groups()
        start = int(first) if first else max(len(content) - int(last), 0)
        stop = min(int(last) + 1 if first and last else len(content), len(content))
        kept["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        status, content = 206, content[start:stop]
    kept["Content-Length"] = str(len(content))
    return status, kept, content


def _xml(items, query):
    """A list as the XML interface has it, with folders where a delimiter is asked for."""
    start, folders, entries = query.get("prefix", ""), set(), []
    for item in items:
        if item["name"] <= query.get("start-after", ""):
            continue
        folder, found, _ = item["name"][len(start) :].partition("/")
        if found and query.get("delimiter"):
            folders.add(f"{start}{folder}/")
            continue
        entries.append(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
            f"<LastModified>{item['updated']}</LastModified>"
            f'<ETag>"{base64.b64decode(item["md5Hash"]).hex()}"</ETag></Contents>'
        )
    entries += [
        f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)
    ]
    return f"<ListBucketResult>{''.join(entries)}</ListBucketResult>"


@dataclass
class Store:
    """A server and the proxy before it.

    Attributes:
      bucket: "s3://bank", or the address of the web server's folder.
      proxy: what clients talk to.
      folder: what a web server or rclone serves.
      variables: of the environment.
    """

    bucket: str
    proxy: Proxy
    folder: Path | None
    variables: dict

    def use(self, monkeypatch, **more) -> "Store":
        """Sets the environment to this store; faults and records of earlier tests go."""
        for name in list(os.environ):
            if name.startswith(CLEAN):
                monkeypatch.delenv(name)
        for name, value in (self.variables | more).items():
            monkeypatch.setenv(name, value)
        self.proxy.faults, self.proxy.asked = [], []
        return self


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(kind, folder, *command):
    """Starts a server of .venv/servers on a free port ("{port}" in its command), and its proxy."""
    if not (PROGRAMS / command[0]).exists():
        pytest.skip(f"needs {command[0]} of tests/requirements-servers.txt in .venv/servers")
    port = free_port()
    words = [str(PROGRAMS / command[0]), *(word.format(port=port) for word in command[1:])]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    proxy = Proxy(port, kind)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            time.sleep(0.05)
        yield port, proxy
    finally:
        proxy.close()
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _aws(proxy):
    return {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """S3 by moto with a bucket "bank"; all operations are right, any key is accepted."""
    folder = tmp_path_factory.mktemp("moto")
    with running("s3", folder, "moto_server", "-H", "127.0.0.1", "-p", "{port}") as (port, proxy):
        make = urllib.request.Request(f"http://127.0.0.1:{port}/bank", method="PUT")
        urllib.request.urlopen(make, timeout=60).close()
        yield Store("s3://bank", proxy, None, _aws(proxy))


@pytest.fixture(scope="session")
def s3_strict(tmp_path_factory):
    """S3 by rclone with a bucket "bank", which is a folder; wrong signatures are refused."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "served" / "bank").mkdir(parents=True)
    keys = f"--auth-key={KEY},{SECRET}"
    address = ("--addr", "127.0.0.1:{port}", "--vfs-cache-mode", "off", keys)
    with running("s3", folder, "rclone", "serve", "s3", *address, "served") as (_, proxy):
        yield Store("s3://bank", proxy, folder / "served" / "bank", _aws(proxy))


@pytest.fixture(scope="session")
def gcs(tmp_path_factory):
    """Google Cloud Storage by its emulator with a bucket "bank"."""
    folder = tmp_path_factory.mktemp("gcs")
    address = ("--host", "127.0.0.1", "--port", "{port}", "--default-bucket", "bank")
    program = ("gcp-storage-emulator", "-d", str(folder), "start", *address, "--in-memory", "-q")
    with running("gcs", folder, *program) as (_, proxy):
        # read once by TensorStore, when its first bucket of Google is opened
        variables = {"STORAGE_EMULATOR_HOST": proxy.url, "TENSORSTORE_GCS_HTTP_URL": proxy.url}
        yield Store("gs://bank", proxy, None, variables)


@pytest.fixture(scope="session")
def web(tmp_path_factory):
    """A web server with ranges, by rclone; it serves `folder`."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "served").mkdir()
    command = ("rclone", "serve", "http", "--addr", "127.0.0.1:{port}", "--dir-cache-time", "0s")
    with running("web", folder, *command, "served") as (_, proxy):
        yield Store(proxy.url, proxy, folder / "served", {})
