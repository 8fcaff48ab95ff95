"""Test `segic serve` as a process: it stops gracefully, survives a kill, and waits for nobody."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from requirements import require_module
from server_files import Files
from tiny import command_files

httpx = require_module("httpx")
require_module("fastapi")

from segic_jax.inference.segmenter import Segmenter
from segic_jax.server.connections import HEAD_SECONDS
from segic_jax.server.store import ContextStore

FILES = Files()


class Server:
    """Run the command on a free port."""

    def __init__(self, root, *options: str):
        command = [sys.executable, "-m", "segic_jax", "serve", "--weights", "tiny.safetensors", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://(127\.0\.0\.1):(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.address = found[1], int(found[2])
        self.client = httpx.Client(base_url=found[0], timeout=120)

    def add(self, id: str, token: str = "") -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        sent = self.client.post("/v1/contexts", files=FILES.reference(), data={"id": id}, headers=headers)
        return sent.status_code

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a server; all of them end with the test."""
    servers = []
    command_files(tmp_path)

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        server.process.stderr.close()


def test_a_graceful_stop_finishes_what_was_accepted(start):
    server = start()
    assert server.add("a") == 201
    with ThreadPoolExecutor(4) as pool:
        sent = [
            pool.submit(server.client.post, "/v1/contexts/a/predict", files=FILES.images(3)) for _ in range(4)
        ]
        while server.client.get("/health").json()["pending_images"] == 0 and not sent[0].done():
            time.sleep(0.01)
        assert server.end() == 0
        statuses = []
        for future in sent:
            try:
                statuses.append(future.result().status_code)
            except httpx.TransportError:  # had not been accepted
                statuses.append(0)
    assert statuses.count(200) >= 1
    assert set(statuses) <= {200, 0}
    assert server.process.stderr.read() == ""


def test_a_kill_leaves_whole_contexts_or_none(start, tmp_path):
    server = start()
    assert server.add("first") == 201
    added, stop = ["first"], threading.Event()

    def keep_adding(worker: int) -> None:
        for number in range(1000):
            try:
                if stop.is_set() or server.add(f"{worker}-{number}") != 201:
                    return
            except httpx.TransportError:
                return
            added.append(f"{worker}-{number}")

    threads = [threading.Thread(target=keep_adding, args=[worker]) for worker in range(3)]
    for thread in threads:
        thread.start()
    while len(added) < 8:
        time.sleep(0.01)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    stop.set()
    for thread in threads:
        thread.join()
    store = ContextStore(tmp_path / "segic_contexts", Segmenter.load(tmp_path / "tiny.safetensors"))
    assert set(added) <= set(store.ids())
    for id in store.ids():  # also of those that nobody was told of
        assert store.get(id).names == ("object",)
    again = start()
    assert set(again.client.get("/v1/contexts").json()["contexts"]) == set(store.ids())
    assert again.client.post("/v1/contexts/first/predict", files=FILES.images()).status_code == 200


def test_a_slow_client_is_cut_off_and_disturbs_nobody(start):
    server = start("--upload-seconds", "1")
    head = (
        "POST /v1/contexts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(head.encode())
        assert server.add("meanwhile") == 201
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert server.client.get("/health").status_code == 200


def test_connections_without_a_request_are_closed(start):
    server = start()
    part = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    begin, connections = time.monotonic(), []
    for sent in (b"", part, part + b"\r\n" + part):  # nothing, a part of a request, a part after a whole one
        connections.append(socket.create_connection(server.address, timeout=HEAD_SECONDS + 20))
        connections[-1].sendall(sent)
    received = [b"".join(iter(partial(connection.recv, 4096), b"")) for connection in connections]
    assert time.monotonic() - begin > HEAD_SECONDS / 2
    assert [b"200 OK" in answer for answer in received] == [False, False, True]
    for connection in connections:
        connection.close()
    assert server.client.get("/health").status_code == 200


def test_other_hosts_and_tokens(start, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    server = start("--token-file", "token")
    assert server.add("a") == 401
    assert server.add("a", "0123456789abcdef") == 201
    for host in ("attacker.example", "127.0.0.1.attacker.example", "127.0.0.1:80.attacker.example", ""):
        refused = server.client.get("/health", headers={"host": host})
        assert refused.status_code == 400
        assert "must name this machine" in refused.json()["detail"]
    for host in ("localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"):
        assert server.client.get("/health", headers={"host": host}).status_code == 200
    assert server.end(signal.SIGINT) == 130
