"""A container of a rendered pod, as a process of this machine."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.demo_server import free_port
from tests.external.chart.helm import DEPLOY

PORT = "8000"


@dataclass(frozen=True)
class Image:
    """Settings of the processes in the last stage of the container file."""

    entrypoint: list[str]
    command: list[str]
    healthcheck: list[str]
    env: dict[str, str]
    user: str


@cache
def image() -> Image:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]

    def of(instruction: str) -> list[str]:
        found = re.search(rf"^{instruction}\b[^\[\n]*(\[.*\])$", stage, re.M)
        assert found, instruction
        return list(json.loads(found[1]))

    (env,) = re.findall(r"^ENV (.*)$", stage, re.M)
    (user,) = re.findall(r"^USER (.*)$", stage, re.M)
    pairs = dict(pair.split("=", 1) for pair in env.split())
    return Image(of("ENTRYPOINT"), of("CMD"), of("HEALTHCHECK"), pairs, user)


def here(command: list[str]) -> list[str]:
    """Return a command of the image with this environment's programs."""
    programs = {"dedup": [sys.executable, "-m", "dedup"], "python": [sys.executable]}
    return [*programs.get(command[0], command[:1]), *command[1:]]


@cache
def can_confine() -> bool:
    """Return whether this process may mount: then processes get a root that is read-only."""
    if not shutil.which("unshare"):
        return False
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"], check=False
    )
    return done.returncode == 0


def confined(command: list[str], writable: list[Path]) -> list[str]:
    """Return the command in a mount namespace in which only these folders can be written.

    It has no capabilities and cannot get new ones.
    """
    if not can_confine():
        return command
    folders = [f"mount --bind '{one}' '{one}'" for one in writable]
    script = "; ".join(["set -e", *folders, "mount -o remount,bind,ro /", 'exec "$@"'])
    drop = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return ["unshare", "--mount", "sh", "-c", script, "sh", *drop, *command]


@dataclass
class Container:
    """A container's process.

    Args:
        spec: the container, as rendered.
        volumes: the pod's, as rendered.
        files: contents of Secrets and ConfigMaps, by their names and keys.
        folder: for the mounts.
    """

    spec: dict[str, Any]
    volumes: list[dict[str, Any]]
    files: Mapping[str, Mapping[str, str]]
    folder: Path
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        volumes = {one["name"]: one for one in self.volumes}
        self._mounts: dict[str, Path] = {}
        self._writable: list[Path] = []
        for mount in self.spec["volumeMounts"]:
            volume = volumes[mount["name"]]
            path = self.folder / mount["name"]
            path.mkdir()
            self._mounts[mount["mountPath"]] = path
            if "emptyDir" in volume:
                self._writable.append(path)
        for mount in self.spec["volumeMounts"]:
            self._fill(volumes[mount["name"]], self._mounts[mount["mountPath"]])

    def _fill(self, volume: dict[str, Any], path: Path) -> None:
        if config := volume.get("configMap"):
            for item in config["items"]:
                text = self.files[config["name"]][item["key"]]
                (path / item["path"]).write_text(self._here(text))
        if secret := volume.get("secret"):
            for key, text in self.files[secret["secretName"]].items():
                (path / key).write_text(text)

    def _here(self, text: str) -> str:
        """Put the folders of the mounts into the place of the rendered ones."""
        mounts = "|".join(map(re.escape, self._mounts))
        return re.sub(
            rf"(?<![\w/.])({mounts})(?=/|$)", lambda found: str(self._mounts[found[1]]), text
        )

    @property
    def env(self) -> dict[str, str]:
        env = {name: value for name, value in image().env.items() if name != "PATH"}
        for one in self.spec["env"]:
            env[one["name"]] = self._here(one.get("value", "a-node"))
        assert env["DEDUP_PORT"] == PORT == str(self.spec["ports"][0]["containerPort"])
        env["DEDUP_PORT"] = str(self.port)
        if "DEDUP_ADMIN_PORT" in env:
            assert env["DEDUP_ADMIN_PORT"] == str(self.spec["ports"][1]["containerPort"])
            env["DEDUP_ADMIN_PORT"] = str(self.admin_port)
        return {**env, **outside(), "TMPDIR": str(self._mounts["/tmp"])}

    def start(self) -> None:
        command = [*image().entrypoint, *map(self._here, self.spec["args"])]
        command = confined(here(command), self._writable)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.env, cwd="/", stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def probe(self, name: str) -> int:
        """Return the status that the kubelet gets at one attempt of a probe; 0 for none."""
        probe = self.spec[name]
        (port,) = [one for one in self.spec["ports"] if one["name"] == probe["httpGet"]["port"]]
        assert port["containerPort"] == int(PORT)
        url = f"{self.url}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pass_probe(self, name: str) -> None:
        """Try a probe as often as the kubelet does.

        Raises:
            AssertionError: It fails as often as that.
        """
        probe = self.spec[name]
        for _ in range(probe.get("failureThreshold", 3)):
            if self.probe(name) == 200:
                return
            assert self.process
            assert self.process.poll() is None, self.log
            time.sleep(probe.get("periodSeconds", 10))
        raise AssertionError(f"{name}\n{self.log}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pre_stop(self) -> None:
        subprocess.run(self.spec["lifecycle"]["preStop"]["exec"]["command"], check=True)

    def terminate(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)


def outside() -> dict[str, str]:
    """Return what a process needs to run from a checkout."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


@contextlib.contextmanager
def running(container: Container) -> Iterator[Container]:
    """Start a container and pass the probes that let the kubelet send it requests."""
    container.start()
    assert container.process
    try:
        if "startupProbe" in container.spec:
            container.pass_probe("startupProbe")
        container.pass_probe("readinessProbe")
        container.pass_probe("livenessProbe")
        yield container
    finally:
        container.process.kill()
        container.process.wait()
