from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dedup.cli import main as dedup_command
from dedup_server.endpoints import ENDPOINTS
from dedup_server.errors import ApiError
from dedup_server.settings import SettingsError, load
from tests.server.wired import BODIES, forwarded


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dedup.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, 'host = "0.0.0.0"\nport = 1\npolicy = "watch"\n')
    monkeypatch.setenv("DEDUP_PORT", "2")
    monkeypatch.setenv("DEDUP_POLICY", "strict")
    settings = load(path, policy="off", model=None)
    assert (settings.host, settings.port, settings.policy, settings.max_concurrent) == (
        "0.0.0.0",
        2,
        "off",
        None,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", ["dedup.toml: prot", "unknown", "port"]),
        ("port = 99999", ["dedup.toml: port", "65535", "99999"]),
        ('policy = "loud"', ["policy", "balanced", "loud"]),
        ('host = "x"\nport = = 1', ["dedup.toml", "line 2"]),
        ('upstream = "localhost:8080"', ["upstream", "http://"]),
        ('upstream = "http://x"\nmodel = "y"', ["upstream", "model"]),
    ],
)
def test_errors_name_the_setting_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        load(toml(tmp_path, text))
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_flag_and_a_variable_are_named_as_they_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="--max-concurrent"):
        load(max_concurrent=0)
    monkeypatch.setenv("DEDUP_PORT", "many")
    with pytest.raises(SettingsError, match=r"DEDUP_PORT.*many"):
        load()


def test_an_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUP_POLCY", "off")
    with pytest.raises(SettingsError, match=r"DEDUP_POLCY: unknown setting; known are: .*policy"):
        load()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")


def test_keys_are_separated_by_commas_and_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUP_API_KEYS", "key-one, key-two")
    monkeypatch.setenv("DEDUP_UPSTREAM_API_KEY", "key-three")
    settings = load()
    assert [key.get_secret_value() for key in settings.api_keys] == ["key-one", "key-two"]
    assert "key-one" not in repr(settings)
    assert "key-three" not in repr(settings)


def test_an_upstream_without_a_path_means_v1() -> None:
    assert load(upstream="http://127.0.0.1:11434").upstream == "http://127.0.0.1:11434/v1"
    assert load(upstream="https://x.example/api/v1/").upstream == "https://x.example/api/v1"


def check_config(*flags: str) -> Result:
    return CliRunner().invoke(dedup_command, ["serve", *flags, "--check-config"])


def test_check_config_shows_all_errors_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, 'policy = "loud"\ncolour = 1\n[[upstreams]]\nurl = "x"\nmodle = "y"\n')
    monkeypatch.setenv("DEDUP_FOO", "1")
    monkeypatch.setenv("DEDUP_BAR", "1")
    done = check_config("--port", "99999", "--agent-loops", "nudg", "--config", str(path))
    assert done.exit_code == 1
    lines = [line.removeprefix("dedup: error: ") for line in done.output.splitlines()]
    places = [line.replace(f"{path}: ", "").split(":")[0] for line in lines]
    upstream = ["upstreams.0.url", "upstreams.0.modle"]
    wanted = ["DEDUP_BAR", "DEDUP_FOO", "--port", *upstream, "policy", "--agent-loops", "colour"]
    assert places == wanted


def test_check_config_shows_all_that_does_not_fit_at_once() -> None:
    done = check_config("--workers", "2", "--upstream", "http://x/v1", "--model", "y")
    assert done.output.startswith("dedup: error: upstream excludes model")
    with pytest.raises(SettingsError, match=r"forwarded_paths: .*\nworkers requires an upstream"):
        load(workers=2, forwarded_paths="/health")


@pytest.mark.parametrize(
    ("given", "rungs"),
    [
        ("nudge", ("nudge",)),
        ("nudge,answer,stop", ("nudge", "answer", "stop")),
        (" stop , nudge,", ("nudge", "stop")),  # in the order in which they are climbed
        ("answer,answer", ("answer",)),
        ("measure", ()),
        ("measure,stop", ("stop",)),
        ("", ()),
    ],
)
def test_rungs_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, given: str, rungs: tuple[str, ...]
) -> None:
    assert load(agent_loops=given).agent_loops == rungs
    monkeypatch.setenv("DEDUP_AGENT_LOOPS", given)
    assert load().agent_loops == rungs


def test_nothing_is_done_about_agents_by_default() -> None:
    settings = load()
    assert (settings.agent_loops, settings.repeatable_tools) == ((), ())


def test_rungs_and_tools_in_a_file(tmp_path: Path) -> None:
    text = 'agent_loops = ["answer", "nudge"]\nrepeatable_tools = ["get_status", "poll"]\n'
    settings = load(toml(tmp_path, text))
    assert settings.agent_loops == ("nudge", "answer")
    assert settings.repeatable_tools == ("get_status", "poll")
    assert load(toml(tmp_path, 'agent_loops = "stop"')).agent_loops == ("stop",)


def test_serve_has_flags_for_agents() -> None:
    done = check_config("--agent-loops", "answer,nudge", "--repeatable-tools", "get_status, poll")
    assert done.exit_code == 0
    assert "agent_loops = ('nudge', 'answer')" in done.output
    assert "repeatable_tools = ('get_status', 'poll')" in done.output


@pytest.mark.parametrize("given", ["nudg", "nudge,loud", "Nudge", "nudge;stop", "nudge stop"])
def test_a_wrong_rung_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    done = check_config("--agent-loops", given)
    wanted = f"must be a list of nudge, answer or stop, got {given!r}"
    assert (done.exit_code, done.output) == (1, f"dedup: error: --agent-loops: {wanted}\n")
    monkeypatch.setenv("DEDUP_AGENT_LOOPS", given)
    done = check_config()
    assert (done.exit_code, done.output) == (1, f"dedup: error: DEDUP_AGENT_LOOPS: {wanted}\n")


@pytest.mark.parametrize("given", [5, ["nudge", 5], ["nudge", ["stop"]], {"nudge": True}])
def test_rungs_of_a_wrong_type_are_named(given: Any) -> None:
    with pytest.raises(SettingsError, match="--agent-loops: must be a list of nudge, answer or"):
        load(agent_loops=given)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_request_has_rungs_and_tools_of_its_own(endpoint: str) -> None:
    options = {"agent_loops": ["stop", "nudge"], "repeatable_tools": ["get_status"]}
    request = forwarded(endpoint, {**BODIES[endpoint], "repetition": options})
    assert request.repetition is not None
    assert request.repetition.agent_loops == ["nudge", "stop"]
    assert request.repetition.repeatable_tools == ["get_status"]


@pytest.mark.parametrize("given", ["nudg", ["nudg"], 5, ["nudge", None]])
def test_a_wrong_rung_of_a_request_is_named(given: Any) -> None:
    with pytest.raises(ApiError) as refused:
        forwarded("chat", {**BODIES["chat"], "repetition": {"agent_loops": given}})
    wanted = "repetition.agent_loops: must be a list of nudge, answer or stop, got "
    assert str(refused.value).startswith(wanted)
    assert refused.value.param == "repetition.agent_loops"
