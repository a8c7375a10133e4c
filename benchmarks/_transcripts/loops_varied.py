"""Loops in which words, ids, times or arguments vary, and batches and bare messages that come again."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import clock, dumped, executed
from .story import Call, Story


@story("near-sectioned-yields", "chat", "near", "can1357/oh-my-pi#10895", cycle=1)
def sectioned_yields(it: Story) -> None:
    it.system(
        "You are a worker. Submit sections of your result with `yield` (type section) and end with one of type final."
    )
    it.user(
        "Draw the outskirts of Draynor: fences, trees, Ernest's machine. Verify that the map loads, then finish."
    )
    it.turn(
        Call(
            "edit",
            {"path": "maps/draynor.json", "op": "append", "layer": "props"},
            "applied 31 placements",
        ),
        text="Placing the props.",
    )
    it.turn(
        Call(
            "bash",
            {"command": "bun run maps:check draynor"},
            "draynor: 412 tiles, 31 props, 0 collisions\nok",
        )
    )
    statuses = [
        "Focused Ernest work remains complete and verified.",
        "Ernest work is still complete; nothing is left to verify.",
        "The focused work on Ernest stays complete and checked.",
        "No further change: Ernest's part is done and verified.",
        "Verified again that Ernest's machine is finished.",
        "All of the focused Ernest scope continues to be complete.",
        "Status unchanged, the Ernest work holds.",
        "Complete: focused Ernest work, verified as before.",
        "The machine area is done; verification stands.",
        "Ernest scope finished, awaiting nothing else.",
    ]
    for number in range(30):
        with it.copy():
            it.turn(
                Call(
                    "yield",
                    {
                        "type": ["section"],
                        "result": {"data": {"status": statuses[(number * 7) % 10]}},
                    },
                    "Section recorded. Continue, or yield with type final to finish.",
                )
            )


@story(
    "near-bash-description",
    "messages",
    "near",
    "anthropics/claude-code#10319 anthropics/claude-code#19699",
    cycle=1,
)
def bash_description(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("we could start a runner on build-03, no?")
    it.turn(
        Call(
            "Bash",
            {"command": "grep -n 'runner' Makefile", "description": "Look for a runner target"},
            "41:start-runner: deps\n42:\t./scripts/runner.sh --labels linux,arm64",
        ),
        text="Let me see what the Makefile offers.",
    )
    descriptions = [
        "Start runner on build-03",
        "Run the runner on the remote server",
        "Start the CI runner remotely",
        "Launch runner via SSH",
        "Start runner on the remote host",
        "Execute make run-runner on build-03",
        "Run make target for the runner over SSH",
        "Start the runner service",
        "Kick off the runner on the build server",
        "Launch the runner on the build host",
        "Start CI runner",
        "Bring up the runner on build-03",
        "Run the runner make target remotely",
        "Start the remote runner again",
    ]
    for description in descriptions:
        with it.copy():
            it.turn(
                Call(
                    "Bash",
                    {"command": 'ssh build-03 "make run-runner" 2>&1', "description": description},
                    "Exit code 2\nmake: *** No rule to make target 'run-runner'.  Stop.",
                    error=True,
                )
            )


@story(
    "near-npm-start-justified",
    "responses",
    "near",
    "tetsuo-ai/agenc-core#2021 tetsuo-ai/agenc-core#2024",
    cycle=1,
)
def npm_start(it: Story) -> None:
    it.system(
        "You are a coding agent in a sandbox (workspace-write, no network). Approval policy: never."
    )
    it.user("Make an arcade of three small games with `npm start`.")
    it.turn(
        Call(
            "apply_patch",
            '*** Begin Patch\n*** Add File: package.json\n+{\n+  "name": "arcade",\n+  "type": "module",\n+  "scripts": { "start": "node server.js" }\n+}\n*** Add File: server.js\n+import { createServer } from \'node:http\'\n+import { readFile } from \'node:fs/promises\'\n+createServer(async (q, r) => r.end(await readFile(\'index.html\'))).listen(8080, \'0.0.0.0\')\n*** End Patch',
            "Success. Updated the following files:\nA package.json\nA server.js\n",
        )
    )
    it.turn(
        Call(
            "exec_command",
            {"cmd": "node --check server.js", "workdir": "/w/arcade15"},
            executed("", chunk="19bc20"),
        )
    )
    reasons = [
        "Verify that npm start serves the page",
        "The server has to listen on a port to be tested",
        "Need to bind 8080 to check the start script",
        "Check that the games load in a browser",
        "Confirm the start script works as the user asked",
        "Starting the server is required to finish the task",
    ]
    boom = "\n> start\n> node server.js\n\nnode:events:505\n    throw er; // Unhandled 'error' event\n    ^\n\nError: listen EPERM: operation not permitted 0.0.0.0:8080\n    at Server.setupListenHandle [as _listen2] (node:net:1918:21)\n    at Server.listen (node:net:2558:7)\n    at file:///w/arcade15/server.js:3:92 {\n  code: 'EPERM',\n  syscall: 'listen'\n}\n"
    for number in range(14):
        with it.copy():
            arguments = {
                "cmd": "npm start",
                "workdir": "/w/arcade15",
                "justification": reasons[(number * 5 + number // 6) % 6],
                "sandbox_permissions": "require_escalated",
                "yield_time_ms": 3000,
            }
            it.turn(
                Call(
                    "exec_command",
                    arguments,
                    executed(
                        boom, code=1, seconds=0.31 + number * 0.017, chunk=it.token(6).lower()
                    ),
                ),
                think="**Verifying the start script**" if number % 4 == 0 else "",
            )


@story("near-pattern-search", "responses", "near", "superplanehq/superplane#4103", cycle=1)
def pattern_search(it: Story) -> None:
    it.system("You design workflows on a canvas. `search_patterns` finds proven templates.")
    it.user(
        "I want a deploy pipeline for acme/storefront with a check for open incidents before it deploys."
    )
    it.turn(
        Call(
            "list_integrations",
            {},
            dumped([{"id": "gh1", "name": "github"}, {"id": "pd7", "name": "pagerduty"}]),
        )
    )
    it.turn(
        Call(
            "list_triggers",
            {"integration_id": "gh1"},
            dumped(["github.onPush", "github.onPullRequest", "github.onRelease"]),
        )
    )
    queries = [
        "incident deployment gate pagerduty",
        "deployment gate on open PagerDuty incidents",
        "pagerduty incident gate for deployment",
        "gate deployment when incident is open",
        "incident gate deploy pagerduty",
        "pre-deploy incident check with PagerDuty",
        "deploy gate pagerduty incident status",
        "block deploy during PagerDuty incident",
        "incident deployment gate",
    ]
    result = dumped(
        {
            "patterns": [
                {
                    "name": "manual-approval",
                    "score": 0.41,
                    "summary": "Wait for a person before a deployment.",
                },
                {
                    "name": "canary",
                    "score": 0.33,
                    "summary": "Deploy to a few, watch, deploy to all.",
                },
            ],
            "note": "no pattern above 0.6",
        }
    )
    for query in queries:
        with it.copy():
            it.turn(Call("search_patterns", {"query": query, "limit": 2}, result))


@story(
    "near-delegated-report",
    "messages",
    "near",
    "can1357/oh-my-pi#10895 earendil-works/pi#9637",
    cycle=1,
)
def delegated(it: Story) -> None:
    it.system("你是项目经理智能体，可以用 delegate 把任务交给专家。专家看不到之前的对话。")
    it.user("做一份竞品分析，重点看价格和售后")
    it.turn(
        Call(
            "list_experts",
            {},
            dumped([{"id": "writer", "skill": "写作"}, {"id": "analyst", "skill": "数据分析"}]),
        )
    )
    prompts = [
        "请分析三家竞品的价格与售后政策，给出对比表。",
        "请对比三家竞品在价格、售后方面的差异，输出表格。",
        "帮忙梳理三家竞品的价格和售后，做成对比表。",
        "分析三家竞品：价格、售后。请用表格呈现。",
        "请就价格和售后两个方面，对三家竞品作对比并列表。",
        "三家竞品的售后与价格对比，请整理成表。",
        "请再整理一遍三家竞品的价格、售后对比表。",
        "请完成竞品价格与售后的对比分析（表格）。",
    ]
    refusal = dumped(
        {
            "expert": "analyst",
            "status": "done",
            "output": "我没有收到竞品名单和数据文件，无法完成分析。请提供竞品名称以及价格、售后资料。",
        }
    )
    for prompt in prompts:
        with it.copy():
            it.turn(
                Call("delegate", {"expert": "analyst", "prompt": prompt}, refusal),
                text="把分析任务交给数据分析专家。",
            )


@story("near-note-to-self", "chat", "near", "QwenLM/qwen-code#8898", cycle=1)
def note_to_self(it: Story) -> None:
    it.system("Você é um agente de dados. Explique em `reason` por que chama uma ferramenta.")
    it.user("Qual foi a receita líquida de agosto por região? A planilha está no Drive.")
    it.turn(
        Call(
            "drive_search",
            {"reason": "Encontrar a planilha de receitas", "query": "receita agosto"},
            dumped([{"id": "1xQ9", "name": "Receita 2026.xlsx", "modified": "2026-09-04"}]),
        )
    )
    reasons = [
        "Preciso dos dados de agosto",
        "Vou abrir a aba de agosto para somar a receita",
        "Ler a aba com os valores por região",
        "Conferir os valores de agosto",
        "Obter a receita por região",
        "Abrir novamente a aba para confirmar",
        "Carregar os dados de agosto",
        "Verificar as colunas da aba",
        "Ler os valores para calcular o total",
        "Garantir que os dados estão corretos",
    ]
    sheet = dumped(
        {
            "sheet": "Ago",
            "columns": ["região", "bruta", "devoluções"],
            "rows": [
                ["Norte", 184200.0, 9100.5],
                ["Nordeste", 402118.4, 31880.0],
                ["Sudeste", 1290447.9, 88412.3],
                ["Sul", 611009.0, 40120.7],
                ["Centro-Oeste", 233870.2, 12010.0],
            ],
        }
    )
    for reason in reasons:
        with it.copy():
            it.turn(
                Call("sheet_read", {"reason": reason, "file_id": "1xQ9", "sheet": "Ago"}, sheet)
            )


@story(
    "volatile-feishu-send",
    "chat",
    "volatile",
    "openclaw/openclaw#89090 openclaw/openclaw#89109",
    cycle=1,
)
def feishu_send(it: Story) -> None:
    it.system("你是飞书群里的助手，用 message 工具发消息。任务做完就停止。")
    it.user("[飞书群：产品周会] 王敏：@助手 把会议纪要的三条结论发到群里")
    it.turn(
        Call(
            "read",
            {"path": "notes/2026-06-01-weekly.md"},
            "# 产品周会 6/1\n\n## 结论\n1. 新版登录页 6/10 灰度 10%\n2. 客服入口放到二级页面，观察两周\n3. 价格页文案由市场部周三前给出\n\n## 待办\n- 李哲：灰度开关\n",
        )
    )
    text = "会议结论：\n1. 新版登录页 6/10 灰度 10%\n2. 客服入口放到二级页面，观察两周\n3. 价格页文案由市场部周三前给出"
    for number in range(20):
        with it.copy():
            sent = {
                "ok": True,
                "messageId": f"om_{it.token(30).lower()}",
                "receipt": {
                    "runId": f"{it.token(8).lower()}-{it.token(4).lower()}",
                    "deliveredAt": 1780300000123 + number * 5127,
                },
            }
            it.turn(
                Call(
                    "message",
                    {
                        "action": "send",
                        "channel": "feishu",
                        "target": "oc_product_weekly",
                        "text": text,
                    },
                    dumped(sent),
                )
            )


@story("volatile-date-probe", "messages", "volatile", "anthropics/claude-code#63863", cycle=1)
def date_probe(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("stage everything, commit, push the branch and open a PR")
    it.turn(
        Call(
            "Bash",
            {"command": "git status --short | head -5", "description": "See the changes"},
            " M src/export/csv.ts\n M src/export/index.ts\n?? src/export/xlsx.ts\n?? tests/xlsx.test.ts",
        )
    )
    it.turn(
        Call("Bash", {"command": "git add -A && echo staged", "description": "Stage"}, "staged")
    )
    for number in range(12):
        with it.copy():
            it.turn(
                Call(
                    "Bash",
                    {"command": "echo s1 $(date +%H:%M:%S)", "description": "Progress probe"},
                    f"s1 {clock('03:41:07', number * 9 + number % 3)}",
                )
            )


@story("volatile-empty-cell", "chat", "volatile", "NousResearch/hermes-agent#57851", cycle=1)
def empty_cell(it: Story) -> None:
    it.system("You are Hermes, a data analyst with a persistent Python kernel (execute_code).")
    it.user("Load sales.parquet and plot revenue a week.")
    it.turn(
        Call(
            "execute_code",
            {"code": "import pandas as pd\ndf = pd.read_parquet('sales.parquet')\ndf.head(2)"},
            dumped(
                {
                    "output": "        date  store   revenue\n0 2026-01-01      4   8123.50\n1 2026-01-01      7  11290.10",
                    "kernel": {"execution_count": 1},
                    "duration_seconds": 0.412,
                }
            ),
        )
    )
    for number in range(18):
        with it.copy():
            result = {
                "output": "",
                "error": None,
                "kernel": {"status": "idle", "execution_count": 2 + number},
                "duration_seconds": round(0.011 + (number * 7 % 5) / 1000, 4),
            }
            it.turn(Call("execute_code", {"code": ""}, dumped(result)))


@story(
    "volatile-health-probe",
    "responses",
    "volatile",
    "MarimerLLC/rockbot#464 openclaw/openclaw#93917",
    cycle=1,
)
def health_probe(it: Story) -> None:
    it.system("You are an operations agent. Verify a deployment before you report it.")
    it.user("Did the hotfix (commit 9fd01c2) reach staging?")
    it.turn(
        Call(
            "ci_status",
            {"ref": "9fd01c2"},
            dumped({"ref": "9fd01c2", "pipeline": "passed", "deployed_to": ["staging"]}),
        )
    )
    for number in range(12):
        with it.copy():
            body = {
                "status": "ok",
                "version": "3.4.1",
                "commit": "77ab310",
                "uptime_s": 93211 + 4 * number,
                "request_id": f"{it.token(8)}-{it.token(4)}-{it.token(12)}".lower(),
                "now": f"2026-09-17T{clock('08:14:02', number * 4)}.{it.random.randrange(1000):03d}Z",
            }
            it.turn(
                Call(
                    "http_get",
                    {"url": "https://staging.example/healthz"},
                    f"HTTP/1.1 200 OK\ncontent-type: application/json\n\n{dumped(body)}",
                )
            )


SUITES = "agents/spawn agents/resume agents/pause api/issues api/reviews api/verdicts cloister/queue cloister/deacon cloister/ledger events/bus events/replay git/rebase git/worktree pan/done pan/feedback store/migrate store/rows ui/board ui/timeline".split()


def suites(run: int) -> str:
    """Return the lines of the suites that pass, with times that differ from run to run."""
    return "\n".join(
        f" ✓ src/lib/{name}.test.ts ({3 + 5 * n % 17} tests) {4 + (n * 13 + run * 7) % 90}ms"
        for n, name in enumerate(SUITES)
    )


@story("volatile-same-failing-suite", "messages", "volatile", "eltmon/overdeck#1934", cycle=1)
def failing_suite(it: Story) -> None:
    it.system("You are a work agent. Keep going until the verification gate passes.")
    it.user(
        "The gate failed: src/lib/cloister/reactive-scheduler.test.ts. Fix it and run the suite."
    )
    it.turn(
        Call(
            "Read",
            {"file_path": "src/lib/cloister/reactive-scheduler.test.ts", "offset": 60, "limit": 14},
            "    60\ttest('routes agent.stopped events to the deacon', async () => {\n    61\t  const bus = new Bus()\n    62\t  const deacon = spy()\n    63\t  new ReactiveScheduler(bus, { deacon })\n    64\t  bus.emit('agent.stopped', { id: 'a1' })\n    65\t  expect(deacon.calls).toHaveLength(1)\n    66\t})",
        )
    )
    for number in range(9):
        with it.copy():
            output = f"\n RUN  v2.1.4 /repo\n\n{suites(number)}\n ❯ src/lib/cloister/reactive-scheduler.test.ts (11 tests | 1 failed) {31 + number * 3 % 8}ms\n   × routes agent.stopped events to the deacon\n     → expected [] to have a length of 1 but got +0\n\n Test Files  1 failed | 214 passed (215)\n      Tests  1 failed | 2841 passed (2842)\n   Start at  {clock('17:20:44', number * 41)}\n   Duration  {27.8 + (number * 13 % 9) / 10:.2f}s (transform 4.1s, setup 0ms, collect 19.{number}4s, tests 41.{9 - number}0s)\n"
            it.turn(
                Call(
                    "Bash",
                    {"command": "npx vitest run", "description": "Run the suite"},
                    output,
                    error=True,
                ),
                text="Running the full suite again." if number % 3 == 2 else "",
            )


@story("volatile-upload-retry", "responses", "volatile", "openclaw/openclaw#94050", cycle=1)
def upload_retry(it: Story) -> None:
    it.system("你是数据同步智能体。工具 exec 在 Linux 容器里执行命令。")
    it.user("把 /data/export 下的增量文件传到对象存储")
    it.turn(
        Call(
            "exec",
            {"command": "ls /data/export | wc -l && du -sh /data/export"},
            "37\n1.9G\t/data/export",
        )
    )
    for number in range(10):
        with it.copy():
            output = f"{clock('02:10:00', number * 6)} INFO  开始上传 part-0001.parquet pid={41022 + number * 17}\n{clock('02:10:02', number * 6)} ERROR 上传失败：AccessDenied，RequestId={it.token(16).upper()}\n{clock('02:10:02', number * 6)} INFO  耗时 {2.1 + number % 4 / 10:.1f} 秒，已上传 0 个文件\n退出码 1"
            it.turn(
                Call(
                    "exec",
                    {"command": "obsync push /data/export s3://lake/inc --prefix 20260617"},
                    output,
                )
            )


@story("failure-ssh-flags", "chat", "failure", "openclaw/openclaw#34574", cycle=1)
def ssh_flags(it: Story) -> None:
    it.system("You are an operations agent with one tool, exec.")
    it.user("Check the disk usage on nas-2.")
    it.turn(
        Call(
            "exec",
            {"command": "ping -c1 nas-2"},
            "64 bytes from nas-2 (10.0.0.12): icmp_seq=1 ttl=64 time=0.41 ms",
        )
    )
    for flags in (
        "",
        "-o StrictHostKeyChecking=no ",
        "-i ~/.ssh/id_rsa ",
        "-i ~/.ssh/id_ed25519 ",
        "-l root ",
        "-o PreferredAuthentications=password ",
        "-o PubkeyAuthentication=yes ",
        "-p 22 ",
        "-4 ",
        "-T ",
        "-o IdentitiesOnly=yes ",
        "-A ",
    ):
        with it.copy():
            it.turn(
                Call(
                    "exec",
                    {"command": f"ssh {flags}admin@nas-2 df -h"},
                    "admin@nas-2: Permission denied (publickey,password).\n\n(Command exited with code 255)",
                )
            )


@story(
    "failure-guessed-old-string",
    "messages",
    "failure",
    "anomalyco/opencode#30781 anomalyco/opencode#21850",
    cycle=1,
)
def guessed_old_string(it: Story) -> None:
    it.system(
        "You are opencode, an interactive CLI tool that helps users with software engineering tasks."
    )
    it.user("The comparison in guess.rs has a typo, the compiler complains. Fix it.")
    it.turn(
        Call(
            "bash",
            {"command": "cargo check 2>&1 | head -5", "description": "See the error"},
            "error: expected expression, found `{`\n  --> src/guess.rs:21:34\n   |\n21 |         if guess << secret_number {",
        )
    )
    for old in (
        "if guess <<< secret_number {",
        "if guess < < secret_number {",
        "if guess <<  secret_number {",
        "        if (guess << secret_number) {",
        "if guess<<secret_number {",
        "if guess << secret_number  {",
        "if guess << secret_num {",
        "if guess << secretnumber {",
        "if guess  << secret_number {",
        "if  guess << secret_number {",
    ):
        with it.copy():
            it.turn(
                Call(
                    "edit",
                    {
                        "filePath": "/p/src/guess.rs",
                        "oldString": old,
                        "newString": "if guess < secret_number {",
                    },
                    "Could not find oldString in the file. It must match exactly, including whitespace, indentation, and line endings.",
                    error=True,
                )
            )


@story(
    "failure-missing-content",
    "chat",
    "failure",
    "QwenLM/qwen-code#2783 Mng-dev-ai/agentrove#94",
    cycle=1,
)
def missing_content(it: Story) -> None:
    it.system("你是 Qwen Code，一个命令行编程助手。")
    it.user("写一个脚本，把 dtoken 表的数据导出成 SQL，按月分文件")
    it.turn(Call("list_directory", {"path": "/tmp"}, "目录 /tmp：\nconf/\ndtoken_schema.sql"))
    it.turn(
        Call(
            "read_file",
            {"file_path": "/tmp/dtoken_schema.sql"},
            "CREATE TABLE dtoken (\n  id BIGINT NOT NULL,\n  addr VARCHAR(64),\n  amount DECIMAL(38, 8),\n  created_at DATETIME\n);\n",
        )
    )
    for path in (
        "/tmp/gen_dtoken_sql.py",
        "/tmp/gen_sql.py",
        "/tmp/export_dtoken.py",
        "/tmp/gen_dtoken_sql.py",
        "/root/gen_dtoken_sql.py",
        "/tmp/dtoken/export.py",
        "/tmp/gen.py",
        "/tmp/gen_dtoken_sql.py",
        "/tmp/export.py",
    ):
        with it.copy():
            it.turn(
                Call(
                    "write_file",
                    {"file_path": path},
                    "params must have required property 'content'",
                ),
                text="现在来写脚本。" if path.endswith("sql.py") else "",
            )


@story("failure-readonly-sandbox", "responses", "failure", "haowjy/meridian-cli#1", cycle=1)
def readonly_sandbox(it: Story) -> None:
    it.system("You are the documenter. Sandbox: workspace-write.")
    it.user("Write the consolidated SKILL.md to meridian-dev-workflow/ and sync it to .agents/.")
    it.turn(
        Call(
            "exec_command",
            {"cmd": "wc -l meridian-dev-workflow/SKILL.md", "workdir": "/w/m"},
            executed("188 meridian-dev-workflow/SKILL.md\n", chunk="02cc19"),
        )
    )
    attempts = [
        "cp meridian-dev-workflow/SKILL.md .agents/SKILL.md",
        "tee .agents/SKILL.md < meridian-dev-workflow/SKILL.md > /dev/null",
        "cat meridian-dev-workflow/SKILL.md > .agents/SKILL.md",
        "install -m 644 meridian-dev-workflow/SKILL.md .agents/SKILL.md",
        "dd if=meridian-dev-workflow/SKILL.md of=.agents/SKILL.md",
        "sed -n 'w .agents/SKILL.md' meridian-dev-workflow/SKILL.md",
        "rsync meridian-dev-workflow/SKILL.md .agents/SKILL.md",
        "cp -f $(realpath meridian-dev-workflow/SKILL.md) .agents/SKILL.md",
        "ln -f meridian-dev-workflow/SKILL.md .agents/SKILL.md",
        "mv .agents/SKILL.md .agents/SKILL.bak",
    ]
    for number, command in enumerate(attempts):
        with it.copy():
            it.turn(
                Call(
                    "exec_command",
                    {"cmd": command, "workdir": "/w/m"},
                    executed(
                        "bash: .agents/SKILL.md: Read-only file system\n",
                        code=1,
                        seconds=0.02 + number / 1000,
                        chunk=it.token(6).lower(),
                    ),
                ),
                think="**Trying another way to write**" if number in (3, 6) else "",
            )


@story("failure-no-route", "messages", "failure", "can1357/oh-my-pi#6702", cycle=1)
def no_route(it: Story) -> None:
    it.system("Tu es un agent de veille. Cite toujours tes sources.")
    it.user("Résume les annonces de cette semaine sur les batteries sodium-ion.")
    it.turn(Call("memory_search", {"query": "batteries sodium-ion"}, "Aucun souvenir."))
    for url in (
        "https://www.lemonde.fr/recherche/?q=sodium-ion",
        "https://www.lesechos.fr/recherche?q=sodium",
        "https://news.google.com/search?q=sodium-ion&hl=fr",
        "https://www.usinenouvelle.com/recherche?q=sodium-ion",
        "https://duckduckgo.com/html/?q=batterie+sodium-ion+annonce",
        "https://www.bing.com/news/search?q=sodium-ion",
        "https://html.duckduckgo.com/html/?q=sodium-ion",
        "https://fr.wikipedia.org/wiki/Accumulateur_sodium-ion",
        "https://www.electrive.com/?s=sodium",
    ):
        with it.copy():
            it.turn(
                Call(
                    "web_fetch",
                    {"url": url, "prompt": "Quelles annonces sur le sodium-ion ?"},
                    "Failed to fetch: connect ECONNREFUSED 10.1.0.8:3128 (proxy)",
                    error=True,
                )
            )


@story(
    "failure-sqlite-locked",
    "responses",
    "failure",
    "openclaw/openclaw#34574 langchain-ai/langgraph#6731",
    cycle=1,
)
def sqlite_locked(it: Story) -> None:
    it.system("You maintain the user's media library. Tool: run_sql(query).")
    it.user("Tag every album from before 1970 as 'oldies'.")
    it.turn(Call("run_sql", {"query": "SELECT count(*) FROM albums WHERE year < 1970"}, "[[214]]"))
    for query in (
        "UPDATE albums SET tag = 'oldies' WHERE year < 1970",
        "UPDATE albums SET tag='oldies' WHERE year<=1969",
        "BEGIN; UPDATE albums SET tag = 'oldies' WHERE year < 1970; COMMIT",
        "UPDATE OR IGNORE albums SET tag = 'oldies' WHERE year < 1970",
        "INSERT INTO tags SELECT id, 'oldies' FROM albums WHERE year < 1970",
        "PRAGMA busy_timeout=2000",
        "UPDATE albums SET tag = 'oldies' WHERE id IN (SELECT id FROM albums WHERE year < 1970)",
        "REPLACE INTO tags SELECT id, 'oldies' FROM albums WHERE year < 1970",
    ):
        with it.copy():
            it.turn(Call("run_sql", {"query": query}, "OperationalError: database is locked"))


@story(
    "unknown-outline-tool",
    "chat",
    "unknown_tool",
    "openclaw/openclaw#63023 matrixorigin/Astra#59",
    cycle=1,
)
def outline_tool(it: Story) -> None:
    it.system("You are a coding agent. Tools: read_file (with `outline`), search, edit, run.")
    it.user("What does the scheduler module export?")
    it.turn(
        Call(
            "search",
            {"pattern": "pub fn", "path": "crates/scheduler"},
            "crates/scheduler/src/lib.rs:18:pub fn spawn(\ncrates/scheduler/src/lib.rs:44:pub fn cancel(\ncrates/scheduler/src/queue.rs:9:pub fn push(",
        )
    )
    for _ in range(12):
        with it.copy():
            it.turn(
                Call(
                    "outline",
                    {"path": "crates/scheduler/src/lib.rs"},
                    "Error: Unknown tool: outline",
                )
            )


@story(
    "unknown-central-list-sites",
    "messages",
    "unknown_tool",
    "nowireless4u/hpe-networking-mcp#489",
    cycle=1,
)
def central_list_sites(it: Story) -> None:
    it.system(
        "You manage a campus network through MCP. Use `search_tools` to discover, `execute` to call."
    )
    it.user("Which sites have access points that are offline?")
    it.turn(
        Call(
            "search_tools",
            {"query": "access points status"},
            dumped(
                [
                    {"name": "central_get_aps", "description": "List access points with status"},
                    {"name": "central_get_sites", "description": "List sites"},
                ]
            ),
        )
    )
    for number in range(12):
        with it.copy():
            it.turn(
                Call(
                    "execute",
                    {"code": 'return await call_tool("central_list_sites", {})'},
                    "Sandbox error: Exception: Unknown tool: central_list_sites",
                    error=True,
                ),
                text="Let me list the sites." if number == 0 else "",
            )


@story(
    "unknown-shell-for-terminal",
    "responses",
    "unknown_tool",
    "NousResearch/hermes-agent#111256",
    cycle=1,
)
def shell_for_terminal(it: Story) -> None:
    it.system("你是 Hermes。可用工具：terminal、read_file、write_file、search_files。")
    it.user("看看服务器磁盘是不是满了，满了就清理 docker 的旧镜像")
    it.turn(Call("search_files", {"pattern": "docker", "path": "/etc/cron.d"}, "没有匹配的文件"))
    for command in (
        "df -h",
        "df -h /",
        "df -h /var/lib/docker",
        "docker system df",
        "df -h",
        "du -sh /var/lib/docker",
        "docker images",
        "df -h",
    ):
        with it.copy():
            it.turn(
                Call(
                    "shell",
                    {"command": command},
                    "Tool 'shell' does not exist. Available tools: terminal, read_file, write_file, search_files",
                ),
                think="**检查磁盘**\n\n先看磁盘占用。",
            )


@story("batch-three-reads", "messages", "batch", "can1357/oh-my-pi#10521", cycle=1)
def three_reads(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("Compare the three retry helpers and propose one to keep.")
    it.turn(
        Call(
            "Grep",
            {"pattern": "def retry", "output_mode": "files_with_matches"},
            "Found 3 files\n/r/net/retry.py\n/r/jobs/again.py\n/r/util/backoff.py",
        )
    )
    files = {
        "/r/net/retry.py": "     1\tdef retry(call, times=3):\n     2\t    for attempt in range(times):\n     3\t        try:\n     4\t            return call()\n     5\t        except OSError:\n     6\t            if attempt == times - 1:\n     7\t                raise\n     8\t            time.sleep(2 ** attempt)\n",
        "/r/jobs/again.py": "     1\tdef retry(task, *, limit=5, jitter=True):\n     2\t    delay = 0.5\n     3\t    while True:\n     4\t        outcome = task.run()\n     5\t        if outcome.ok or not limit:\n     6\t            return outcome\n     7\t        limit -= 1\n     8\t        delay = wait(delay, jitter)\n",
        "/r/util/backoff.py": "     1\tdef retry(fn, on=(Exception,), schedule=(1, 5, 25)):\n     2\t    for pause in schedule:\n     3\t        with suppress(*on):\n     4\t            return fn()\n     5\t        sleep(pause)\n     6\t    return fn()\n",
    }
    for number in range(8):
        with it.copy():
            if number == 3:
                it.reminder = "<system-reminder>The TodoWrite tool hasn't been used recently. If the task has several steps, consider it. Ignore this if it does not apply.</system-reminder>"
            it.turn(
                *[Call("Read", {"file_path": path}, text) for path, text in files.items()],
                text="I'll read all three." if number % 2 else "",
            )


@story("batch-stock-quotes", "chat", "batch", "OpenRouterTeam/typescript-agent#89", cycle=1)
def stock_quotes(it: Story) -> None:
    it.system("你是投研助手。行情工具返回上一交易日收盘数据。")
    it.user("比较一下宁德时代、比亚迪、亿纬锂能和国轩高科的估值")
    it.turn(
        Call(
            "resolve_symbol",
            {"names": ["宁德时代", "比亚迪", "亿纬锂能", "国轩高科"]},
            dumped(
                {
                    "宁德时代": "300750.SZ",
                    "比亚迪": "002594.SZ",
                    "亿纬锂能": "300014.SZ",
                    "国轩高科": "002074.SZ",
                }
            ),
        )
    )
    quotes = {
        "300750.SZ": (271.4, 21.8),
        "002594.SZ": (318.2, 22.5),
        "300014.SZ": (46.1, 24.9),
        "002074.SZ": (22.7, 41.3),
    }
    for _ in range(7):
        with it.copy():
            it.turn(
                *[
                    Call(
                        "get_quote",
                        {"symbol": symbol},
                        dumped(
                            {"symbol": symbol, "close": close, "pe_ttm": pe, "date": "2026-07-29"}
                        ),
                    )
                    for symbol, (close, pe) in quotes.items()
                ]
            )


@story(
    "batch-codex-inspection",
    "responses",
    "batch",
    "continuedev/continue#13244 can1357/oh-my-pi#10521",
    cycle=1,
)
def codex_inspection(it: Story) -> None:
    it.system("You are Codex, based on GPT-5, a coding agent in the Codex CLI.")
    it.user("tests are slow since yesterday, find out why")
    it.turn(
        Call(
            "exec_command",
            {"cmd": "git log --since=yesterday --oneline", "workdir": "/r"},
            executed(
                "b7e21f0 tests: use the real clock\n0c4410a deps: bump pytest to 9\n",
                chunk="88aa01",
            ),
        )
    )
    for _ in range(6):
        with it.copy():
            it.turn(
                Call(
                    "exec_command",
                    {"cmd": "git show --stat b7e21f0", "workdir": "/r"},
                    executed(
                        " tests/conftest.py | 9 ++++-----\n 1 file changed, 4 insertions(+), 5 deletions(-)\n",
                        chunk="51d20e",
                    ),
                ),
                Call(
                    "exec_command",
                    {"cmd": "sed -n '1,20p' tests/conftest.py", "workdir": "/r"},
                    executed(
                        "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef clock(monkeypatch):\n    yield RealClock(sleep=True)\n",
                        chunk="51d20f",
                    ),
                ),
                think="**Comparing the commit with the fixture**",
            )


@story("message-awaiting-choice", "messages", "message", "anthropics/claude-code#64447", cycle=1)
def awaiting_choice(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("Publish the new category data to prod and verify it.")
    it.turn(
        Call(
            "Bash",
            {"command": "python publish.py --env prod --dry-run", "description": "Dry run"},
            "would write 1 204 categories to prod\n0 conflicts",
        )
    )
    it.turn(
        Call(
            "Bash",
            {"command": "python publish.py --env prod", "description": "Publish"},
            "Permission to use Bash with this command has been denied by the production-write classifier.",
            error=True,
        )
    )
    it.say(
        'The write to prod is blocked. Option A: you run `python publish.py --env prod` yourself. Option B: add a permission rule for it and reply "prod". Which do you want?'
    )
    it.user("Goal not yet met… continuing")
    for number in range(8):
        with it.copy():
            it.say("Awaiting your choice (Option A or B). Nothing actionable on my end.")
        if number < 7:
            it.user("Goal not yet met… continuing")


@story(
    "message-no-tool-used",
    "chat",
    "message",
    "cline/cline#12543 microsoft/agent-framework#7402",
    cycle=1,
)
def no_tool_used(it: Story) -> None:
    it.system("You are Cline, a skilled software engineer. You must use a tool in every response.")
    it.user("<task>\nRename the field `ownr` to `owner` everywhere\n</task>")
    it.turn(
        Call(
            "search_files",
            {"path": ".", "regex": "ownr"},
            'Found 2 results.\n\napi/team.go\n│----\n│\tOwnr string `json:"ownr"`\n│----\n\nweb/team.ts\n│----\n│  ownr: string\n│----',
        )
    )
    for number in range(6):
        with it.copy():
            it.say(
                "The field is declared in `api/team.go` and in `web/team.ts`. I will now rename it in both files and then verify that nothing refers to the old name."
            )
        if number < 5:
            it.user(
                "[ERROR] You did not use a tool in your previous response! Please retry with a tool use.\n\n# Next Steps\n\nIf you have completed the task, use attempt_completion. Otherwise proceed with the next step.\n(This is an automated message, so do not respond to it conversationally.)"
            )


@story("message-zhengzai-chuli", "responses", "message", "OpenHands/OpenHands#8269", cycle=1)
def still_processing(it: Story) -> None:
    it.system("你是数据清洗智能体，可以用 run_python 处理文件。")
    it.user("把 customers.csv 里的手机号统一成 +86 格式，错误的单独存一个文件")
    it.turn(
        Call(
            "run_python",
            {
                "code": "import csv\nrows = list(csv.DictReader(open('customers.csv')))\nprint(len(rows), rows[0])"
            },
            "18204 {'id': '1', 'name': '陈晓', 'phone': '138 0013 8000'}",
        )
    )
    for number in range(7):
        with it.copy():
            it.say(
                "我已经了解了文件结构，接下来会把手机号统一成 +86 格式，并把不合法的号码另存为 invalid.csv。请稍等，正在处理。"
            )
        if number < 6:
            it.user(
                "请继续用合适的方法完成任务。如果你认为任务已经完成，请调用 finish 结束对话。重要：不要向人类求助。"
            )


@story(
    "message-same-again",
    "responses",
    "message",
    "agent0ai/agent-zero#1056 agent0ai/agent-zero#320",
    cycle=1,
)
def same_again(it: Story) -> None:
    it.system("You are Agent Zero. Reply with one tool call at a time.")
    it.user("Find duplicate photos in /photos and list them.")
    it.turn(
        Call(
            "code_execution",
            {"runtime": "terminal", "code": "fdupes -r /photos | head"},
            "bash: fdupes: command not found",
        )
    )
    for _ in range(6):
        with it.copy():
            it.say(
                "fdupes is not installed, so I will compare the files by their checksums. Let me proceed with that approach."
            )
