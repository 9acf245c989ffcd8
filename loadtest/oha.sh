#!/usr/bin/env bash
# Calls one tool of any MCP endpoint as fast as it answers (or at --rate) with oha: for the ceiling of a fleet. loadtest/README.md says what it cannot see.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: loadtest/oha.sh --url URL --tool NAME [--token TOKEN] [--arguments JSON] [--legacy] [--http2]
                       [--connections 64] [--streams 16] [--duration 10s] [--rate CALLS_PER_SECOND] [--insecure] [-- OPTIONS OF OHA]
  --legacy    revision 2025-11-25: opens one session, makes all calls in it and ends it; without it 2026-07-28
  --http2     HTTP/2 with so many --streams at once on each connection: by ALPN on https://, by prior knowledge on http://
  --insecure  believe any certificate
  Options of oha that are of use here: --output-format json, --disable-keepalive, --stats-success-breakdown
TEXT
}

url='' tool='' token='' tool_arguments='{}' era=modern connections=64 duration=10s rate='' streams=16
http2=() oha_trust=() curl_trust=()
while [ $# -gt 0 ]; do
  case $1 in
    --legacy) era=legacy; shift; continue ;;
    --http2) http2=(--http2); shift; continue ;;
    --insecure) oha_trust=(--insecure) curl_trust=(--insecure); shift; continue ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
  esac
  [ $# -ge 2 ] || { usage >&2; exit 2; }
  case $1 in
    --url) url=$2 ;;
    --tool) tool=$2 ;;
    --token) token=$2 ;;
    --arguments) tool_arguments=$2 ;;
    --connections) connections=$2 ;;
    --streams) streams=$2 ;;
    --duration) duration=$2 ;;
    --rate) rate=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$url" ] && [ -n "$tool" ] || { usage >&2; exit 2; }
for program in curl oha; do
  command -v "$program" > /dev/null || { echo "$program is not installed (cargo install oha --locked)" >&2; exit 1; }
done

types='application/json, text/event-stream'
fields=()
[ -z "$token" ] || fields+=(-H "Authorization: Bearer $token")

post() { # BODY, then further fields; prints the head and the body of the answer
  curl -sS --fail-with-body "${curl_trust[@]}" -i --max-time 10 -H "Accept: $types" -H 'Content-Type: application/json' "${fields[@]}" "${@:2}" -d "$1" "$url"
}

if [ "$era" = legacy ]; then
  opened=$(post '{"jsonrpc":"2.0","id":"initialize","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"oha","version":"1.0.0"}}}') || { echo "$opened" >&2; exit 1; }
  session=$(printf '%s' "$opened" | tr -d '\r' | sed -n 's/^[Mm][Cc][Pp]-[Ss]ession-[Ii]d: *//p')
  fields+=(-H 'MCP-Protocol-Version: 2025-11-25')
  [ -z "$session" ] || fields+=(-H "Mcp-Session-Id: $session")
  end_session() {
    [ -z "$session" ] || curl -sS -o /dev/null --max-time 10 "${curl_trust[@]}" -X DELETE "${fields[@]}" "$url" || true
  }
  trap end_session EXIT
  accepted=$(post '{"jsonrpc":"2.0","method":"notifications/initialized"}') || { echo "$accepted" >&2; exit 1; }
  meta=''
else
  fields+=(-H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/call' -H "Mcp-Name: $tool")
  meta=',"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
fi
call='{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"'"$tool"'","arguments":'"$tool_arguments$meta"'}}'

# oha looks at the status only, so one call is looked at before.
first=$(post "$call") || { echo "$first" >&2; exit 1; }
case $first in
  *'"isError":true'*) echo "$first" >&2; exit 1 ;;
  *'"result"'*) ;;
  *) echo "$first" >&2; exit 1 ;;
esac

pace=()
[ -z "$rate" ] || pace=(-q "$rate" --latency-correction)
[ ${#http2[@]} -eq 0 ] || http2+=(-p "$streams")
oha --no-tui "${oha_trust[@]}" "${http2[@]}" -z "$duration" -c "$connections" "${pace[@]}" -m POST -A "$types" -T application/json "${fields[@]}" -d "$call" "$@" "$url"
