import uuid

import pytest
from trove_sdk import TroveAdminClient, TroveClient, TroveError


def test_from_api_key_finds_the_workspace(keys):
    found = TroveAdminClient.from_api_key(keys["admin_key"], base_url=keys["base_url"])
    assert found._workspace_id == keys["workspace_id"]


def test_key_life(admin, keys, namespace):
    made = admin.create_key("for a customer", namespace=namespace)
    assert made.api_key.startswith("trove-sk-") and made.api_key.startswith(made.prefix)
    assert (made.name, made.scope, made.namespace) == ("for a customer", "workspace", namespace)
    listed = {k.key_id: k for k in admin.list_keys()}
    assert listed[made.key_id].prefix == made.prefix

    with TroveClient(made.api_key, namespace, base_url=keys["base_url"]) as locked:
        assert locked.exec("echo mine") == "mine\n"
    for other in [f"absent-{uuid.uuid4().hex[:8]}", namespace + "x"]:
        with TroveClient(made.api_key, other, base_url=keys["base_url"]) as wrong:
            with pytest.raises(TroveError) as failure:
                wrong.exec("echo not mine")
            assert failure.value.status_code == 403

    admin.revoke_key(made.key_id)
    with TroveClient(made.api_key, namespace, base_url=keys["base_url"]) as gone:
        with pytest.raises(TroveError) as failure:
            gone.exec("true")
    assert failure.value.status_code == 401
    assert made.key_id not in {k.key_id for k in admin.list_keys()}


def test_an_admin_key_runs_nothing(keys, namespace):
    with TroveClient(keys["admin_key"], namespace, base_url=keys["base_url"]) as client:
        for call in (lambda: client.exec("true"), lambda: client.write("x", "y"), client.list_dir):
            with pytest.raises(TroveError) as failure:
                call()
            assert failure.value.status_code == 403


def test_a_workspace_key_mints_nothing(keys):
    client = TroveAdminClient(keys["workspace_key"], keys["workspace_id"], base_url=keys["base_url"])
    for call in (lambda: client.create_key("x"), client.list_keys):
        with pytest.raises(TroveError) as failure:
            call()
        assert failure.value.status_code == 403


def test_another_workspace_is_403(keys):
    client = TroveAdminClient(keys["admin_key"], "ws-aaaaaaaaaaaaaaaa", base_url=keys["base_url"])
    with pytest.raises(TroveError) as failure:
        client.list_keys()
    assert failure.value.status_code == 403


def test_namespaces_are_listed_and_deleted(admin, client, keys, namespace):
    client.write("a.txt", "12345")
    client.exec("mkdir workspace/d; echo 1 > workspace/d/b")
    url = f"/v1/workspaces/{keys['workspace_id']}/namespaces"
    row = next(n for n in admin._http.get(url).json()["namespaces"] if n["namespace"] == namespace)
    assert row["size_bytes"] == 7 and row["file_count"] == 2
    assert row["created_at"].endswith("Z") and row["last_used_at"].endswith("Z")

    locked = admin.create_key("locked", namespace=namespace)
    assert admin._http.delete(f"{url}/{namespace}").status_code in (200, 204)
    assert namespace not in {n["namespace"] for n in admin._http.get(url).json()["namespaces"]}
    assert list(client.list_dir()) == []
    assert client.exec("ls -A workspace") == ""
    with TroveClient(locked.api_key, namespace, base_url=keys["base_url"]) as gone:
        with pytest.raises(TroveError) as failure:
            gone.list_dir()
    assert failure.value.status_code == 401
