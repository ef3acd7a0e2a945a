import io
import os
import time
from datetime import datetime

import pytest
from trove_sdk import TroveClient, TroveError, TroveExecError


def test_exec_returns_stdout(client):
    assert client.exec("echo hi") == "hi\n"


def test_exec_detailed(client):
    result = client.exec_detailed("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert result.duration_ms >= 0


def test_exec_raises_on_failure(client):
    with pytest.raises(TroveExecError) as failure:
        client.exec("echo gone >&2; false")
    assert failure.value.exit_code == 1
    assert failure.value.stderr == "gone\n"


def test_exec_stdin(client):
    assert client.exec("jq -r .x", stdin='{"x": "é"}') == "é\n"
    assert client.exec("cat") == ""


def test_exec_chain_shares_one_shell(client):
    result = client.exec_chain(["mkdir -p workspace/d", "cd workspace/d", "export A=1", "pwd; echo $A"])
    assert result.exit_code == 0
    assert result.stdout.endswith("/workspace/d\n1\n")
    assert client.exec_chain(["false", "echo not reached"]).stdout == ""


def test_exec_is_stateless_but_for_files(client):
    client.exec("cd workspace; export LEAK=1; echo kept > kept.txt; echo gone > /tmp/gone; echo gone > ~/gone")
    assert client.exec("echo ${LEAK:-none}; cat workspace/kept.txt; ls /tmp/gone ~/gone 2>/dev/null; true") == "none\nkept\n"


def test_exec_over_its_wall_clock_is_408(client):
    client.write("seen.txt", "before")
    started = time.monotonic()
    with pytest.raises(TroveError) as failure:
        client.exec("echo during > workspace/seen.txt; sleep 300")
    assert failure.value.status_code == 408
    assert 25 < time.monotonic() - started < 45
    assert client.read_text("seen.txt") == "during\n"
    assert client.exec("pgrep -c sleep; true") == "0\n"


def test_text_round_trip(client):
    written = client.write("notes/ä b.txt", "grüße\n")
    assert (written.path, written.size_bytes) == ("workspace/notes/ä b.txt", 8)
    assert client.read("workspace/notes/ä b.txt") == "grüße\n"
    assert client.exec("cat 'workspace/notes/ä b.txt'") == "grüße\n"


def test_files_of_a_command_are_files_of_the_api(client):
    client.exec("mkdir -p workspace/out && printf 'a\\0b' > workspace/out/bin && ln -s bin workspace/out/link")
    assert client.read("out/bin") == b"a\x00b"
    assert client.read_bytes("out/link") == b"a\x00b"
    client.write("out/by-api.txt", "x")
    assert client.exec("id -u; stat -c %u workspace/out/by-api.txt; echo more >> workspace/out/by-api.txt") == "10000\n10000\n"
    assert client.read_text("out/by-api.txt") == "xmore\n"


def test_bytes_round_trip(client):
    data = os.urandom(3 * 1024 * 1024 + 17)
    assert client.upload("workspace/blob.bin", io.BytesIO(data)).size_bytes == len(data)
    assert client.read_bytes("blob.bin") == data
    full = client.read_bytes_full("workspace/blob.bin")
    assert (full.content, full.truncated, full.size_bytes) == (data, False, len(data))
    info = client.read_file("blob.bin")
    assert (info.encoding, info.content, info.size_bytes) == ("binary", None, len(data))


def test_read_text_of_binary_is_refused(client):
    client.upload("bin", b"\xff\xfe\x00")
    with pytest.raises(TroveError) as failure:
        client.read_text("bin")
    assert failure.value.status_code == 415


def test_a_long_text_is_cut_at_one_mebibyte_between_characters(client):
    client.write("long.txt", "x" + "é" * 700_000)
    info = client.read_file("long.txt")
    assert info.truncated and info.encoding == "utf-8"
    assert 1024 * 1024 - 4 < len(info.content.encode()) <= 1024 * 1024
    assert set(info.content[1:]) == {"é"}


def test_list(client):
    assert list(client.list_dir()) == []
    for path in ["b.txt", "a.txt", "z/one", "c/two", "c/deep/three"]:
        client.write(path, path)
    top = client.list_dir("workspace/")
    assert [(e.name, e.is_dir) for e in top] == [("c", True), ("z", True), ("a.txt", False), ("b.txt", False)]
    assert top[2].path == "workspace/a.txt" and top[2].size_bytes == 5 and top[0].size_bytes is None
    datetime.fromisoformat(top[2].modified_at.replace("Z", "+00:00"))
    everything = client.list_dir(recursive=True)
    assert [e.path for e in everything] == [
        "workspace/c", "workspace/c/deep", "workspace/c/deep/three", "workspace/c/two",
        "workspace/z", "workspace/z/one", "workspace/a.txt", "workspace/b.txt",
    ]  # fmt: skip
    assert not everything.truncated


def test_delete(client):
    client.write("d/e/f.txt", "x")
    assert client.delete("workspace/d") == "workspace/d"
    for path in ["d", "d/e/f.txt"]:
        with pytest.raises(TroveError) as failure:
            client.delete(path)
        assert failure.value.status_code == 404


def test_init_script_holds_for_every_command(client):
    assert client.get_init() is None
    client.exec("mkdir -p workspace/data")
    client.set_init("cd workspace/data\nexport GREETING='good day'\n")
    assert client.exec("basename $PWD; echo $GREETING") == "data\ngood day\n"
    client.set_init("nonsense-command\nif\n")
    broken = client.exec_detailed("echo still here")
    assert broken.exit_code == 0 and broken.stdout == "still here\n" and broken.stderr != ""
    assert client.clear_init() is True
    assert client.clear_init() is False


def test_bootstrap(client):
    empty = client.bootstrap()
    assert (empty.file_count, empty.init_script, empty.agent_memory) == (0, None, None)
    client.write("a.txt", "1")
    client.write("workspace/.trove/agent.md", "left off at step 3")
    packet = client.bootstrap()
    assert packet.file_count == 1
    assert packet.agent_memory == "left off at step 3"
    assert packet.recent_files[0].path == "workspace/a.txt"
    assert "left off at step 3" in packet.as_system_prompt_block()


def test_namespaces_are_apart(client, keys, namespace):
    client.write("mine.txt", "secret")
    with TroveClient(keys["workspace_key"], namespace + "-other", base_url=keys["base_url"]) as other:
        assert list(other.list_dir()) == []
        assert other.exec("ls -A workspace/") == ""
        with pytest.raises(TroveError) as failure:
            other.read_text("mine.txt")
        assert failure.value.status_code == 404


@pytest.mark.parametrize("path", ["../x", "a/../../x", "%2e%2e/x", "a\\..\\x", "/etc/passwd", "a\x00b"])
def test_paths_that_lead_out_are_400(client, path):
    for call in (lambda: client._http.post("/write", json={"path": path, "content": "x"}),
                 lambda: client._http.post("/delete", json={"path": path}),
                 lambda: client._http.get("/v1/files", params={"path": path}),
                 lambda: client._http.get("/v1/files/content", params={"path": path})):  # fmt: skip
        answer = call()
        assert answer.status_code == 400, answer.text
        assert answer.json()["detail"]


def test_a_link_that_leads_out_is_400(client):
    client.exec("ln -s /etc/passwd workspace/out; ln -s .. workspace/up")
    for path in ["out", "up/up", "up"]:
        answer = client._http.get("/v1/files/content", params={"path": path})
        assert answer.status_code == 400, (path, answer.text)


def test_wrong_key_is_401(keys):
    with TroveClient("trove-sk-wrong", "x", base_url=keys["base_url"]) as stranger:
        with pytest.raises(TroveError) as failure:
            stranger.exec("true")
    assert failure.value.status_code == 401


def test_no_network_for_a_command(client):
    result = client.exec_detailed("python3 -c 'import socket; socket.socket()'")
    assert result.exit_code == 1 and "PermissionError: [Errno 13]" in result.stderr
    assert client.exec("python3 -c 'import socket; socket.socketpair(); print(1)'") == "1\n"


TOOLS = """bash awk gawk sed grep rg jq file tree diff patch tar gzip bzip2 xz zip unzip zstd curl git python3 node npm
pdftotext pdfinfo ffmpeg ffprobe convert identify exiftool sqlite3 bc make gcc find ls""".split()


def test_the_tools_are_there(client):
    missing = client.exec(f"for tool in {' '.join(TOOLS)}; do command -v $tool >/dev/null || echo $tool; done")
    assert missing == ""
    assert client.exec("python3 -m venv --help >/dev/null && python3 -m pip --version >/dev/null && echo yes") == "yes\n"
    assert client.exec("echo 'int main(){return 7;}' > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a; echo $?") == "7\n"
