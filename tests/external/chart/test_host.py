"""The container file, the systemd unit and the compose file: their linters, and their commands as
processes.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compose_spec
import pytest
import yaml

from tests.demo_server import free_port
from tests.external.chart.helm import DEPLOY, ROOT
from tests.external.chart.process import here, image, outside
from tests.external.chart.test_containers import Reader, SlowUpstream
from tests.server.mock_upstream import Upstream, upstream

UNIT = (DEPLOY / "dedup.service").read_text()
COMPOSE = (DEPLOY / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def model() -> Iterator[Upstream]:
    with upstream(SlowUpstream()) as mock:
        yield mock


@contextmanager
def running(command: list[str], port: int, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command of the image until it is ready."""
    process = subprocess.Popen(here(command), env={**outside(), **env}, cwd="/")
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_container_file_is_clean() -> None:
    linter = Path(sys.prefix) / "bin" / "hadolint"
    done = subprocess.run(
        [linter, DEPLOY / "Containerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_file_copies_what_is_there_and_not_ignored() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [
        path for line in re.findall(r"^COPY (?!--)(.*)$", text, re.M) for path in line.split()[:-1]
    ]
    assert len(sources) >= 7
    for path in sources:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_the_image_serves_and_its_health_check_tells(model: Upstream) -> None:
    port = free_port()
    env = {name: value for name, value in image().env.items() if name != "PATH"}
    env |= {"DEDUP_PORT": str(port), "DEDUP_UPSTREAM": model.url}

    def health() -> int:
        command = here(image().healthcheck)
        done = subprocess.run(command, env={**outside(), **env}, capture_output=True, check=False)
        return done.returncode

    assert health() != 0
    with running([*image().entrypoint, *image().command], port, **env) as server:
        assert health() == 0
        server.terminate()
        assert server.wait(30) == 0
    assert health() != 0


def service(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.M)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is needed: apt-get install systemd")
    unit = tmp_path / "dedup.service"
    unit.write_text(UNIT.replace("/opt/dedup/bin/dedup", shutil.which("true") or ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout  # an exposure of at most 1.5, of 10


@pytest.mark.parametrize("workers", [1, 2])
def test_the_units_commands_serve_reload_and_stop(
    workers: int, model: Upstream, tmp_path: Path
) -> None:
    """`systemctl stop` sends SIGTERM to the main process alone (KillMode=mixed)."""
    port = free_port()
    settings = tmp_path / "dedup.toml"
    text = (DEPLOY / "dedup.toml").read_text()
    text = text.replace("http://127.0.0.1:8001/v1", model.url).replace("= 8000", f"= {port}")
    settings.write_text(text.replace("# workers = 2", f"workers = {workers}"))
    (start,), reload = service("ExecStart"), service("ExecReload")

    def command(line: str) -> list[str]:
        words = line.replace("/opt/dedup/bin/dedup", "dedup").split()
        return [word.replace("/etc/dedup/dedup.toml", str(settings)) for word in words]

    with running(command(start), port) as server:
        settings.write_text(settings.read_text() + 'policy = "strickt"\n')
        done = subprocess.run(
            here(command(reload[0])), env=outside(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "policy: input should be 'off', 'watch'," in done.stderr
        settings.write_text(settings.read_text().replace("strickt", "strict"))
        subprocess.run(here(command(reload[0])), env=outside(), capture_output=True, check=True)
        subprocess.run(
            [word.replace("$MAINPID", str(server.pid)) for word in command(reload[1])], check=True
        )
        reader = Reader(f"http://127.0.0.1:{port}", "slow")
        assert service("KillMode") == ["mixed"]
        os.kill(server.pid, signal.SIGTERM)
        assert reader.ended()[-1] == "data: [DONE]"
        assert server.wait(10) == 0


def test_the_compose_file_has_the_form_of_the_specification() -> None:
    compose = compose_spec.PyCompose.from_yaml(COMPOSE)
    compose.validate()
    compose.validate_configs()
    services = yaml.safe_load(COMPOSE)["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).resolve().exists(), source
            else:
                assert source in yaml.safe_load(COMPOSE)["volumes"], source
    assert (DEPLOY / services["dedup"]["build"]["context"]).resolve() == ROOT
    for broken in (
        ("    init: true", "    initt: true"),
        ("stop_grace_period: 30s", "stop_grace_period: soon"),
        ("source: datasource", "source: sourcedata"),
    ):
        assert broken[0] in COMPOSE
        with pytest.raises(ValueError):
            wrong = compose_spec.PyCompose.from_yaml(COMPOSE.replace(*broken))
            wrong.validate_configs()


def test_the_proxy_of_the_compose_file_serves(model: Upstream) -> None:
    """Its variables are those that Compose passes when none are set."""
    proxy = yaml.safe_load(COMPOSE)["services"]["dedup"]
    port = free_port()
    env = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", text) for name, text in proxy["environment"].items()
    }
    env |= {"DEDUP_PORT": str(port), **{k: v for k, v in image().env.items() if k != "PATH"}}
    arguments = [word.replace("http://vllm:8000/v1", model.url) for word in proxy["command"]]
    with running([*image().entrypoint, *arguments], port, **env) as server:
        reader = Reader(f"http://127.0.0.1:{port}", "slow")
        server.terminate()
        assert reader.ended()[-1] == "data: [DONE]"
        assert server.wait(10) == 0
