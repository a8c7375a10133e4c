"""The loop that an agent is in, in the messages of each API."""

import json

import pytest

from dedup.answer.agent_loops import Call, find_loop
from dedup.answer.agent_loops.notices import NUDGE, NUDGE_ZH, STOP
from tests.answer.agent_loops.histories import APIS, Api, Made, Part, Turn, history, turn

LOOK = turn(
    "look_up", {"city": "Delft", "limit": 5}, "No entry was found for this city in the register."
)
READ = turn("read_file", {"path": "a.py"}, "def main() -> None:\n    print('hello')\n")
LIST = turn("list_files", {}, "a.py\nb.py")


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    return request.param


def test_three_copies_are_no_loop_and_four_are(api: Api) -> None:
    assert find_loop(history(api, *[LOOK] * 3)) is None
    loop = find_loop(history(api, LIST, *[LOOK] * 4))
    assert loop is not None
    assert (loop.kind, loop.cycle, loop.from_step, loop.steps, loop.copies) == ("exact", 1, 1, 4, 4)
    assert 40 < loop.tokens < 120


@pytest.mark.parametrize("cycle", [2, 3, 4])
def test_cycles_are_found_at_their_third_copy(api: Api, cycle: int) -> None:
    steps = [
        turn(f"tool_{n}", {"n": n}, f"The result of tool number {n} as ever.") for n in range(cycle)
    ]
    loop = find_loop(history(api, READ, *steps * 3))
    assert loop is not None
    assert (loop.kind, loop.cycle, loop.from_step, loop.steps) == ("exact", cycle, 1, 3 * cycle)
    assert find_loop(history(api, READ, *steps * 2, *steps[:-1])) is None


def test_the_loop_is_at_the_end(api: Api) -> None:
    assert find_loop(history(api, *[LOOK] * 6, READ)) is None
    assert find_loop(history(api, *[LOOK] * 6, Turn(text="There is no entry for Delft."))) is None


def test_arguments_are_compared_as_values(api: Api) -> None:
    other = turn("look_up", {"limit": 5, "city": "Delft"}, LOOK.calls[0].result)
    assert find_loop(history(api, LOOK, other, LOOK, other)) is not None
    other = turn("look_up", {"limit": 6, "city": "Delft"}, LOOK.calls[0].result)
    loop = find_loop(history(api, LOOK, other, LOOK, other))
    assert loop is None


def test_a_result_that_changes_is_progress(api: Api) -> None:
    poll = [turn("job", {"id": 7}, f"running, {n} of 40 tests") for n in range(20)]
    assert find_loop(history(api, *poll)) is None
    build = turn("bash", {"command": "make"}, "error: missing ; in line 4")
    edits = [turn("edit", {"line": n, "text": f"x = {n}"}, "ok") for n in range(6)]
    assert find_loop(history(api, *[part for edit in edits for part in (edit, build)])) is None


def test_a_result_in_which_only_volatile_values_change_is_none(api: Api) -> None:
    polls = [
        turn("fetch", {"url": "/orders"}, f'{{"time": "2026-11-28T10:0{n}:00Z", "orders": []}}')
        for n in range(5)
    ]
    loop = find_loop(history(api, *polls))
    assert loop is not None
    assert loop.kind == "exact"


@pytest.mark.parametrize(
    ("result", "is_loop"),
    [
        ("Saved shot_{0}.png. A dialog covers the table.", True),
        ("64 bytes from 10.0.0.1: ttl=64 time=2.{0} ms", True),
        ('{{"ticket": "INC-881{0}", "state": "new"}}', True),
        ("HTTP/2 200\nage: {0}\nx-cache-hits: {0}\n\n[]", True),
        ("3 of {0} files were copied", False),
        ('{{"price": 641.{0}, "currency": "EUR"}}', False),
        ('{{"status": "running", "blocks": 1{0}}}', False),
        ("Epoch 3, loss 0.{0}", False),
        ("There are 1{0} items in the queue.", False),
        ("{0}% are done", False),
    ],
)
def test_numbers_that_tell_how_far_something_is_are_a_change(
    api: Api, result: str, is_loop: bool
) -> None:
    steps = [turn("look", {"at": "it"}, result.format(number)) for number in (41, 57, 62, 78, 83)]
    assert (find_loop(history(api, *steps)) is not None) == is_loop


