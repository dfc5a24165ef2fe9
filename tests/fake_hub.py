"""A hub on this machine: as much of the Hugging Face hub as downloads need, and its failures."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


def commit_of(revision: str) -> str:
    """The commit that a revision of any repository here has."""
    return hashlib.sha1(revision.encode()).hexdigest()


class FakeHub:
    """Repositories are {id: {revision: {path: bytes}}}.

    `large` files are stated with SHA-256 (LFS), others with git's hash. `requests` are the
    (method, path, Range) seen. `sent` replaces the bytes of a path, whatever is stated of it;
    `cut` closes the connection after so many bytes, so many times: {path: [bytes, times]}.
    `status` answers all of a repository's requests: {id: (code, X-Error-Code)}.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.large_from = 1000
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.status: dict[str, tuple[int, str]] = {}
        self.licence = "mit"
        self.url = ""

    def add(self, repository: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.repositories.setdefault(repository, {})[revision] = files

    def downloads(self) -> list[str]:
        """The paths whose bytes were sent."""
        return [
            path.split("/resolve/")[1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]

    def stated(self, content: bytes) -> dict:
        blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        entry = {"size": len(content), "oid": blob, "blobId": blob}
        if len(content) >= self.large_from:
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha, "oid": sha, "size": len(content), "pointerSize": 130}
        return entry


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+?))?/?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if found is None:
            return self.fail(404, "")
        repository = found[1]
        if repository in self.hub.status:
            return self.fail(*self.hub.status[repository])
        if repository not in self.hub.repositories:
            return self.fail(404, "RepoNotFound")
        revisions = self.hub.repositories[repository]
        asked = (api[3] if api else file[2]) or "main"
        names = [name for name in revisions if asked in (name, commit_of(name))]
        if not names:
            return self.fail(404, "RevisionNotFound")
        files, commit = revisions[names[0]], commit_of(names[0])
        if file:
            return self.file(files, commit, file[3], body)
        stated = {name: self.hub.stated(content) for name, content in files.items()}
        if api[2] == "tree":
            return self.json([{"type": "file", "path": name, **of} for name, of in stated.items()])
        return self.json(
            {
                "id": repository,
                "sha": commit,
                "cardData": {"license": self.hub.licence},
                "siblings": [{"rfilename": name, **of} for name, of in stated.items()],
            }
        )

    def file(self, files: dict[str, bytes], commit: str, name: str, body: bool) -> None:
        if name not in files:
            return self.fail(404, "EntryNotFound")
        stated = self.hub.stated(files[name])
        content = self.hub.sent.get(name, files[name])
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
        self.send_response(206 if start else 200)
        tag = stated.get("lfs", {}).get("sha256", stated["oid"])
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Linked-ETag", f'"{tag}"')
        self.send_header("X-Linked-Size", str(stated["size"]))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            end = len(content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.end_headers()
        if not body:
            return None
        cut = self.hub.cut.get(name)
        if cut and cut[1] > 0:
            cut[1] -= 1
            self.wfile.write(content[start : start + cut[0]])
            self.close_connection = True
            return None
        self.wfile.write(content[start:])

    def json(self, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub at `hub.url` while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
