"""What the load tests share: processes that die with their script, the proxies they measure and how each is started, and what a result is told with."""

import contextlib
import ctypes
import datetime
import hashlib
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEY = "load-test-key"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MODERN = []
SESSION = ["--session", "--bearer", KEY]
# Of the row and the gateway with everything at once: how many routes, callers, tools and rules.
MANY_ROUTES, MANY_CALLERS, MANY_TOOLS, MANY_RULES = 200, 1000, 500, 100
MANY = ["--bearer", KEY, "--paths", str(MANY_ROUTES), "--bearers", str(MANY_CALLERS), "--tools", str(MANY_TOOLS)]
RUNNING = []


def programs_folder():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


class Measured:
    """A process whose processor time and memory the kernel tells."""

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        return stat_seconds(f"/proc/{self.pid}/stat")

    def thread_seconds(self):
        """The same of each thread."""
        return {task.name: stat_seconds(task / "stat") for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir()}

    def memory_kib(self, field="VmRSS"):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise RuntimeError(f"{self.name} has no {field}")


class Running(Measured):
    """An endpoint that somebody else has started; its processor time is known if its process is."""

    def __init__(self, name, url, pid=None):
        self.name, self.url, self.pid = name, url, pid

    def stop(self):
        """It is not ours to stop."""


def stat_seconds(path):
    fields = pathlib.Path(path).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