def test_pagination_and_equal_results_of_other_calls_are_left_alone(api: Api) -> None:
    pages = [turn("list", {"page": n}, "[]") for n in range(12)]
    assert find_loop(history(api, *pages)) is None
    saved = [turn("save", {"name": f"note {n}", "text": f"about {n}"}, "ok") for n in range(12)]
    assert find_loop(history(api, *saved)) is None
    names = "anna bert carl dora emil fred".split()
    reminders = [
        turn("send", {"message": f"please remind {name} to come at noon"}, "sent") for name in names
    ]
    assert find_loop(history(api, *reminders)) is None


def test_waiting_has_patience(api: Api) -> None:
    wait = turn("get_job", {"id": 7}, '{"status": "running"}')
    assert find_loop(history(api, *[wait] * 10)) is None
    assert find_loop(history(api, *[wait] * 11)) is not None
    scroll = turn("scroll", {"direction": "down"}, "ok")
    assert find_loop(history(api, *[scroll] * 10)) is None


@pytest.mark.parametrize(
    ("prompt", "allowed"),
    [
        ("Run the test 20 times.", 20),
        ("把测试跑20遍", 20),
        ("Call it until it fails.", 10),
        ("一直监控，直到出错", 10),
        ("每两分钟看一次", 10),
        ("Toutes les 30 secondes, regarde si c'est prêt.", 10),
        ("Run the benchmark five times and take the best.", 10),
        ("把基准测试跑三次", 10),
        ("Lass es fünfmal laufen.", 10),
        ("Do not read it again and again, and never 50 times.", 3),
        ("It failed.", 3),
        ("見積もりは金曜まで、サーバー移行は来月10日。", 3),
    ],
)
def test_the_user_may_ask_for_repetition(api: Api, prompt: str, allowed: int) -> None:
    check = turn("run_check", {"suite": "sync"}, "All of the checks of this suite have passed.")
    assert find_loop(history(api, *[check] * allowed, start=prompt)) is None
    assert find_loop(history(api, *[check] * (allowed + 1), start=prompt)) is not None


def test_a_message_of_a_user_begins_anew(api: Api) -> None:
    assert find_loop(history(api, *[LOOK] * 6, "Stop. Summarize.")) is None
    assert find_loop(history(api, *[LOOK] * 3, "Try again.", *[LOOK] * 3)) is None
    loop = find_loop(
        history(api, LIST, *[LOOK] * 6, "Once more, please, it is there now.", *[LOOK] * 4)
    )
    assert loop is not None
    assert (loop.from_step, loop.steps) == (7, 4)


def test_messages_of_a_harness_are_not_a_users(api: Api) -> None:
    parts: list[Part] = []
    for _ in range(4):
        parts += [LOOK, "<system-reminder>Remember the to-do list.</system-reminder>"]
    assert find_loop(history(api, *parts)) is not None


def test_turns_without_calls_that_say_the_same(api: Api) -> None:
    said = Turn(text="I will now read the file and fix the bug.")
    again = "You did not use a tool. Please use a tool, or finish the task."
    parts: list[Part] = []
    for _ in range(4):
        parts += [said, again]
    loop = find_loop(history(api, *parts))
    assert loop is not None
    assert loop.kind == "message"
    assert loop.is_repeated_by([], "I will now read the file and fix the bug.")
    assert not loop.is_repeated_by([], "The bug is fixed: line 3 had a typo.")
    assert not loop.is_repeated_by([Call("read_file", {"path": "a.py"}, has_result=False)])


def test_a_user_who_asks_the_same_again_is_no_harness(api: Api) -> None:
    parts: list[Part] = []
    for _ in range(6):
        parts += [LOOK, Turn(text="It is closed today."), "Is the library open?"]
    assert find_loop(history(api, *parts)) is None


def test_free_text_that_is_worded_anew(api: Api) -> None:
    words = [
        "waiting for the workers to report their results",
        "still waiting for results from the workers",
        "the workers have not reported results, so waiting",
        "waiting until the workers report the results",
        "results of the workers: waiting for them to report",
    ]
    result = "Control was handed back. There is nothing new to look at, and no worker has reported."
    loop = find_loop(history(api, *[turn("yield", {"note": text}, result) for text in words]))
    assert loop is not None
    assert loop.kind == "near"
    tests = [
        turn("bash", {"command": "npm test", "description": text}, "3 failed: a, b, c")
        for text in ("Run the tests", "Check the tests once more", "See if it works now", "Run all")
    ]
    loop = find_loop(history(api, *tests))
    assert loop is not None


