from prometheus_client.parser import text_string_to_metric_families

from dedup_server.telemetry import Telemetry

TABLE = {
    "requests", "sentences", "output_chars", "removed_chars", "loops", "repetition_ratio", "loop_detection_chars", "hold_seconds",
    "overhead_seconds", "time_to_first_token_seconds", "request_duration_seconds", "tokens", "streams_in_progress",
    "upstream_requests", "upstream_up", "filter_failures", "build_info", "heal_attempts", "heal_discarded_chars", "heal_seconds",
}  # fmt: skip


def test_every_metric_is_declared_with_help_and_none_else() -> None:
    families = list(text_string_to_metric_families(Telemetry(["m"]).exposition().decode()))
    assert {family.name.removeprefix("dedup_") for family in families} == TABLE
    assert all(family.name.startswith("dedup_") and family.documentation for family in families)


def test_models_are_bounded() -> None:
    telemetry = Telemetry(["m"])
    assert [telemetry.model_label(name) for name in ("m", "x", None)] == ["m", "other", "other"]
    telemetry.learn(f"m{i}" for i in range(1000))
    assert telemetry.model_label("m1") == "m1"
    assert telemetry.model_label("m999") == "other"


def test_two_servers_do_not_share_counts() -> None:
    one, other = Telemetry(["m"]), Telemetry(["m"])
    one.count("tokens", 3, "m", "input")
    assert b'dedup_tokens_total{model="m",type="input"} 3.0' in one.exposition()
    assert b"dedup_tokens_total{" not in other.exposition()


def test_label_values_are_escaped() -> None:
    telemetry = Telemetry(['a"b\n'])
    telemetry.add("streams_in_progress", 1, 'a"b\n')
    assert b'model="a\\"b\\n"' in telemetry.exposition()
