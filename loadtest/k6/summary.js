// The summary of a run: JSON for programs, text for people, and what it was run with, so that a number is never without its circumstances.

// `handleSummary` of a script named so.
export function summaryOf(name) {
  return (data) => {
    const out = __ENV.OUT || `k6-${name}`;
    if (!data.metrics || !data.state) {
      const raw = JSON.stringify({ script: name, environment: environment(), ...data }, null, 1);
      return { stdout: `${name}: k6 gave its new form of summary, which is kept as it is; for text run it with --new-machine-readable-summary=false\n`, [`${out}.json`]: raw };
    }
    const found = { script: name, date: new Date().toISOString(), environment: environment(), seconds: data.state.testRunDurationMs / 1000, metrics: data.metrics };
    const text = asText(name, found);
    return { stdout: text, [`${out}.txt`]: text, [`${out}.json`]: JSON.stringify(found, null, 1) + "\n" };
  };
}

// What the run was told, without what must stay secret.
function environment() {
  const names = ["URL", "TOOL", "ARGUMENTS", "ERA", "RATE", "DURATION", "VUS", "P99_MS", "INSECURE", "MACHINE", "COMMIT"];
  return Object.fromEntries(names.filter((name) => __ENV[name]).map((name) => [name, __ENV[name]]));
}

function asText(name, found) {
  const told = Object.entries(found.environment).map(([key, value]) => `${key}=${value}`);
  const lines = [`${name}, ${found.date}, ${found.seconds.toFixed(0)} s${told.length > 0 ? `, ${told.join(" ")}` : ""}`, ""];
  for (const key of Object.keys(found.metrics).sort()) {
    if (/^(data_|vus|iteration|http_req_(blocked|connecting|tls|sending|waiting|receiving)|group_)/.test(key)) {
      continue;
    }
    lines.push(`  ${key.padEnd(44)}${values(found.metrics[key])}`);
  }
  const missed = [];
  for (const [key, metric] of Object.entries(found.metrics)) {
    for (const [threshold, verdict] of Object.entries(metric.thresholds || {})) {
      if (!verdict.ok) {
        missed.push(`  MISSED ${key}: ${threshold}`);
      }
    }
  }
  lines.push("", ...(missed.length > 0 ? missed.sort() : ["  all thresholds reached"]), "");
  return lines.join("\n");
}

function values(metric) {
  const value = metric.values;
  const ms = (key) => (value[key] === undefined ? "-" : value[key].toFixed(2));
  switch (metric.type) {
    case "trend":
      return `med ${ms("med")}  p95 ${ms("p(95)")}  p99 ${ms("p(99)")}  max ${ms("max")}${metric.contains === "time" ? " ms" : ""}`;
    case "rate":
      return `${(value.rate * 100).toFixed(3)} %  (${value.passes} yes, ${value.fails} no)`;
    case "counter":
      return `${value.count}  (${value.rate.toFixed(2)}/s)`;
    default:
      return `${value.value}`;
  }
}