def test_thoughts_are_not_a_loop(api: Api) -> None:
    thoughts = [
        "First I need to find where the orders are stored.",
        "The orders are in SQLite, so a query by month is easy.",
        "Refunds have to be left out; they have a negative sum.",
        "A chart is not needed, the table is enough for this report.",
        "Now the columns: month, number of orders, sum, average.",
    ]
    assert (
        find_loop(history(api, *[turn("think", {"thought": one}, "ok") for one in thoughts]))
        is None
    )


def test_calls_that_fail_alike_whatever_their_arguments(api: Api) -> None:
    steps = [
        turn(
            "sql",
            {"query": f"SELECT {column} FROM orders"},
            "Error: permission denied for schema sales",
            is_error=True,
        )
        for column in "id sum month tax".split()
    ]
    loop = find_loop(history(api, *steps))
    assert loop is not None
    assert loop.kind == "failure"
    assert loop.is_repeated_by([Call("sql", {"query": "SELECT tax FROM orders"}, has_result=False)])
    assert not loop.is_repeated_by([Call("sql", {"query": "SELECT 1"}, has_result=False)])
    unknown = [
        turn(name, {}, f"Error: the tool {name} does not exist")
        for name in "a_tool b_tool c_tool d_tool".split()
    ]
    assert find_loop(history(api, *unknown)) is not None


def test_a_full_disk_is_the_same_error_whatever_the_file(api: Api) -> None:
    def written(result: str) -> list[Turn]:
        names = ("report", "report_v2", "final", "backup", "out")
        return [
            turn(
                "run",
                {"code": f"save('/data/{name}.csv')", "note": name},
                result.format(f"/data/{name}.csv"),
            )
            for name in names
        ]

    full = find_loop(history(api, *written("OSError: [Errno 28] No space left on device: '{}'")))
    assert full is not None
    assert full.kind == "failure"
    assert find_loop(history(api, *written("ValueError: '{}' has no header row"))) is None


def test_what_a_text_says_of_waiting_is_not_the_state_of_a_job(api: Api) -> None:
    note = turn("read_note", {"day": "04-09"}, "- asked the landlord about it, waiting for a reply")
    assert find_loop(history(api, *[note, LOOK] * 4)) is not None
    job = turn("get_job", {"id": 4}, "Job 4 is waiting for a runner")
    assert find_loop(history(api, *[job] * 8)) is None


def test_searches_that_find_nothing_have_not_failed(api: Api) -> None:
    steps = [
        turn("grep", {"pattern": one}, "No matches found")
        for one in "getUser get_user user_of fetchUser".split()
    ]
    assert find_loop(history(api, *steps)) is None
    steps = [
        turn("cat", {"path": one}, f"Error: {one}: no such file")
        for one in "a.py b.py c.py d.py".split()
    ]
    assert find_loop(history(api, *steps)) is None


def test_a_parallel_batch_is_one_step_in_any_order(api: Api) -> None:
    one, two = LOOK.calls[0], READ.calls[0]
    loop = find_loop(history(api, *[Turn((one, two)), Turn((two, one))] * 2))
    assert loop is not None
    assert (loop.cycle, loop.steps) == (1, 4)
    again = [Call(call.name, call.arguments, has_result=False) for call in (two, one)]
    assert loop.is_repeated_by(again)
    assert not loop.is_repeated_by(again[:1])
    batches = [Turn((one, Made("read_file", {"path": f"{n}.py"}, str(n)))) for n in range(6)]
    assert find_loop(history(api, *batches)) is None


def test_repeatable_tools_are_left_alone(api: Api) -> None:
    assert find_loop(history(api, *[LOOK] * 20), repeatable=["look_up"]) is None
    assert find_loop(history(api, *[LOOK] * 20), repeatable=["other"]) is not None


def test_a_step_without_its_result_does_not_count() -> None:
    messages = history("chat", *[LOOK] * 4)
    assert find_loop(messages[:-1]) is None
    loop = find_loop([*messages, messages[-2]])
    assert loop is not None
    assert loop.steps == 4


def test_notices_are_never_counted(api: Api) -> None:
    result = LOOK.calls[0].result
    nudged = [
        turn("look_up", {"city": "Delft", "limit": 5}, f"{result}\n\n{one}")
        for one in (NUDGE, NUDGE_ZH)
    ]
    loop = find_loop(history(api, LOOK, LOOK, *nudged))
    assert loop is not None
    assert loop.steps == 4
    assert find_loop(history(api, *[Turn(text=STOP), "continue"] * 6)) is None


