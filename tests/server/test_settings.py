from pathlib import Path

import pytest

from dedup_server.settings import SettingsError, load


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
