"""A hub on loopback, in memory, for the real clients of huggingface_hub, transformers and datasets.

It keeps commits, branches and tags, takes plain and LFS uploads, checks tokens and metadata, and can be told to fail.
`tests/hub/test_hub_roundtrip.py` shows it at work.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_metadata import metadata_problems

INITIAL_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
LFS_SUFFIXES = (".safetensors", ".onnx", ".onnx.data", ".parquet", ".bin", ".pt", ".pth", ".pt2")
API = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
PAGE = r"/(?P<datasets>datasets/)?(?P<repo>[^/]+/[^/]+)"


class RequestError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any):
        self.status, self.message, self.code, self.body = status, message, code, {"error": message} | body


@dataclass(frozen=True)
class User:
    name: str
    may_write: bool = True


@dataclass(frozen=True)
class Stored:
    """A file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """git's id, of the pointer where the file is in LFS."""
        content = self.content
        if self.is_lfs:
            version = b"version https://git-lfs.github.com/spec/v1\n"
            content = version + f"oid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def info(self, path: str) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)} | (
            {"lfs": lfs} if self.is_lfs else {}
        )


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    message: str
    files: dict[str, Stored]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))


@dataclass
class Repo:
    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    def add(self, branch: str, message: str, files: dict[str, Stored]) -> Commit:
        parent = self.branches.get(branch)
        told = f"{self.kind}/{self.id}/{branch}/{parent}/{message}/{sorted((p, f.oid) for p, f in files.items())}"
        commit = Commit(hashlib.sha1(told.encode()).hexdigest(), parent, message, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit:
        revision = revision.removeprefix("refs/heads/")
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise RequestError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]


@dataclass
class Fault:
    """What becomes of the next LFS upload of so many bytes: `refuse` it, `drop` the connection, or `stall`."""

    after_bytes: int
    how: str
    times: int = 1
    reached: threading.Event = field(default_factory=threading.Event)


