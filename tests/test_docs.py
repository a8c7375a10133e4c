"""Builds the documentation and runs its snippets: what the README and docs/ show must work, and their tables must be those of the code.

Commands that end by themselves run in a shell, in a folder with the files that the pages name, with one real server (the demo model) and
one proxy in front of it in the place of the addresses that the pages name; the page on agents asks a proxy in front of a scripted model.
`make`, `pip` and benchmarks are checked for their names and flags. So is a block behind `<!-- not run: REASON -->`, or behind
`<!-- run by: make TARGET -->`, whose tests run it with what it needs. A `text`
block right behind a snippet is what it prints; `...` stands for anything. After a change of the code, UPDATE_DOCS=1 writes the tables
anew.
"""

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from click.testing import CliRunner

import dedup
from dedup.cli import main as dedup_command
from dedup_server.settings import Settings, UpstreamSettings, load
from tests.demo_server import clean_environment, serving
from tests.docs_agents import SearchingUpstream, transcripts
from tests.docs_snippets import ROOT, Snippet, commands_of, inline_commands, snippets
from tests.server.mock_upstream import upstream

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Named, but not ours to check.
OTHER_PROGRAMS = {
    "vllm",
    "prometheus",
    "docker",
    "envoy",
    "helm",
    "install",
    "kubectl",
    "llama-server",
    "python3",
    "serve",
    "systemctl",
    "vllm-router",
}
BUILT_BY_THE_SITE = {"{eval-rst}", "{toctree}", "{include}", "{literalinclude}"}
ADDRESSES = re.compile(r"127\.0\.0\.1:(?:8000|8001|8002|11434)")
SNIPPETS = snippets()
MAX_NOT_RUN = 4
# Packages that the integrations' tests install.
INTEGRATED = {
    line.partition("==")[0]
    for file in (ROOT / "tests" / "external" / "integrations").glob("*/requirements.txt")
    for line in file.read_text("utf-8").splitlines()
    if "==" in line
}

CURL = f"""#!{sys.executable}
import argparse, sys, urllib.error, urllib.request
parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("-s", action="store_true")
parser.add_argument("-H", default="Accept: */*")
parser.add_argument("-d")
args = parser.parse_args()
body = args.d.encode() if args.d else None
try:
    answer = urllib.request.urlopen(urllib.request.Request(args.url, body, [args.H.split(": ")]))
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.write(answer.read().decode())
"""


