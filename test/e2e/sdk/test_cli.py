import json
import os
import subprocess

import pytest


@pytest.fixture
def trove(scripts, keys, namespace, tmp_path):
    """The `trove` command with a home of its own, logged in with the workspace key."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def call(*args, stdin=None, check=True):
        done = subprocess.run(
            [scripts / "trove", *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    call("login", "--api-key", keys["workspace_key"], "--base-url", keys["base_url"], "--namespace", namespace)
    return call


def test_whoami_and_doctor(trove, keys):
    assert keys["workspace_id"] in trove("whoami").stdout
    assert keys["base_url"] in trove("doctor").stdout


def test_run(trove):
    assert trove("run", "echo", "hi").stdout == "hi\n"
    assert trove("run", "jq .x", stdin='{"x": 1}').stdout == "1\n"
    failed = trove("run", "echo bad >&2; exit 7", check=False)
    assert (failed.returncode, failed.stderr) == (7, "bad\n")
    assert json.loads(trove("run", "--json", "echo hi").stdout)["exit_code"] == 0


def test_files(trove, tmp_path):
    trove("write", "workspace/notes.txt", "hello")
    assert trove("cat", "workspace/notes.txt").stdout == "hello"
    (tmp_path / "data.bin").write_bytes(bytes(range(256)))
    trove("put", "data.bin", "workspace/d/")
    listing = trove("ls").stdout.splitlines()
    assert listing == ["d/", "notes.txt"]
    trove("get", "workspace/d/data.bin", "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == bytes(range(256))
    assert "binary" in trove("cat", "workspace/d/data.bin", check=False).stderr
    trove("rm", "-y", "workspace/notes.txt", "workspace/d")
    assert trove("ls").stdout == "(empty)\n"


def test_keys_need_an_admin_key(trove, keys):
    assert trove("keys", "list", check=False).returncode == 2
    trove("login", "--save-as", "boss", "--api-key", keys["admin_key"], "--base-url", keys["base_url"])
    made = json.loads(trove("--profile", "boss", "keys", "create", "by-cli", "--json").stdout)
    assert made["key_id"] in trove("--profile", "boss", "keys", "list").stdout
    trove("--profile", "boss", "keys", "revoke", "--yes", made["key_id"])
    assert made["key_id"] not in trove("--profile", "boss", "keys", "list").stdout
