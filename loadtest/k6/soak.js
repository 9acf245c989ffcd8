// Hours of steady load: a ramp, a long flat, and a verdict on drift: whether calls at the end are slower than at the beginning.
//
//   k6 run --env URL=... --env TOKEN=... --env TOOL=echo --env ERA=both --env RATE=100 --env DURATION_MINUTES=480 loadtest/k6/soak.js
//
// RATE               calls per second on the flat; 50 by default
// DURATION_MINUTES   the flat; 240 by default.  RAMP_MINUTES  the way up; 5 by default
// P95_MS             the p95 that is still good, of the first tenth of the flat and of the last; 100 by default
// DRIFT              how much slower the last tenth may be, as a factor of p95; 1.5 by default
//
// Drift: each virtual user keeps what 95 percent of its own calls in the first tenth took; in the last tenth fewer than 5 percent of calls may take
// longer than DRIFT times that. Memory is not k6's to see: watch process_resident_memory_bytes of the gateways (conf/grafana has the panel).

import exec from "k6/execution";
import { Counter, Rate } from "k6/metrics";
import { Client, VUS, number, optionsWith } from "./mcp.js";
import { summaryOf } from "./summary.js";

const rate = number("RATE", 50);
const ramp = number("RAMP_MINUTES", 5) * 60;
const flat = number("DURATION_MINUTES", 240) * 60;
const p95 = number("P95_MS", 100);
const drift = number("DRIFT", 1.5);
// With fewer calls a user knows too little of its 95th percentile, with more it would keep too many.
const SAMPLES_MIN = 20;
const SAMPLES_MAX = 1000;
// Times are whole milliseconds here, so one more is no drift.
const GRACE_MS = 1;

const slower = new Rate("mcp_slower_than_at_first");
const compared = new Counter("mcp_calls_compared");

export const options = optionsWith(
  {
    soak: {
      executor: "ramping-arrival-rate",
      startRate: 0,
      timeUnit: "1s",
      preAllocatedVUs: VUS,
      maxVUs: VUS,
      stages: [
        { target: rate, duration: `${Math.max(1, Math.round(ramp))}s` },
        { target: rate, duration: `${Math.round(flat)}s` },
      ],
    },
  },
  {
    http_req_failed: ["rate==0"],
    mcp_sessions_lost: ["count==0"],
    mcp_slower_than_at_first: ["rate<0.05"],
    mcp_calls_compared: ["count>0"],
    "http_req_duration{phase:first}": [`p(95)<${p95}`],
    "http_req_duration{phase:last}": [`p(95)<${p95}`],
  },
);

export const handleSummary = summaryOf("soak");

let client = null;
const first = [];
let baseline = null;

export default function () {
  client = client || new Client();
  const phase = phaseAt((Date.now() - exec.scenario.startTime) / 1000);
  client.tags = { phase };
  if (!client.open()) {
    return;
  }
  const began = Date.now();
  client.callChecked();
  const took = Date.now() - began;
  if (phase === "first" && first.length < SAMPLES_MAX) {
    first.push(took);
  } else if (phase === "last" && first.length >= SAMPLES_MIN) {
    baseline = baseline === null ? quantile(first, 0.95) : baseline;
    slower.add(took > baseline * drift + GRACE_MS);
    compared.add(1);
  }
}

function phaseAt(seconds) {
  const along = (seconds - ramp) / flat;
  if (along < 0) {
    return "ramp";
  }
  return along < 0.1 ? "first" : along < 0.9 ? "middle" : "last";
}

function quantile(values, share) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}
