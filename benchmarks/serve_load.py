"""Load `segic serve` on this machine: throughput beside the API's own, latency, memory, and bad requests.

    python -m benchmarks.serve_load
    python -m benchmarks.serve_load --weights photo --requests 300 --clients 16

The service runs in a process of its own, at 127.0.0.1; clients run in this one, and share the processor with
it. In turn: `predict_many` on the same files, reading and run lengths included; good requests alone, one
image each, from all clients at once; the whole number of requests, of which a share is bad; good requests at
random times, half of the first load's throughput, whose seconds count from those times whether or not a
client was free; and `predict_many` again.
"""

import http.client
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro

from segic_jax.data.images import read_image
from segic_jax.errors import ConfigError
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter

EXAMPLES = Path(__file__).parents[1] / "examples"
REFERENCE = EXAMPLES / "cat_reference.jpg", EXAMPLES / "cat_reference_mask.png"
SIDE = 640  # longer side of the images that are sent
BOUNDARY = "segic-load"
PREDICT = "/v1/contexts/cat/predict"
SECONDS = 300  # after which a load ends, whatever is left
HALF_SECONDS = 60  # of the load at half the throughput


@dataclass
class Args:
    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    requests: int = 5000
    """Requests of the load with bad ones."""
    clients: int = 64
    """Clients that send them, each one after another."""
    bad: float = 0.3
    """The share of bad requests."""


class Sent(NamedTuple):
    """Hold a request that is ready to be sent."""

    path: str
    body: bytes
    bad: bool = False


class Answer(NamedTuple):
    """Hold what a request got."""

    bad: bool
    status: int  # 0: none
    seconds: float
    sentence: bool  # a refusal that says why


@dataclass
class Load:
    """Collect the answers to a load."""

    answers: list[Answer] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB, now and then
    seconds: float = 0.0
    cpu: float = 0.0  # seconds of all processors that the service took

    @property
    def throughput(self) -> float:
        """Return the images that were segmented in a second."""
        return sum(answer.status == 200 for answer in self.answers if not answer.bad) / self.seconds


def main(args: Args) -> None:
    """Measure the API and the service, and print the figures."""
    if args.requests < args.clients or args.clients < 1 or not 0 <= args.bad < 1:
        raise ConfigError("Give at least one client, a request for each, and a share of bad ones below 1.")
    images = make_images()
    good = [Sent(PREDICT, body(("images", "a.jpg", image))) for image in images]
    api = Api(args.weights, images)
    before = api.throughput()
    with tempfile.TemporaryDirectory(prefix="segic_load_") as folder:
        server = Server(args.weights, Path(folder), args.clients)
        try:
            server.warm_up(good)
            alone = server.load(draw(good, [], int(30 * before) + args.clients, 0), args.clients)
            mixed = server.load(draw(good, bad_requests(images[0]), args.requests, args.bad), args.clients)
            rate = alone.throughput / 2
            half = server.load(draw(good, [], int(HALF_SECONDS * rate) + 1, 0), args.clients, rate)
        finally:
            server.end()
    own = statistics.mean([before, api.throughput()])
    print(
        f"{args.weights}, {args.clients} clients; predict_many: {own:.1f} images a second, "
        f"{1e3 * api.cpu:.0f} ms of a processor each"
    )
    for what, load in (
        ("good requests alone", alone),
        ("with bad requests", mixed),
        (f"at random times, {rate:.1f} a second", half),
    ):
        report(what, load, own)


def make_images() -> list[bytes]:
    """Return JPEG files of the example photographs."""
    files = []
    for path in sorted((EXAMPLES / "targets").glob("*.jpg")):
        image = read_image(path)[..., ::-1]
        scale = SIDE / max(image.shape)
        files.append(cv2.imencode(".jpg", cv2.resize(image, None, fx=scale, fy=scale))[1].tobytes())
    return files