class HubServer:
    """`with HubServer(directory) as hub:` serves at `hub.endpoint` until the block ends.

    Args:
        directory: where clients that are started with `hub.environment()` keep their caches.

    Attributes:
        token, read_token, other_token: of the user `me`, of `me` for reading alone, and of the user `someone`.
        repos: by kind and id, such as `("models", "me/student")`.
        uploads: path or object id of every LFS upload that arrived, in order.
        requests: method and path of every request.
        fault: a `Fault` for LFS uploads, or None.
    """

    token, read_token, other_token = "hf_write", "hf_read", "hf_other"

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.users = {
            self.token: User("me"),
            self.read_token: User("me", may_write=False),
            self.other_token: User("someone"),
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.uploads: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault | None = None
        self.lock = threading.Lock()

    def take_fault(self, received: int) -> Fault | None:
        """The fault, for the first of the uploads that has come so far."""
        with self.lock:
            if self.fault is None or self.fault.times == 0 or received < self.fault.after_bytes:
                return None
            self.fault.times -= 1
        self.fault.reached.set()
        return self.fault

    def __enter__(self) -> HubServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        # Another host, as the hub's storage is: clients take its redirection for the end of the hub's own answer.
        self.storage = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, token: str | None = token) -> dict[str, str]:
        """Variables for a client in a process of its own."""
        env = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        env |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.directory / "hf-home"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
        return env if token is None else env | {"HF_TOKEN": token}

    def connect(self, monkeypatch: Any, token: str | None = token) -> None:
        """Let clients in this process use this hub; huggingface_hub read its environment when it was imported."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        pages = f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pages)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.directory / "hf-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(self.directory / "no-token"))
        if "transformers.utils.hub" in sys.modules:  # which remembers the hub that it asked first
            monkeypatch.setattr(sys.modules["transformers.utils.hub"], "_hf_api", None)
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """What a repository holds, without the file that it was made with."""
        commit = self.repos[kind, repo_id].at(revision)
        return {path: file.content for path, file in commit.files.items() if path not in INITIAL_FILES}

    def messages(self, repo_id: str, revision: str = "main", kind: str = "models") -> list[str]:
        """The commit messages of a branch, the first one first."""
        repo, messages = self.repos[kind, repo_id], []
        commit = repo.at(revision)
        while commit is not None:
            messages.insert(0, commit.message)
            commit = repo.commits.get(commit.parent)
        return messages


class Handler(BaseHTTPRequestHandler):
    """Finds the function of a request in `ROUTES`, and says what it returns or raises."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: a client waits 40 ms for the second one

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.requests.append((self.command, url.path))
        try:
            for method, pattern, function in ROUTES:
                found = re.fullmatch(pattern, url.path)
                if found and self.command in method:
                    return function(self, **{name: unquote(text or "") for name, text in found.groupdict().items()})
            raise RequestError(404, f"no such address: {url.path}")
        except RequestError as error:
            self._read_body()
            headers = {"X-Error-Message": error.message.replace("\n", " ")}
            if error.code is not None:
                headers["X-Error-Code"] = error.code
            self.send(error.body, error.status, headers)

    def send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with bytes as they are, and with anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_body(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives; nothing where it was read before."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            self.headers.replace_header("Transfer-Encoding", "identity")
            return
        left = int(self.headers.get("Content-Length") or 0)
        if left:
            self.headers.replace_header("Content-Length", "0")
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 16))
            if not piece:
                raise ConnectionError("the client went away")
            left -= len(piece)
            yield piece

    def json(self) -> Any:
        return json.loads(self._read_body() or b"{}")

    def user(self) -> User | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise RequestError(401, "Invalid credentials in Authorization header")
        return user

    def repo(self, kind: str, repo: str, write: bool = False) -> Repo:
        """A repository that the token at hand may read, or write."""
        user, found = self.user(), self.hub.repos.get((kind, repo))
        is_owner = user is not None and user.name == repo.split("/")[0]
        if found is None or (found.private and not is_owner):
            if user is None:
                raise RequestError(401, "Invalid username or password.")
            raise RequestError(404, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise RequestError(401, "Invalid username or password.")
        if write and not (is_owner and user.may_write):
            raise RequestError(403, "Forbidden: you don't have the required permissions to perform this action")
        return found


def whoami(request: Handler) -> None:
    user = request.user()
    if user is None:
        raise RequestError(401, "Invalid username or password.")
    request.send({"type": "user", "id": "0", "name": user.name, "fullname": user.name, "orgs": []})


def create_repo(request: Handler) -> None:
    wish, user, hub = request.json(), request.user(), request.hub
    if user is None:
        raise RequestError(401, "Invalid username or password.")
    kind = f"{wish.get('type') or 'model'}s"
    repo_id = f"{wish.get('organization') or user.name}/{wish['name']}"
    url = f"{hub.endpoint}/{'datasets/' * (kind == 'datasets')}{repo_id}"
    if repo_id.split("/")[0] != user.name or not user.may_write:
        raise RequestError(403, f"You don't have the rights to create a {kind[:-1]} under this namespace")
    with hub.lock:
        if (kind, repo_id) in hub.repos:
            raise RequestError(409, f"You already created this {kind[:-1]} repo", url=url)
        repo = Repo(kind, repo_id, wish.get("visibility") == "private" or wish.get("private") is True)
        repo.add("main", "initial commit", {path: Stored(content, False) for path, content in INITIAL_FILES.items()})
        hub.repos[kind, repo_id] = repo
    request.send({"url": url, "name": repo_id, "id": "0"})


def repo_info(request: Handler, kind: str, repo: str, revision: str = "main") -> None:
    found = request.repo(kind, repo)
    commit = found.at(revision or "main")
    with_blobs = "blobs" in request.query
    siblings = []
    for path, file in commit.files.items():
        info = file.info(path)
        lfs = {"sha256": info["lfs"]["oid"], "size": info["size"], "pointerSize": 134} if file.is_lfs else None
        blobs = {"size": info["size"], "blobId": info["oid"]} | ({"lfs": lfs} if lfs else {})
        siblings.append({"rfilename": path} | (blobs if with_blobs else {}))
    request.send(
        {"_id": "0", "id": repo, "author": repo.split("/")[0], "sha": commit.oid, "private": found.private}
        | {"lastModified": commit.date, "createdAt": commit.date, "gated": False, "disabled": False}
        | {"downloads": 0, "likes": 0, "tags": [], "siblings": siblings}
        | ({"modelId": repo} if kind == "models" else {})
    )


def refs(request: Handler, kind: str, repo: str) -> None:
    found = request.repo(kind, repo)

    def listed(folder: str, targets: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": oid} for n, oid in targets.items()]

    request.send(
        {"branches": listed("heads", found.branches), "tags": listed("tags", found.tags), "converts": []}
        | {"pullRequests": []}
    )


def create_branch(request: Handler, kind: str, repo: str, branch: str) -> None:
    found = request.repo(kind, repo, write=True)
    if branch in found.branches:
        raise RequestError(409, f"Reference already exists: {branch}")
    found.branches[branch] = found.at(request.json().get("startingPoint") or "main").oid
    request.send({})


def create_tag(request: Handler, kind: str, repo: str, revision: str) -> None:
    found = request.repo(kind, repo, write=True)
    found.tags[request.json()["tag"]] = found.at(revision).oid
    request.send({})


def preupload(request: Handler, kind: str, repo: str, revision: str) -> None:
    commit = request.repo(kind, repo, write=True).at(revision)
    answers = []
    for file in request.json()["files"]:
        sample = base64.b64decode(file["sample"])
        is_lfs = file["path"].endswith(LFS_SUFFIXES) or b"\0" in sample or file["size"] > 10_000_000
        known = commit.files.get(file["path"])
        oid = None if known is None else known.sha256 if known.is_lfs else known.oid
        mode = "lfs" if is_lfs else "regular"
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    request.send({"files": answers})


def lfs_batch(request: Handler, datasets: str, repo: str) -> None:
    kind, hub = "datasets" if datasets else "models", request.hub
    found = request.repo(kind, repo, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in found.lfs:
            upload = {"href": f"{hub.endpoint}/lfs-upload/{kind}/{repo}/{wanted['oid']}"}
            verify = {"href": f"{hub.endpoint}/lfs-verify/{kind}/{repo}"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    request.send({"transfer": "basic", "objects": objects})


def lfs_upload(request: Handler, kind: str, repo: str, oid: str) -> None:
    """Take an object; its address is signed as a storage's are, so that it takes no token."""
    hub, received, fault = request.hub, b"", None
    for piece in request.pieces():
        received += piece
        fault = fault or hub.take_fault(len(received))
        if fault is not None and fault.how != "refuse":
            if fault.how == "stall":
                time.sleep(60)
            request.close_connection = True
            request.connection.close()
            return
    if fault is not None:
        raise RequestError(507, "Insufficient storage")
    if hashlib.sha256(received).hexdigest() != oid:
        raise RequestError(400, "the content does not match its sha256")
    hub.repos[kind, repo].lfs[oid] = received
    hub.uploads.append(oid)
    request.send(b"")


def lfs_verify(request: Handler, kind: str, repo: str) -> None:
    found, wanted = request.repo(kind, repo, write=True), request.json()
    if len(found.lfs.get(wanted["oid"], b"")) != wanted["size"]:
        raise RequestError(404, "the object did not arrive")
    request.send({})


def commit(request: Handler, kind: str, repo: str, revision: str) -> None:
    """All operations of a commit, or none."""
    found, hub = request.repo(kind, repo, write=True), request.hub
    lines = [json.loads(line) for line in request._read_body().splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if revision not in found.branches:
        raise RequestError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    files = dict(found.at(revision).files)
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "file":
            files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in found.lfs:
                raise RequestError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = Stored(found.lfs[value["oid"]], True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise RequestError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
    if "README.md" in files:
        errors, _ = metadata_problems(files["README.md"].content.decode(), kind[:-1])
        if errors:
            raise RequestError(400, "Invalid metadata in README.md: " + "; ".join(errors))
    with hub.lock:
        made = found.add(revision, header["summary"], files)
    url = f"{hub.endpoint}/{'datasets/' * (kind == 'datasets')}{repo}/commit/{made.oid}"
    request.send({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def tree(request: Handler, kind: str, repo: str, revision: str, path: str = "") -> None:
    commit = request.repo(kind, repo).at(revision)
    prefix = f"{path.strip('/')}/" if path.strip("/") else ""
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries: dict[str, dict[str, Any]] = {}
    for name, file in commit.files.items():
        if not name.startswith(prefix):
            continue
        *folders, _ = name.removeprefix(prefix).split("/")
        for depth in range(1, len(folders) + 1 if recursive else min(len(folders), 1) + 1):
            folder = prefix + "/".join(folders[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest()}
        if recursive or not folders:
            entries[name] = file.info(name)
    if prefix and not entries:
        raise RequestError(404, f"{path} does not exist", "EntryNotFound")
    request.send([_with_commit(request, entry, commit) for entry in entries.values()])


def paths_info(request: Handler, kind: str, repo: str, revision: str) -> None:
    commit = request.repo(kind, repo).at(revision)
    form = parse_qs(request._read_body().decode())
    request.query |= {"expand": form.get("expand", ["false"])}
    answers = []
    for path in form.get("paths", []):
        if path in commit.files:
            answers.append(commit.files[path].info(path))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            answers.append({"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()})
    request.send([_with_commit(request, entry, commit) for entry in answers])


def _with_commit(request: Handler, entry: dict[str, Any], commit: Commit) -> dict[str, Any]:
    if request.query.get("expand", ["false"])[0].lower() not in ("true", "1"):
        return entry
    return entry | {"lastCommit": {"id": commit.oid, "title": commit.message, "date": commit.date}}


def resolve(request: Handler, datasets: str, repo: str, revision: str, path: str) -> None:
    found = request.repo("datasets" if datasets else "models", repo)
    commit = found.at(revision)
    headers = {"X-Repo-Commit": commit.oid}
    if path not in commit.files:
        request.send({"error": "Entry not found"}, 404, headers | {"X-Error-Code": "EntryNotFound"})
        return
    file = commit.files[path]
    if file.is_lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        location = f"{request.hub.storage}/lfs-object/{found.kind}/{repo}/{file.sha256}"
        request.send(b"", 302, headers | {"ETag": f'"{file.oid}"', "Location": location})
    else:
        _send_range(request, file.content, headers | {"ETag": f'"{file.oid}"'})


def lfs_object(request: Handler, kind: str, repo: str, oid: str) -> None:
    """An object at its signed address, which takes no token, and should see none."""
    if "Authorization" in request.headers:
        raise RequestError(400, "the client gave its token to the storage")
    _send_range(request, request.hub.repos[kind, repo].lfs[oid], {"ETag": f'"{oid}"'})


def _send_range(request: Handler, content: bytes, headers: dict[str, str]) -> None:
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if asked is None:
        request.send(content, 200, headers)
        return
    first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
    if first >= len(content):
        raise RequestError(416, "Range not satisfiable")
    part = content[first : last + 1]
    request.send(part, 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


def validate_yaml(request: Handler) -> None:
    wish = request.json()
    errors, warnings = metadata_problems(wish["content"], wish["repoType"])
    answer = {
        "errors": [{"message": text} for text in errors],
        "warnings": [{"message": text} for text in warnings],
    }
    request.send(answer, 400 if errors else 200)


ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET",), r"/api/whoami-v2", whoami),
    (("POST",), r"/api/repos/create", create_repo),
    (("POST",), r"/api/validate-yaml", validate_yaml),
    (("GET", "HEAD"), rf"{API}", repo_info),
    (("GET", "HEAD"), rf"{API}/revision/(?P<revision>[^/]+)", repo_info),
    (("GET",), rf"{API}/refs", refs),
    (("POST",), rf"{API}/branch/(?P<branch>[^/]+)", create_branch),
    (("POST",), rf"{API}/tag/(?P<revision>[^/]+)", create_tag),
    (("POST",), rf"{API}/preupload/(?P<revision>[^/]+)", preupload),
    (("POST",), rf"{API}/commit/(?P<revision>[^/]+)", commit),
    (("GET",), rf"{API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", tree),
    (("POST",), rf"{API}/paths-info/(?P<revision>[^/]+)", paths_info),
    (("POST",), rf"{PAGE}\.git/info/lfs/objects/batch", lfs_batch),
    (("PUT",), r"/lfs-upload/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)", lfs_upload),
    (("POST",), r"/lfs-verify/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)", lfs_verify),
    (("GET", "HEAD"), r"/lfs-object/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)", lfs_object),
    (("GET", "HEAD"), rf"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]