def test_the_next_call_is_the_first_of_the_cycle(api: Api) -> None:
    loop = find_loop(history(api, *[LOOK, READ] * 3))
    assert loop is not None
    look = Call("look_up", json.dumps({"limit": 5, "city": "Delft"}), has_result=False)
    read = Call("read_file", {"path": "a.py"}, has_result=False)
    assert loop.is_repeated_by([look])
    assert not loop.is_repeated_by([read])
    assert not loop.is_repeated_by([])


@pytest.mark.parametrize(
    "message",
    [
        None,
        7,
        {},
        {"role": "tool"},
        {"role": "assistant", "tool_calls": [None, {}, {"function": 3}]},
        {"role": "assistant", "content": [None, {"type": "tool_use"}, {"type": 4}]},
        {"role": "user", "content": [None, {"type": "tool_result"}]},
        {"type": "function_call"},
        {"type": "function_call_output", "output": {"a": [1]}},
        {"type": "web_search_call", "id": "ws_1", "action": {"query": "x"}},
    ],
)
def test_what_no_api_has_is_passed_over(api: Api, message: object) -> None:
    assert find_loop([message] * 9) is None or isinstance(message, dict)
    messages = history(api, *[LOOK] * 4)
    assert find_loop([message, *messages]) is not None


LEFT_ALONE: dict[str, list[Turn]] = {
    "a task that is still running": [
        turn("TaskOutput", {"id": "b1"}, "<status>running</status>\n<output></output>")
    ]
    * 8,
    "a command that begins with a pause": [
        turn("Bash", {"command": "sleep 60 && gh pr checks 12"}, "build\tpending\t0\thttps://ci")
    ]
    * 8,
    "a number that stays for a while, and moves": [
        turn("get_lag", {"group": "orders"}, f'{{"group": "orders", "lag": {lag}, "members": 3}}')
        for lag in (41, 41, 38, 38, 38, 27, 19, 12, 12, 4)
    ],
    "the same the other way round": [
        turn("seats_taken", {"flight": "KL 12"}, f"Flight KL 12: taken {taken} so far, gate B4")
        for taken in (71, 74, 74, 78, 80, 83)
    ],
    "blows in a game": [
        turn("attack", {}, f"You strike for {hit} damage. The goblin has {left} hit points.")
        for hit, left in ((7, 43), (5, 38), (9, 29), (6, 23), (8, 15), (4, 11))
    ],
    "a light that gets brighter": [
        turn("call_service", {"service": "volume_up"}, f'{{"state": "on", "to": {level}}}')
        for level in range(100, 190, 10)
    ],
    "pages of a reader": [turn("PageDown", {}, f"Offset {at} of the text") for at in range(9)],
    "a job without an outcome": [
        turn(
            "get_render", {"id": 5}, '{"id": 5, "output": null, "created": "2026-03-02T10:00:00Z"}'
        )
    ]
    * 8,
    "a job in another language": [
        turn("etat", {"id": 7}, '{"id": 7, "etat": "en cours", "etape": "construction"}')
    ]
    * 8,
    "a table of checks": [turn("run", {"cmd": "checks"}, "build\tpending\t0\nlint\tpass\t31s")] * 8,
    "a long record of a job": [
        turn(
            "get_job",
            {"id": 1},
            json.dumps({"id": "ft-1", "notes": "x " * 200, "status": "running"}),
        )
    ]
    * 8,
    "a pause within a command": [
        turn("Bash", {"command": "cd /repo && sleep 60 && gh run list"}, "build completed failure")
    ]
    * 8,
    "pictures that the harness leaves out": [
        turn("scroll", {"y": 500}, "Scrolled down by half of a page in the main window."),
        turn("screenshot", {}, "[image omitted]"),
    ]
    * 5,
    "hours of a restaurant": [
        turn(
            "check", {"place": "Da Ugo", "hour": hour}, "No table is available at this hour, sorry."
        )
        for hour in range(17, 23)
    ],
    "sites that refuse": [
        turn(
            "WebFetch",
            {"url": f"https://{name}.example"},
            "Error: HTTP 403 Forbidden, access denied",
        )
        for name in "anna bert carl dora emil".split()
    ],
    "time that is left": [turn("eta", {}, f"{number} minutes") for number in range(9, 2, -1)],
    "values that are asked for": [
        turn("uuid", {}, f"{number}d7f6a5e-1b2c-4d3e-9f8a-7b6c5d4e3f2a") for number in range(9)
    ],
    "clicks": [turn("click", {"ref": "next-month"}, "Clicked.")] * 8,
    "thoughts": [
        turn("think", {"thought": text}, "Your thought has been logged.")
        for text in (
            "The order is in the archive, so I have to look there first.",
            "Archive entries have no sums; the ledger has them.",
            "With the ledger I can match refunds by date and amount.",
            "Three refunds stay open, which is what was asked.",
        )
    ],
    "thoughts whose acknowledgement says more": [
        turn("think", {"thought": text}, "Your thought has been recorded. Go on, or act on it now.")
        for text in (
            "Writes are rare, reads are frequent.",
            "The data fit on one machine.",
            "Full text search is wanted.",
            "Postgres has it built in.",
        )
    ],
    "files that have the same settings": [
        turn("read_file", {"path": f"conf/{name}.yml"}, "server:\n  port: 8080\n  timeout: 30\n")
        for name in ("base", "dev", "test", "live")
    ],
    "a state in another language": [
        turn("get_approval", {"id": "A7"}, '{"id": "A7", "state": "审批中"}')
    ]
    * 8,
    "a list that grows": [
        turn(
            "update",
            {"text": "milk bread eggs flour yeast salt butter jam"[: 12 + 6 * n]},
            "Saved.",
        )
        for n in range(6)
    ],
}