class Process(Measured):
    """A server that is pinned to a core (or not, with None) and dies with this script, however that ends."""

    def __init__(self, name, command, core, port, folder):
        self.name, self.port = name, port
        self.log = folder / f"{name}.{port}.log"
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, preexec_fn=pinned(core)
            )
        RUNNING.append(self)
        self.wait_until_open()

    def wait_until_open(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                sys.exit(f"{self.name} ended with {self.child.returncode}:\n{self.log.read_text(errors='replace')[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{self.name} does not listen on port {self.port}:\n{self.log.read_text(errors='replace')[-2000:]}")

    @property
    def pid(self):
        return self.child.pid

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/mcp"

    def stop(self):
        # A program that counts what it does (loadtest/pgo) writes that down when it ends, not when it is killed.
        if self.child.poll() is None and "LLVM_PROFILE_FILE" in os.environ:
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(timeout=60)
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        if self in RUNNING:
            RUNNING.remove(self)


def stop_all():
    for process in list(RUNNING):
        process.stop()


def end_on_signals():
    """So that `finally` runs, and as many files may be open as connections are asked for."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pinned(core=None):
    """What a child does before its program starts: dies with its parent, keeps to one core or to several."""

    def prepare():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if core is not None:
            os.sched_setaffinity(0, core if isinstance(core, set) else {core})

    return prepare


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def build(programs=None):
    """Builds the release programs, unless there is a folder with some, and says where they are."""
    if programs:
        return pathlib.Path(programs)
    subprocess.run(["cargo", "build", "--release", "--bins", "--examples"], cwd=ROOT, check=True)
    return programs_folder()


def installed(program):
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def circumstances(flags):
    """The date, machine and commit that a number is told with."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    machine = {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "load_average": os.getloadavg()}
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": date, "commit": commit, "machine": machine, "flags": {name: shown(name, value) for name, value in vars(flags).items() if name != "running"}}


def shown(name, value):
    return "(not shown)" if name == "token" and value else str(value)


def circumstances_line(found):
    machine = found["machine"]
    # Programs that were built before may be of another commit than the scripts.
    given = [found["flags"][name] for name in ("gateway", "programs") if found["flags"].get(name, "None") != "None"]
    programs = f", programs of {given[0]}" if given else ""
    return f"{found['date'][:10]}, commit {found['commit']}{programs}, {machine['cores']} x {machine['cpu']}, load average {machine['load_average'][0]:.1f} at the start"


@contextlib.contextmanager
def told_twice(path):
    """What is printed meanwhile goes to a file as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file, contextlib.redirect_stdout(Both(sys.stdout, file)):
        yield


class Both:
    """Two streams that are written as one."""

    def __init__(self, *streams):
        self.streams = streams

    def write(self, text):
        for stream in self.streams:
            stream.write(text)

    def flush(self):
        for stream in self.streams:
            stream.flush()


def result_of(load):
    """The last line of a load generator that runs by itself."""
    out, _ = load.communicate(timeout=120)
    return json.loads(out.splitlines()[-1])


def write_json(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def progress(text):
    """One line that is written over, for who watches; a log file needs none."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Bench:
    """The programs, where they run, and how each proxy is started."""

    def __init__(self, flags, programs, folder):
        self.flags, self.folder = flags, folder
        self.load = programs / "examples" / "load"
        self.floor = programs / "examples" / "floor"
        self.fake_server = programs / "examples" / "fake_server"
        self.gateway = pathlib.Path(flags.gateway) if flags.gateway else programs / "toolgate"
        self.fake = None

    def start_fake(self, port=None):
        port = port or free_port()
        command = [self.fake_server, "--listen", f"127.0.0.1:{port}", "--tools", MANY_TOOLS]
        self.fake = Process("fake_server", command, self.flags.load_core, port, self.folder)

    def start(self, proxy, threads=1, core=None, more="", endpoints=None):
        """A proxy by its name, on the proxy's core unless others are given."""
        port = free_port()
        gateway = {
            "gateway": lambda: self.gateway_yaml(port, threads, more, endpoints=endpoints),
            "guarded": lambda: self.gateway_yaml(port, threads, self.guards(port) + more),
            "federated": lambda: self.gateway_yaml(port, threads, more, target=FEDERATED),
            "many": lambda: self.many_yaml(port, threads),
        }
        others = {"floor": self.floor_command, "nginx": self.nginx_command, "haproxy": self.haproxy_command}
        if proxy in gateway:
            config = self.folder / f"{proxy}.{port}.yaml"
            config.write_text(gateway[proxy]())
            command = [self.gateway, "run", "--config", config]
        else:
            command = others[proxy](port)
        return Process(proxy, command, self.flags.proxy_core if core is None else core, port, self.folder)

    def floor_command(self, port):
        return [self.floor, "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{self.fake.port}"]

    def guards(self, port):
        """Everything that decides and records: 20 rules, two limits, an audit line per call."""
        teams = "\n".join(
            f"    - {{ name: team-{n}, allow: {{ callers: ['scope:team-{n}'], tools: ['tool_{n}_*', 'fake/read_{n}_*'] }} }}" for n in range(18)
        )
        return f"""policy:
  rules:
{teams}
    - {{ name: no-shell, deny: {{ tools: ['shell_*', '*_delete'] }} }}
    - {{ name: load, allow: {{ callers: [load, anonymous], tools: ['*'] }} }}
{self.limits_and_audit(port)}"""

    def limits_and_audit(self, port):
        return f"""limits:
  - {{ name: per-caller, key: [caller], rate: 1000000/s, burst: 1000000 }}
  - {{ name: per-caller-and-tool, key: [caller, tool], rate: 1000000/s, burst: 1000000 }}
audit:
  sinks: [{{ file: {self.folder}/audit.{port}.jsonl }}]
  arguments: digest
  when_full: wait
"""

    def gateway_yaml(self, port, threads, more, target="server: fake", endpoints=None):
        endpoints = endpoints or f'"http://127.0.0.1:{self.fake.port}/mcp"'
        return f"""listen: 127.0.0.1:{port}
state_dir: {self.folder}/state.{port}
runtime: {{ threads: {threads} }}
servers:
  fake:
    endpoints: [{endpoints}]
  other:
    endpoints: ["http://127.0.0.1:{self.fake.port}/mcp"]
routes:
  - path: /mcp
    {target}
    body_bytes_max: 8MiB
identity:
  anonymous: allow
  api_keys:
    - caller: load
      sha256: "{digest(KEY)}"
{more}{self.flags.yaml}
"""

    def many_yaml(self, port, threads):
        """Many of everything: every call is on one of the routes, by one of the callers, of one of the tools, and one rule of many allows it."""
        routes = "\n".join(f"  - {{ path: /mcp/{n}, server: fake }}" for n in range(MANY_ROUTES))
        keys = "\n".join(f'    - {{ caller: load-{n}, sha256: "{digest(f"{KEY}-{n}")}" }}' for n in range(MANY_CALLERS))
        team = MANY_CALLERS // MANY_RULES
        rules = "\n".join(
            f"    - {{ name: team-{n}, allow: {{ callers: [{', '.join(f'load-{m}' for m in range(n * team, (n + 1) * team))}], tools: ['json_250_*'] }} }}"
            for n in range(MANY_RULES)
        )
        return f"""listen: 127.0.0.1:{port}
state_dir: {self.folder}/state.{port}
runtime: {{ threads: {threads} }}
servers:
  fake:
    endpoints: ["http://127.0.0.1:{self.fake.port}/mcp"]
routes:
{routes}
identity:
  api_keys:
{keys}
policy:
  rules:
{rules}
{self.limits_and_audit(port)}{self.flags.yaml}
"""

    def nginx_command(self, port):
        folder = self.folder / f"nginx.{port}"
        folder.mkdir()
        paths = "\n".join(
            f"  {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(
            f"""daemon off; master_process off; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; client_max_body_size 0; client_body_buffer_size 512k;
{paths}
  upstream fake {{ server 127.0.0.1:{self.fake.port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://fake; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 1h;
    }}
  }}
}}
"""
        )
        return [installed("nginx"), "-p", folder, "-c", config]

    def haproxy_command(self, port):
        config = self.folder / f"haproxy.{port}.cfg"
        config.write_text(
            f"""global
  maxconn 8000
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-request 1h
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  default_backend fake
backend fake
  http-reuse always
  server fake 127.0.0.1:{self.fake.port}
"""
        )
        return [installed("haproxy"), "-db", "-f", config]

    def load_command(self, url, seconds, extra):
        return [str(word) for word in [self.load, "--url", url, "--seconds", seconds, *extra]]

    def measure(self, process, seconds, extra, also=None):
        """One run of the load generator: what it printed, the share of its core that it and the fake server used, and what the run cost the
        proxy, where its process is known. Connections and sessions are opened before. `also` is asked at both ends."""
        command = self.load_command(process.url, seconds, extra)
        with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=pinned(self.flags.load_core)) as load:
            opened = load.stdout.readline()
            before = (process.cpu_seconds() if process.pid else 0, self.load_seconds(load.pid))
            ends = [also()] if also else []
            lines = load.stdout.read()
            # It is a zombie until it is waited for: its times are still told.
            load_seconds = self.load_seconds(load.pid) - before[1]
            cpu = process.cpu_seconds() - before[0] if process.pid else 0
            ends += [also()] if also else []
        if load.returncode != 0 or not opened:
            sys.exit(f"the load generator failed: {' '.join(command)}")
        result = json.loads(lines)
        if also:
            result["also"] = ends
        result["load_core_share"] = load_seconds / result["seconds"]
        if process.pid:
            answers = result["requests"] + result["bad"] + result["refused"]
            result["cpu_us"] = cpu * 1e6 / max(1, answers)
            result["core_share"] = cpu / result["seconds"]
        return result

    def load_seconds(self, load_pid):
        return stat_seconds(f"/proc/{load_pid}/stat") + (self.fake.cpu_seconds() if self.fake else 0)

    def idle_memory(self, proxy, idle, count):
        """Growth for each of so many idle things, of a fresh process that has answered a few calls before."""
        process = self.start(proxy)
        self.measure(process, 0.5, ["--connections", "1", *SESSION])
        before = process.memory_kib()
        command = self.load_command(process.url, 3, ["--hold", count, "--idle", idle, *(["--answer", "8m"] if idle == "stopped" else []), *SESSION])
        with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=pinned(self.flags.load_core)) as load:
            opened = json.loads(load.stdout.readline())
            time.sleep(2)
            grown = process.memory_kib() - before
            held = json.loads(load.stdout.readline())
        process.stop()
        each = grown / max(1, opened["opened"])
        return {"count": count, "bad": count - held["held"], "kib_each": each, "first_fault": opened["first_fault"]}


# The fake server twice on one route, so that every name is spliced.
FEDERATED = "servers: [{ name: fake, prefix: fake_ }, { name: other, prefix: other_ }]"


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()