def body(*files: tuple[str, str, bytes]) -> bytes:
    """Return a form of files: field, name and content."""
    parts = []
    for name, file, content in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        parts += [head.encode(), content, b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def bad_requests(image: bytes) -> list[Sent]:
    """Return requests that the service must refuse."""
    large = cv2.imencode(".png", np.zeros((9000, 9000), np.uint8))[1].tobytes()
    sent = [
        ("/v1/contexts/none/predict", ("images", "a.jpg", image)),
        (PREDICT, ("images", "a.jpg", image[: len(image) // 2])),
        (PREDICT, ("images", "a.jpg", b"no image")),
        (PREDICT, ("images", "../../a.jpg", image)),
        (PREDICT, ("images", "a.png", large)),
        (PREDICT, ("other", "a.jpg", image)),
        (f"{PREDICT}?threshold=2", ("images", "a.jpg", image)),
        ("/v1/contexts", ("images", "a.jpg", image)),
    ]
    return [Sent(path, body(file), bad=True) for path, file in sent]


def draw(good: Sequence[Sent], bad: Sequence[Sent], count: int, share: float) -> list[Sent]:
    """Return a random sequence of requests, the same in each run."""
    random_draw = random.Random(0)
    return [random_draw.choice(bad if random_draw.random() < share else good) for _ in range(count)]


class Api:
    """Run the same work in this process."""

    def __init__(self, weights: str, images: Sequence[bytes], count: int = 200):
        self._segmenter = Segmenter.load(weights)
        self._context = self._segmenter.fit(Example(*REFERENCE, name="cat"))
        self._folder = tempfile.TemporaryDirectory(prefix="segic_load_")
        self._paths = [Path(self._folder.name, f"{i}.jpg") for i in range(count)]
        for i, path in enumerate(self._paths):
            path.write_bytes(images[i % len(images)])
        self._run(self._paths[:4])  # compiles
        self.cpu = 0.0  # seconds of all processors that an image took

    def throughput(self) -> float:
        """Return the images a second of `predict_many`, with masks as COCO's JSON."""
        begin, cpu = time.perf_counter(), time.process_time()
        self._run(self._paths)
        self.cpu = (time.process_time() - cpu) / len(self._paths)
        return len(self._paths) / (time.perf_counter() - begin)

    def _run(self, paths: Sequence[Path]) -> None:
        for result in self._segmenter.predict_many(paths, self._context):
            result.coco_file()


class Server:
    """Run the service in a process of its own."""

    def __init__(self, weights: str, folder: Path, clients: int):
        command = [sys.executable, "-m", "segic_jax", "serve", "--weights", weights, "--port", "0"]
        options = ["--folder", str(folder), "--pending-images", str(max(64, clients)), "--seconds", "120"]
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)", self._process.stdout.readline())
        if found is None:
            raise ConfigError("segic serve did not start: run it by itself to see why.")
        self._address = found[1], int(found[2])

    def warm_up(self, good: Sequence[Sent]) -> None:
        """Make the context, and let the service compile."""
        files = [
            ("images", "a.jpg", REFERENCE[0].read_bytes()),
            ("masks", "a.png", REFERENCE[1].read_bytes()),
        ]
        made = body(*files).removesuffix(f"--{BOUNDARY}--\r\n".encode())
        for name, value in (("id", "cat"), ("names", "cat")):
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            made += f"{head}{value}\r\n".encode()
        created = self.load([Sent("/v1/contexts", made + f"--{BOUNDARY}--\r\n".encode())], 1)
        assert created.answers[0].status == 201, created
        self.load(list(good), len(good))

    def load(self, sent: Sequence[Sent], clients: int, rate: float | None = None) -> Load:
        """Send requests from several clients.

        Args:
            rate: requests a second, at random times; None for each client one directly after the other.
        """
        load, begin, cpu = Load(), time.perf_counter(), self._cpu()
        queue: deque[tuple[float | None, Sent]] = deque()
        random_draw, due = random.Random(0), begin
        for request in sent:
            due += random_draw.expovariate(rate) if rate else 0
            queue.append((due if rate else None, request))
        threads = [
            threading.Thread(target=self._client, args=[queue, begin + SECONDS, load]) for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                load.memory.append(self._memory())
                thread.join(0.5)
        load.seconds, load.cpu = time.perf_counter() - begin, self._cpu() - cpu
        load.memory.append(self._memory())
        return load

    def _client(self, queue: deque[tuple[float | None, Sent]], end: float, load: Load) -> None:
        """Send requests of the queue until it is empty, none before it is due."""
        connection = http.client.HTTPConnection(*self._address, timeout=120)
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        while time.perf_counter() < end:
            try:
                due, request = queue.popleft()
            except IndexError:
                break
            begin = time.perf_counter() if due is None else due
            if due is not None:
                time.sleep(max(0.0, due - time.perf_counter()))
                connection.close()  # the service closes those without a request after some seconds
            try:
                connection.request("POST", request.path, request.body, headers)
                response = connection.getresponse()
                content, status = response.read(), response.status
            except (OSError, http.client.HTTPException):
                connection.close()
                content, status = b"", 0
            refused = re.search(rb'"detail":"([^"]+ [^"]+)', content) is not None
            load.answers.append(Answer(request.bad, status, time.perf_counter() - begin, refused))
        connection.close()

    def _cpu(self) -> float:
        """Return the seconds of all processors that the service has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self) -> float:
        """Return the memory of the service in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1e3 if found else 0.0

    def end(self) -> None:
        """Stop the service."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(120)


def report(what: str, load: Load, own: float) -> None:
    """Print the figures of a load."""
    good = [answer for answer in load.answers if not answer.bad]
    bad = [answer for answer in load.answers if answer.bad]
    times = sorted(answer.seconds for answer in good)
    p99 = times[int(0.99 * (len(times) - 1))]
    print(
        f"{what}: {len(load.answers)} requests in {load.seconds:.0f} s, {load.throughput:.1f} images a "
        f"second ({load.throughput / own:.2f} of predict_many), p50 {1e3 * statistics.median(times):.0f} ms, "
        f"p99 {1e3 * p99:.0f} ms, {1e3 * load.cpu / len(good):.0f} ms of a processor for each"
    )
    early = load.memory[len(load.memory) // 10]
    print(
        f"  memory: {early:.0f} MB after a tenth of the time, {max(load.memory):.0f} MB at most, "
        f"{load.memory[-1]:.0f} MB at the end"
    )
    print(f"  answers to good requests: {dict(Counter(answer.status for answer in good))}")
    if bad:
        refused = all(400 <= answer.status < 500 and answer.sentence for answer in bad)
        statuses = dict(sorted(Counter(answer.status for answer in bad).items()))
        print(f"  answers to bad requests: {statuses}; each a 4xx with a sentence: {refused}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
