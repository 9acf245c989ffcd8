"""What the scripts under tests/ start from outside the crate, and how it dies with them."""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("TOOLGATE_CACHE", pathlib.Path.home() / ".cache/toolgate"))
# The conformance suite needs Node 22; npm carries the binary.
NODE_PACKAGE = "node@22.23.3"

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def die_with_parent():
    """For `preexec_fn`: the kernel kills the child when this script is killed; `with` the rest."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def must(*command, **options):
    """Runs a command that has to succeed."""
    subprocess.run(command, check=True, preexec_fn=die_with_parent, **options)


def node():
    """Node 22 from the cache."""
    return npm("node", NODE_PACKAGE) / ".bin/node"


def npm(folder, *packages):
    """The node_modules of a folder in the cache, with exactly these versions installed."""
    modules = CACHE / folder / "node_modules"
    wanted = dict(package.rsplit("@", 1) for package in packages)
    if all(npm_version(modules / name) == version for name, version in wanted.items()):
        return modules
    if not shutil.which("npm"):
        sys.exit("npm is missing; on Debian: apt-get install npm")
    modules.parent.mkdir(parents=True, exist_ok=True)
    flags = ["--no-audit", "--no-fund", "--save-exact", "--loglevel=error"]
    must("npm", "install", *flags, *packages, cwd=modules.parent)
    return modules


def npm_version(package):
    """The version of a package that npm installed, if it did."""
    try:
        return json.loads((package / "package.json").read_text())["version"]
    except FileNotFoundError:
        return None


def pip(requirement):
    """The Python of a virtual environment in the cache that has exactly this package."""
    folder = CACHE / "python"
    python, stamp = folder / "bin/python", folder / "installed"
    if not stamp.exists() or stamp.read_text() != requirement:
        venv = subprocess.run([sys.executable, "-m", "venv", "--clear", folder])
        if venv.returncode:
            sys.exit("no virtual environment; on Debian: apt-get install python3-venv")
        flags = ["--quiet", "--disable-pip-version-check"]
        must(python, "-m", "pip", "install", *flags, requirement)
        stamp.write_text(requirement)
    return python


def cargo(*arguments):
    """Builds something of this package and returns the folder that holds the result."""
    must("cargo", "build", "--quiet", *arguments, cwd=ROOT)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / ("release" if "--release" in arguments else "debug")


@contextlib.contextmanager
def running(*command, **options):
    """A child for the length of a `with`; told to stop at its end, made to after five seconds."""
    child = subprocess.Popen(
        [str(part) for part in command],
        preexec_fn=die_with_parent,
        **options,
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def fixture():
    """The server of the conformance run, on a free port; yields its address."""
    binary = cargo("--example", "fixture") / "examples/fixture"
    with running(binary, "--listen", "127.0.0.1:0", stdout=subprocess.PIPE, text=True) as child:
        url = child.stdout.readline().strip()
        if not url:
            sys.exit("the fixture did not start")
        yield url


@contextlib.contextmanager
def gateway(server_url, target="server: fixture"):
    """The gateway with a route to one server; yields the route's address. `target` is the route's.

    It is built for release, unless TOOLGATE_BINARY names one that is there already.
    """
    binary = os.environ.get("TOOLGATE_BINARY") or cargo("--release", "--bin", "toolgate") / "toolgate"
    binary = pathlib.Path(binary).resolve()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "toolgate.yaml")
        config.write_text(
            f"listen: 127.0.0.1:{port}\n"
            f"state_dir: {folder}\n"
            f"servers:\n  fixture:\n    endpoints: ['{server_url}']\n"
            f"routes:\n  - path: /mcp\n    {target}\n"
        )
        # Kept beside the binary, for the day something fails.
        with binary.with_name("gateway.log").open("wb") as log:
            command = [binary, "run", "--config", config]
            with running(*command, stdout=log, stderr=subprocess.STDOUT) as child:
                url = f"http://127.0.0.1:{port}/mcp"
                wait_for(url, child)
                yield url


def wait_for(url, child):
    """Returns once the port of the URL accepts connections."""
    address = urllib.parse.urlsplit(url)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if child.poll() is not None:
            sys.exit(f"{child.args[0]} ended with {child.returncode} before it listened")
        with contextlib.suppress(OSError):
            socket.create_connection((address.hostname, address.port), 1).close()
            return
        time.sleep(0.05)
    sys.exit(f"nothing listens at {url}")


def free_port():
    """A port nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
