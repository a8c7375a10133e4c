"""Legitimate repetition of special kinds: the user's wish, equal results, loops that ended, tools meant to repeat."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import clock, dumped, executed, numbered, running
from .story import Call, Story


@story("user-repeats-zai-cha", "chat", "user_repeats", "zengxinyueooo/ThoughtCoding#33")
def check_again(it: Story) -> None:
    it.system("你是票务助手，查询余票用 query_tickets。")
    it.user("查一下 10 月 1 日 G1 次北京南到上海虹桥的二等座")
    sold_out = dumped(
        {"train": "G1", "date": "2026-10-01", "second_class": 0, "first_class": 0, "business": 2}
    )
    query = Call(
        "query_tickets",
        {"train": "G1", "date": "2026-10-01", "from": "北京南", "to": "上海虹桥"},
        sold_out,
    )
    for wish in ("再查一次", "再查一次", "再查", "现在呢", "再刷新一下", "再查一次"):
        it.turn(query)
        it.say("二等座目前没有余票，商务座还有 2 张。")
        it.user(wish)
    it.turn(
        Call(
            "query_tickets",
            {"train": "G1", "date": "2026-10-01", "from": "北京南", "to": "上海虹桥"},
            sold_out.replace('"second_class": 0', '"second_class": 3'),
        )
    )
    it.say("有了！刚放出 3 张二等座，要现在下单吗？")


@story("user-repeats-run-tests", "messages", "user_repeats", "zengxinyueooo/ThoughtCoding#34")
def run_tests_again(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("run the tests")
    output = "..............................................................           [100%]\n62 passed in 1.84s"
    for wish in (
        "I edited a file by hand, run them again",
        "again please",
        "once more",
        "and again",
        "last time, run the tests",
    ):
        it.turn(Call("Bash", {"command": "pytest -q", "description": "Run the tests"}, output))
        it.say("All 62 tests pass.")
        it.user(wish)
    it.turn(Call("Bash", {"command": "pytest -q", "description": "Run the tests"}, output))
    it.say("All 62 tests pass.")


@story("user-repeats-radio", "responses", "user_repeats", "tinyhumansai/openhuman#4095")
def louder(it: Story) -> None:
    it.system("Sei l'assistente di casa. Rispondi in italiano.")
    it.user("Metti Radio 3 in cucina")
    it.turn(Call("play_station", {"room": "cucina", "station": "Radio 3"}, dumped({"ok": True})))
    for _ in range(6):
        it.user("Più forte")
        it.turn(Call("volume_up", {"room": "cucina"}, dumped({"ok": True})))
        it.say("Fatto.")
    it.user("Basta così, grazie")


@story("shared-result-true", "chat", "shared_result", "vstorm-co/pydantic-deepagents#208")
def all_true(it: Story) -> None:
    it.system("You fill in forms through tools that return True on success.")
    it.user("Fill in the vendor form for Brightwater Ltd from the attached sheet and save it.")
    fields = {
        "company": "Brightwater Ltd",
        "street": "14 Canal Row",
        "city": "Leeds",
        "postcode": "LS1 4AP",
        "country": "GB",
        "vat": "GB318220417",
        "contact": "Imogen Hale",
        "phone": "+44 113 496 0182",
        "email": "accounts@brightwater.example",
        "iban": "GB33BUKB20201555555555",
        "terms": "30 days",
        "currency": "GBP",
    }
    for name, value in fields.items():
        it.turn(Call("set_field", {"field": name, "value": value}, "True"))
    it.turn(Call("save_form", {}, "True"))
    it.say("The form is saved with twelve fields.")


@story("shared-result-lights", "messages", "shared_result", "vstorm-co/pydantic-deepagents#208")
def lights_out(it: Story) -> None:
    it.system("家里的设备通过 control_device 控制，成功返回 ok。")
    it.user("我要出门了，把所有灯、空调和窗帘都关上")
    for device in (
        "light.客厅吊灯",
        "light.客厅灯带",
        "light.餐厅",
        "light.厨房",
        "light.主卧",
        "light.次卧",
        "light.书房",
        "light.卫生间",
        "light.阳台",
        "climate.客厅空调",
        "climate.主卧空调",
        "cover.客厅窗帘",
        "cover.主卧窗帘",
    ):
        it.turn(
            Call(
                "control_device",
                {"entity": device, "action": "close" if device.startswith("cover") else "turn_off"},
                "ok",
            )
        )
    it.say("都关好了，一路平安。")


@story(
    "shared-result-jira-moves",
    "responses",
    "shared_result",
    "vstorm-co/pydantic-deepagents#208",
)
def jira_moves(it: Story) -> None:
    it.system(
        "You keep the board tidy. The Jira MCP server answers 204 without a body when a transition succeeds."
    )
    it.user("Move everything that was merged today to Done.")
    it.turn(
        Call(
            "search_issues",
            {"jql": "status = 'In Review' AND merged >= startOfDay()"},
            dumped(
                {
                    "issues": [
                        {"key": f"PAY-{number}", "summary": summary}
                        for number, summary in [
                            (811, "Rounding of VAT"),
                            (815, "Timeout of the ledger"),
                            (820, "Retry webhooks"),
                            (822, "Drop Python 3.9"),
                            (823, "Flaky refund test"),
                            (829, "Audit log"),
                            (830, "CSV export"),
                        ]
                    ]
                }
            ),
        )
    )
    for number in (811, 815, 820, 822, 823, 829, 830):
        it.turn(
            Call("transition_issue", {"key": f"PAY-{number}", "transition": "Done"}, "HTTP 204")
        )
    it.say("Seven issues moved to Done.")


@story(
    "shared-result-empty-searches",
    "chat",
    "shared_result",
    "quintonmiller/tailored-ai#528",
)
def empty_searches(it: Story) -> None:
    it.system(
        "You check legacy code for uses of functions that shall be deleted. `grep` answers '(no matches)' if there are none."
    )
    it.user("Which of the functions in deprecated.txt can I delete safely?")
    names = "trimAll padLeft padRight isNil isBlank toCamel toSnake deepClone omitBy pickBy chunkBy zipWith sumBy groupInto onceOnly debounceLate throttleEarly uuidShort hashCode parseQuery buildQuery escapeHtml".split()
    it.turn(Call("read_file", {"path": "deprecated.txt"}, "\n".join(names)))
    for name in names:
        it.turn(
            Call(
                "grep",
                {"pattern": f"\\b{name}\\(", "path": "src"},
                "src/legacy/table.js:41:  return escapeHtml(cell)"
                if name == "escapeHtml"
                else "(no matches)",
            )
        )
    it.say("All but `escapeHtml` (src/legacy/table.js:41) are unused.")


@story(
    "finished-loop-went-on", "messages", "finished_loop", "weave-os/router#540 HKUDS/nanobot#3077"
)
def went_on(it: Story) -> None:
    it.system("You are a coding agent. Tool results may carry a note of the harness.")
    it.user("Which env variables does the worker read?")
    read = Call(
        "Read",
        {"file_path": "/r/worker/settings.py"},
        numbered(
            "import os\n\nREDIS = os.environ['REDIS_URL']\nCONCURRENCY = int(os.environ.get('WORKER_CONCURRENCY', 4))\n"
        ),
    )
    for _ in range(5):
        it.turn(read)
    it.reminder = "[harness: this is the 6th identical call. You have this result; use it or do something else.]"
    it.turn(read)
    it.loop_ends()
    it.turn(
        Call(
            "Grep",
            {"pattern": "environ", "path": "/r/worker"},
            "/r/worker/settings.py:3\n/r/worker/settings.py:4\n/r/worker/logging.py:11",
        )
    )
    it.turn(
        Call(
            "Read",
            {"file_path": "/r/worker/logging.py"},
            "     9\tdef level() -> str:\n    10\t    # DEBUG in development\n    11\t    return os.environ.get('LOG_LEVEL', 'INFO')\n",
        )
    )
    it.say("Three: REDIS_URL (required), WORKER_CONCURRENCY (4), LOG_LEVEL (INFO).")


@story(
    "finished-loop-user-stepped-in", "responses", "finished_loop", "headroomlabs-ai/headroom#3492"
)
def stepped_in(it: Story) -> None:
    it.system("You are an assistant with a calendar.")
    it.user("Find a slot for the review with Noor and Pavel this week.")
    for _ in range(7):
        it.turn(
            Call(
                "free_busy",
                {"people": ["noor", "pavel"], "week": "2026-W37"},
                dumped({"noor": ["Tue 9-12", "Thu 13-15"], "pavel": ["Wed 9-11"]}),
            )
        )
    it.loop_ends()
    it.user("Stop using tools. Just tell me what you found.")
    it.say(
        "They share no free slot this week: Noor is free Tuesday morning and Thursday 13 to 15, Pavel only Wednesday 9 to 11."
    )
    it.user("ok then next week")
    it.turn(
        Call(
            "free_busy",
            {"people": ["noor", "pavel"], "week": "2026-W38"},
            dumped({"noor": ["Mon 10-12"], "pavel": ["Mon 11-12", "Fri 9-10"]}),
        )
    )
    it.say("Monday 14 September, 11 to 12.")


@story("finished-loop-xiuhao", "chat", "finished_loop", "agentscope-ai/QwenPaw#6116")
def fixed_after_loop(it: Story) -> None:
    it.system("你是编程助手。工具：read_file、edit_file、run。")
    it.user("把 utils/date.py 里的时区改成东八区")
    for _ in range(5):
        it.turn(
            Call(
                "edit_file",
                {
                    "path": "utils/date.py",
                    "old_text": "tz = timezone.utc",
                    "new_text": "tz = timezone(timedelta(hours=8))",
                },
                "The text to replace was not found in the file.",
            )
        )
    it.loop_ends()
    it.turn(
        Call(
            "read_file",
            {"path": "utils/date.py"},
            "from datetime import datetime, timezone\n\nTZ = timezone.utc\n\n\ndef now() -> datetime:\n    return datetime.now(TZ)\n",
        ),
        text="一直匹配不到，我先看看文件内容。",
    )
    it.turn(
        Call(
            "edit_file",
            {
                "path": "utils/date.py",
                "old_text": "from datetime import datetime, timezone\n\nTZ = timezone.utc",
                "new_text": "from datetime import datetime, timedelta, timezone\n\nTZ = timezone(timedelta(hours=8))",
            },
            "The text was replaced successfully.",
        )
    )
    it.turn(
        Call(
            "run",
            {"command": "python -c 'from utils.date import now; print(now())'"},
            "2026-08-07 16:20:31.004211+08:00",
        )
    )
    it.say("原来变量叫 TZ，不是 tz。已改成东八区并验证。")


@story("thinking-sequential", "messages", "thinking_tool", "FlowiseAI/Flowise#4143")
def sequential(it: Story) -> None:
    it.system("Use the sequentialthinking tool to plan before you act.")
    it.user("Plan the move of our monolith's billing code into its own service with no downtime.")
    thoughts = [
        "List what billing owns: invoices, payments, dunning, the ledger tables.",
        "Find callers: checkout writes invoices, support reads them, the nightly job duns.",
        "The ledger is shared with reporting, so the tables cannot move in one step.",
        "Strangle: put an interface in front of billing inside the monolith first.",
        "Then write to both, compare for two weeks.",
        "Revision: do not write to both for payments, idempotency keys differ; publish events instead.",
        "Order: invoices, dunning, payments, ledger.",
        "Rollback for each step is the flag that picks the implementation.",
        "Reporting reads a replica of the new tables through a view with the old name.",
        "Done: five steps, each with a flag, a metric and a way back.",
    ]
    for number, thought in enumerate(thoughts, 1):
        it.turn(
            Call(
                "sequentialthinking",
                {
                    "thought": thought,
                    "thoughtNumber": number,
                    "totalThoughts": 10,
                    "nextThoughtNeeded": number < 10,
                },
                dumped(
                    {
                        "thoughtNumber": number,
                        "totalThoughts": 10,
                        "nextThoughtNeeded": number < 10,
                        "branches": [],
                        "thoughtHistoryLength": number,
                    },
                    2,
                ),
            )
        )
    it.say("Here is the plan in five steps. ...")


@story("thinking-think-tool", "chat", "thinking_tool", "OpenHands/OpenHands#7643")
def think_tool(it: Story) -> None:
    it.system("你可以用 think 工具记录思考，它不会改变任何东西。")
    it.user("这道题：一个 8 升、一个 5 升的桶，怎样量出 6 升水？")
    for thought in (
        "先写状态 (8升桶, 5升桶)，从 (0,0) 开始。",
        "倒满 5 升：(0,5)，倒入 8 升：(5,0)。",
        "再倒满 5 升：(5,5)，倒入 8 升：(8,2)。",
        "倒掉 8 升：(0,2)，把 2 升倒过去：(2,0)。",
        "倒满 5 升：(2,5)，倒入：(7,0)。",
        "再倒满：(7,5)，倒入 1 升：(8,4)。",
        "倒掉 8 升，4 升倒过去：(4,0)；倒满 5 升并倒入 4 升：(8,1)。",
        "倒掉 8 升，1 升倒过去：(1,0)；倒满 5 升倒入：(6,0)。得到 6 升。",
    ):
        it.turn(Call("think", {"thought": thought}, "Your thought has been logged."))
    it.say("可以量出：反复用 5 升桶往 8 升桶里倒，依次得到 5、2、7、4、1，最后 1 + 5 = 6 升。")


@story(
    "repeatable-wait-for-event",
    "responses",
    "repeatable_tool",
    "can1357/oh-my-pi#11874 NousResearch/hermes-agent#85482",
    repeatable=["wait_for_event"],
)
def wait_for_event(it: Story) -> None:
    it.system(
        "You are on call. Wait for alerts with wait_for_event (it returns after 10 minutes at the latest) and handle them."
    )
    it.user("Watch the night shift until 06:00.")
    for _ in range(14):
        it.turn(
            Call(
                "wait_for_event",
                {"source": "pagerduty", "timeout_s": 600},
                dumped({"event": None, "timed_out": True}),
            )
        )
    it.turn(
        Call(
            "wait_for_event",
            {"source": "pagerduty", "timeout_s": 600},
            dumped(
                {
                    "event": {"id": "PX71", "title": "Disk of db-2 over 90%", "urgency": "low"},
                    "timed_out": False,
                }
            ),
        )
    )
    it.turn(
        Call(
            "run_playbook",
            {"name": "rotate-logs", "host": "db-2"},
            "rotated 14 files, 61 GB freed; disk at 58%",
        )
    )
    for _ in range(5):
        it.turn(
            Call(
                "wait_for_event",
                {"source": "pagerduty", "timeout_s": 600},
                dumped({"event": None, "timed_out": True}),
            )
        )


@story(
    "repeatable-next-frame",
    "messages",
    "repeatable_tool",
    "QwenLM/qwen-code#9450",
    repeatable=["press"],
)
def next_frame(it: Story) -> None:
    it.system("You play a game by pressing buttons. The screen is described after each press.")
    it.user("Talk to the professor and get your first creature.")
    it.turn(Call("press", {"button": "up"}, "You stand before the professor."))
    for _ in range(9):
        it.turn(Call("press", {"button": "A"}, "The text box scrolls."))
    it.turn(Call("press", {"button": "A"}, "A choice appears: three balls lie on the table."))
    it.say("The choice is here; I take the left one.")


@story(
    "repeatable-roll-dice", "chat", "repeatable_tool", "can1357/oh-my-pi#11874", repeatable=["roll"]
)
def roll_dice(it: Story) -> None:
    it.system("あなたは TRPG のゲームマスターです。判定には roll を使います。")
    it.user("六人の衛兵に一人ずつ忍び足の判定をしてください。")
    for value in (11, 11, 4, 11, 11, 11):
        it.turn(Call("roll", {"dice": "1d20"}, dumped({"dice": "1d20", "result": value})))
    it.say("三人目の衛兵だけが物音に気づきました。")


@story(
    "polling-codex-quiet-test",
    "responses",
    "polling",
    "weave-os/router#1123 letta-ai/letta-code#2627",
)
def quiet_test(it: Story) -> None:
    it.system("You are Codex, a coding agent running in the Codex CLI on a user's computer.")
    it.user("run the soak test, it takes a few minutes and prints only at the end")
    it.turn(
        Call(
            "exec_command",
            {"cmd": "make soak", "workdir": "/r", "yield_time_ms": 1000},
            running("", 7714, 1.001, "d0c3b1"),
        )
    )
    for number in range(6):
        it.turn(
            Call(
                "write_stdin",
                {"session_id": 7714, "chars": "", "yield_time_ms": 30000},
                running("", 7714, 30.0 + number * 0.0007, it.token(6).lower()),
            )
        )
    it.turn(
        Call(
            "write_stdin",
            {"session_id": 7714, "chars": "", "yield_time_ms": 30000},
            "Chunk ID: 41fe09\nWall time: 12.9120 seconds\nProcess exited with code 0\nOriginal token count: 30\nOutput:\nsoak: 1200 sessions, 0 leaks, p99 41 ms\n",
        )
    )
    it.say("The soak test passed: 1200 sessions, no leaks.")


@story("polling-download-elapsed", "messages", "polling", "StartupHakk/OpenMonoAgent.ai#47")
def download_elapsed(it: Story) -> None:
    it.system("你是部署助手，后台命令用 BashOutput 查看。")
    it.user("把 7B 的模型权重拉下来，拉完校验一下")
    it.turn(
        Call(
            "Bash",
            {"command": "./pull.sh qwen-7b", "run_in_background": True},
            "Command running in background with ID: bash_3",
        )
    )
    for number, percent in enumerate((2, 9, 17, 24, 33, 33, 41, 52, 58, 66, 75, 83, 91, 97)):
        it.turn(
            Call(
                "BashOutput",
                {"bash_id": "bash_3"},
                f"<status>running</status>\n\n<stdout>\nqwen-7b.safetensors  {percent}%  {percent * 152}/15200 MB  {20 + number % 5}.{number % 10} MB/s\n</stdout>\n\n<timestamp>2026-05-13T{clock('06:00:10', number * 47)}Z</timestamp>",
            )
        )
    it.turn(
        Call(
            "BashOutput",
            {"bash_id": "bash_3"},
            "<status>completed</status>\n\n<exit_code>0</exit_code>\n\n<stdout>\nqwen-7b.safetensors  100%\nsha256 ok\n</stdout>",
        )
    )
    it.say("下载完成，校验通过。")


@story("build-long-debugging", "chat", "build", "open-gsd/gsd-pi#1206 no-human-ai/no_human#206")
def long_debugging(it: Story) -> None:
    it.system("You are a coding agent. Tools: run, read_file, edit_file.")
    it.user(
        "Port the parser to the new grammar. All 30 files in grammar/cases must parse; run the suite after each change."
    )
    passed = [4, 4, 7, 9, 9, 12, 13, 13, 16, 18, 17, 19, 21, 22, 22, 24, 25, 27, 28, 30]
    rules = "header import decl type field enum variant fn param block let if match arm loop call index literal string comment".split()
    for number, (count, rule) in enumerate(zip(passed, rules, strict=True)):
        it.turn(
            Call(
                "read_file",
                {"path": f"src/parse/{rule}.rs"},
                f"pub fn {rule}(p: &mut Parser) -> Result<Node> {{\n    p.expect(Token::{rule.title()})?;\n    let inner = p.many({rules[number - 1]})?;\n    Ok(Node::{rule.title()}(inner))\n}}\n",
            )
        )
        it.turn(
            Call(
                "edit_file",
                {
                    "path": f"src/parse/{rule}.rs",
                    "old": f"p.expect(Token::{rule.title()})?;",
                    "new": f"p.expect(Token::{rule.title()})?;\n    p.skip_trivia();",
                },
                "edited",
            )
        )
        failing = (
            ""
            if count == 30
            else f"\nfirst failure: case {count + 1:02d}: unexpected token after `{rule}`"
        )
        it.turn(
            Call(
                "run",
                {"command": "cargo test --test grammar 2>&1 | tail -n 3"},
                f"test result: {count} of 30 cases parse{failing}",
            )
        )
    it.say("All 30 cases parse.")


@story(
    "exploration-long-migration",
    "responses",
    "exploration",
    "open-gsd/gsd-pi#1067 google-gemini/gemini-cli#5873",
)
def long_migration(it: Story) -> None:
    it.system("You are Codex, a coding agent running in the Codex CLI on a user's computer.")
    it.user("list every feature flag, where it is read, and whether it is still toggled anywhere")
    flags = "new_nav dark_mode fast_checkout inline_edit bulk_move ai_summary beta_search live_cursors offline_cache audit_v2 sso_v3 csv_import pdf_export emoji_picker tag_rules smart_paste".split()
    it.turn(
        Call(
            "exec_command",
            {
                "cmd": "rg -o \"flag\\('([a-z_0-9]+)'\" -r '$1' --no-filename src | sort -u",
                "workdir": "/r",
            },
            executed("\n".join(flags) + "\n", chunk="c00001"),
        )
    )
    for number, flag in enumerate(flags):
        it.turn(
            Call(
                "exec_command",
                {"cmd": f"rg -n \"flag\\('{flag}'\" src", "workdir": "/r"},
                executed(
                    f"src/{('nav', 'edit', 'sync', 'export')[number % 4]}/{flag}.ts:{7 + number * 3}:  if (flag('{flag}')) {{\n",
                    chunk=it.token(6).lower(),
                ),
            )
        )
        it.turn(
            Call(
                "exec_command",
                {"cmd": f"rg -n '{flag}' ops/flags.yaml", "workdir": "/r"},
                executed(
                    ""
                    if number % 5 == 2
                    else f"{12 + number}:{flag}: {('on', 'off', '10%')[number % 3]}\n",
                    code=int(number % 5 == 2),
                    chunk=it.token(6).lower(),
                ),
            )
        )
    it.say("Sixteen flags; three of them are not in ops/flags.yaml any more: ...")


@story("retry-lock-contention", "messages", "retry", "NousResearch/hermes-agent#88357")
def lock_contention(it: Story) -> None:
    it.system("You are a release agent on a shared machine.")
    it.user("Run the migrations. Somebody else may hold the lock, then wait for it.")
    locked = "migrate: another migration holds the lock (pid 8123, since 09:40)"
    for pause in (5, 10, 20):
        it.turn(
            Call(
                "Bash", {"command": "bin/migrate up", "description": "Migrate"}, locked, error=True
            )
        )
        it.turn(Call("Bash", {"command": f"sleep {pause}", "description": "Wait"}, ""))
    it.turn(
        Call(
            "Bash",
            {"command": "bin/migrate up", "description": "Migrate"},
            "applied 0041_add_region\napplied 0042_backfill_region\n2 migrations applied",
        )
    )
    it.say("Both migrations are applied.")


@story(
    "batch-same-command-many-hosts",
    "chat",
    "batch_of_items",
    "NousResearch/hermes-agent#88357 Gitlawb/openclaude#2048",
)
def many_hosts(it: Story) -> None:
    it.system("Du bist ein Betriebsagent. Werkzeug: ssh(host, command).")
    it.user("Welche Kernel laufen auf den Knoten? Alle 24 bitte, immer sechs auf einmal.")
    for group in range(4):
        hosts = [f"node-{group * 6 + number + 1:02d}" for number in range(6)]
        it.turn(
            *[
                Call(
                    "ssh",
                    {"host": host, "command": "uname -r"},
                    "6.8.0-49-generic" if int(host[-2:]) % 11 else "6.8.0-45-generic",
                )
                for host in hosts
            ]
        )
    it.say("22 Knoten laufen mit 6.8.0-49, node-11 und node-22 noch mit 6.8.0-45.")


@story("editing-undo-redo", "responses", "editing", "shanevcantwell/langgraph-agentic-scaffold#112")
def undo_redo(it: Story) -> None:
    it.system("你是图片编辑智能体，每一步操作返回当前画布的描述。")
    it.user("把这张海报的标题调到最醒目，多试几种方案，最后选一个")
    for number, (operation, seen) in enumerate(
        [
            ("放大标题到 96pt", "标题占满宽度，副标题被挤到边缘"),
            ("加白色描边 6px", "标题清晰，但描边显脏"),
            ("换成深蓝底色块", "标题很醒目，画面偏重"),
            ("色块透明度 60%", "标题醒目，背景可见"),
            ("标题左对齐", "与人物视线方向一致，平衡"),
        ]
    ):
        it.turn(
            Call(
                "apply", {"operation": operation}, dumped({"step": number * 2 + 1, "canvas": seen})
            )
        )
        if number in (0, 1, 2):
            it.turn(
                Call(
                    "undo",
                    {},
                    dumped({"step": number * 2 + 2, "canvas": "原始海报，标题 48pt 居中"}),
                )
            )
    it.say("选定最后一种：左对齐 + 60% 透明色块。")
