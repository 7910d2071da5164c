"""A loopback stand-in for W&B's server: stores sweeps and hands out runs to the real `wandb sweep` and `wandb agent`.

It answers the GraphQL operations that these two send, and hands out every combination of `values`.
"""

import gzip
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = {"id": "RW50aXR5OjE=", "name": "entity"}
VIEWER = {
    "id": "VXNlcjox",
    "entity": "entity",
    "username": "entity",
    "name": "Test",
    "email": "test@example.org",
    "admin": False,
    "flags": "{}",
    "deletedAt": None,
    "teams": {"edges": []},
    "apiKeys": {"edges": []},
    "defaultEntity": {"name": "entity"},
    "defaultEntityName": "entity",
}


class Sweep:
    """One sweep: the text of its file, and the runs that are still to be handed out."""

    def __init__(self, config: str):
        self.config = config
        self.content = yaml.safe_load(config)
        axes = {
            key: parameter.get("values", [parameter.get("value")])
            for key, parameter in self.content["parameters"].items()
        }
        self.waiting = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
        self.dealt: list[dict[str, Any]] = []

    def next_commands(self, running: dict[str, Any]) -> list[dict[str, Any]]:
        if running:
            return []
        if not self.waiting:
            return [{"type": "exit"}]
        point = self.waiting.pop(0)
        name = f"run{len(self.dealt)}"
        self.dealt.append(point)
        return [
            {
                "id": f"command-{name}",
                "type": "run",
                "run_id": name,
                "run_storage_id": name,
                "program": self.content["program"],
                "args": {key: {"value": value} for key, value in point.items()},
            }
        ]

    def node(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "name": name,
            "method": self.content["method"],
            "state": "RUNNING",
            "config": self.config,
            "createdAt": "2026-01-01T00:00:00Z",
            "runCount": len(self.dealt),
            "runs": {"edges": []},
            "priorRuns": {"edges": []},
            **dict.fromkeys(
                (
                    "description",
                    "displayName",
                    "heartbeatAt",
                    "updatedAt",
                    "bestLoss",
                    "controller",
                    "scheduler",
                )
            ),
        }


class WandbServer:
    """`with WandbServer() as server:` listens at `server.url`; `server.sweeps` holds the uploaded sweeps."""

    def __init__(self) -> None:
        self.sweeps: dict[str, Sweep] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                asked = json.loads(body)
                with server._lock:
                    data = server.answer(asked["query"], asked.get("variables") or {})
                # 400 for what is unknown: on 5xx the client would try again for a long time.
                status, answer = (
                    (200, {"data": data}) if data else (400, {"errors": [{"message": "unknown"}]})
                )
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL operation; None for one that is unknown."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = name.group(1) if name else ""
        project = {"id": "UHJvamVjdDox", "name": "yt8m", "entity": ENTITY}
        if operation == "UpsertSweep":
            sweep = f"sweep{len(self.sweeps)}"
            self.sweeps[sweep] = Sweep(variables["config"])
            return {
                "upsertSweep": {"sweep": {"name": sweep, "project": project}, "configValidationWarnings": []}
            }
        if operation in ("SweepWithRuns", "GetSweepState", "GetSweep"):
            sweep = variables.get("sweep") or variables.get("name") or variables.get("sweepName")
            return {"project": {**project, "sweep": self.sweeps[sweep].node(sweep)}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": variables["sweep"]}}}
        if operation == "Heartbeat":
            commands = self.sweeps[variables["id"]].next_commands(
                json.loads(variables.get("runState") or "{}")
            )
            return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}
        if "serverInfo" in query:
            info = {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}
            return {"viewer": VIEWER, "serverInfo": info}
        return {"viewer": VIEWER} if "viewer" in query else None
