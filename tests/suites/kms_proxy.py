#!/usr/bin/env python3
"""kms_proxy.py TARGET-PORT MODE-FILE: stands between a mount and its key manager, and is as bad as the mode file says.

Prints its own port. Modes: `pass`; `slow SECONDS`; `throttle N`: the next N calls are throttled; `error N`: the next N fail with 500;
`garbage`: answers that are none; `hang`: no answer; `close`: the connection ends without one.
"""
import http.client
import http.server
import sys
import threading
import time

TARGET, MODE_FILE = int(sys.argv[1]), sys.argv[2]
LOCK = threading.Lock()
USED = [None, 0]


def mode():
    """The mode for this call: a number in it counts calls from when the file was written."""
    with LOCK:
        with open(MODE_FILE, encoding="ascii") as file:
            text = file.read().strip()
        name, _, number = text.partition(" ")
        if name not in ("throttle", "error"):
            return name, float(number or 0)
        if USED[0] != text:
            USED[:] = [text, 0]
        USED[1] += 1
        return (name, 0) if USED[1] <= int(number.split()[0]) else ("pass", 0)


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        name, seconds = mode()
        if name == "slow":
            time.sleep(seconds)
        elif name == "throttle":
            return self.answer(400, b'{"__type":"ThrottlingException","message":"You have exceeded the rate"}')
        elif name == "error":
            return self.answer(500, b'{"__type":"KMSInternalException","message":"It is broken"}')
        elif name == "garbage":
            return self.answer(200, b'{"Plaintext":"AAAA","CiphertextBlob":7}')
        elif name == "hang":
            time.sleep(600)
        if name == "close":
            self.close_connection = True
            return None
        upstream = http.client.HTTPConnection("127.0.0.1", TARGET, timeout=30)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("connection",)}
        upstream.request("POST", self.path, body, headers)
        response = upstream.getresponse()
        return self.answer(response.status, response.read())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