STUCK: dict[str, list[Turn]] = {
    "what a search finds speaks of something that is not done yet": [
        turn("search_docs", {"query": "quota"}, "Quotas of teams have not been covered yet.")
    ]
    * 4,
    "an article that speaks of work, between searches": [
        turn("search", {"query": "灯"}, "KB-1182: 指示灯含义说明, KB-0457: 修改密码"),
        turn("get_article", {"id": "KB-1182"}, "PON 灯闪烁：正在注册；LOS 灯红色：光信号丢失。"),
    ]
    * 3,
    "a wait behind a click that does nothing": [
        turn("browser_click", {"ref": "e4"}, "Clicked the button 'Sign in' on the page."),
        turn("browser_wait_for", {"seconds": 2}, "Waited."),
        turn("snapshot", {}, "heading 'Sign in', textbox 'E-mail', button 'Sign in'"),
    ]
    * 4,
    "a pause, and the same failure behind it": [
        turn("run", {"cmd": "gh workflow run ci.yml && sleep 5"}, "Created the event for ci.yml."),
        turn("run", {"cmd": "sleep 60; gh run view"}, "npm error: package.json is out of sync"),
    ]
    * 3,
    "arguments that differ in form": [
        turn(
            "find",
            {"name": "contract", "limit": limit},
            "Found: contract_acme.pdf, contract_beta.pdf, notes_on_acme.md",
        )
        for limit in (5, 10, 20, 50)
    ],
    "a time as an argument": [
        turn(
            "events",
            {"now": f"2026-10-02T09:1{n}:00Z"},
            "Standup with the whole platform team at 10:00, lunch at 12:00",
        )
        for n in range(4)
    ],
    "no permission, or perhaps it does not exist": [
        turn(
            "sql",
            {"sql": f"SELECT {name} FROM t"},
            "403 Access Denied: no permission, or perhaps it does not exist.",
        )
        for name in "abcd"
    ],
    "no network": [
        turn(
            "sh",
            {"cmd": f"pip install {name}"},
            f"WARNING: /simple/{name}/: Temporary failure in name resolution. ERROR: no {name}",
        )
        for name in "xlrd openpyxl pandas polars".split()
    ],
    "what is left of a quota": [
        turn(
            "quote", {"symbol": "ENR"}, f'{{"symbol": "ENR", "price": 98.62, "credits_left": {n}}}'
        )
        for n in (4820, 4819, 4818, 4817)
    ],
    "findings in another order": [
        turn("search", {"q": "cake"}, "\n".join(order))
        for order in (
            ("1. Sponge without soy", "2. Twelve cakes", "3. Chocolate cake"),
            ("3. Chocolate cake", "1. Sponge without soy", "2. Twelve cakes"),
            ("2. Twelve cakes", "1. Sponge without soy", "3. Chocolate cake"),
            ("3. Chocolate cake", "2. Twelve cakes", "1. Sponge without soy"),
        )
    ],
    "pages of a site that refuses": [
        turn(
            "fetch", {"url": f"https://journal.example/{path}"}, "HTTP 403 Forbidden, access denied"
        )
        for path in ("10/77", "10/77.pdf", "doi/10/77", "abs/10/77?full=1")
    ],
    "tools that are not there": [
        turn(name, {"n": 50}, f"Tool '{name}' is not available. Available: read_file, list_dir")
        for name in ("tail", "logs", "read_log", "tail_file")
    ],
    "files outside of the workspace": [
        turn("read_file", {"path": path}, f"Error: EACCES: '{path}' is outside of the workspace")
        for path in ("/etc/a.conf", "/etc/b/c.conf", "/usr/d", "/etc/e")
    ],
    "a screenshot whose name has the time": [
        turn(
            "click",
            {"ref": "e41"},
            f"Bottle 1 l | Trail goods: /tmp/output-of-the-browser/page-2026-03-02T11-05-{n}-145Z.png",
        )
        for n in (43, 51, 58, 59)
    ],
}


