"""The Python SDK client: `client.py legacy|auto WALK`; reports each step as a line of JSON."""

import asyncio
import json
import sys

import mcp
from mcp import types

MODERN = "2026-07-28"
MODE, WALK = sys.argv[1], json.loads(sys.argv[2])
LOGS = []


async def main():
    options = {
        "mode": MODE,
        "log_level": "debug",
        "logging_callback": log,
        "elicitation_callback": elicit,
        "sampling_callback": sample,
    }
    async with mcp.Client(WALK["url"], **options) as client:
        await step("connect", connect(client))
        await step("tools/list", list_tools(client))
        await step("echo", echo(client))
        await step("progress", progress(client))
        await step("resources/read", read(client))
        await step("prompts/get", prompt(client))
        await step("logs", logs(client))
        for asked in ("elicitation", "sampling"):
            await step(asked, question(client, *WALK[asked]))


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


async def logs(client):
    name, arguments, count = WALK["logs"]
    # The modern era has no level of a session: the client tells with each request what to log.
    if WALK["revision"] < MODERN:
        await client.set_logging_level("debug")
    await client.call_tool(name, arguments)
    for _ in range(240):
        if len(LOGS) >= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{len(LOGS)} lines, not {count}")


async def question(client, name, arguments, text):
    result = await client.call_tool(name, arguments)
    said = "\n".join(content.text for content in result.content)
    if text not in said:
        raise AssertionError(f"{text!r} is not in {said!r}")


async def log(line):
    LOGS.append(line)


# What a user and a model would say.
async def elicit(_context, params):
    content = {field: "grüße" for field in params.requested_schema["required"]}
    return types.ElicitResult(action="accept", content=content)


async def sample(_context, params):
    message = params.messages[0].content
    text = f"I heard {message.text}"
    content = types.TextContent(type="text", text=text)
    return types.CreateMessageResult(role="assistant", content=content, model="none")


def same(seen, wanted):
    if seen != wanted:
        raise AssertionError(f"{seen!r}, not {wanted!r}")


asyncio.run(main())
