// The TypeScript SDK clients: `client.cjs v1|v2 legacy|auto WALK`; each step is a line of JSON.
const assert = require("node:assert");

const [generation, mode, walkText] = process.argv.slice(2);
const walk = JSON.parse(walkText);

async function main() {
  const client = generation === "v1" ? version1() : version2();
  await step("connect", async () => {
    await client.open();
    assert.strictEqual(client.revision(), walk.revision);
  });
  await step("tools/list", async () => {
    const names = (await client.sdk.listTools()).tools.map((tool) => tool.name);
    for (const name of walk.tools) assert.ok(names.includes(name), `${name} is not in ${names}`);
  });
  await step("echo", async () => {
    const [name, args, text] = walk.echo;
    const result = await client.call({ name, arguments: args });
    assert.strictEqual(result.content[0].text, text);
  });
  await step("progress", async () => {
    const [name, args] = walk.long;
    const seen = [];
    const onprogress = (report) => seen.push(report.progress);
    const result = await client.call({ name, arguments: args }, { onprogress });
    assert.ok(!result.isError, JSON.stringify(result));
    assert.deepStrictEqual(seen, walk.progress);
  });
  await step("resources/read", async () => {
    const { contents } = await client.sdk.readResource({ uri: walk.resource });
    assert.ok(contents[0].text.length > 0);
  });
  await step("prompts/get", async () => {
    const { messages } = await client.sdk.getPrompt({ name: walk.prompt });
    assert.ok(messages[0].content.text.length > 0);
  });
  await client.sdk.close();
}

async function step(name, run) {
  const problem = await run().then(() => null, (error) => String(error?.message ?? error));
  console.log(JSON.stringify({ step: name, problem }));
}

function version1() {
  const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
  const streamable = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const sdk = new Client({ name: "toolgate-test", version: "1.0.0" });
  const transport = new streamable.StreamableHTTPClientTransport(new URL(walk.url));
  return {
    sdk,
    open: () => sdk.connect(transport),
    revision: () => transport.protocolVersion,
    call: (params, options) => sdk.callTool(params, undefined, options),
  };
}

function version2() {
  const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
  const identity = { name: "toolgate-test", version: "1.0.0" };
  const sdk = new Client(identity, { versionNegotiation: { mode } });
  return {
    sdk,
    open: () => sdk.connect(new StreamableHTTPClientTransport(new URL(walk.url))),
    revision: () => sdk.getNegotiatedProtocolVersion(),
    call: (params, options) => sdk.callTool(params, options),
  };
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