@pytest.mark.parametrize("name", STUCK)
def test_what_only_looks_like_work_is_found(api: Api, name: str) -> None:
    assert find_loop(history(api, *STUCK[name])) is not None


def test_items_that_the_user_names_may_all_be_refused(api: Api) -> None:
    refused = [
        turn("probe", {"port": port}, "Error: the connection was refused by the machine")
        for port in (22, 80, 443, 8080)
    ]
    assert find_loop(history(api, *refused)) is not None
    assert (
        find_loop(history(api, *refused, start="Which of 22, 80, 443 and 8080 are open?")) is None
    )


def test_steps_of_a_rebase_are_told_by_their_numbers(api: Api) -> None:
    steps: list[Turn] = []
    for n in range(1, 7):
        steps += [
            turn("shell", {"cmd": "git add CHANGELOG.md"}, ""),
            turn(
                "shell",
                {"cmd": "git rebase --continue"},
                f"Rebasing ({n}/6)\nCONFLICT: Merge conflict in CHANGELOG.md\nerror: could not apply",
            ),
        ]
    assert find_loop(history(api, *steps)) is None


def test_calls_with_empty_ids_have_their_results_in_order() -> None:
    messages = [
        {**message, **({"tool_call_id": ""} if message["role"] == "tool" else {})}
        for message in history("chat", *[Turn((*LOOK.calls, *READ.calls))] * 4)
    ]
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["id"] = ""
    loop = find_loop(messages)
    assert loop is not None
    assert loop.steps == 4


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_work_is_left_alone(api: Api, name: str) -> None:
    assert find_loop(history(api, *LEFT_ALONE[name])) is None


def test_hosted_calls_whose_results_are_not_seen_say_nothing() -> None:
    search = {"type": "web_search_call", "id": "ws", "status": "completed"}
    assert find_loop([{"role": "user", "content": "Look."}, *[search] * 6]) is None
    steps = [part for one in history("responses", *[LOOK] * 4) for part in (one, search)]
    assert find_loop(steps) is not None


def test_images_are_the_same_or_not() -> None:
    def shots(*names: str) -> list[dict[str, object]]:
        messages = history("messages", *[turn("screenshot", {}, "")] * len(names))
        for message, name in zip(messages[2::2], names, strict=True):
            part = {"type": "image", "source": {"type": "file", "file_id": name}}
            message["content"][0]["content"] = [part]
        return messages

    assert find_loop(shots("file_011a9", "file_017b2", "file_01c33", "file_09d41")) is None
    assert find_loop(shots(*["file_011a9"] * 4)) is not None


def test_calls_without_ids_have_their_results_in_order() -> None:
    one, two = LOOK.calls[0], READ.calls[0]
    messages = history("chat", *[Turn((one, two))] * 4)
    for message in messages:
        message.pop("tool_call_id", None)
        for call in message.get("tool_calls", ()):
            del call["id"]
    assert find_loop(messages) is not None


@pytest.mark.parametrize(
    "prompt", ["Create a poll for the team lunch", "Is it open until 9?", "Add 90 more rows"]
)
def test_prompts_that_ask_for_no_repetition(api: Api, prompt: str) -> None:
    assert find_loop(history(api, *[LOOK] * 4, start=prompt)) is not None


