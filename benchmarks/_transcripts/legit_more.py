"""Legitimate repetition that is hard to tell from a loop."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import dumped, executed
from .story import Call, Story


@story(
    "polling-elapsed-only", "responses", "polling", "macanderson/stella#359 QwenLM/qwen-code#9492"
)
def elapsed_only(it: Story) -> None:
    it.system("You operate cloud resources. Long operations return a name that you can ask about.")
    it.user("Resize the database db-main to 8 vCPU. I accept the restart.")
    it.turn(
        Call(
            "resize_instance",
            {"instance": "db-main", "vcpu": 8},
            dumped({"operation": "op-51c2", "status": "RUNNING"}),
        )
    )
    for elapsed in (12, 44, 76, 109, 141):
        it.turn(
            Call(
                "get_operation",
                {"name": "op-51c2"},
                dumped({"operation": "op-51c2", "status": "RUNNING", "elapsed_s": elapsed}),
            )
        )
    it.turn(
        Call(
            "get_operation",
            {"name": "op-51c2"},
            dumped({"operation": "op-51c2", "status": "DONE", "elapsed_s": 170, "restart_s": 41}),
        )
    )
    it.say("db-main has 8 vCPU now; the restart took 41 seconds.")


@story(
    "polling-sleep-and-read",
    "chat",
    "polling",
    "macanderson/stella#359 StartupHakk/OpenMonoAgent.ai#47",
)
def sleep_and_read(it: Story) -> None:
    it.system(
        "You start processes with start_process and read them with read_output. There is no wait tool; use `bash sleep`."
    )
    it.user("Build the container image and push it.")
    it.turn(
        Call(
            "start_process", {"command": "docker build -t acme/api:91 ."}, dumped({"handle": "p1"})
        )
    )
    outputs = [
        "#5 [1/6] FROM docker.io/library/python:3.12-slim",
        "#6 [2/6] RUN apt-get update && apt-get install -y build-essential",
        "",
        "",
        "",
        "#8 [4/6] RUN pip install -r requirements.txt",
        "",
        "",
        "#10 exporting layers 4.1s done\nexited (code 0)",
    ]
    for output in outputs:
        it.turn(Call("bash", {"command": "sleep 20"}, ""))
        it.turn(Call("read_output", {"handle": "p1"}, output or "(no new output, still running)"))
    it.turn(
        Call("bash", {"command": "docker push acme/api:91"}, "91: digest: sha256:6b1f0c size: 1994")
    )


@story(
    "trial-same-failure-many-fixes",
    "messages",
    "trial_and_error",
    "open-gsd/gsd-pi#1206 GEMISIS/leviath#114",
)
def same_failure(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("The websocket test hangs up with code 1006. Find the cause.")
    test = Call(
        "Bash",
        {
            "command": "npx jest ws.test.ts -t reconnect 2>&1 | tail -6",
            "description": "Run the reconnect test",
        },
        "  ● reconnect › keeps the session\n\n    expect(received).toBe(expected)\n    Expected: 1000\n    Received: 1006\n",
        error=True,
    )
    fixes = [
        ("src/ws/server.ts", "server.close()", "await server.close()"),
        ("src/ws/server.ts", "heartbeat: 0", "heartbeat: 5000"),
        ("src/ws/client.ts", "socket.terminate()", "socket.close(1000)"),
        ("src/ws/client.ts", "onclose = reject", "onclose = settle"),
        ("src/ws/proxy.ts", "upstream.destroy()", "upstream.end()"),
    ]
    it.turn(test)
    for path, old, new in fixes:
        it.turn(
            Call(
                "Edit",
                {"file_path": f"/r/{path}", "old_string": old, "new_string": new},
                f"The file /r/{path} has been updated.",
            )
        )
        it.turn(test, text="The same code still." if path.endswith("client.ts") else "")
    it.turn(
        Call(
            "Read",
            {"file_path": "/r/src/ws/frames.ts", "offset": 30, "limit": 8},
            "    30\texport function closeFrame(code: number) {\n    31\t  const body = Buffer.alloc(2)\n    32\t  body.writeUInt16LE(code)\n    33\t  return frame(0x8, body)\n    34\t}",
        )
    )
    it.turn(
        Call(
            "Edit",
            {
                "file_path": "/r/src/ws/frames.ts",
                "old_string": "writeUInt16LE",
                "new_string": "writeUInt16BE",
            },
            "The file /r/src/ws/frames.ts has been updated.",
        )
    )
    it.turn(
        Call(
            "Bash",
            {
                "command": "npx jest ws.test.ts -t reconnect 2>&1 | tail -6",
                "description": "Run the reconnect test",
            },
            "Tests:       11 skipped, 1 passed, 12 total",
        )
    )
    it.say("The close code was written little-endian; network order fixes it.")


@story(
    "batch-dead-links",
    "chat",
    "batch_of_items",
    "Gitlawb/openclaude#2048 NousResearch/hermes-agent#88357",
)
def dead_links(it: Story) -> None:
    it.system("Du prüfst Webseiten. `fetch` liefert Status und Anfang der Seite.")
    it.user("Die Stadt hat ihre Seite umgebaut. Welche dieser alten Links gehen noch?")
    for path in "aktuelles/2019 aktuelles/2020 baeder/freibad baeder/hallenbad bauamt/antrag bauamt/plan buergerbuero/pass buergerbuero/meldung feuerwehr/uebung friedhof/gebuehren jugend/haus kultur/museum kultur/archiv markt/termine".split():
        alive = path == "kultur/archiv"
        it.turn(
            Call(
                "fetch",
                {"url": f"https://www.stadt.example/{path}.html"},
                "200 OK\n<!doctype html><title>Stadtarchiv</title>"
                if alive
                else "Error: 404 Not Found",
            )
        )
    it.say("Nur kultur/archiv.html gibt es noch, die anderen 13 sind tot.")


@story("batch-domain-names", "responses", "batch_of_items", "OpenRouterTeam/typescript-agent#89")
def domain_names(it: Story) -> None:
    it.system("你帮用户查域名，check_domain 返回 taken 或 free。")
    it.user("帮我看看这些名字的 .com 还能不能注册：青禾、小满、白露相关的拼音组合")
    for name in (
        "qinghe",
        "qingheai",
        "xiaoman",
        "xiaomanlab",
        "bailu",
        "bailulab",
        "qinghebox",
        "manlu",
        "luman",
        "qinghelu",
        "xmbailu",
        "qhxiaoman",
    ):
        it.turn(
            Call(
                "check_domain",
                {"domain": f"{name}.com"},
                "free" if name == "qhxiaoman" else "taken",
            )
        )
    it.say("只有 qhxiaoman.com 可以注册。")


@story("retry-with-backoff-then-report", "messages", "retry", "can1357/oh-my-pi#6729")
def retry_then_report(it: Story) -> None:
    it.system("You are a data agent. If a source is down, try at most three times and report.")
    it.user("Get today's exchange rates and put them into rates.csv.")
    for _ in range(3):
        it.turn(
            Call(
                "http_get",
                {"url": "https://rates.example/v1/latest?base=EUR"},
                "502 Bad Gateway",
                error=True,
            )
        )
    it.turn(
        Call(
            "http_get",
            {"url": "https://mirror.example/rates/latest.json"},
            dumped(
                {
                    "base": "EUR",
                    "date": "2026-09-01",
                    "rates": {"USD": 1.1712, "CHF": 0.9391, "GBP": 0.8614, "JPY": 172.4},
                }
            ),
        )
    )
    it.turn(
        Call(
            "write_file",
            {
                "path": "rates.csv",
                "content": "currency,rate\nUSD,1.1712\nCHF,0.9391\nGBP,0.8614\nJPY,172.4\n",
            },
            "wrote 62 bytes",
        )
    )
    it.say(
        "The main source answered 502 three times, so the rates are the mirror's of 1 September."
    )


@story(
    "exploration-reread-after-edits",
    "responses",
    "exploration",
    "traceroost/core#215 appdevforall/plugin-examples#100",
)
def reread(it: Story) -> None:
    it.system("You are Codex, a coding agent running in the Codex CLI on a user's computer.")
    it.user("make config.py typed, field by field, and check the file after each change")
    fields = [
        "host: str",
        "port: int",
        "debug: bool",
        "workers: int",
        "cache: Path",
        "secret: SecretStr",
    ]
    lines = [f"    {field.split(':')[0]} = None" for field in fields]
    for number, field in enumerate(fields):
        it.turn(
            Call(
                "exec_command",
                {"cmd": "cat config.py", "workdir": "/r"},
                executed("class Config:\n" + "\n".join(lines) + "\n", chunk=it.token(6).lower()),
            )
        )
        it.turn(
            Call(
                "apply_patch",
                f"*** Begin Patch\n*** Update File: config.py\n@@\n-{lines[number]}\n+    {field}\n*** End Patch",
                "Success. Updated the following files:\nM config.py\n",
            )
        )
        lines[number] = f"    {field}"
    it.turn(
        Call(
            "exec_command",
            {"cmd": "cat config.py", "workdir": "/r"},
            executed("class Config:\n" + "\n".join(lines) + "\n", chunk=it.token(6).lower()),
        )
    )


@story("exploration-maze-moves", "chat", "exploration", "QwenLM/qwen-code#9450")
def moves(it: Story) -> None:
    it.system("あなたは迷路を解くエージェントです。move は一歩進み、周りの様子を返します。")
    it.user("出口まで進んで")
    for step, (direction, seen) in enumerate(
        [
            ("right", "通路"),
            ("right", "通路"),
            ("right", "通路"),
            ("down", "通路"),
            ("down", "分かれ道"),
            ("left", "行き止まり"),
            ("right", "分かれ道"),
            ("down", "通路"),
            ("down", "通路"),
            ("right", "通路"),
            ("right", "通路"),
            ("right", "出口"),
        ]
    ):
        it.turn(Call("move", {"direction": direction}, dumped({"step": step + 1, "seen": seen})))
    it.say("十二歩で出口に着きました。")
