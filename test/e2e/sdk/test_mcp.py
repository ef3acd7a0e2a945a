"""The SDK's MCP server, driven by the real MCP client over stdio."""

import asyncio
import base64

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


def test_every_tool(scripts, keys, namespace):
    async def main():
        server = StdioServerParameters(
            command=str(scripts / "trove-mcp"),
            env={
                "TROVE_API_KEY": keys["workspace_key"],
                "TROVE_NAMESPACE": namespace,
                "TROVE_BASE_URL": keys["base_url"],
            },
        )
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()

            async def call(tool, **arguments):
                result = await session.call_tool(tool, arguments)
                assert not result.isError, result
                return result.content[0].text

            assert "files: 0 (empty)" in await call("trove_bootstrap")
            assert await call("trove_write", path="workspace/a.txt", content="hello") == "wrote workspace/a.txt (5 bytes)"
            assert await call("trove_read", path="workspace/a.txt") == "hello"
            encoded = base64.b64encode(b"\x00\xff").decode()
            assert await call("trove_put_base64", path="workspace/b.bin", content_b64=encoded) == "wrote workspace/b.bin (2 bytes)"
            assert await call("trove_exec", command="wc -c < workspace/b.bin; exit 4") == "[exit 4]2\n"
            assert (await call("trove_read", path="workspace/none")).startswith("trove error (HTTP 404)")
            assert "workspace/a.txt" in await call("trove_bootstrap")

    asyncio.run(main())
