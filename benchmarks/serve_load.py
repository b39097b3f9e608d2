"""python benchmarks/serve_load.py [--clients 64] [--seconds 10] [--rounds 3] [--requests 20000] [--size 512]

How much of a model's speed is left behind HTTP. In turns, `--rounds` times: the model alone (`score_each` on the files,
in a process of its own) and the service (`humanpref serve`, one process) with so many clients at once, each sending
--images JPEG images (one) again and again over a kept connection from this process. Prints images per second and their
ratio; percentiles of how long an answer took; the processor time of an image in either process and its ratio, which
other work on the machine disturbs less; and how the server's memory grew over `--requests` further requests. The
clients share the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import httpx
import numpy as np
import uvloop
from PIL import Image

ALONE = """
import sys, time
from humanpref import load_scorer
from humanpref.memory import keep_freed_memory
keep_freed_memory()  # as the server does
scorer = load_scorer({model!r}, **{options!r})
paths = sys.argv[2:]
list(scorer.score_each(paths, "warm up"))
began, used, done = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - began < float(sys.argv[1]):
    done += len(list(scorer.score_each(paths * 4, "a lighthouse")))
print(done / (time.perf_counter() - began), (time.process_time() - used) / done)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--images", type=int, default=1, help="of each request")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--weights")
    parser.add_argument("--arch")
    options = parser.parse_args()
    shape = f"{options.size}x{options.size}"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {options.model}, {shape} JPEG")
    own = {name: getattr(options, name) for name in ("weights", "arch") if getattr(options, name)}
    extra = [word for name, value in own.items() for word in (f"--{name}", value)]
    with tempfile.TemporaryDirectory() as temporary:
        paths = draw(Path(temporary), options.size)
        requests = [request(paths[n:] + paths[:n], options.images) for n in range(len(paths))]
        run = [sys.executable, "-m", "humanpref.cli", "serve", "--model", options.model, *extra, "--port", "0"]
        server = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
        try:
            url = address(server)
            port = int(url.rpartition(":")[2])
            uvloop.run(crowd(port, requests, options.clients, seconds=2))  # warm
            ratios, efforts, took = [], [], []
            for number in range(options.rounds):
                code = ALONE.format(model=options.model, options=own)
                alone = subprocess.run(
                    [sys.executable, "-c", code, str(options.seconds), *map(str, paths)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                rate, effort = map(float, alone.stdout.split())
                before = gauge(url, "process_cpu_seconds_total")
                times, span = uvloop.run(crowd(port, requests, options.clients, seconds=options.seconds))
                images = options.images * len(times)
                used = (gauge(url, "process_cpu_seconds_total") - before) / images
                served = images / span
                ratios.append(served / rate)
                efforts.append(effort / used)
                took += times
                print(
                    f"round {number + 1}: alone {rate:.1f} images/s, served {served:.1f}, ratio {ratios[-1]:.3f}; "
                    f"processor time {1000 * effort:.2f} and {1000 * used:.2f} ms an image, ratio {efforts[-1]:.3f}"
                )
            p50, p95, p99 = np.percentile(took, (50, 95, 99)) * 1000
            speed, effort = statistics.median(ratios), statistics.median(efforts)
            print(f"median of {options.rounds}: {speed:.3f} of the speed, {effort:.3f} by processor time")
            print(f"{options.clients} clients: p50 {p50:.0f} ms  p95 {p95:.0f} ms  p99 {p99:.0f} ms")
            print(batches(url))
            if options.requests:
                grow(url, port, Path(temporary) / "small", options.clients, options.requests)
        finally:
            server.send_signal(signal.SIGTERM)
            print(f"exit status after SIGTERM: {server.wait(30)}; load {os.getloadavg()[0]:.1f} after")


def grow(url: str, port: int, folder: Path, clients: int, count: int) -> None:
    """Send many small requests and print what they did to the server's memory."""
    small = [request([path], 1) for path in draw(folder, 64)]
    uvloop.run(crowd(port, small, clients, count=2000))
    before = memory(url)
    times, span = uvloop.run(crowd(port, small, clients, count=count))
    after = memory(url)
    print(
        f"{len(times)} requests of 64x64: {len(times) / span:.0f}/s; "
        f"memory {before:.1f} MiB before, {after:.1f} after: {after - before:+.1f} MiB"
    )


def draw(folder: Path, size: int) -> list[Path]:
    """Sixteen pictures with edges and noise, as JPEG."""
    folder.mkdir(exist_ok=True)
    found = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size, size))
        noise = random.integers(-12, 13, (size, size, 3))
        picture = Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))
        path = folder / f"{seed:02}.jpg"
        picture.save(path, quality=90)
        found.append(path)
    return found


