"""A web server that takes notices, as a chat or a pager does."""

import http.server
import json
import threading

SECRET = "s3cr3t-t0ken"
"""What stands in its address, and must stand nowhere else."""


class Receiver:
    """A webhook's server that takes notices, or refuses them while `refuses` is set."""

    def __init__(self):
        self.bodies, self.refuses, self.lock = [], False, threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    if not outer.refuses:
                        outer.bodies.append(body)
                self.send_response(503 if outer.refuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_): ...

        self.handler = Handler

    def titles(self):
        with self.lock:
            return [body["title"] for body in self.bodies]
