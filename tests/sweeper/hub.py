"""A Hub of Hugging Face on this machine, as its client meets it: repositories are made, looked at and committed to."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """Keeps what was pushed. `status`: what it answers in the place of all else; `asked`: the paths of all requests."""

    def __init__(self, licences: Mapping[str, str] = {}) -> None:
        """`licences`: of what lies there already, such as `models/ORG/NAME`."""
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.status: int | None = None
        self._licences, self._open = licences, True
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*hub.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._answer(*hub.post(self.path, body))

            def _answer(self, status: int, found: Mapping[str, Any]) -> None:
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer no more; may be called again."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()

    def get(self, path: str) -> tuple[int, Mapping[str, Any]]:
        """What the Hub knows of a repository."""
        self.asked.append(path)
        kind, name = path.removeprefix("/api/").partition("?")[0].split("/", 1)
        if self.status is not None:
            return self.status, {"error": "no"}
        licence = self._licences.get(f"{kind}/{name}")
        if name not in self.files and licence is None:
            return 404, {"error": "Repository not found"}
        siblings = [{"rfilename": file} for file in self.files.get(name, {})]
        card = {} if licence is None else {"cardData": {"license": licence}}
        private = self.private.get(name, False)
        return 200, {"id": name, "private": private, "siblings": siblings, "sha": "a" * 40, "tags": [], **card}

    def post(self, path: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
        """Make a repository, or take a commit into one."""
        self.asked.append(path)
        place = path.partition("?")[0]
        if self.status is not None:
            return self.status, {"error": "no"}
        if place == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.files[name], self.private[name] = {}, asked.get("private") or asked.get("visibility") == "private"
            return 200, {"url": f"{self.url}/{name}"}
        if place == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        name = "/".join(place.split("/")[3:5])
        if "/preupload/" in place:
            files = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{'b' * 40}", "commitOid": "b" * 40, "success": True}
