// Steady calls in sessions and without, while you restart what is behind them; not one may fail.
//
//   k6 run --env URL=... --env TOKEN=... --env TOOL=echo --env RATE=100 --env DURATION=10m loadtest/k6/rolling-restart.js
//   (meanwhile)   kubectl -n mcp rollout restart deployment/toolgate && kubectl -n mcp rollout status deployment/toolgate
//
// RATE     calls per second in all, 100 by default: half in sessions of the legacy era, half modern
// P99_MS   1000 by default: a call may wait for an endpoint to be found, not for ever
//
// A session must live through it: a 404 (mcp_sessions_lost) is a failure as well. A connection that is cut under a call is a failure, one that
// is closed between two calls is none. k6 sends a call again by itself only where its connection was closed before a byte of it was sent, so
// it cannot see whether a call ran twice: loadtest/drills does, with servers that keep a ledger.

import { Client, DURATION, number, optionsWith, steady } from "./mcp.js";
import { summaryOf } from "./summary.js";

const rate = number("RATE", 100);

export const options = optionsWith(
  {
    in_sessions: steady(Math.max(1, Math.floor(rate / 2)), DURATION, { exec: "inSession" }),
    modern: steady(Math.max(1, Math.ceil(rate / 2)), DURATION, { exec: "modern" }),
  },
  {
    http_req_failed: ["rate==0"],
    mcp_sessions_lost: ["count==0"],
    "http_req_duration{kind:session}": [`p(99)<${number("P99_MS", 1000)}`],
    "http_req_duration{kind:modern}": [`p(99)<${number("P99_MS", 1000)}`],
  },
);

export const handleSummary = summaryOf("rolling-restart");

const clients = {};

export function inSession() {
  clients.legacy = clients.legacy || new Client({ era: "legacy" });
  callAndTell(clients.legacy, "session");
}

export function modern() {
  clients.modern = clients.modern || new Client({ era: "modern" });
  callAndTell(clients.modern, "modern");
}

// When it failed is half of why it failed.
function callAndTell(client, kind) {
  if (!client.open() || !client.callChecked(kind)) {
    console.error(`${new Date().toISOString()} a call failed (${kind})`);
  }
}