def request(paths: list[Path], count: int) -> bytes:
    """A whole HTTP request: making it anew each time would be work of the clients, on the server's cores."""
    images = [{"data": base64.b64encode(path.read_bytes()).decode(), "name": path.name} for path in paths[:count]]
    body = json.dumps({"prompt": "a lighthouse", "images": images}).encode()
    head = "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"at (http://\S+);", line):
            url = found[1]
            for _ in range(600):
                try:
                    httpx.get(f"{url}/readyz").raise_for_status()
                    return url
                except httpx.HTTPError:
                    time.sleep(0.1)
    raise SystemExit("the server did not start")


class Client(asyncio.Protocol):
    """Sends a request whenever the answer to the one before is there. No streams: its work is on the server's cores."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number = crowd, number
        self.answer, self.length, self.began, self.waits = bytearray(), 0, 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(2**24)
        self.ask()

    def ask(self) -> None:
        if not self.crowd.go_on():
            self.transport.close()
            return
        self.answer.clear()
        self.length, self.began, self.waits = 0, time.perf_counter(), True
        self.transport.write(self.crowd.requests[self.number % len(self.crowd.requests)])
        self.number += 1

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if not self.length and (end := self.answer.find(b"\r\n\r\n")) >= 0:
            found = re.search(rb"content-length: (\d+)", self.answer, re.IGNORECASE)
            assert found is not None
            self.length = end + 4 + int(found[1])
        if not self.length or len(self.answer) < self.length:
            return
        if not self.answer.startswith(b"HTTP/1.1 200") or b'"error":null' not in self.answer:
            self.crowd.failed = f"{bytes(self.answer)!r}"
        self.crowd.times.append(time.perf_counter() - self.began)
        self.waits = False
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self.waits:
            self.crowd.failed = self.crowd.failed or f"the connection was lost ({error})"
        self.crowd.leave()


class Crowd:
    """Many clients at once, until the time is over or so many requests are sent."""

    def __init__(self, requests: list[bytes], clients: int, seconds: float, count: int) -> None:
        self.requests, self.left, self.clients = requests, count, clients
        self.times: list[float] = []
        self.failed = ""
        self.end = time.perf_counter() + seconds
        self.done = asyncio.Event()

    def go_on(self) -> bool:
        self.left -= 1
        return not self.failed and self.left >= 0 and time.perf_counter() < self.end

    def leave(self) -> None:
        self.clients -= 1
        if not self.clients:
            self.done.set()


async def crowd(
    port: int, requests: list[bytes], clients: int, *, seconds: float = 1e9, count: int = 10**9
) -> tuple[list[float], float]:
    """Send requests until the time is over or so many are sent -> how long each took, and all until the last answer."""
    start, many = time.perf_counter(), Crowd(requests, clients, seconds, count)
    loop = asyncio.get_running_loop()
    for number in range(clients):
        await loop.create_connection(lambda number=number: Client(many, number), "127.0.0.1", port)
    await many.done.wait()
    if many.failed:
        raise SystemExit(many.failed)
    return many.times, time.perf_counter() - start


def memory(url: str) -> float:
    """The server's resident memory in MiB."""
    return gauge(url, "process_resident_memory_bytes") / 2**20


def gauge(url: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def batches(url: str) -> str:
    text = httpx.get(f"{url}/metrics").text
    total, number = (
        float(re.search(rf"^humanpref_batch_images_{end}\S* (\S+)", text, re.MULTILINE)[1]) for end in ("sum", "count")
    )
    return f"batches: {number:.0f}, {total / number:.1f} images on average"


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
