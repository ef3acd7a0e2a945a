import asyncio

import pytest
from trove_sdk import AsyncTroveClient, TroveError


def run(keys, namespace, body):
    async def main():
        async with AsyncTroveClient(keys["workspace_key"], namespace, base_url=keys["base_url"]) as client:
            return await body(client)

    return asyncio.run(main())


def test_async_calls(keys, namespace):
    async def body(client):
        await client.write("a.txt", "one")
        await client.upload("b.bin", b"\x00\x01")
        assert await client.read("a.txt") == "one"
        assert await client.read("b.bin") == b"\x00\x01"
        assert (await client.exec_chain(["cd workspace", "cat a.txt"])).stdout == "one"
        assert [e.name for e in await client.list_dir()] == ["a.txt", "b.bin"]
        await client.delete("a.txt")
        with pytest.raises(TroveError) as failure:
            await client.read_text("a.txt")
        assert failure.value.status_code == 404

    run(keys, namespace, body)


def test_many_at_once_get_their_own_answers(keys, namespace):
    async def body(client):
        answers = await asyncio.gather(*(client.exec(f"echo {n}") for n in range(40)))
        assert answers == [f"{n}\n" for n in range(40)]

    run(keys, namespace, body)


def test_async_bootstrap(keys, namespace):
    async def body(client):
        await client.set_init("export X=1\n")
        packet = await client.bootstrap()
        assert packet.init_script == "export X=1\n"
        assert await client.get_init() == "export X=1\n"
        assert await client.clear_init() is True

    run(keys, namespace, body)
