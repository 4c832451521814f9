"""The smallest control plane that an installed agent can register at: on loopback and without TLS, or at an ADDRESS with it.

    plane.py DIRECTORY [PORT [ADDRESS CERTIFICATE KEY]]

Writes its port to DIRECTORY/port, hands out every file DIRECTORY/jobs/ID.json as the manifest of an `apply` until it has a
result, and writes each result to DIRECTORY/results/ID.json. The one-time token is anything that begins with `once`.
"""

import http.server
import json
import pathlib
import ssl
import sys
import time

MEDIA_TYPE = "application/vnd.vworkspace.agent.v1+json"
BEARER = "a-bearer-that-works-for-all-of-this"
HOME = pathlib.Path(sys.argv[1])


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def waiting():
    for file in sorted((HOME / "jobs").glob("*.json")):
        if not (HOME / "results" / file.name).exists():
            yield {
                "id": file.stem,
                "kind": "apply",
                "payload": json.loads(file.read_text()),
                "idempotencyKey": file.stem,
                "createdAt": now(),
                "expiresAt": None,
            }


class Plane(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=None):
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if body is not None:
            self.send_header("Content-Type", MEDIA_TYPE)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.headers["Authorization"] != f"Bearer {BEARER}":
            return self.answer(401, {"error": "Unauthorized", "message": "a bearer that is not known", "requestId": "1"})
        deadline = time.monotonic() + 5
        while not (jobs := list(waiting())) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.answer(200, {"jobs": jobs})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.path.removeprefix("/api/agent/").split("/"):
            case ["register"]:
                if not (self.headers["Authorization"] or "").startswith("Bearer once") or (HOME / "registered").exists():
                    return self.answer(401, {"error": "Unauthorized", "message": "that token is no good", "requestId": "1"})
                (HOME / "registered").touch()
                self.answer(200, {"clusterId": "c1", "token": BEARER})
            case ["jobs", job, "result"]:
                part = HOME / "results" / f"{job}.part"
                part.write_bytes(body)
                part.rename(HOME / "results" / f"{job}.json")
                self.answer(204)
            case ["jobs", _, "ack" | "status"] | ["events"]:
                self.answer(204)
            case _:
                self.answer(404)

    def log_message(self, *_):
        pass


def main():
    for name in ("jobs", "results"):
        (HOME / name).mkdir(exist_ok=True)
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    address, *pair = sys.argv[3:] or ["127.0.0.1"]
    server = http.server.ThreadingHTTPServer((address, port), Plane)
    if pair:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*pair)
        # The handshake is a matter of each connection's own thread.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    (HOME / "port.part").write_text(str(server.server_port))
    (HOME / "port.part").rename(HOME / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
