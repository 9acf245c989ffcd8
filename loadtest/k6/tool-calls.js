// Calls one tool at a fixed rate, as an agent fleet would, and fails when answers are wrong, late or not asked for in time. For k6 1.x and 2.x.
//
//   k6 run --env URL=http://127.0.0.1:8080/mcp --env TOKEN=secret --env TOOL=echo --env ARGUMENTS='{"message":"hi"}' loadtest/k6/tool-calls.js
//
// URL        the MCP endpoint
// TOKEN      sent as a bearer token; none without it
// TOOL       the tool to call, and ARGUMENTS, its arguments as JSON
// ERA        modern (2026-07-28, the default) or legacy (2025-11-25: each virtual user opens a session first)
// RATE       calls per second;  DURATION  how long;  VUS  calls that may be under way at once
// P99_MS     the 99th percentile that is still good

import http from "k6/http";
import exec from "k6/execution";
import { check } from "k6";

const url = __ENV.URL || "http://127.0.0.1:8080/mcp";
const tool = __ENV.TOOL || "echo";
const toolArguments = JSON.parse(__ENV.ARGUMENTS || "{}");
const era = __ENV.ERA || "modern";
const vus = Number(__ENV.VUS || 50);

const LEGACY = "2025-11-25";
const MODERN = "2026-07-28";

if (era !== "modern" && era !== "legacy") {
  throw new Error(`ERA is modern or legacy, not ${era}`);
}

export const options = {
  scenarios: {
    calls: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE || 200),
      timeUnit: "1s",
      duration: __ENV.DURATION || "30s",
      preAllocatedVUs: vus,
      maxVUs: vus,
    },
  },
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    "http_req_duration{kind:call}": [`p(99)<${__ENV.P99_MS || 100}`],
    // Calls that could not even start, because all virtual users were still waiting for an answer.
    dropped_iterations: ["count==0"],
  },
  summaryTrendStats: ["avg", "med", "p(95)", "p(99)", "max"],
};

// Every virtual user has its own copy of this module, and so its own session.
let session = null;

export default function () {
  if (era === "legacy" && session === null && !openSession()) {
    return;
  }
  const id = exec.scenario.iterationInTest + 1;
  const params = { name: tool, arguments: toolArguments };
  const fields = era === "legacy" ? legacyFields() : modernFields();
  if (era === "modern") {
    params._meta = {
      "io.modelcontextprotocol/protocolVersion": MODERN,
      "io.modelcontextprotocol/clientCapabilities": {},
    };
  }
  const answer = post({ jsonrpc: "2.0", id, method: "tools/call", params }, fields, "call");
  const message = answer.status === 200 ? messageWithId(answer, id) : null;
  check(answer, {
    "status is 200": () => answer.status === 200,
    "the answer is to this call": () => message !== null,
    "the call succeeded": () => message !== null && message.result !== undefined && message.result.isError !== true,
  });
  if (answer.status === 404) {
    // The session is gone; the specification says to begin again.
    session = null;
  }
}

function openSession() {
  const id = `initialize-${exec.vu.idInTest}`;
  const params = { protocolVersion: LEGACY, capabilities: {}, clientInfo: { name: "k6", version: "1.0.0" } };
  const answer = post({ jsonrpc: "2.0", id, method: "initialize", params }, {}, "open");
  const opened = check(answer, {
    "initialize succeeded": () => answer.status === 200 && messageWithId(answer, id) !== null,
  });
  if (!opened) {
    return false;
  }
  // A server without sessions sends no id; its calls then go without one.
  session = answer.headers["Mcp-Session-Id"] || "";
  const accepted = post({ jsonrpc: "2.0", method: "notifications/initialized" }, legacyFields(), "open");
  return check(accepted, { "initialized was accepted": () => accepted.status === 202 });
}

function legacyFields() {
  return session ? { "MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": session } : { "MCP-Protocol-Version": LEGACY };
}

function modernFields() {
  return { "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool };
}

function post(message, fields, kind) {
  const headers = { "Content-Type": "application/json", Accept: "application/json, text/event-stream", ...fields };
  if (__ENV.TOKEN) {
    headers.Authorization = `Bearer ${__ENV.TOKEN}`;
  }
  return http.post(url, JSON.stringify(message), { headers, tags: { kind } });
}

// An answer is one JSON object, or a stream of events of which one carries it.
function messageWithId(answer, id) {
  const stream = (answer.headers["Content-Type"] || "").startsWith("text/event-stream");
  const texts = stream ? answer.body.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)) : [answer.body];
  for (const text of texts.filter((text) => text.trim() !== "")) {
    try {
      const message = JSON.parse(text);
      if (message.id === id) {
        return message;
      }
    } catch (_) {
      return null;
    }
  }
  return null;
}
