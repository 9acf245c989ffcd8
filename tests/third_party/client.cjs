// The TypeScript SDK clients: `client.cjs v1|v2 legacy|auto WALK`; each step is a line of JSON.
const assert = require("node:assert");
const { setTimeout } = require("node:timers/promises");

const MODERN = "2026-07-28";
const IDENTITY = { name: "toolgate-test", version: "1.0.0" };
const CAPABILITIES = { elicitation: {}, sampling: {} };

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
  await step("logs", async () => {
    const [name, args, count] = walk.logs;
    const params = { name, arguments: args };
    // The modern era has no level of a session: each request says what it wants to hear.
    if (walk.revision < MODERN) await client.sdk.setLoggingLevel("debug");
    else params._meta = { "io.modelcontextprotocol/logLevel": "debug" };
    await client.call(params);
    const deadline = Date.now() + 12_000;
    while (client.logs.length < count && Date.now() < deadline) await setTimeout(50);
    assert.ok(client.logs.length >= count, `${client.logs.length} lines, not ${count}`);
  });
  for (const asked of ["elicitation", "sampling"]) {
    await step(asked, async () => {
      const [name, args, text] = walk[asked];
      const result = await client.call({ name, arguments: args });
      const said = result.content.map((content) => content.text).join("\n");
      assert.ok(said.includes(text), `${text} is not in ${said}`);
    });
  }
  await client.sdk.close();
}

async function step(name, run) {
  const problem = await run().then(() => null, (error) => String(error?.message ?? error));
  console.log(JSON.stringify({ step: name, problem }));
}

// What a user and a model would say.
function elicited({ params }) {
  const answers = params.requestedSchema.required.map((field) => [field, "grüße"]);
  return { action: "accept", content: Object.fromEntries(answers) };
}

function sampled({ params }) {
  const text = `I heard ${params.messages[0].content.text}`;
  return { role: "assistant", model: "none", content: { type: "text", text } };
}

function version1() {
  const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
  const streamable = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const types = require("@modelcontextprotocol/sdk/types.js");
  const sdk = new Client(IDENTITY, { capabilities: CAPABILITIES });
  const logs = [];
  sdk.setNotificationHandler(types.LoggingMessageNotificationSchema, (line) => logs.push(line));
  sdk.setRequestHandler(types.ElicitRequestSchema, elicited);
  sdk.setRequestHandler(types.CreateMessageRequestSchema, sampled);
  const transport = new streamable.StreamableHTTPClientTransport(new URL(walk.url));
  return {
    sdk,
    logs,
    open: () => sdk.connect(transport),
    revision: () => transport.protocolVersion,
    call: (params, options) => sdk.callTool(params, undefined, options),
  };
}

function version2() {
  const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
  const sdk = new Client(IDENTITY, { versionNegotiation: { mode }, capabilities: CAPABILITIES });
  const logs = [];
  sdk.setNotificationHandler("notifications/message", (line) => logs.push(line));
  sdk.setRequestHandler("elicitation/create", elicited);
  sdk.setRequestHandler("sampling/createMessage", sampled);
  return {
    sdk,
    logs,
    open: () => sdk.connect(new StreamableHTTPClientTransport(new URL(walk.url))),
    revision: () => sdk.getNegotiatedProtocolVersion(),
    call: (params, options) => sdk.callTool(params, options),
  };
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
