#!/usr/bin/env python3
"""An authoriser for linegate (docs/hub.md): says yes to the keys of a JSON file, and no to all others.

    authoriser.py /run/authoriser.sock /etc/linegate/sites.json

The file is read anew for every question. It holds an answer a key, without "allow":

    {"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=": {"name": "branch 17", "allowed_ips": ["10.60.17.0/24"]}}
"""

import json
import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler


class Authoriser(BaseHTTPRequestHandler):
    timeout = 5

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(SITES, encoding="utf-8") as file:
            site = json.load(file).get(question["public_key"])
        if site is None:
            answer = {"allow": False, "reason": "no such site"}
        else:
            answer = {"allow": True, **site}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *values):
        pass  # The answers are in linegate's log.


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    SOCKET, SITES = sys.argv[1:]
    if os.path.exists(SOCKET):
        os.remove(SOCKET)
    os.umask(0o077)  # The answers hold keys: only our own user and root may ask.
    Server(SOCKET, Authoriser).serve_forever()
