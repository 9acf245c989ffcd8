// What all scripts of this folder share: where the fleet is, who calls, and MCP as a client of either era speaks it. For k6 1.x and 2.x.
//
// Every script knows these variables (k6 run --env NAME=VALUE):
//   URL        the MCP endpoint, http://127.0.0.1:8080/mcp by default
//   TOKEN      sent as a bearer token; TOKENS, several with commas between them, used in turn by the virtual users; none without them
//   TOOL       the tool to call, and ARGUMENTS, its arguments as JSON; in them {{n}} becomes a number that no other call of the run has
//   ERA        modern (2026-07-28, the default), legacy (2025-11-25, each virtual user in a session) or both (every second one)
//   RATE       calls or sessions per second;  DURATION  how long;  VUS  how many may be under way at once;  P99_MS  the p99 that is still good
//   OUT        where the summary goes: OUT.json and OUT.txt; ./k6-NAME by default
//   INSECURE   1: believe any certificate
//   MACHINE, COMMIT   are only told in the summary, so that a number is never without them

import http from "k6/http";
import exec from "k6/execution";
import { check } from "k6";
import { Counter } from "k6/metrics";

export const LEGACY = "2025-11-25";
export const MODERN = "2026-07-28";

export const url = __ENV.URL || "http://127.0.0.1:8080/mcp";
export const tool = __ENV.TOOL || "echo";
const argumentsText = __ENV.ARGUMENTS || "{}";
const era = __ENV.ERA || "modern";
const tokens = (__ENV.TOKENS || __ENV.TOKEN || "").split(",").filter((token) => token !== "");

if (!["modern", "legacy", "both"].includes(era)) {
  throw new Error(`ERA is modern, legacy or both, not ${era}`);
}
JSON.parse(argumentsText);

export const sessionsLost = new Counter("mcp_sessions_lost");

export function number(name, otherwise) {
  const value = Number(__ENV[name] || otherwise);
  if (!(value >= 0)) {
    throw new Error(`${name} is a number, not ${__ENV[name]}`);
  }
  return value;
}

export const DURATION = __ENV.DURATION || "30s";
export const VUS = number("VUS", 50);

// Options that every script begins with; what a script adds wins.
export function optionsWith(scenarios, thresholds) {
  return {
    scenarios,
    thresholds: { checks: ["rate==1"], dropped_iterations: ["count==0"], ...thresholds },
    summaryTrendStats: ["avg", "min", "med", "p(90)", "p(95)", "p(99)", "max", "count"],
    insecureSkipTLSVerify: __ENV.INSECURE === "1",
  };
}

// A scenario whose calls come at a fixed rate, whatever the answers do.
export function steady(rate, duration = DURATION, more = {}) {
  return { executor: "constant-arrival-rate", rate, timeUnit: "1s", duration, preAllocatedVUs: VUS, maxVUs: VUS, ...more };
}

export function eraOfThisUser() {
  if (era === "both") {
    return exec.vu.idInTest % 2 === 0 ? "legacy" : "modern";
  }
  return era;
}

export function tokenOfThisUser() {
  return tokens.length > 0 ? tokens[exec.vu.idInTest % tokens.length] : "";
}

// Every virtual user has its own copy of this module, and so its own client.
export class Client {
  constructor({ era = eraOfThisUser(), token = tokenOfThisUser(), tags = {} } = {}) {
    this.era = era;
    this.token = token;
    this.tags = tags;
    this.session = null;
    this.calls = 0;
  }

  // Opens the session of a legacy client; a modern one needs none. Whether it may call now; `refusals` are statuses that say "not now".
  open(refusals = []) {
    if (this.era === "modern" || this.session !== null) {
      return true;
    }
    const id = `initialize-${exec.vu.idInTest}-${exec.vu.iterationInInstance}`;
    const params = { protocolVersion: LEGACY, capabilities: {}, clientInfo: { name: "k6", version: "1.0.0" } };
    const answer = this.post({ jsonrpc: "2.0", id, method: "initialize", params }, {}, "open", [200, ...refusals]);
    if (refusals.includes(answer.status)) {
      return false;
    }
    const opened = check(answer, { "initialize succeeded": () => answer.status === 200 && messageWithId(answer, id) !== null });
    if (!opened) {
      return false;
    }
    // A server without sessions sends no id; its calls then go without one.
    this.session = answer.headers["Mcp-Session-Id"] || "";
    const accepted = this.post({ jsonrpc: "2.0", method: "notifications/initialized" }, this.fields(), "open", [202, ...refusals]);
    if (refusals.includes(accepted.status)) {
      this.session = null;
      return false;
    }
    return check(accepted, { "initialized was accepted": () => accepted.status === 202 });
  }