def test_what_a_person_says_of_going_on_begins_anew(api: Api) -> None:
    parts: list[Part] = []
    for _ in range(3):
        parts += [LOOK, Turn(text="It is not there."), "I have added it now, so please continue."]
    assert find_loop(history(api, *parts[:-1])) is None


HOSTILE = [
    "a" * 100_000,
    "aA" * 50_000,
    " " * 100_000,
    "1" * 100_000,
    "check" * 20_000,
    "é1" * 50_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=[one[:6] for one in HOSTILE])
def test_hostile_texts_take_linear_time(text: str) -> None:
    """A search that is quadratic takes minutes for these."""
    steps = [turn(text, {"q": text}, f"{place}{text}]") for place in "xyxz"]
    find_loop(history("chat", *steps, start=text))
    find_loop(history("chat", *[turn("t", {}, f"{text}{place}>") for place in "1234"]))


NAMES = "anna bert carl dora emil fred gina hugo ines jens".split()
SCRIPT = "\n".join(
    f"{n:>4}\tdef step_{n}(rows): return [row + {n} for row in rows]" for n in range(9)
)


def lines(first: int, last: int, *, numbered: bool = True) -> str:
    chosen = SCRIPT.split("\n")[first:last]
    return "\n".join(line if numbered else line.partition("\t")[2] for line in chosen)


NOTHING_NEW: dict[str, list[Turn]] = {
    "the same lines in other ranges, by other commands": [
        turn("sh", {"cmd": "cat src/steps.py"}, lines(0, 9, numbered=False)),
        turn("sh", {"cmd": "sed -n 1,7p src/steps.py"}, lines(0, 7, numbered=False)),
        turn("sh", {"cmd": "cat -n src/steps.py | head -8"}, lines(0, 8)),
        turn("sh", {"cmd": "sed -n 2,9p src/steps.py"}, lines(1, 9, numbered=False)),
    ],
    "findings of other searches in another order": [
        turn(
            "search",
            {"query": query},
            "\n".join(f"{name}.example: what {name} has found out about tides" for name in names),
        )
        for query, names in (
            ("tides", NAMES[:5]),
            ("when is the water high", NAMES[4::-1]),
            ("table of ebb and flood", NAMES[1:5]),
            ("Gezeiten", NAMES[3::-1]),
        )
    ],
    "announcements": [
        Turn(text="I will now read the table and write the report."),
        Turn(text="Understood: I read the table now, and then comes the report."),
        Turn(text="Now I will read the table in order to write the report."),
        Turn(text="First I read the table; then I write the report."),
    ],
}
NEWS: dict[str, list[Turn]] = {
    "other lines of a file": [
        turn("sh", {"cmd": f"sed -n {n},{n + 3}p src/steps.py"}, lines(n, n + 4)) for n in range(5)
    ],
    "pages of records that are alike": [
        turn(
            "events",
            {"before": before},
            json.dumps(
                [
                    {"id": before - k, "type": "heartbeat", "severity": "info", "source": "plc"}
                    for k in range(1, 5)
                ]
            ),
        )
        for before in range(100, 60, -4)
    ],
    "files that are alike": [
        turn("sh", {"cmd": f"cat src/{name}.py"}, lines(0, 9)) for name in NAMES
    ],
    "a list that is written": [
        turn(
            "add",
            {"line": f"- a note of {NAMES[n]} on the tide"},
            "\n".join(f"- a note of {name} on the tide" for name in NAMES[: n + 1]),
        )
        for n in range(10)
    ],
    "a report in parts": [
        Turn(text=text)
        for text in (
            "Depth: the harbour has lost thirty centimetres since the last survey, most of it at the mole.",
            "Wind: storms came from the west, and none of them lasted longer than a night.",
            "Salt: the dunes took up more than the plants at their foot can bear, so replanting has to wait.",
            "Waves: those at the pier were lower than forecast, with two exceptions in March.",
        )
    ],
    "a work in long parts": [
        Turn(
            text=f"Chapter {n}. " + "The tide came in and Anna went out to the pier, as ever. " * 8
        )
        for n in ("one", "two", "three", "four", "five")
    ],
}


