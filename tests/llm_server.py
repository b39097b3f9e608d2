"""A real HTTP server that speaks enough of the OpenAI API to be asked, and fails in every way a test wants."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict[str, str], str]


def completion(text: str, finish: str = "stop") -> Reply:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return 200, {}, json.dumps(body)


def honest(prompt: str) -> str:
    return re.split(r",|\bby\b", prompt)[0].strip()


class LLMServer:
    """`answer(prompt, times)` makes the reply to the `times`-th request for a prompt. `paid` counts completions."""

    def __init__(self, answer: Callable[[str, int], Reply | None], delay: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.times: list[tuple[float, str]] = []
        self.keys: set[str] = set()
        self.most_at_once = self._now = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = body["messages"][-1]["content"]
                with lock:
                    outer.asked[prompt] += 1
                    outer.times.append((time.monotonic(), prompt))
                    outer.keys.add(self.headers["authorization"])
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                time.sleep(delay)
                reply = answer(prompt, outer.asked[prompt])
                with lock:
                    outer._now -= 1
                if reply is None:  # hang until the client has gone
                    time.sleep(3)
                    return
                status, headers, text = reply
                with lock:
                    outer.paid[prompt] += status == 200
                try:
                    self.send_response(status)
                    for name, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> LLMServer:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()