  // One call: the HTTP answer, and its message if it is the answer to this call. `expected` are statuses that are not failures.
  call(kind = "call", expected = [200]) {
    this.calls += 1;
    const id = exec.vu.idInTest * 1e6 + this.calls;
    const params = { name: tool, arguments: JSON.parse(argumentsText.replaceAll("{{n}}", `${Date.now()}-${id}`)) };
    const fields = this.era === "legacy" ? this.fields() : { "Mcp-Method": "tools/call", "Mcp-Name": tool };
    const answer = this.request({ jsonrpc: "2.0", id, method: "tools/call", params }, fields, kind, expected);
    const message = answer.status === 200 ? messageWithId(answer, id) : null;
    if (answer.status === 404 && this.session) {
      // The session is gone; the specification says to begin again.
      this.session = null;
      sessionsLost.add(1);
    }
    return { answer, message };
  }

  // A call that must succeed.
  callChecked(kind = "call") {
    const { answer, message } = this.call(kind);
    return check(answer, {
      "status is 200": () => answer.status === 200,
      "the answer is to this call": () => answer.status !== 200 || message !== null,
      "the call succeeded": () => answer.status !== 200 || (message !== null && succeeded(message)),
    });
  }

  // Ends the session; servers may refuse that with 405.
  close(kind = "close") {
    if (!this.session) {
      return true;
    }
    const answer = http.del(url, null, this.parameters(this.fields(), kind, [200, 202, 204, 405]));
    this.session = null;
    return check(answer, { "the session was ended": () => [200, 202, 204, 405].includes(answer.status) });
  }

  // Opens a stream and stays for so long; what that shows is said in streams.js.
  listen(seconds) {
    const timeout = { timeout: `${seconds}s` };
    if (this.era === "legacy") {
      const fields = { ...this.fields(), Accept: "text/event-stream" };
      return http.get(url, { ...this.parameters(fields, "stream", [200, 405]), ...timeout });
    }
    const params = { notifications: { toolsListChanged: true } };
    const fields = { "Mcp-Method": "subscriptions/listen" };
    const message = { jsonrpc: "2.0", id: `listen-${exec.vu.idInTest}-${exec.vu.iterationInInstance}`, method: "subscriptions/listen", params };
    return this.request(message, fields, "stream", [200], timeout);
  }

  request(message, fields, kind, expected, more) {
    if (this.era === "modern") {
      fields["MCP-Protocol-Version"] = MODERN;
      const meta = { "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {} };
      message.params = { ...message.params, _meta: meta };
    }
    return this.post(message, fields, kind, expected, more);
  }

  post(message, fields, kind, expected, more = {}) {
    const headers = { "Content-Type": "application/json", Accept: "application/json, text/event-stream", ...fields };
    return http.post(url, JSON.stringify(message), { ...this.parameters(headers, kind, expected), ...more });
  }

  parameters(headers, kind, expected) {
    const authorized = this.token ? { ...headers, Authorization: `Bearer ${this.token}` } : headers;
    return { headers: authorized, tags: { ...this.tags, kind }, responseCallback: http.expectedStatuses(...expected) };
  }

  fields() {
    return this.session ? { "MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": this.session } : { "MCP-Protocol-Version": LEGACY };
  }
}

export function succeeded(message) {
  return message.result !== undefined && message.result.isError !== true;
}

// An answer is one JSON object, or a stream of events of which one carries it.
export function messageWithId(answer, id) {
  for (const text of messageTexts(answer)) {
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

function messageTexts(answer) {
  const body = answer.body || "";
  if (!(answer.headers["Content-Type"] || "").startsWith("text/event-stream")) {
    return [body];
  }
  const lines = body.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5)).filter((text) => text.trim() !== "");
}
