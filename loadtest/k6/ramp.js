// Raises the rate of calls step by step and stops at the first step whose p99 is over the bound or that fails: a ceiling for pass or fail.
//
//   k6 run --env URL=... --env TOKEN=... --env TOOL=echo --env FROM=100 --env RATE=2000 --env STEPS=10 --env STEP_SECONDS=20 loadtest/k6/ramp.js
//
// FROM          the first rate;  RATE  the last one;  STEPS  how many between them, of STEP_SECONDS each
// P99_MS        the p99 that is still good, of every step by itself; 50 by default
//
// The summary shows http_req_duration{step:N} of every step that was reached. Rates rise from one step to the next within 2 seconds, which belong to no step.
// k6 needs many times the CPU of the gateway: where loadtest/capacity can reach the fleet, it finds a higher and truer number.

import exec from "k6/execution";
import { Client, VUS, number, optionsWith } from "./mcp.js";
import { summaryOf } from "./summary.js";

const from = number("FROM", 50);
const to = number("RATE", 500);
const steps = number("STEPS", 5);
const stepSeconds = number("STEP_SECONDS", 20);
const p99 = number("P99_MS", 50);
const RISE_SECONDS = 2;

const rates = Array.from({ length: steps }, (_, step) => Math.round(steps === 1 ? to : from + ((to - from) * step) / (steps - 1)));
const bounds = rates.map((rate, step) => [`http_req_duration{step:${step}_at_${rate}}`, [{ threshold: `p(99)<${p99}`, abortOnFail: true, delayAbortEval: "2s" }]]);

export const options = optionsWith(
  {
    ramp: {
      executor: "ramping-arrival-rate",
      startRate: rates[0],
      timeUnit: "1s",
      preAllocatedVUs: VUS,
      maxVUs: VUS,
      stages: rates.flatMap((target) => [
        { target, duration: `${RISE_SECONDS}s` },
        { target, duration: `${stepSeconds}s` },
      ]),
    },
  },
  {
    http_req_failed: [{ threshold: "rate==0", abortOnFail: true }],
    dropped_iterations: [{ threshold: "count==0", abortOnFail: true }],
    ...Object.fromEntries(bounds),
  },
);

export const handleSummary = summaryOf("ramp");

let client = null;

export default function () {
  client = client || new Client();
  const seconds = (Date.now() - exec.scenario.startTime) / 1000;
  const step = Math.min(steps - 1, Math.floor(seconds / (RISE_SECONDS + stepSeconds)));
  const rising = seconds - step * (RISE_SECONDS + stepSeconds) < RISE_SECONDS;
  client.tags = { step: rising ? "rising" : `${step}_at_${rates[step]}` };
  if (client.open()) {
    client.callChecked();
  }
}
