// Callers of several kinds against limits: some keep to their rate and must see no refusal, others flood and must be refused in good order.
//
//   k6 run --env URL=... --env TOOL=echo --env POLITE_TOKENS=a,b --env POLITE_RATE=20 --env GREEDY_TOKENS=c --env GREEDY_RATE=500 loadtest/k6/limits.js
//
// POLITE_TOKENS   tokens of callers below their limit, with commas between them, and POLITE_RATE, the calls per second of each; 5 by default
// GREEDY_TOKENS   tokens of callers far above it, and GREEDY_RATE, the calls per second of each; 200 by default
// GREEDY_MAX      the calls per second that the limit allows each of the greedy; with it the run fails when more got through
// GREEDY_BURST    and its burst; GREEDY_MAX by default
// P99_MS          of the polite callers' calls; 200 by default. REFUSAL_P99_MS  of refusals; 100 by default
//
// 429 is what a limit is for: for the greedy it is no failure, if it says in Retry-After when to come again (whole seconds, at least 1). To the
// polite it is one. The run fails when nobody was refused, because then no limit was reached and nothing was shown.

import { check } from "k6";
import { Counter, Rate } from "k6/metrics";
import { Client, number, optionsWith, steady, succeeded } from "./mcp.js";
import { summaryOf } from "./summary.js";

const list = (name) => (__ENV[name] || "").split(",").filter((token) => token !== "");
const polite = list("POLITE_TOKENS");
const greedy = list("GREEDY_TOKENS");
if (polite.length === 0 || greedy.length === 0) {
  throw new Error("POLITE_TOKENS and GREEDY_TOKENS are needed: tokens with commas between them");
}
const greedyRate = number("GREEDY_RATE", 200);
const greedyMax = number("GREEDY_MAX", 0);
const seconds = Number((__ENV.DURATION || "30s").replace(/s$/, ""));
if (!(seconds > 0)) {
  throw new Error("DURATION is given in seconds here, for example 30s");
}

const refused = new Counter("mcp_refused");
const letThrough = new Counter("mcp_greedy_let_through");
const politeRefused = new Rate("mcp_polite_refused");

const politeRate = number("POLITE_RATE", 5);
// Each virtual user of the legacy era opens a session of its own, which limits count as well: few are enough, for calls that take half a second.
const politeUsers = Math.ceil(politeRate / 2);
const scenarios = {};
polite.forEach((_, at) => {
  const users = { preAllocatedVUs: politeUsers, maxVUs: politeUsers };
  scenarios[`polite_${at}`] = steady(politeRate, `${seconds}s`, { exec: "keepToTheRate", env: { TOKEN_AT: `${at}` }, ...users });
});
greedy.forEach((_, at) => {
  scenarios[`greedy_${at}`] = steady(greedyRate, `${seconds}s`, { exec: "flood", env: { TOKEN_AT: `${at}` } });
});

const burst = number("GREEDY_BURST", greedyMax);
// What the limit allows in the time, and a second of it, because the run does not end to the instant.
const most = greedy.length * Math.ceil(burst + greedyMax * (seconds + 1));

export const options = optionsWith(scenarios, {
  http_req_failed: ["rate==0"],
  mcp_polite_refused: ["rate==0"],
  mcp_refused: ["count>0"],
  ...(greedyMax > 0 ? { mcp_greedy_let_through: [`count<=${most}`] } : {}),
  "http_req_duration{kind:polite}": [`p(99)<${number("P99_MS", 200)}`],
  "http_req_duration{kind:greedy,status:429}": [`p(99)<${number("REFUSAL_P99_MS", 100)}`],
});

export const handleSummary = summaryOf("limits");

// One client for each virtual user, and a virtual user belongs to one scenario at a time.
const clients = {};

function clientWith(token) {
  clients[token] = clients[token] || new Client({ token });
  return clients[token];
}

export function keepToTheRate() {
  const client = clientWith(polite[Number(__ENV.TOKEN_AT)]);
  if (!client.open()) {
    return;
  }
  const { answer, message } = client.call("polite");
  politeRefused.add(answer.status === 429);
  check(answer, { "a polite call succeeded": () => answer.status === 200 && message !== null && succeeded(message) });
}

export function flood() {
  const client = clientWith(greedy[Number(__ENV.TOKEN_AT)]);
  // The limit may refuse `initialize` as well; then there is nothing to call in yet.
  if (!client.open([429])) {
    return;
  }
  const { answer, message } = client.call("greedy", [200, 429]);
  if (answer.status === 429) {
    refused.add(1);
    check(answer, { "a refusal says when to come again": () => /^[1-9][0-9]*$/.test(answer.headers["Retry-After"] || "") });
  } else if (check(answer, { "a call that was let through succeeded": () => answer.status === 200 && message !== null && succeeded(message) })) {
    letThrough.add(1);
  }
}
