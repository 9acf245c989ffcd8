// Calls one tool at a fixed rate, as an agent fleet would, and fails when answers are wrong, late or not asked for in time.
//
//   k6 run --env URL=http://127.0.0.1:8080/mcp --env TOKEN=secret --env TOOL=echo --env ARGUMENTS='{"message":"hi"}' --env RATE=500 loadtest/k6/tool-calls.js
//
// The variables stand in mcp.js. RATE is 200 calls a second by default, P99_MS 100.

import { Client, number, optionsWith, steady } from "./mcp.js";
import { summaryOf } from "./summary.js";

export const options = optionsWith(
  { calls: steady(number("RATE", 200)) },
  {
    http_req_failed: ["rate==0"],
    "http_req_duration{kind:call}": [`p(99)<${number("P99_MS", 100)}`],
  },
);

export const handleSummary = summaryOf("tool-calls");

let client = null;

export default function () {
  client = client || new Client();
  if (client.open()) {
    client.callChecked();
  }
}
