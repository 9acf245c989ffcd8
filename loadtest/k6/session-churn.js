// Opens a session, makes a few calls in it, ends it with DELETE, and begins again: what short-lived agents do to a fleet. Always the legacy era.
//
//   k6 run --env URL=... --env TOKEN=... --env TOOL=echo --env RATE=50 --env CALLS=5 loadtest/k6/session-churn.js
//
// RATE      sessions per second, 20 by default; CALLS  calls in each
// ABANDON   the share of sessions, 0 to 1, that are left without DELETE, as agents that crash do; 0 by default
// P99_MS    of the calls and of opening, each; 200 by default

import { Trend } from "k6/metrics";
import { Client, number, optionsWith, steady } from "./mcp.js";
import { summaryOf } from "./summary.js";

const calls = number("CALLS", 5);
const abandon = number("ABANDON", 0);
const p99 = number("P99_MS", 200);
const wholeSession = new Trend("mcp_session_duration", true);

export const options = optionsWith(
  { sessions: steady(number("RATE", 20)) },
  {
    http_req_failed: ["rate==0"],
    mcp_sessions_lost: ["count==0"],
    "http_req_duration{kind:call}": [`p(99)<${p99}`],
    "http_req_duration{kind:open}": [`p(99)<${p99}`],
    "http_req_duration{kind:close}": [`p(99)<${p99}`],
  },
);

export const handleSummary = summaryOf("session-churn");

export default function () {
  const began = Date.now();
  const client = new Client({ era: "legacy" });
  if (!client.open()) {
    return;
  }
  for (let call = 0; call < calls; call += 1) {
    client.callChecked();
  }
  if (Math.random() >= abandon) {
    client.close();
  }
  wholeSession.add(Date.now() - began);
}
