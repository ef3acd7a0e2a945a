"""The published trove-sdk against a running appliance, reached by nothing but its base URL.

COFFERDAM_KEYS_FILE names what `cofferdam serve --keys-file` wrote.
"""

import json
import os
import sys
import uuid
from pathlib import Path

import pytest
from trove_sdk import TroveAdminClient, TroveClient


@pytest.fixture(scope="session")
def keys() -> dict:
    return json.loads(Path(os.environ["COFFERDAM_KEYS_FILE"]).read_text())


@pytest.fixture
def namespace() -> str:
    return f"sdk-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client(keys, namespace):
    with TroveClient(keys["workspace_key"], namespace, base_url=keys["base_url"]) as made:
        yield made


@pytest.fixture
def admin(keys):
    return TroveAdminClient(keys["admin_key"], keys["workspace_id"], base_url=keys["base_url"])


@pytest.fixture
def scripts() -> Path:
    """Where pip put the `trove` and `trove-mcp` commands."""
    return Path(sys.executable).parent
