"""A Hugging Face Hub on loopback, so that the tests drive the real client libraries without a
network.

It speaks the part of the Hub's HTTP interface that ``huggingface_hub``, ``transformers`` and
``datasets`` use to download models and datasets, to check a token and to push a model. It keeps
everything in memory and fails on demand.

    with LoopbackHub() as hub:
        hub.add_repo("dataset", "stanfordnlp/imdb", {"README.md": b"..."})
        hub.faults.append(Fault("POST", "/commit/", "lose answer"))
        subprocess.run([...], env={**os.environ, **hub.env, "HF_TOKEN": "hf_write"})
        assert "config.json" in hub.files("model", "tester/x")
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections import namedtuple
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".bin", ".parquet", ".pt", ".safetensors")
LFS_THRESHOLD = 10 * 1024 * 1024
GITATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES
).encode()

API = "/api/(?P<kind>model|dataset)s/(?P<repo_id>(?:[^/]+/)?[^/]+)"
PAGE = "/(?:(?P<kind>dataset)s/)?(?P<repo_id>(?:[^/]+/)?[^/]+)"
ROUTES = []

Request = namedtuple("Request", "method path authorization")
Commit = namedtuple("Commit", "id title parent date files")


@dataclass
class Fault:
    """A failure for the next ``times`` requests of ``method`` whose path contains ``path``.

    The action is a status code (with ``headers``, such as Retry-After), "drop" (close the
    connection unanswered), "hang" (keep silent until the hub stops) or "lose answer" (do the work,
    then close the connection unanswered).
    """

    method: str
    path: str
    action: int | str
    times: int = 1
    headers: dict = field(default_factory=dict)


@dataclass
class Repo:
    """A repository: its commits, oldest first, of which the last is the head of branch main, and
    those of other references, such as refs/pr/1.
    """

    private: bool
    gated: bool
    commits: list = field(default_factory=list)
    references: dict = field(default_factory=dict)


@dataclass
class Call:
    """A request as a route sees it. The route returns the response body and may set the status
    and headers.
    """

    token: dict | None
    range: str | None
    query: dict
    body: bytes
    status: int = 200
    headers: dict = field(default_factory=dict)


class HubError(Exception):
    """An error response. The Hub gives the text in X-Error-Message and the kind in
    X-Error-Code.
    """

    def __init__(self, status, message, code=None, **headers):
        super().__init__(message)
        self.status = status
        self.headers = {
            "X-Error-Message": message,
            **({"X-Error-Code": code} if code else {}),
            **headers,
        }


def git_oid(kind, content):
    """The id that git gives an object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def goes_to_lfs(path, size):
    """Whether the Hub stores a file in LFS, by .gitattributes and size, or else in git
    itself.
    """
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_THRESHOLD)


class File:
    """A file of a commit: its content, its ETag and its entry in the Hub's tree listing."""

    def __init__(self, path, content):
        self.content = content
        self.etag = oid = git_oid("blob", content)
        self.entry = {"type": "file", "path": path, "size": len(content)}
        if goes_to_lfs(path, len(content)):
            self.etag = hashlib.sha256(content).hexdigest()
            pointer = "version https://git-lfs.github.com/spec/v1\n"
            pointer += f"oid sha256:{self.etag}\nsize {len(content)}\n"
            oid = git_oid("blob", pointer.encode())
            self.entry["lfs"] = {
                "oid": self.etag,
                "size": len(content),
                "pointerSize": len(pointer),
            }
        self.entry["oid"] = oid


