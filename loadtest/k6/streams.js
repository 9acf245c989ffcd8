// Holds streams open beside steady calls: GET in the legacy era, subscriptions/listen in the modern one.
//
//   k6 run --env URL=... --env TOKEN=... --env TOOL=echo --env ERA=both --env STREAMS=200 --env STAY_SECONDS=10 --env RATE=100 loadtest/k6/streams.js
//
// STREAMS        streams that are open at once, 20 by default, each a virtual user that opens the next when one is over
// STAY_SECONDS   how long a stream stays open before its client leaves; 5 by default
// RATE           calls per second beside them, 20 by default: what the streams must not slow down
//
// What this can show: that so many streams can be open, that none is refused or ended early, and that calls beside them stay quick.
// What it cannot: k6 reads an answer as a whole, so it sees no event, no order and no gap, and when the client's time is over not even the status
// (error code 1050, status 0; it warns of each, and http_req_failed as a whole counts them, so only that of calls and of opening is judged). Its clock
// tells whether an answer had begun: a stream counts as held when it began (mcp_stream_began says how soon) and lasted until its client left. A GET that
// is refused with 405 ends at once and is counted apart (the server has no such stream). Whether events arrive, once and in order, is what `loadtest/drills`
// checks; what an idle stream costs in memory is what `loadtest/compare` and `loadtest/capacity` measure.

import exec from "k6/execution";
import { check, sleep } from "k6";
import { Counter, Rate, Trend } from "k6/metrics";
import { Client, DURATION, number, optionsWith, steady } from "./mcp.js";
import { summaryOf } from "./summary.js";

const stay = number("STAY_SECONDS", 5);
const TIMEOUT = 1050;
const held = new Rate("mcp_streams_held");
const absent = new Counter("mcp_streams_absent");
const beginning = new Trend("mcp_stream_began", true);
const endedByServer = new Counter("mcp_streams_ended_by_server");

export const options = optionsWith(
  {
    streams: { executor: "constant-vus", vus: number("STREAMS", 20), duration: DURATION, gracefulStop: `${stay + 10}s`, exec: "stream" },
    calls: steady(number("RATE", 20), DURATION, { exec: "call" }),
  },
  {
    mcp_streams_held: ["rate==1"],
    mcp_stream_began: [`p(99)<${number("P99_MS", 100)}`],
    mcp_sessions_lost: ["count==0"],
    "http_req_failed{kind:call}": ["rate==0"],
    "http_req_failed{kind:open}": ["rate==0"],
    "http_req_duration{kind:call}": [`p(99)<${number("P99_MS", 100)}`],
  },
);

export const handleSummary = summaryOf("streams");

let client = null;

export function stream() {
  client = client || new Client();
  if (!client.open()) {
    sleep(1);
    return;
  }
  const began = Date.now();
  const answer = client.listen(stay);
  const lasted = (Date.now() - began) / 1000;
  if (answer.status === 405) {
    absent.add(1);
    sleep(stay);
    return;
  }
  // Without a first byte there was no time in which the answer was received.
  const answered = answer.timings.receiving > 0;
  if (answered) {
    beginning.add(answer.timings.waiting);
  }
  const stayed = answered && answer.error_code === TIMEOUT && lasted >= stay * 0.9;
  // A gateway that stops ends its streams in order, and clients come back; a fleet that is not restarted has no reason to.
  if (!stayed && answer.status === 200) {
    endedByServer.add(1);
  }
  held.add(stayed);
  if (!check(answer, { "the stream began and lasted until its client left": () => stayed })) {
    client.session = null;
    if (exec.vu.iterationInInstance === 0) {
      console.error(`a stream ended after ${lasted.toFixed(1)} s: status ${answer.status}, error ${answer.error_code} ${answer.error}`);
    }
    sleep(1);
  }
}

let caller = null;

export function call() {
  caller = caller || new Client();
  if (caller.open()) {
    caller.callChecked();
  }
}
