"""Reading the event log as the SDK's command does, and by its own HTTP client, blocking and async."""

import asyncio
import http.server
import json
import os
import subprocess
import threading
import time

import httpx
import pytest
from trove_sdk import TroveClient
from trove_sdk.webhooks import verify_webhook


@pytest.fixture
def trove(scripts, keys, tmp_path):
    """The `trove` command as whoever holds a key; `start` leaves it running."""
    running = []

    def environment(key, namespace=None):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONUNBUFFERED": "1",
            "TROVE_API_KEY": key,
            "TROVE_WORKSPACE_ID": keys["workspace_id"],
            "TROVE_BASE_URL": keys["base_url"],
            **({"TROVE_NAMESPACE": namespace} if namespace else {}),
        }

    class Trove:
        def call(self, *args, key=keys["admin_key"], namespace=None, check=True):
            done = subprocess.run(
                [scripts / "trove", *args],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment(key, namespace),
                timeout=60,
            )
            assert not check or done.returncode == 0, done.stderr
            return done

        def start(self, *args, key=keys["admin_key"], namespace=None):
            child = subprocess.Popen(
                [scripts / "trove", *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(key, namespace),
            )
            # What reads its output must not wait for ever.
            watchdog = threading.Timer(60, child.kill)
            watchdog.start()
            running.append((child, watchdog))
            return child

    yield Trove()
    for child, watchdog in running:
        watchdog.cancel()
        child.kill()
        child.wait()


@pytest.fixture
def locked(admin, namespace):
    return admin.create_key("locked", namespace=namespace)


def lines_of(child, count):
    """The first lines it prints."""
    got = []
    for line in child.stdout:
        got.append(line)
        if len(got) == count:
            return got
    raise AssertionError(f"it ended after {got}: {child.stderr.read()}")


def events_of(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_list_tells_what_was_done(trove, client, namespace):
    client.write("a.txt", "hello")
    client.exec("echo hi")
    client.delete("a.txt")
    events = events_of(trove.call("events", "list", "--json", "-n", namespace))
    assert [event["type"] for event in events] == ["file.deleted", "exec.completed", "file.written"]
    deleted, completed, written = (event["data"] for event in events)
    assert (written["path"], written["size_bytes"]) == ("workspace/a.txt", 5)
    assert deleted["path"] == "workspace/a.txt"
    assert (completed["command"], completed["exit_code"], completed["stdout"]) == ("echo hi", 0, "hi\n")
    text = trove.call("events", "list", "-n", namespace, "-v").stdout
    assert "workspace/a.txt  (5B)" in text and "echo hi  exit=0" in text and "> hi" in text


def test_list_pages_by_cursor(trove, client, namespace):
    for n in range(7):
        client.write(f"{n}.txt", "x")
    paths, cursor = [], None
    for page in range(4):
        args = ["events", "list", "-n", namespace, "--since", "1h", "--limit", "2", "-t", "file.written"]
        done = trove.call(*args, *(["--cursor", cursor] if cursor else []))
        paths += [line.split()[3] for line in done.stdout.splitlines()]
        more = "Continue with --cursor "
        assert (more in done.stderr) == (page < 3)
        cursor = done.stderr.split(more)[-1].strip()
    assert paths == [f"workspace/{n}.txt" for n in reversed(range(7))]
    assert "(no events)" in trove.call("events", "list", "-n", namespace, "--since", "2100-01-01").stderr
    assert "HTTP 422" in trove.call("events", "list", "--cursor", "nonsense", check=False).stderr
    assert "HTTP 422" in trove.call("events", "list", "--limit", "5000", check=False).stderr


def test_each_key_lists_what_it_may(trove, client, namespace, locked, keys):
    client.write("a.txt", "x")
    assert events_of(trove.call("events", "list", "--json", key=locked.api_key))
    other = trove.call("events", "list", "-n", "other", key=locked.api_key, check=False)
    unnamed = trove.call("events", "list", key=keys["workspace_key"], check=False)
    for refused in (other, unnamed):
        assert refused.returncode == 2 and "HTTP 403" in refused.stderr
    named = events_of(trove.call("events", "list", "--json", key=keys["workspace_key"], namespace=namespace))
    assert {event["namespace"] for event in named} == {namespace}


def test_tail_shows_every_event_once(trove, client, namespace):
    client.write("before.txt", "x")
    (before,) = events_of(trove.call("events", "list", "--json", "-n", namespace))
    since = ["--since", before["created_at"]]
    tail = trove.start("tail", "--json", "--interval", "0.05", "-n", namespace, *since)
    for n in range(60):
        client.write(f"{n}.txt", "x")
    paths = [json.loads(line)["data"]["path"] for line in lines_of(tail, 60)]
    assert paths == [f"workspace/{n}.txt" for n in range(60)]


def test_tail_with_a_locked_key(trove, client, locked):
    tail = trove.start("events", "tail", "--since", "1h", "-t", "file.written", key=locked.api_key)
    client.write("mine.txt", "hello")
    (line,) = lines_of(tail, 1)
    assert "file.written" in line and "workspace/mine.txt  (5B)" in line


@pytest.fixture
def handler():
    """A local server that keeps what is posted to it."""
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/trove/events", posted
    server.shutdown()


def test_webhooks_listen_forwards_each_event_signed(trove, client, namespace, handler):
    url, posted = handler
    listen = trove.start("webhooks", "listen", "--forward-to", url, "--secret", "trove-whsec-test")
    deadline = time.monotonic() + 30
    probes = 0
    while not posted:
        # The command says that it is connected before it is.
        assert time.monotonic() < deadline, listen.stderr
        client.write(f"probe-{probes}.txt", "x")
        probes += 1
        time.sleep(0.2)
    # What Python takes for ends of lines, in an event's middle.
    command = "echo 'a\u2028b\u0085c\u2029d'"
    client.exec(command)
    client.write("last.txt", "x")
    while not posted[-1][1].count(b"last.txt"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    events = []
    for headers, body in posted:
        event = verify_webhook(
            secret="trove-whsec-test", body=body, signature_header=headers["X-Trove-Signature"]
        )
        assert (headers["X-Trove-Event"], headers["X-Trove-Event-Id"]) == (event.type, event.id)
        events.append(event)
    ours = [event for event in events if event.namespace == namespace]
    first = ours[0].data["path"]
    rest = [f"workspace/probe-{n}.txt" for n in range(int(first.split("-")[1].split(".")[0]), probes)]
    written = [event.data["path"] for event in ours if event.type == "file.written"]
    assert written == [*rest, "workspace/last.txt"]
    (executed,) = [event for event in ours if event.type == "exec.completed"]
    assert executed.data["command"] == command
    assert executed.data["stdout"] == "a\u2028b\u0085c\u2029d\n"


def test_by_http_client_blocking_and_async(keys, client, namespace):
    for n in range(5):
        client.write(f"{n}.txt", "x")
    url = f"{keys['base_url']}/v1/workspaces/{keys['workspace_id']}/events"
    headers = {"Authorization": f"Bearer {keys['workspace_key']}"}
    params = {"namespace": namespace, "limit": 2}
    with httpx.Client(headers=headers) as http_client:
        blocking, cursor = [], None
        while cursor or not blocking:
            page = http_client.get(url, params={**params, **({"cursor": cursor} if cursor else {})}).json()
            blocking += page["events"]
            cursor = page["next_cursor"]

    async def walk():
        async with httpx.AsyncClient(headers=headers) as http_client:
            events, cursor = [], None
            while cursor or not events:
                got = await http_client.get(url, params={**params, **({"cursor": cursor} if cursor else {})})
                events += got.json()["events"]
                cursor = got.json()["next_cursor"]
            return events

    assert blocking == asyncio.run(walk())
    assert [event["data"]["path"] for event in blocking] == [f"workspace/{n}.txt" for n in (4, 3, 2, 1, 0)]


def test_async_stream_resumes_where_it_was_cut(keys, namespace, locked):
    url = f"{keys['base_url']}/v1/workspaces/{keys['workspace_id']}/webhooks/stream"

    async def body():
        got, last = [], None
        with TroveClient(locked.api_key, namespace, base_url=keys["base_url"]) as writer:
            async with httpx.AsyncClient(timeout=30) as http_client:
                for first in range(0, 12, 4):
                    headers = {"Authorization": f"Bearer {locked.api_key}"}
                    if last:
                        headers["Last-Event-ID"] = last
                        # While nobody listens.
                        await asyncio.to_thread(writer.write, f"{first - 1}.txt", "x")
                    async with http_client.stream("GET", url, headers=headers) as response:
                        assert response.headers["content-type"] == "text/event-stream"
                        lines = response.aiter_lines()
                        assert await anext(lines) == 'data: {"type":"connected"}'
                        for n in range(first, first + 3):
                            await asyncio.to_thread(writer.write, f"{n}.txt", "x")
                        async for line in lines:
                            if line.startswith("id: "):
                                last = line[4:]
                            if line.startswith("data: "):
                                got.append(json.loads(line[6:])["data"]["path"])
                                if got[-1] == f"workspace/{first + 2}.txt":
                                    break
        return got

    assert asyncio.run(body()) == [f"workspace/{n}.txt" for n in range(11)]