@pytest.mark.parametrize("name", NOTHING_NEW)
def test_steps_that_tell_nothing_new_are_found(api: Api, name: str) -> None:
    steps = NOTHING_NEW[name]
    parts: list[Part] = []
    for step in steps:
        parts += [step] if step.calls else [step, "You did not use a tool. Please use a tool."]
    loop = find_loop(history(api, *parts))
    assert loop is not None
    assert loop.kind == ("near" if steps[0].calls else "message")
    for step in steps:
        again = [Call(call.name, call.arguments, has_result=False) for call in step.calls]
        assert not again or loop.is_repeated_by(again)
    assert not loop.is_repeated_by([Call("sh", {"cmd": "make"}, has_result=False)])
    assert find_loop(history(api, *parts[:-2])) is None


@pytest.mark.parametrize("name", NEWS)
def test_news_are_left_alone(api: Api, name: str) -> None:
    parts: list[Part] = []
    for step in NEWS[name]:
        parts += [step] if step.calls else [step, "Continue."]
    assert find_loop(history(api, *parts)) is None


def test_an_error_that_moves_is_progress(api: Api) -> None:
    steps = [
        turn("write", {"text": f"version {n} of it"}, f"YAML error: bad indentation in line {line}")
        for n, line in enumerate((3, 7, 9, 14, 20))
    ]
    assert find_loop(history(api, *steps)) is None
    steps = [
        turn("create", {"title": "Flaky", name: "x"}, f"Error: the parameter {wanted} is required")
        for name, wanted in (
            ("body", "repo"),
            ("repo", "owner"),
            ("owner", "labels"),
            ("labels", "assignee"),
        )
    ]
    assert find_loop(history(api, *steps)) is None


def test_an_error_about_none_of_the_arguments_is_the_same(api: Api) -> None:
    steps = [
        turn(
            "call_api",
            {"path": path},
            f"Access denied: one of the scopes app:read, app:write is required (log {log})",
        )
        for path, log in (
            ("/app/v1", "8f2c61d0"),
            ("/sheets", "91ab77e3"),
            ("/app/roles", "c07d5512"),
            ("/me", "e5e5090f"),
        )
    ]
    loop = find_loop(history(api, *steps))
    assert loop is not None
    assert loop.kind == "failure"


def test_tracebacks_with_the_same_frames_and_other_errors_are_no_loop(api: Api) -> None:
    frames = "Traceback (most recent call last):\n" + "".join(
        f'  File "/opt/lib/frame/core/{name}.py", line {n}, in {name}\n    return self.{name}(key)\n'
        for n, name in enumerate(NAMES)
    )
    errors = [
        "KeyError: 'month'",
        "TypeError: bad operand",
        "ValueError: no rows left",
        "NameError: name is missing",
    ]

    def run(error: str, n: int) -> Turn:
        return turn("run_python", {"code": f"frame.query(step={n}, mode={n * n})"}, frames + error)

    assert find_loop(history(api, *[run(error, n) for n, error in enumerate(errors)])) is None
    assert find_loop(history(api, *[run(errors[0], n) for n in range(4)])) is not None


def test_texts_without_calls_are_a_loop_where_a_harness_misses_calls(api: Api) -> None:
    texts = [
        "I start now.",
        "The table comes first, then the report.",
        "On it!",
        "Let me begin with A1.",
    ]

    def answered(prompt: str) -> list[Part]:
        return [part for text in texts for part in (Turn(text=text), prompt)]

    missed = "[System] No tool call was found. Please use a tool."
    assert find_loop(history(api, *answered(missed))) is not None
    assert find_loop(history(api, *answered("[BERT] that is fine, is it not?"))) is None
    assert find_loop(history(api, *answered("continue"))) is None
    again = "[システム] ツールが呼び出されていません。"  # is known by being sent again
    assert find_loop(history(api, *answered(again), Turn(text="Now I start."))) is not None


def test_a_message_that_is_sent_again_was_a_harness_from_the_first(api: Api) -> None:
    said: Part = Turn(text="To open the merge request I need a token of yours.")
    prompt: Part = (
        "The run has not been closed yet. Please continue working, and do not ask for help."
    )
    loop = find_loop(history(api, LOOK, *[said, prompt] * 4))
    assert loop is not None
    assert (loop.kind, loop.from_step, loop.steps) == ("message", 1, 4)
    assert find_loop(history(api, LOOK, *[said, prompt] * 3)) is None


def test_a_text_that_speaks_of_waiting_is_not_patient(api: Api) -> None:
    mail = turn(
        "read_mail",
        {"id": 7},
        "Dear Anna, we are still waiting for the papers of the bank, and the notary is not ready either. "
        "Please send us what you have. Kind regards, Bert",
    )
    assert find_loop(history(api, *[mail] * 4)) is not None
