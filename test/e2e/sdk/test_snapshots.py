import asyncio
import io
import json
import os
import subprocess
import tarfile

import pytest
from trove_sdk import AsyncTroveClient, TroveClient, TroveError, TroveNotFoundError


def test_a_snapshot_brings_back_what_there_was(client, namespace):
    client.exec("cd workspace && mkdir -p a/b && echo one > a/b/one && ln -s one a/b/link && ln a/b/one two && chmod 700 a && touch -d 2001-02-03T04:05:06.123456789Z a/b/one")
    look = "cd workspace && find . -printf '%P %y %m %s %T+ %l %n\n' | sort && cat a/b/one"
    before = client.exec(look)
    made = client.create_snapshot("before the change")
    assert made.snapshot_id.startswith("snap-")
    assert (made.namespace, made.label, made.size_bytes) == (namespace, "before the change", 4)
    client.exec("cd workspace && rm -rf a && echo new > new")
    assert client.restore_snapshot(made.snapshot_id) == 2
    assert client.exec(look) == before
    # Still the tenant's own.
    client.exec("cd workspace && rm a/b/link && echo more >> two && chmod 755 a && rm -r a")


def test_list_and_delete(client):
    assert client.list_snapshots() == []
    client.write("f", "f")
    first = client.create_snapshot()
    second = client.create_snapshot("second")
    assert client.list_snapshots() == [second, first]
    assert first.label is None
    assert first.created_at.endswith("Z") and first.created_at < second.created_at
    client.delete_snapshot(first.snapshot_id)
    assert client.list_snapshots() == [second]
    for call in (client.restore_snapshot, client.delete_snapshot):
        with pytest.raises(TroveNotFoundError):
            call(first.snapshot_id)
    assert client.read_text("f") == "f"


def test_async(keys, namespace):
    async def body():
        async with AsyncTroveClient(keys["workspace_key"], namespace, base_url=keys["base_url"]) as client:
            await client.write("f", "then")
            made = await client.create_snapshot("a")
            await client.write("f", "now")
            assert await client.restore_snapshot(made.snapshot_id) == 1
            assert await client.read_text("f") == "then"
            assert [one.snapshot_id for one in await client.list_snapshots()] == [made.snapshot_id]
            await client.delete_snapshot(made.snapshot_id)

    asyncio.run(body())


def test_download(client, keys, namespace):
    client.write("dir/ä.txt", "content")
    made = client.create_snapshot()
    answer = client._http.get(f"/v1/snapshots/{made.snapshot_id}/download")
    assert answer.headers["content-type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == ["workspace", "workspace/dir", "workspace/dir/ä.txt"]
        assert archive.extractfile("workspace/dir/ä.txt").read() == b"content"


def test_who_may(client, admin, keys, namespace):
    client.write("f", "f")
    made = client.create_snapshot()
    locked = admin.create_key("locked", namespace=namespace)
    other = admin.create_key("other", namespace=f"{namespace}-other")
    with TroveClient(locked.api_key, namespace, base_url=keys["base_url"]) as own:
        assert own.restore_snapshot(made.snapshot_id) == 1
    with TroveClient(other.api_key, f"{namespace}-other", base_url=keys["base_url"]) as stranger:
        assert stranger.list_snapshots() == []
        for call in (stranger.restore_snapshot, stranger.delete_snapshot):
            with pytest.raises(TroveNotFoundError):
                call(made.snapshot_id)
    for key, name in ((locked.api_key, f"{namespace}-other"), (keys["admin_key"], namespace)):
        with TroveClient(key, name, base_url=keys["base_url"]) as refused:
            with pytest.raises(TroveError) as failure:
                refused.create_snapshot()
            assert failure.value.status_code == 403
    assert client.list_snapshots() == [made]


def test_events_tell_of_them(client, admin, keys, namespace):
    client.write("f", "f")
    made = client.create_snapshot("told")
    client.restore_snapshot(made.snapshot_id)
    client.delete_snapshot(made.snapshot_id)
    query = {"namespace": namespace, "types": "snapshot.*"}
    events = admin._http.get(f"/v1/workspaces/{keys['workspace_id']}/events", params=query).json()["events"]
    told = [(e["type"], e["data"]["snapshot_id"], e["data"]["label"]) for e in events]
    assert told == [(f"snapshot.{what}", made.snapshot_id, "told") for what in ("deleted", "restored", "created")]
    assert events[1]["data"]["files_restored"] == 1


def test_the_trove_command(scripts, keys, namespace, tmp_path):
    def trove(*args):
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run([scripts / "trove", *args], capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    trove("login", "--api-key", keys["workspace_key"], "--base-url", keys["base_url"], "--namespace", namespace)
    assert "no snapshots" in trove("snapshot", "list")
    trove("write", "workspace/f", "then")
    made = json.loads(trove("snapshot", "create", "--label", "by cli", "--json"))
    assert made["snapshot_id"] in trove("snapshot", "list") and "by cli" in trove("snapshot", "list")
    trove("write", "workspace/f", "now")
    assert "files_restored=1" in trove("snapshot", "restore", "-y", made["snapshot_id"])
    assert trove("cat", "workspace/f") == "then"
    trove("snapshot", "delete", "-y", made["snapshot_id"])
    assert "no snapshots" in trove("snapshot", "list")
