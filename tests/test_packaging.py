"""Tests what an installation brings, and what a command says when its extra is missing."""

import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

from tests.demo_server import clean_environment

FRAMEWORKS = {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "httptools"}
# Makes the modules named first look as if they were not installed, then runs the command line.
WITHOUT = """
import importlib.util, sys
hidden, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in hidden else find(name, *more)
class Hidden:
    def find_spec(self, name, *_):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from dedup.cli import main
main(prog_name="dedup")
"""


def run(*command: str, cwd: Path | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        input="",
        check=False,
        timeout=60,
        env=clean_environment(),
        cwd=cwd,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_library_needs_no_web_framework() -> None:
    needed = [line for line in distribution("dedup-llm").requires or [] if "extra ==" not in line]
    assert sorted(line.split(">")[0] for line in needed) == [
        "click",
        "msgspec",
        "nltk",
        "numpy",
        "tqdm",
    ]


@pytest.mark.parametrize(
    "module", ["dedup", "dedup.cli", "dedup.logits.processors", "dedup_server.commands"]
)
def test_importing_loads_no_web_framework(module: str) -> None:
    code = f"import sys, {module}; print(*({FRAMEWORKS!r} & set(sys.modules)))"
    assert run("-c", code) == (0, "\n", "")


def test_the_text_commands_work_without_the_server() -> None:
    hidden = ",".join(sorted(FRAMEWORKS | {"torch", "transformers"}))
    code, out, _ = run("-c", WITHOUT, hidden, "--help")
    assert code == 0
    assert "serve" in out
    assert run("-c", WITHOUT, hidden, "filter") == (0, "", "")


@pytest.mark.parametrize(
    ("hidden", "command", "extras"),
    [
        ("fastapi", ["serve"], "server"),
        ("uvicorn", ["serve", "--upstream", "http://127.0.0.1:9/v1"], "server"),
        ("prometheus_client", ["watch", "http://127.0.0.1:9"], "server"),
        ("fastapi", ["audit", "--model", "x", "--prompts", "x"], "server"),
        ("torch", ["generate", "--model", "x"], "local"),
        ("fastapi,transformers", ["generate", "--model", "x"], "server,local"),
        ("torch", ["serve"], "local"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(hidden: str, command: list[str], extras: str) -> None:
    code, out, error = run("-c", WITHOUT, hidden, *command)
    assert code in (1, 2)
    assert code == 2 or command[0] != "audit"  # 1 would be a model that failed
    assert out == ""
    assert f'pip install "dedup-llm[{extras}]"' in error
    assert len(error.splitlines()) == 1


def test_a_folder_with_a_server_of_its_own_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit('the wrong server')\n")
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit('the wrong server')\n")
    for command in (["serve", "--check-config"], ["filter"], ["watch", "--help"]):
        code, _, error = run("-m", "dedup", *command, cwd=tmp_path)
        assert (code, error) == (0, "")


def test_a_command_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[dedup.commands]\nbroken = no_such_module:command\n")
    code, _, error = run("-m", "dedup", "broken", cwd=tmp_path)
    assert code == 1
    assert error.startswith("Error: broken (no_such_module:command) cannot be loaded")


def test_every_command_has_its_entry_point() -> None:
    named = {point.name for point in entry_points(group="dedup.commands")}
    assert named == {"serve", "generate", "watch", "audit"}
