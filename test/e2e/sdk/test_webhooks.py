import json
import os
import time
from pathlib import Path

import pytest
from trove_sdk import TroveError, WebhookSignatureError, verify_webhook

RECEIVER = os.environ["COFFERDAM_RECEIVER"]


def received(path: str, enough) -> list[dict]:
    """What arrived at a path of the receiver, once it is enough."""
    deadline = time.monotonic() + 30
    while True:
        lines = Path(os.environ["COFFERDAM_RECEIVED"]).read_text().splitlines()
        found = [one for one in map(json.loads, lines) if one["path"] == path]
        if enough(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def verify(secret: str, one: dict):
    return verify_webhook(secret=secret, body=one["body"], signature_header=one["headers"]["x-trove-signature"])


def test_created_listed_tested_deleted(admin):
    made = admin.create_webhook(f"{RECEIVER}/life", events=["key.created"], description="ci")
    assert made.signing_secret.startswith("whsec_")
    assert [made.webhook_id] == [one.webhook_id for one in admin.list_webhooks()]
    result = admin.test_webhook(made.webhook_id)
    assert (result.ok, result.status, result.error) == (True, 200, None)
    [one] = received("/life", lambda found: len(found) == 1)
    event = verify(made.signing_secret, one)
    assert (event.id, event.type) == (result.event_id, "webhook.test")
    assert event.data["message"]
    admin.delete_webhook(made.webhook_id)
    assert admin.list_webhooks() == []
    with pytest.raises(TroveError) as failure:
        admin.test_webhook(made.webhook_id)
    assert failure.value.status_code == 404


def test_events_arrive_signed(admin, client, namespace, keys):
    made = admin.create_webhook(f"{RECEIVER}/events", events=["file.*"], namespace=namespace)
    client.write("workspace/a.txt", "hello")
    client.delete("workspace/a.txt")
    found = received("/events", lambda found: len(found) == 2)
    events = {event.type: event for event in (verify(made.signing_secret, one) for one in found)}
    assert set(events) == {"file.written", "file.deleted"}
    written = events["file.written"]
    assert written.workspace_id == keys["workspace_id"] and written.namespace == namespace
    assert written.data["path"] == "workspace/a.txt" and written.data["size_bytes"] == 5
    for one in found:
        assert one["headers"]["webhook-id"] == json.loads(one["body"])["id"]
    changed = {**found[0], "body": found[0]["body"].replace("workspace", "Workspace")}
    with pytest.raises(WebhookSignatureError):
        verify(made.signing_secret, changed)
    admin.delete_webhook(made.webhook_id)


def test_what_an_endpoint_answers_is_told(admin):
    for status, told in [(500, "500"), (302, "redirects are not followed"), (410, "gone")]:
        made = admin.create_webhook(f"{RECEIVER}/status/{status}", events=["key.created"])
        result = admin.test_webhook(made.webhook_id)
        assert (result.ok, result.status) == (False, status)
        assert told in result.error
        [listed] = admin.list_webhooks()
        assert listed.enabled is (status != 410)
        admin.delete_webhook(made.webhook_id)
    assert received("/elsewhere", lambda found: True) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/",
        "http://localhost:8080/",
        "http://2130706433:8080/",
        "http://[::ffff:127.0.0.1]:8080/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/",
        # Within the network that is allowed, but the appliance's own.
        f"http://{os.environ['COFFERDAM_NEAR']}:8080/",
    ],
)
def test_nothing_leads_to_the_host_or_inside(admin, url):
    with pytest.raises(TroveError) as failure:
        admin.create_webhook(url)
    assert failure.value.status_code == 422
