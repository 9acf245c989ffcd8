"""The Python SDK client: `client.py legacy|auto WALK`; reports each step as a line of JSON."""

import asyncio
import json
import sys

import mcp

MODE, WALK = sys.argv[1], json.loads(sys.argv[2])


async def main():
    async with mcp.Client(WALK["url"], mode=MODE) as client:
        await step("connect", connect(client))
        await step("tools/list", list_tools(client))
        await step("echo", echo(client))
        await step("progress", progress(client))
        await step("resources/read", read(client))
        await step("prompts/get", prompt(client))


async def step(name, run):
    problem = None
    try:
        await run
    except Exception as error:
        problem = repr(error)
    print(json.dumps({"step": name, "problem": problem}), flush=True)


async def connect(client):
    same(client.protocol_version, WALK["revision"])


async def list_tools(client):
    names = {tool.name for tool in (await client.list_tools()).tools}
    same(set(WALK["tools"]) - names, set())


async def echo(client):
    name, arguments, text = WALK["echo"]
    result = await client.call_tool(name, arguments)
    same(result.content[0].text, text)


async def progress(client):
    seen = []

    async def report(done, _total, _message):
        seen.append(done)

    name, arguments = WALK["long"]
    result = await client.call_tool(name, arguments, progress_callback=report)
    same(bool(result.is_error), False)
    same(seen, WALK["progress"])


async def read(client):
    result = await client.read_resource(WALK["resource"])
    same(bool(result.contents[0].text), True)


async def prompt(client):
    result = await client.get_prompt(WALK["prompt"])
    same(bool(result.messages[0].content.text), True)


def same(seen, wanted):
    if seen != wanted:
        raise AssertionError(f"{seen!r}, not {wanted!r}")


asyncio.run(main())
