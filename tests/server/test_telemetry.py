from prometheus_client.parser import text_string_to_metric_families

from dedup.answer.agent_loops import find_loop
from dedup_server.telemetry import Telemetry
from tests.server.traffic import STEPS, looping_steps

TABLE = {
    "requests", "sentences", "output_chars", "removed_chars", "loops", "repetition_ratio", "loop_detection_chars", "hold_seconds",
    "overhead_seconds", "time_to_first_token_seconds", "request_duration_seconds", "tokens", "streams_in_progress",
    "upstream_requests", "upstream_up", "filter_failures", "build_info", "heal_attempts", "heal_discarded_chars", "heal_seconds",
    "agent_loops", "agent_loop_tokens", "agent_nudges", "agent_loop_steps", "start_time_seconds",
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


def test_turns_of_agents_are_counted_by_what_was_done_and_what_came_of_it() -> None:
    telemetry = Telemetry(["m"])
    loop = find_loop(looping_steps())
    assert loop is not None
    telemetry.count_turn(loop, None, None, "m")  # it has left the loop
    assert b"dedup_agent_loops_total{" not in telemetry.exposition()
    telemetry.count_turn(loop, "measured", None, "m")
    telemetry.count_turn(loop, "nudged", True, "m")
    telemetry.count_turn(loop, "nudged", False, "m")
    telemetry.count_turn(loop, "stopped", None, "m")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(telemetry.exposition().decode())
        for sample in family.samples
    }
    model = ("model", "m")

    def loops(action: str) -> float:
        labels = (("action", action), ("kind", "exact"), model)
        return samples["dedup_agent_loops_total", *labels]

    assert [loops(action) for action in ("measured", "nudged", "stopped")] == [1, 2, 1]
    assert samples["dedup_agent_loop_tokens_total", model] == 4 * loop.last_tokens
    assert samples["dedup_agent_loop_steps_sum", model] == 4 * STEPS
    for outcome in ("recovered", "repeated"):
        assert samples["dedup_agent_nudges_total", model, ("outcome", outcome)] == 1


def test_callers_add_few_models() -> None:
    """Those of the guardrail choose names: they must not take the places of real models."""
    telemetry = Telemetry(["m"])
    for number in range(1000):
        telemetry.learn_called(f"called {number}")
    telemetry.learn(["x" * 301])
    telemetry.learn(["real"])
    assert telemetry.model_label("called 48") == "called 48"
    assert telemetry.model_label("called 49") == "other"
    assert telemetry.model_label("x" * 301) == "other"
    assert telemetry.model_label("real") == "real"