class Workshop:
    """A folder with the files that the pages name, and the servers that they ask."""

    def __init__(self, folder: Path, server: str, proxy: str, agents: str) -> None:
        self.folder = folder
        self.server = server
        self.proxy = proxy
        self.agents = agents
        self.printed: dict[str, str] = {}  # by command: pages share some
        self.namespaces: dict[str, dict[str, Any]] = {}
        self.ran: set[str] = set()

    def addressed(self, text: str, page: str) -> str:
        """Put the addresses of the real servers in the place of those that a page names."""
        urls = (self.server, self.proxy, self.agents)
        server, proxy, agents = (url.removeprefix("http://") for url in urls)
        own = {"docs/guides/proxy.md": proxy, "docs/guides/agents.md": agents}.get(page, server)
        return ADDRESSES.sub(lambda found: proxy if found[0].endswith(":8001") else own, text)

    def shell(self, command: str, page: str) -> str:
        """Return what a command prints.

        Raises:
            AssertionError: It fails.
        """
        command = self.addressed(command, page)
        if command in self.printed:
            return self.printed[command]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment = clean_environment() | {"PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}\nexit code {done.returncode}\n{done.stderr}"
        self.printed[command] = done.stdout
        return done.stdout

    def python(self, snippet: Snippet) -> str:
        """Run a block in the names of the blocks before it on its page; return what it prints.

        Tests of one page may be distributed to several processes: those blocks are run here, too.
        """
        for one in SNIPPETS:
            if str(one) == str(snippet):
                break
            is_run = one.language == "python" and not (one.reason or one.run_by)
            if one.page == snippet.page and is_run and str(one) not in self.ran:
                self._run(one)
        return self._run(snippet)

    def _run(self, snippet: Snippet) -> str:
        self.ran.add(str(snippet))
        names = self.namespaces.setdefault(snippet.page, {"__name__": "__docs__"})
        code = compile(self.addressed(snippet.text, snippet.page), str(snippet), "exec")
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.chdir(self.folder),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            exec(code, names)
        return out.getvalue()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("docs")
    once = "The river rose in the night. Nobody slept. "
    (folder / "answer.txt").write_text(once + "The river rose in the night. Then it rained.\n")
    (folder / "another.txt").write_text("Then it rained.\n")
    rows = [{"id": "river", "text": once * 8}, {"id": "灯", "text": "夜深了，屋里只点着一盏灯。"}]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "report.txt").write_text("It was a cold morning of the early spring.\n")
    (folder / "prompts.txt").write_text("夜深了。\n")
    (folder / "prompts.jsonl").write_text('{"prompt": "The river rose in the night."}\n')
    (folder / "dedup.toml").write_text('policy = "strict"\n')
    request = {"prompt": "Tell me of the river."}
    incident = {"request": request, "kept": once, "looped": once * 3, "healed": "Then it rained."}
    (folder / "loops.jsonl").write_text(json.dumps(incident) + "\n")
    (folder / "transcripts.jsonl").write_text(transcripts())
    (folder / "corpus").mkdir()
    clean = [{"id": "river", "text": once}, rows[1]]
    (folder / "corpus" / "a.jsonl").write_text("\n".join(map(json.dumps, clean)) + "\n")
    demo_model = ROOT / "server" / "dedup_server" / "demo_model"
    for name, target in {
        "server": ROOT / "server",
        "benchmarks": ROOT / "benchmarks",
        "README.md": ROOT / "README.md",
        "CHANGELOG.md": ROOT / "CHANGELOG.md",
        "base-model": demo_model,
        "my-fine-tune": demo_model,
    }.items():
        (folder / name).symlink_to(target)
    (folder / "bin").mkdir()
    scripts = {"dedup": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dedup "$@"\n'}
    if not shutil.which("curl"):
        scripts["curl"] = CURL
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # faster for a small model
    aliases = '{"base": "demo"}'
    model = SearchingUpstream()
    with (
        serving() as server,
        serving("--upstream", server, aliases=aliases) as proxy,
        upstream(model),
        serving("--upstream", model.url, "--agent-loops", "nudge,answer,stop") as agents,
    ):
        yield Workshop(folder, server, proxy, agents)
    torch.set_num_threads(num_threads)


# Commands by name and flags


def check_command(command: str) -> None:
    """Check that a command, its subcommand and its flags exist.

    Raises:
        AssertionError: One does not; the message names it.
    """
    words = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    program, arguments = words[0], words[1:]
    flags = {word.split("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
    if program == "make":
        for target in arguments:
            if "=" not in target:
                assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M), f"make {target}"
    elif program == "pip":
        for wanted in arguments[1:]:
            if wanted.partition("[")[0] in INTEGRATED:
                continue
            named = re.fullmatch(
                r"(?:\.|dedup-llm|dedup_llm-VERSION-.*\.whl)(?:\[([\w,]+)\])?", wanted
            )
            assert named, wanted
            for extra in (named[1] or "").split(",") if named[1] else []:
                assert extra in PROJECT["optional-dependencies"], wanted
    elif program == "python" and arguments[0] == "-m":
        assert arguments[1].partition(".")[0] in INTEGRATED, command
    elif program == "python":
        source = (ROOT / arguments[0]).read_text("utf-8")
        for flag in flags:
            assert f'"{flag}"' in source, f"{arguments[0]} {flag}"
    elif program == "dedup":
        if arguments and not arguments[0].startswith("-"):
            found = dedup_command.get_command(click.Context(dedup_command), arguments[0])
            if isinstance(found, click.Group) and len(arguments) > 1:
                found = found.get_command(click.Context(found), arguments[1])
            assert found, command
            known = {name for option in found.params for name in option.opts}
            assert flags <= known | {"-h", "--help"}, command
    else:
        assert program in OTHER_PROGRAMS | {"curl", "echo"}, f"unknown program: {command}"


def runs(command: str) -> bool:
    return shlex.split(command, comments=True)[0] not in OTHER_PROGRAMS | {"make", "pip", "python"}


def check_output(wanted: str, printed: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(wanted.strip(), printed.strip(), flags)
    assert same, f"wanted:\n{wanted}\nprinted:\n{printed}"


# Each kind of block


def check_shell(snippet: Snippet, workshop: Workshop) -> None:
    commands = commands_of(snippet.text)
    for command in commands:
        check_command(command)
    if snippet.reason or snippet.run_by or not all(map(runs, commands)):
        return
    printed = ""
    for command in commands:
        if "dedup serve" in command and "--check-config" not in command:
            command += " --check-config"
        printed += workshop.shell(command, snippet.page)
    if snippet.output:
        check_output(snippet.output, printed)
    else:
        assert not printed.startswith('{"error"'), printed


def check_python(snippet: Snippet, workshop: Workshop) -> None:
    if snippet.reason or snippet.run_by:
        compile(snippet.text, str(snippet), "exec")
        return
    printed = workshop.python(snippet)
    if snippet.output:
        check_output(snippet.output, printed)


def check_settings(snippet: Snippet, workshop: Workshop) -> None:
    keys = workshop.folder / "keys"
    keys.write_text("sk-a\n")
    file = workshop.folder / "page.toml"
    file.write_text(snippet.text.replace("/run/secrets/clients", str(keys)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-b")
        load(file)


def check_nginx(snippet: Snippet, workshop: Workshop) -> None:
    """Let nginx check its own configuration, where it is installed; a certificate is not at hand."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    lines = [line.partition("#")[0].strip() for line in snippet.text.splitlines()]
    assert all(not line or line.endswith((";", "{", "}")) for line in lines)
    if nginx:
        plain = re.sub(r" ssl(?=;)|\n +ssl_certificate.*", r"", snippet.text)
        file = workshop.folder / "nginx.conf"
        file.write_text(f"pid {file}.pid;\nevents {{}}\nhttp {{\n{plain}}}\n")
        done = subprocess.run(
            [nginx, "-t", "-c", file], capture_output=True, text=True, check=False
        )
        assert "syntax is ok" in done.stderr, done.stderr


CHECKS: dict[str, Callable[[Snippet, Workshop], object]] = {
    "sh": check_shell,
    "python": check_python,
    "toml": check_settings,
    "json": lambda snippet, _: json.loads(snippet.text),
    "yaml": lambda snippet, _: yaml.safe_load(snippet.text),
    "text": lambda snippet, _: None,
    "nginx": check_nginx,
}


@pytest.mark.parametrize(
    "snippet", [one for one in SNIPPETS if one.language not in BUILT_BY_THE_SITE], ids=str
)
def test_a_snippet_does_what_its_page_says(snippet: Snippet, workshop: Workshop) -> None:
    assert snippet.language in CHECKS, f"{snippet}: a block of language {snippet.language!r}"
    CHECKS[snippet.language](snippet, workshop)


def test_nearly_every_snippet_runs() -> None:
    assert sum(snippet.reason is not None for snippet in SNIPPETS) <= MAX_NOT_RUN
    for snippet in SNIPPETS:
        if snippet.run_by:
            check_command(snippet.run_by)


@pytest.mark.parametrize(("page", "command"), inline_commands())
def test_a_command_in_running_text_exists(page: str, command: str) -> None:
    check_command(command)


@pytest.mark.parametrize(
    ("language", "text", "output"),
    [
        ("sh", "dedup filtre < answer.txt", None),
        ("sh", "dedup filter --polcy strict < answer.txt", None),
        ("sh", "dedup filter --policy strickt < answer.txt", None),
        ("sh", "dedup filter < answer.txt", "The river rose. ..."),
        ("sh", "dedup serve --upstream 127.0.0.1", None),
        ("sh", "curl -s http://127.0.0.1:8000/v1/modles", None),
        ("sh", "make tset", None),
        ("sh", 'pip install "dedup-llm[locall]"', None),
        ("sh", "python benchmarks/healing.py --jsn out.json", None),
        ("sh", "python benchmarks/heeling.py", None),
        ("sh", "rm -r .", None),
        ("python", "from dedup import RepetitionFilters", None),
        ("python", "print(1)", "2"),
        ("toml", 'polcy = "strict"', None),
        ("nginx", "server {\n    listen 80\n}\n", None),
        ("toml", 'policy = "strickt"', None),
        ("json", '{"text": }', None),
        ("yaml", "a: [", None),
    ],
)
def test_a_broken_snippet_is_found(
    language: str, text: str, output: str | None, workshop: Workshop
) -> None:
    snippet = Snippet("a page", 1, language, text, None, output)
    with pytest.raises((AssertionError, ImportError, OSError, ValueError, yaml.YAMLError)):
        CHECKS[language](snippet, workshop)


# The site, and its tables


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    options = ["--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "feed" in (tmp_path / "site" / "reference" / "python.html").read_text("utf-8")


def section(page: str, marker: str) -> tuple[Path, str, str, str]:
    """Return the page's path, its text before and in a marked section, and after it."""
    path = ROOT / "docs" / page
    begins, ends = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->"
    before, _, rest = path.read_text("utf-8").partition(begins)
    shown, found, after = rest.partition(ends)
    assert found, f"{page} must have {begins.strip()} and {ends}"
    return path, before + begins, shown, ends + after


def check_section(page: str, marker: str, wanted: str) -> None:
    path, before, shown, after = section(page, marker)
    if os.environ.get("UPDATE_DOCS") == "1":
        path.write_text(before + wanted + after, encoding="utf-8")
        return
    assert shown == wanted, f"docs/{page}: UPDATE_DOCS=1 writes it anew"


def described(page: str, marker: str) -> dict[str, str]:
    """Return the last cell of each row of a table, by the first."""
    rows = [line.strip("| ").split(" | ") for line in section(page, marker)[2].splitlines()[2:]]
    return {row[0].strip("`"): row[-1] for row in rows}


def default_of(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ((), {}):
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_table_of_settings_is_the_codes() -> None:
    serve = dedup_command.get_command(click.Context(dedup_command), "serve")
    assert serve
    flags = {option.name: option.opts[0] for option in serve.params}
    told = described("reference/settings.md", "settings")
    rows = ["| Setting | Default | Flag | Effect |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        flag = f"`{flags[name]}`" if name in flags else ""
        assert told.get(name), f"docs/reference/settings.md: describe {name}"
        rows.append(f"| `{name}` | {default_of(field)} | {flag} | {told[name]} |")
    check_section("reference/settings.md", "settings", "\n".join(rows) + "\n")


def test_the_table_of_upstreams_is_the_codes() -> None:
    told = described("reference/settings.md", "upstreams")
    rows = ["| Key | Default | Effect |", "| --- | --- | --- |"]
    for name, field in UpstreamSettings.model_fields.items():
        assert told.get(name), f"docs/reference/settings.md: describe {name}"
        rows.append(f"| `{name}` | {default_of(field)} | {told[name]} |")
    check_section("reference/settings.md", "upstreams", "\n".join(rows) + "\n")


def test_the_commands_helps_are_the_codes() -> None:
    names = []
    for name in dedup_command.list_commands(click.Context(dedup_command)):
        names.append([name])
        found = dedup_command.get_command(click.Context(dedup_command), name)
        if isinstance(found, click.Group):
            names += [[name, below] for below in found.list_commands(click.Context(found))]
    parts = []
    for words in names:
        shown = CliRunner().invoke(
            dedup_command, [*words, "--help"], prog_name="dedup", terminal_width=100
        )
        assert shown.exit_code == 0
        parts.append(f"## dedup {' '.join(words)}\n\n```text\n{shown.output}```\n")
    check_section("reference/cli.md", "cli", "\n".join(parts))


def test_the_table_of_endpoints_is_the_servers(workshop: Workshop) -> None:
    def paths(url: str) -> set[tuple[str, str]]:
        document = json.load(urllib.request.urlopen(f"{url}/openapi.json"))
        return {
            (method.upper(), path) for path, item in document["paths"].items() for method in item
        }

    _, _, shown, _ = section("reference/http.md", "endpoints")
    rows = re.findall(r"^\| (\w+) \| `(.+?)` \| .+ \| (all|upstream) \|$", shown, re.M)
    own = {("GET", "/openapi.json")}
    everywhere = {(method, path) for method, path, engines in rows if engines == "all"}
    assert everywhere == paths(workshop.server) | own
    assert {(method, path) for method, path, _ in rows} == paths(workshop.proxy) | own


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    assert {name for name in dedup.__all__ if f":: dedup.{name}\n" not in page} == set()