def route(method, pattern):
    """Make a method of LoopbackHub answer ``method`` on paths that match ``pattern`` as a whole."""

    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class LoopbackHub:
    """The server and its controls: ``add_repo``, ``commit``, ``files``, ``commits``,
    ``requests``, ``faults``.

    ``tokens`` maps a token to its user and role: "read", "write" or "fineGrained", the last with a
    ``scoped`` list as in whoami's answer, such as ``[{"entity": {"type": "user", "name": "tester"},
    "permissions": ["repo.write"]}]``. ``requests`` lists what came in, as (method, path,
    authorization); a path that does not start with "/" was meant for another host, which ``env``
    makes the client libraries ask for here, and was refused.
    """

    def __init__(self):
        self.tokens = {
            "hf_write": {"user": "tester", "role": "write"},
            "hf_read": {"user": "tester", "role": "read"},
        }
        self.requests = []
        self.faults = []
        self.stopping = threading.Event()
        self.connections = set()
        self._repos = {}
        self._lfs = {}
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self})
        )
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *exception):
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def env(self):
        """The environment in which the client libraries talk to this hub and to nothing else."""
        proxies = {f"{scheme}_proxy": self.endpoint for scheme in ("http", "https", "all")}
        return {
            "HF_ENDPOINT": self.endpoint,
            # the other way to upload, with a server and a client of its own
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would tell s3.amazonaws.com of every load
            **proxies,
            **{name.upper(): value for name, value in proxies.items()},
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def add_repo(self, kind, repo_id, files, *, private=False, gated=False):
        """Create the "model" or "dataset" ``repo_id`` with one commit of ``files``, {path: bytes};
        return its id.
        """
        with self._lock:
            self._repos[kind, repo_id] = Repo(private, gated)
            return self.commit(kind, repo_id, files, "initial commit")

    def commit(self, kind, repo_id, changes, title):
        """Commit ``changes`` to main, {path: bytes, or None to delete}; return the commit's id."""
        with self._lock:
            commits = self._repos[kind, repo_id].commits
            parent, files = (commits[-1].id, dict(commits[-1].files)) if commits else (None, {})
            for path, content in changes.items():
                if content is None:
                    del files[path]
                else:
                    files[path] = File(path, content)
            date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
            tree = {path: file.etag for path, file in files.items()}
            oid = git_oid("commit", json.dumps([kind, repo_id, title, parent, date, tree]).encode())
            commits.append(Commit(oid, title, parent, date, files))
            return oid

    def add_reference(self, kind, repo_id, name, files):
        """Make ``name`` a commit of its own with ``files``; return its id."""
        with self._lock:
            repo = self._repos[kind, repo_id]
            self.add_repo(kind, f"{repo_id}/{name}", files)
            (commit,) = self._repos.pop((kind, f"{repo_id}/{name}")).commits
            repo.references[name] = commit
            return commit.id

    def files(self, kind, repo_id):
        """What main holds, {path: bytes}."""
        with self._lock:
            return {
                path: file.content
                for path, file in self._repos[kind, repo_id].commits[-1].files.items()
            }

    def commits(self, kind, repo_id):
        """The commits of main as (id, title, parent), newest first."""
        with self._lock:
            return [commit[:3] for commit in reversed(self._repos[kind, repo_id].commits)]

    # --- From a request to its answer

    def receive(self, request):
        """Note a request; return the first fault that matches it, used up by one, or None."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if (
                    fault.times > 0
                    and fault.method == request.method
                    and fault.path in request.path
                ):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, method, target, headers, body):
        """Do what a request asks for; return (status, content, headers)."""
        url = urlsplit(target)
        call = Call(None, headers["Range"], parse_qs(url.query), body)
        with self._lock:
            try:
                if (
                    headers["Authorization"] is not None
                ):  # the Hub refuses an unknown token everywhere
                    call.token = self.tokens.get(headers["Authorization"].removeprefix("Bearer "))
                    if call.token is None:
                        raise HubError(401, "Invalid credentials in Authorization header")
                content = self._route(
                    call, "GET" if method == "HEAD" else method, url.path, bool(url.netloc)
                )
            except HubError as error:
                content, call.status, call.headers = (
                    {"error": str(error)},
                    error.status,
                    error.headers,
                )
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            call.headers["Content-Type"] = "application/json; charset=utf-8"
        return call.status, content, call.headers

    def _route(self, call, method, path, elsewhere):
        if elsewhere or method == "CONNECT":
            raise HubError(403, "There is no way out of the loopback hub.")
        for expected, pattern, function in ROUTES:
            if expected == method and (match := pattern.fullmatch(path)):
                given = {
                    name: unquote(value)
                    for name, value in match.groupdict().items()
                    if value is not None
                }
                return function(self, call, **given)
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    @staticmethod
    def _signed_in(call):
        if call.token is None:
            raise HubError(401, "Invalid username or password.")
        return call.token

    @staticmethod
    def _may(token, repo_id, *, write):
        """Whether the token is for reading or writing what is private in this repository."""
        namespace = repo_id.split("/")[0]
        if token["role"] != "fineGrained":
            return namespace == token["user"] and (token["role"] == "write" or not write)
        scopes = [
            scope for scope in token["scoped"] if scope["entity"]["name"] in (namespace, repo_id)
        ]
        wanted = {"repo.write"} if write else {"repo.write", "repo.content.read"}
        return any(wanted & set(scope["permissions"]) for scope in scopes)

    def _find(self, call, kind, repo_id, *, write=False, content=False):
        """Return the repository if the token may see it and, as asked, write to it or read the
        content of its files.
        """
        repo = self._repos.get((kind, repo_id))
        reader = call.token and self._may(call.token, repo_id, write=False)
        if repo is None or (repo.private and not reader):
            # The Hub's 401 has no code, and clients take it for a missing repository, but only if
            # the Hub is on https.
            status, message = (
                (404, "Repository not found")
                if call.token
                else (401, "Invalid username or password.")
            )
            raise HubError(status, message, "RepoNotFound")
        if write and not self._may(self._signed_in(call), repo_id, write=True):
            raise HubError(403, "Authorization error.")
        if content and repo.gated and not reader:
            raise HubError(
                403 if call.token else 401,
                f"Access to {kind} {repo_id} is restricted.",
                "GatedRepo",
            )
        return repo

    @staticmethod
    def _at(repo, revision):
        """Return the commit that ``revision`` names: main, a reference or a whole commit id."""
        named = {"main": repo.commits[-1], **repo.references}
        for commit in [*named.values(), *repo.commits]:
            if revision == commit.id or named.get(revision) is commit:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def _url(self, kind, repo_id):
        return f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"

    # --- Tokens and reading

    @route("GET", "/api/whoami-v2")
    def _whoami(self, call):
        token = self._signed_in(call)
        access = {
            "displayName": "test",
            "role": token["role"],
            "createdAt": "2024-01-01T00:00:00.000Z",
        }
        if token["role"] == "fineGrained":
            access["fineGrained"] = {
                "canReadGatedRepos": False,
                "global": [],
                "scoped": token["scoped"],
            }
        user = {"type": "user", "id": "0" * 24, "name": token["user"], "orgs": []}
        return {**user, "auth": {"type": "access_token", "accessToken": access}}

    @route("GET", f"{API}/auth-check(?P<write>/write)?")
    def _auth_check(self, call, kind, repo_id, write=None):
        self._find(call, kind, repo_id, write=write is not None, content=True)
        return b"OK"

    @route("GET", f"{API}(?:/revision/(?P<revision>[^/]+))?")
    def _info(self, call, kind, repo_id, revision="main"):
        """Describe a repository; for a gated one everybody may know this, but not what is in its
        files.
        """
        repo = self._find(call, kind, repo_id)
        commit = self._at(repo, revision)
        info = {
            "id": repo_id,
            "author": repo_id.split("/")[0],
            "sha": commit.id,
            "lastModified": commit.date,
        }
        info |= {
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "tags": [],
        }
        return info | {"siblings": [{"rfilename": path} for path in sorted(commit.files)]}

    @route("GET", f"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
    def _tree(self, call, kind, repo_id, revision, folder=""):
        """List a folder, or with ``recursive`` all that is below it."""
        commit = self._at(self._find(call, kind, repo_id), revision)
        entries = {path: file.entry for path, file in commit.files.items()}
        for path in commit.files:
            while path := path.rpartition("/")[0]:
                entries[path] = {
                    "type": "directory",
                    "path": path,
                    "size": 0,
                    "oid": git_oid("tree", path.encode()),
                }
        if folder and folder not in entries:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        inside = f"{folder}/" if folder else ""
        deep = call.query.get("recursive") == ["true"]
        listed = [
            p
            for p in sorted(entries)
            if p.startswith(inside) and (deep or "/" not in p[len(inside) :])
        ]
        return [entries[path] for path in listed]

    @route("GET", f"{API}/commits/(?P<revision>[^/]+)")
    def _commits(self, call, kind, repo_id, revision):
        repo = self._find(call, kind, repo_id)
        seen = repo.commits[: repo.commits.index(self._at(repo, revision)) + 1]
        more = {"message": "", "authors": [{"user": repo_id.split("/")[0]}]}
        return [
            {"id": commit.id, "title": commit.title, "date": commit.date, **more}
            for commit in reversed(seen)
        ]

    @route("GET", f"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def _resolve(self, call, repo_id, revision, path, kind="model"):
        """Serve a file, or the range of it that is asked for; the Hub itself sends one on to a CDN
        for LFS files.
        """
        commit = self._at(self._find(call, kind, repo_id, content=True), revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.id})
        file, size = commit.files[path], len(commit.files[path].content)
        call.headers = {
            "X-Repo-Commit": commit.id,
            "ETag": f'"{file.etag}"',
            "Content-Type": "binary/octet-stream",
        }
        if not (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", call.range or "")):
            return file.content
        start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
        if start > end:
            raise HubError(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{size}"})
        call.status = 206
        call.headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return file.content[start : end + 1]

    # --- Writing

    @route("POST", "/api/validate-yaml")
    def _validate_yaml(self, call):
        return {"errors": [], "warnings": []}

    @route("POST", "/api/repos/create")
    def _create_repo(self, call):
        token, asked = self._signed_in(call), json.loads(call.body)
        kind, namespace = asked.get("type", "model"), asked["organization"] or token["user"]
        repo_id = f"{namespace}/{asked['name']}"
        if not self._may(token, namespace, write=True):
            raise HubError(
                403,
                f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"',
            )
        if (kind, repo_id) in self._repos:
            call.status = 409
            return {
                "error": f"You already created this {kind} repo",
                "url": self._url(kind, repo_id),
            }
        self.add_repo(
            kind,
            repo_id,
            {".gitattributes": GITATTRIBUTES},
            private=asked.get("visibility") == "private",
        )
        return {"url": self._url(kind, repo_id), "name": repo_id}

    @route("POST", f"{API}/preupload/(?P<revision>[^/]+)")
    def _preupload(self, call, kind, repo_id, revision):
        """Say of each file whether it goes to LFS, and what is there now, so that clients can leave
        it out.
        """
        files = self._at(self._find(call, kind, repo_id, write=True), revision).files
        answers = []
        for asked in json.loads(call.body)["files"]:
            path, mode = (
                asked["path"],
                "lfs" if goes_to_lfs(asked["path"], asked["size"]) else "regular",
            )
            present = {"oid": files[path].etag} if path in files else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **present})
        return {"files": answers}

    @route("POST", rf"{PAGE}\.git/info/lfs/objects/batch")
    def _lfs_batch(self, call, repo_id, kind="model"):
        """Say where to upload each object that is not in the storage already."""
        self._find(call, kind, repo_id, write=True)
        objects = [
            {"oid": asked["oid"], "size": asked["size"]}
            for asked in json.loads(call.body)["objects"]
        ]
        verify = {"href": f"{self._url(kind, repo_id)}.git/info/lfs/objects/verify"}
        for item in objects:
            if item["oid"] not in self._lfs:
                upload = {"href": f"{self.endpoint}/lfs-storage/{item['oid']}"}
                item["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs-storage/[0-9a-f]{64}")
    def _lfs_upload(self, call):
        """Store an object, as the storage behind the Hub does: without a token, the address being
        secret.
        """
        self._lfs[hashlib.sha256(call.body).hexdigest()] = call.body
        return b""

    @route("POST", rf"{PAGE}\.git/info/lfs/objects/verify")
    def _lfs_verify(self, call, repo_id, kind="model"):
        self._find(call, kind, repo_id, write=True)
        self._stored(json.loads(call.body)["oid"])
        return b"OK"

    def _stored(self, oid):
        if oid not in self._lfs:
            raise HubError(400, "LFS pointer pointed to a file that does not exist")
        return self._lfs[oid]

    @route("POST", f"{API}/commit/main")
    def _commit(self, call, kind, repo_id):
        """Make a commit of a header and its operations, one JSON object a line: all of them or
        none.
        """
        head, changes = self._find(call, kind, repo_id, write=True).commits[-1], {}
        header, *operations = [json.loads(line) for line in call.body.splitlines()]
        if header["value"].get("parentCommit", head.id) != head.id:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        for operation in operations:
            key, value, path = operation["key"], operation["value"], operation["value"]["path"]
            if key == "file":
                changes[path] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                changes[path] = self._stored(value["oid"])
            else:
                gone = [
                    p
                    for p in head.files
                    if (p.startswith(path) if key == "deletedFolder" else p == path)
                ]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                changes |= dict.fromkeys(gone)
        oid = self.commit(kind, repo_id, changes, header["value"]["summary"])
        return {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{self._url(kind, repo_id)}/commit/{oid}",
        }


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with connections kept alive: the body of every request is read before anything else
    happens.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer's head and body leave together
    hub: LoopbackHub

    def handle(self):
        self.hub.connections.add(self.connection)
        with contextlib.suppress(ConnectionError):
            super().handle()
        self.hub.connections.discard(self.connection)

    def do_GET(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        fault = self.hub.receive(Request(self.command, self.path, self.headers["Authorization"]))
        action = fault.action if fault else None
        if action == "hang":
            self.hub.stopping.wait()
        elif isinstance(action, int):
            self.reply(
                action,
                b'{"error": "fault injected"}',
                {"Content-Type": "application/json", **fault.headers},
            )
        elif action != "drop":
            answer = self.hub.answer(self.command, self.path, self.headers, body)
            if action != "lose answer":
                self.reply(*answer)
        if isinstance(action, str):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_CONNECT = do_GET

    def reply(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        """Stay silent: ``requests`` is the log."""
