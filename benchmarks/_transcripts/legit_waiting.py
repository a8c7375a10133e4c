"""Legitimate repetition: waiting, building, paging, trying again."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import clock, dumped, executed, running
from .story import Call, Story

CRATES = "libc cfg-if proc-macro2 unicode-ident quote syn memchr once_cell serde log bitflags itoa ryu smallvec bytes pin-project-lite futures-core tokio mio socket2 tracing http hyper tower rustls ring webpki reqwest clap anyhow regex aho-corasick sqlx terrace".split()


@story("polling-codex-cargo-release", "responses", "polling", "weave-os/router#1123")
def cargo_release(it: Story) -> None:
    it.system("You are Codex, a coding agent running in the Codex CLI on a user's computer.")
    it.user("build it in release mode and tell me how big the binary is")
    it.turn(
        Call(
            "exec_command",
            {"cmd": "cargo build --release", "workdir": "/home/u/terrace", "yield_time_ms": 1000},
            running("    Updating crates.io index\n", 48213, 1.0007, "c91e02"),
        ),
        think="**Starting the release build**",
    )
    poll = {"session_id": 48213, "chars": "", "yield_time_ms": 5000}
    done = 0
    for number, step in enumerate((3, 2, 4, 0, 0, 5, 3, 0, 6, 4, 0, 0, 0, 3, 2)):
        crates = CRATES[done : done + step]
        done += step
        output = "".join(
            f"   Compiling {crate} v{len(crate) % 3}.{len(crate)}.{number}\n" for crate in crates
        )
        it.turn(
            Call(
                "write_stdin",
                poll,
                running(output, 48213, 5.0 + number / 1000, it.token(6).lower()),
            )
        )
    it.turn(
        Call(
            "write_stdin",
            poll,
            "Chunk ID: 00e7d4\nWall time: 1.2210 seconds\nProcess exited with code 0\nOriginal token count: 14\nOutput:\n    Finished `release` profile [optimized] target(s) in 1m 18s\n",
        )
    )
    it.turn(
        Call(
            "exec_command",
            {"cmd": "ls -l target/release/terrace", "workdir": "/home/u/terrace"},
            executed("-rwxr-xr-x 1 u u 8412376 Aug 29 19:41 target/release/terrace\n"),
        )
    )


@story(
    "polling-actions-run",
    "messages",
    "polling",
    "macanderson/stella#359 anthropics/claude-code#92868",
)
def actions_run(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user("Push the branch, wait for CI and merge if it is green.")
    it.turn(
        Call(
            "Bash",
            {"command": "git push -u origin fix/lease-timeout", "description": "Push the branch"},
            "remote: Create a pull request for 'fix/lease-timeout' on GitHub by visiting:\nremote:      https://github.com/acme/lease/pull/new/fix/lease-timeout\nbranch 'fix/lease-timeout' set up to track 'origin/fix/lease-timeout'.",
        )
    )
    it.turn(
        Call(
            "Bash",
            {"command": "gh pr create --fill", "description": "Open the pull request"},
            "https://github.com/acme/lease/pull/412",
        )
    )
    jobs = ["lint", "unit (3.11)", "unit (3.12)", "integration", "docs", "wheels"]
    done_after = [1, 3, 3, 8, 2, 6]
    for step in range(1, 9):
        rows = []
        for job, after in zip(jobs, done_after, strict=True):
            state = "pass" if step >= after else "pending"
            seconds = f"{after * 41}s" if step >= after else "0"
            rows.append(
                f"{job}\t{state}\t{seconds}\thttps://github.com/acme/lease/actions/runs/1723/job/{48000 + len(job)}"
            )
        it.turn(
            Call(
                "Bash",
                {"command": "sleep 45; gh pr checks 412", "description": "Wait for the checks"},
                "\n".join(rows),
                error=step < 8,
            ),
            text="Checks are still running." if step in (1, 4) else "",
        )
    it.turn(
        Call(
            "Bash",
            {"command": "gh pr merge 412 --squash --delete-branch", "description": "Merge"},
            "✓ Squashed and merged pull request #412 (Renew the lease before it expires)\n✓ Deleted branch fix/lease-timeout",
        )
    )
    it.say("All six checks passed, and the pull request is merged.")


@story("polling-check-agent-task", "chat", "polling", "agentscope-ai/QwenPaw#7580")
def check_agent_task(it: Story) -> None:
    it.system(
        "你是主智能体，可以把耗时的工作交给其他智能体（submit_to_agent），再用 check_agent_task 查询。"
    )
    it.user("让研究员整理一份国内储能电池回收政策的要点，你来润色成一页")
    it.turn(
        Call(
            "submit_to_agent",
            {
                "agent": "researcher",
                "task": "整理 2023 年以来国内储能电池回收的政策文件，列出文号、要求和时间表",
            },
            dumped({"task_id": "t-7f03", "status": "submitted"}),
        )
    )
    running_text = dumped(
        {
            "task_id": "t-7f03",
            "status": "running",
            "message": "Task is still running. Wait at least 30 seconds before next check.",
        }
    )
    for _ in range(5):
        it.turn(Call("check_agent_task", {"task_id": "t-7f03"}, running_text))
    it.turn(
        Call(
            "check_agent_task",
            {"task_id": "t-7f03"},
            dumped(
                {
                    "task_id": "t-7f03",
                    "status": "finished",
                    "result": "1. 《新能源汽车废旧动力电池综合利用行业规范条件（2024 年本）》：镍钴锰综合回收率不低于 99.6%，锂不低于 96%。\n2. 《电池行业绿色工厂评价要求》……\n3. 溯源管理：编码随梯次产品延续，2025 年底前接入国家平台。",
                }
            ),
        )
    )
    it.say("要点已经拿到，下面是润色后的一页稿。\n\n**储能电池回收：三条主线**\n……")


@story("polling-training-log", "chat", "polling", "gptme/gptme#2898")
def training_log(it: Story) -> None:
    it.system("You run experiments on a shared GPU box. Do not start two jobs at once.")
    it.user(
        "Train the small segmentation model for 12 epochs, watch that it does not diverge, and report the best IoU."
    )
    it.turn(
        Call(
            "terminal",
            {
                "command": "nohup python train.py --config configs/seg_s.yaml --epochs 12 > run.log 2>&1 & echo $!"
            },
            "18233",
        )
    )
    loss = 1.482
    best = 0.0
    log = ["2026-03-02 14:00:11 INFO seed 17, 3 412 images, batch 16"]
    for epoch in range(1, 13):
        loss *= 0.86
        iou = round(0.71 - 0.4 * 0.78**epoch - (0.006 if epoch in (7, 11) else 0), 4)
        best = max(best, iou)
        log.append(
            f"2026-03-02 {clock('14:00:11', 214 * epoch)} INFO epoch {epoch:2d} loss {loss:.4f} val_iou {iou:.4f} best {best:.4f} lr {0.01 * 0.9**epoch:.6f}"
        )
        it.turn(Call("terminal", {"command": "sleep 210; tail -n 4 run.log"}, "\n".join(log[-4:])))
    it.say(f"Finished: best validation IoU {best:.4f}; the loss fell in every epoch.")


@story("polling-rollout", "responses", "polling", "StartupHakk/OpenMonoAgent.ai#47")
def rollout(it: Story) -> None:
    it.system(
        "You are a release agent. You deploy and verify; roll back if the error rate rises above 1%."
    )
    it.user("Roll out 2.18.0 to production.")
    it.turn(
        Call(
            "deploy",
            {"service": "search", "version": "2.18.0", "environment": "production"},
            dumped({"deployment": "dpl_4411", "state": "PENDING"}),
        )
    )
    states = [
        ("PENDING", 0),
        ("PENDING", 0),
        ("IN_PROGRESS", 1),
        ("IN_PROGRESS", 1),
        ("IN_PROGRESS", 2),
        ("IN_PROGRESS", 4),
        ("IN_PROGRESS", 4),
        ("IN_PROGRESS", 4),
        ("IN_PROGRESS", 7),
        ("IN_PROGRESS", 8),
        ("SUCCEEDED", 8),
    ]
    for state, updated in states:
        it.turn(
            Call(
                "deployment_status",
                {"deployment": "dpl_4411"},
                dumped(
                    {
                        "deployment": "dpl_4411",
                        "state": state,
                        "replicas": {
                            "desired": 8,
                            "updated": updated,
                            "unavailable": min(1, 8 - updated),
                        },
                        "error_rate": 0.0004,
                    }
                ),
            )
        )
    it.turn(
        Call(
            "error_rate",
            {"service": "search", "window": "5m"},
            dumped({"window": "5m", "requests": 184203, "errors": 71, "rate": 0.00039}),
        )
    )
    it.say("2.18.0 runs on all 8 replicas; the error rate is 0.04%.")


@story("polling-video-render", "messages", "polling", "QwenLM/qwen-code#9492 QwenLM/qwen-code#9450")
def video_render(it: Story) -> None:
    it.system("你可以调用视频生成服务。提交任务后轮询，完成后把链接发给用户。")
    it.user("用这张产品图做一个五秒的旋转展示，背景纯白")
    it.turn(
        Call(
            "create_video",
            {
                "image": "upload://ip-8812.png",
                "prompt": "产品缓慢旋转一周，纯白背景，柔光",
                "seconds": 5,
            },
            dumped({"task_id": "vid-20260819-0071", "status": "QUEUED", "queue_position": 9}),
        )
    )
    for status, extra in [
        ("QUEUED", {"queue_position": 6}),
        ("QUEUED", {"queue_position": 2}),
        ("RUNNING", {"progress": 5}),
        ("RUNNING", {"progress": 22}),
        ("RUNNING", {"progress": 41}),
        ("RUNNING", {"progress": 41}),
        ("RUNNING", {"progress": 68}),
        ("RUNNING", {"progress": 90}),
    ]:
        it.turn(
            Call(
                "query_video",
                {"task_id": "vid-20260819-0071"},
                dumped({"task_id": "vid-20260819-0071", "status": status, **extra}),
            )
        )
    it.turn(
        Call(
            "query_video",
            {"task_id": "vid-20260819-0071"},
            dumped(
                {
                    "task_id": "vid-20260819-0071",
                    "status": "SUCCEEDED",
                    "video_url": "https://cdn.example/v/0071.mp4",
                    "usage": {"video_duration": 5},
                }
            ),
        )
    )
    it.say("做好了：https://cdn.example/v/0071.mp4 （5 秒，纯白背景）。")


@story("polling-subagent-hub-wait", "messages", "polling", "can1357/oh-my-pi#11079")
def hub_wait(it: Story) -> None:
    it.system("You coordinate sub-agents. `hub` has the operations list, wait and send.")
    it.user(
        "Add the SonarQube policy command, with one test; let a sub-agent write it while you do the docs."
    )
    it.turn(
        Call(
            "task",
            {
                "agent": "worker",
                "id": "PolicyCommand",
                "assignment": "Write tools/policy.py and one test for it. Do not touch anything else.",
            },
            "Spawned PolicyCommand (running in the background).",
        )
    )
    it.turn(
        Call(
            "write",
            {
                "path": "docs/policy.md",
                "content": "# Policy command\n\n`tools/policy.py PROJECT` prints the quality gate of a project and exits 1 if it failed.\n",
            },
            "Wrote 104 bytes.",
        )
    )
    for seconds in (30, 60, 60, 60):
        it.turn(
            Call(
                "hub",
                {"op": "wait", "ids": ["PolicyCommand"], "timeout_s": seconds},
                "Still Running: PolicyCommand (worker)",
            )
        )
    it.turn(
        Call(
            "hub",
            {
                "op": "send",
                "to": "PolicyCommand",
                "message": "Status? If you are done, submit your result.",
            },
            "Delivered.",
        )
    )
    it.turn(
        Call(
            "hub",
            {"op": "wait", "ids": ["PolicyCommand"], "timeout_s": 60},
            "Completed: PolicyCommand\n\nWrote tools/policy.py (61 lines) and tests/test_policy.py (1 test, passes).",
        )
    )
    it.say("The command, its test and the page in docs/ are in place.")


@story(
    "build-go-vet-fixes", "messages", "build", "google-gemini/gemini-cli#20701 traceroost/core#215"
)
def go_vet(it: Story) -> None:
    it.system("You are a coding agent. After each edit build and test again.")
    it.user("Upgrade us from pgx v4 to v5 and make `go build ./... && go test ./store` pass.")
    command = {"command": "go build ./... && go test ./store", "description": "Build and test"}
    it.turn(
        Call(
            "Bash",
            {
                "command": "go get github.com/jackc/pgx/v5 && sed -i 's#pgx/v4#pgx/v5#' $(grep -rl pgx/v4 --include=*.go .)",
                "description": "Move the imports to v5",
            },
            "go: added github.com/jackc/pgx/v5 v5.7.1\ngo: upgraded golang.org/x/text v0.16.0 => v0.19.0",
        )
    )
    problems = [
        (
            "store/pool.go:31:22: undefined: pgxpool.ConnectConfig",
            "pgxpool.ConnectConfig(ctx, cfg)",
            "pgxpool.NewWithConfig(ctx, cfg)",
            "store/pool.go",
        ),
        (
            "store/scan.go:18:9: pgtype.Text undefined fields Status",
            "t.Status == pgtype.Present",
            "t.Valid",
            "store/scan.go",
        ),
        (
            "store/scan.go:44:15: cannot use pgtype.JSONB (undefined)",
            "var raw pgtype.JSONB",
            "var raw json.RawMessage",
            "store/scan.go",
        ),
        (
            "store/tx.go:27:31: too many arguments in call to pool.BeginFunc",
            "pool.BeginFunc(ctx, func(tx pgx.Tx) error {",
            "pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {",
            "store/tx.go",
        ),
        (
            'store/listen.go:12:2: "github.com/jackc/pgconn" imported and not used',
            '\t"github.com/jackc/pgconn"\n',
            "",
            "store/listen.go",
        ),
    ]
    for message, old, new, path in problems:
        it.turn(Call("Bash", command, f"# example.com/ledger/store\n{message}", error=True))
        it.turn(
            Call(
                "Edit",
                {"file_path": f"/repo/{path}", "old_string": old, "new_string": new},
                f"The file /repo/{path} has been updated.",
            )
        )
    it.turn(
        Call(
            "Bash",
            command,
            '--- FAIL: TestNotify (0.31s)\n    listen_test.go:40: got payload "", want "42"\nFAIL\nFAIL\texample.com/ledger/store\t1.904s\nFAIL',
            error=True,
        )
    )
    it.turn(
        Call(
            "Edit",
            {
                "file_path": "/repo/store/listen.go",
                "old_string": "notification.Channel",
                "new_string": "notification.Payload",
            },
            "The file /repo/store/listen.go has been updated.",
        )
    )
    it.turn(Call("Bash", command, "ok  \texample.com/ledger/store\t1.877s"))
    it.say("pgx v5 builds and the store's tests pass.")


@story(
    "build-cmake-chinese", "chat", "build", "open-gsd/gsd-pi#1206 google-gemini/gemini-cli#20701"
)
def cmake(it: Story) -> None:
    it.system("你是嵌入式开发助手，可用工具：shell、read_file、replace_in_file。")
    it.user("换成 GCC 13 之后固件编不过，帮我改到能编译为止")
    errors = [
        (
            "drivers/uart.c:77:5: error: implicit declaration of function 'memcpy' [-Wimplicit-function-declaration]",
            "drivers/uart.c",
            '#include "uart.h"',
            '#include "uart.h"\n#include <string.h>',
        ),
        (
            "drivers/adc.c:12:26: error: 'ADC_CAL_ADDR' redefined [-Werror]",
            "drivers/adc.c",
            "#define ADC_CAL_ADDR 0x1FFF7A2A",
            "#ifndef ADC_CAL_ADDR\n#define ADC_CAL_ADDR 0x1FFF7A2A\n#endif",
        ),
        (
            "app/proto.c:140:17: error: array subscript 16 is outside array bounds of 'uint8_t[16]' [-Werror=array-bounds]",
            "app/proto.c",
            "for (int i = 0; i <= 16; i++)",
            "for (int i = 0; i < 16; i++)",
        ),
        (
            "app/log.c:9:13: error: multiple definition of `log_level'; 首次定义于 app/main.o",
            "app/log.h",
            "int log_level;",
            "extern int log_level;",
        ),
        (
            "/usr/lib/gcc/arm-none-eabi/13.2.1/ld: firmware.elf section `.text' will not fit in region `FLASH'; overflowed by 1284 bytes",
            "CMakeLists.txt",
            "-O2",
            "-Os",
        ),
    ]
    for number, (error, path, old, new) in enumerate(errors):
        it.turn(
            Call(
                "shell",
                {"command": "cmake --build build 2>&1 | tail -n 3"},
                f"{error}\nninja: build stopped: subcommand failed.",
            ),
            text="先编译看看。" if number == 0 else "",
        )
        it.turn(Call("replace_in_file", {"path": path, "old": old, "new": new}, f"已修改 {path}"))
    it.turn(
        Call(
            "shell",
            {"command": "cmake --build build 2>&1 | tail -n 3"},
            "[118/118] Linking C executable firmware.elf\nMemory region         Used Size  Region Size  %age Used\n           FLASH:      126012 B       128 KB     96.14%",
        )
    )
    it.say("现在可以编译，FLASH 占用 96.14%。主要改动：补头文件、修数组越界、-Os。")


@story("build-vite-types", "responses", "build", "appdevforall/plugin-examples#100")
def vite_types(it: Story) -> None:
    it.system("You are Codex, a coding agent running in the Codex CLI on a user's computer.")
    it.user("turn on strict in tsconfig and fix what breaks")
    it.turn(
        Call(
            "apply_patch",
            '*** Begin Patch\n*** Update File: tsconfig.json\n@@\n-    "strict": false,\n+    "strict": true,\n*** End Patch',
            "Success. Updated the following files:\nM tsconfig.json\n",
        )
    )
    counts = [41, 33, 33, 21, 12, 12, 5, 1, 0]
    files = [
        "api/client.ts",
        "store/cart.ts",
        "store/cart.ts",
        "views/Product.vue",
        "views/Search.vue",
        "router.ts",
        "main.ts",
        "env.d.ts",
    ]
    for count, path in zip(counts, [*files, ""], strict=True):
        summary = f"Found {count} errors in {max(1, count // 6)} files.\n" if count else ""
        head = (
            f"src/{path}(14,7): error TS2322: Type 'undefined' is not assignable to type 'string'.\n"
            if count
            else ""
        )
        it.turn(
            Call(
                "exec_command",
                {"cmd": "npx vue-tsc --noEmit | tail -n 2", "workdir": "/srv/shop"},
                executed(
                    head + summary, code=int(count > 0), seconds=6.4, chunk=it.token(6).lower()
                ),
            )
        )
        if path:
            it.turn(
                Call(
                    "apply_patch",
                    f"*** Begin Patch\n*** Update File: src/{path}\n@@\n-const value{count} = input.value\n+const value{count} = input.value ?? ''\n*** End Patch",
                    f"Success. Updated the following files:\nM src/{path}\n",
                )
            )
    it.say("`strict` is on and vue-tsc reports no errors.")


@story("pagination-issues", "chat", "pagination", "openclaw/openclaw#93917")
def page_issues(it: Story) -> None:
    it.system("You triage issues. Tools come from the GitHub MCP server.")
    it.user("Go through all open bug reports of acme/paint and group them by component.")
    components = ["canvas", "export", "brush", "layers", "sync", "menu"]
    for page in range(1, 15):
        issues = [
            {
                "number": 2900 - 7 * page - n,
                "title": f"{components[(page + n) % 6]}: {('crash', 'wrong colour', 'slow', 'lost undo')[(page * n) % 4]} after {('zoom', 'paste', 'resize', 'save', 'rotate')[(page + 2 * n) % 5]}",
                "body": f"Version 5.{page % 4}.{n}, {('macOS 15', 'Windows 11', 'Ubuntu 24.04')[(page + n) % 3]}.\n\nSteps:\n1. open a file of {200 + page * n * 7} layers\n2. {('zoom to 400%', 'paste a selection', 'resize the canvas', 'save a copy', 'rotate by 90 degrees')[(page + 2 * n) % 5]}\n\nExpected: nothing happens to the other layers.\nActual: see the title. It happens {('always', 'one time in three', 'only after a restart')[(page * n) % 3]}.",
                "comments": (page * n) % 9,
                "created_at": f"2026-0{1 + page % 8}-{10 + n}T08:{page:02d}:00Z",
            }
            for n in range(7 if page < 14 else 3)
        ]
        it.turn(
            Call(
                "list_issues",
                {
                    "owner": "acme",
                    "repo": "paint",
                    "state": "open",
                    "labels": ["bug"],
                    "page": page,
                    "perPage": 7,
                },
                dumped(issues),
            )
        )
    it.say(
        "94 open bugs: canvas 17, export 16, brush 16, layers 15, sync 15, menu 15. The oldest cluster is 'layers: lost undo after paste'."
    )


@story(
    "pagination-read-offset",
    "messages",
    "pagination",
    "NousResearch/hermes-agent#16382 Lexus2016/hermes-agent-evolution#1103",
)
def read_offset(it: Story) -> None:
    it.system("You are an analyst with a read-only file tool. Read large files in pieces.")
    it.user("Read the whole incident log and tell me in which order the components failed.")
    parts = ["gateway", "auth", "queue", "billing", "mailer", "search"]
    for piece in range(11):
        start = 1 + 40 * piece
        lines = [
            f"{start + n:6d}\t2026-05-11T{3 + (start + n) // 120:02d}:{(start + n) // 2 % 60:02d}:{(start + n) * 7 % 60:02d}Z {parts[(start + n * n) % 6]} {('INFO ok', 'WARN slow', 'ERROR timeout', 'ERROR refused', 'INFO retry')[(start * n + piece) % 5]} req={it.token(8)}"
            for n in range(12)
        ]
        it.turn(
            Call(
                "Read",
                {"file_path": "/logs/incident-0511.log", "offset": start, "limit": 40},
                "\n".join(lines) + "\n   ...",
            ),
            text="Reading on." if piece == 5 else "",
        )
    it.say("The order is queue, billing, mailer, auth, gateway; search never failed.")


@story("pagination-orders", "responses", "pagination", "openclaw/openclaw#93917")
def page_orders(it: Story) -> None:
    it.system("你是电商运营助手，通过开放平台接口读取订单。一次最多 20 条，用 cursor 翻页。")
    it.user("统计上周所有退款订单的原因分布")
    reasons = ["不想要了", "尺码不合适", "质量问题", "发错货", "少件", "物流太慢"]
    cursor = ""
    for page in range(9):
        orders = [
            {
                "order_id": f"7024{page:02d}{n:02d}",
                "refund_reason": reasons[(page * 3 + n * n) % 6],
                "amount": f"{39 + (page * 17 + n * 23) % 260}.00",
            }
            for n in range(8)
        ]
        following = f"c{page}x{it.token(6)}"
        it.turn(
            Call(
                "refund_orders",
                {"start": "2026-04-06", "end": "2026-04-12", "cursor": cursor, "size": 20},
                dumped(
                    {
                        "code": 0,
                        "data": {"orders": orders, "next_cursor": following if page < 8 else None},
                    }
                ),
            )
        )
        cursor = following
    it.say("共 72 单：质量问题与尺码不合适各占约四分之一，其次是不想要了。")


@story(
    "pagination-load-more", "chat", "pagination", "xorbitsai/xagent#1208 shaun0927/openchrome#1091"
)
def load_more(it: Story) -> None:
    it.system("You are a browser agent. Element indices refer to the last state.")
    it.user("Load every review on this page and tell me how many mention the hinge.")
    it.turn(
        Call(
            "go_to_url",
            {"url": "https://shop.example/p/laptop-stand/reviews"},
            "Navigated. 10 reviews shown of 96.",
        )
    )
    for shown in (20, 30, 40, 50, 60, 70, 80, 90, 96):
        it.turn(
            Call(
                "click_element",
                {"index": 57, "text": "Load more"},
                f"Clicked button 'Load more'. The page now shows {shown} of 96 reviews.",
            )
        )
    it.turn(
        Call(
            "extract",
            {"query": "reviews that mention the hinge"},
            dumped(
                {
                    "count": 14,
                    "examples": [
                        "The hinge sags under a 16 inch machine.",
                        "Solid hinge, no wobble.",
                    ],
                }
            ),
        )
    )


@story("retry-model-overloaded", "responses", "retry", "google-gemini/gemini-cli#20701")
def overloaded(it: Story) -> None:
    it.system("You transcribe interviews with an external service and summarise them.")
    it.user("Transcribe interview-07.m4a.")
    request = {"file": "interview-07.m4a", "language": "de"}
    it.turn(
        Call(
            "transcribe",
            request,
            '{"error": {"code": 503, "message": "The service is overloaded. Please try again later."}}',
        )
    )
    it.turn(Call("wait", {"seconds": 10}, "waited"))
    it.turn(
        Call(
            "transcribe",
            request,
            '{"error": {"code": 503, "message": "The service is overloaded. Please try again later."}}',
        )
    )
    it.turn(Call("wait", {"seconds": 30}, "waited"))
    it.turn(
        Call(
            "transcribe",
            request,
            '{"error": {"code": 429, "message": "Rate limit reached, retry after 60 s."}}',
        )
    )
    it.turn(Call("wait", {"seconds": 60}, "waited"))
    it.turn(
        Call(
            "transcribe",
            request,
            dumped(
                {
                    "duration": 1904.2,
                    "segments": 211,
                    "text": "Ja, also angefangen hat das eigentlich im Frühjahr, als wir die erste Anlage aufgestellt haben, und damals war noch gar nicht klar, ob der Netzanschluss ...",
                }
            ),
        )
    )
    it.say("Transcribed: 31 minutes 44 seconds, 211 segments.")


@story("retry-flaky-test", "messages", "retry", "traceroost/core#215")
def flaky(it: Story) -> None:
    it.system("You are Claude Code.")
    it.user("test_lease_renewal is flaky. How flaky? Run it until it fails, at most ten times.")
    run = {
        "command": "pytest -q tests/test_lease.py::test_lease_renewal",
        "description": "Run the flaky test",
    }
    for number in range(6):
        it.turn(
            Call("Bash", run, f".{' ' * 71}[100%]\n1 passed in {2.1 + (number * 7 % 5) / 10:.2f}s"),
            text="Passed; again." if number % 2 else "",
        )
    it.turn(
        Call(
            "Bash",
            run,
            "F                                                                        [100%]\n=================================== FAILURES ===================================\n_____________________________ test_lease_renewal _______________________________\n\n    def test_lease_renewal(clock):\n        lease = Lease(ttl=2.0, clock=clock)\n        clock.advance(1.95)\n>       assert lease.alive\nE       assert False\n\ntests/test_lease.py:44: AssertionError\n1 failed in 2.31s",
            error=True,
        )
    )
    it.turn(
        Call(
            "Read",
            {"file_path": "/repo/src/lease.py", "offset": 10, "limit": 12},
            "    10\t    @property\n    11\t    def alive(self) -> bool:\n    12\t        # renewed 0.1 s early on purpose\n    13\t        return time.monotonic() < self._until - 0.1\n",
        )
    )
    it.say(
        "It failed in the 7th run. `alive` mixes the real clock with the fake one: line 13 should ask `self._clock`."
    )


@story("retry-npm-registry", "chat", "retry", "agentscope-ai/QwenPaw#6116")
def registry_retry(it: Story) -> None:
    it.system("你是前端工程助手。工具：run_command。")
    it.user("装一下依赖，公司网络不太稳，多试几次")
    failed = "npm error code ECONNRESET\nnpm error syscall read\nnpm error network read ECONNRESET\nnpm error network This is a problem related to network connectivity."
    it.turn(Call("run_command", {"command": "npm ci"}, failed), text="开始安装依赖。")
    it.turn(Call("run_command", {"command": "npm ci"}, failed), text="网络被重置了，再试一次。")
    it.turn(Call("run_command", {"command": "npm ci"}, failed), text="还是断，第三次。")
    it.turn(
        Call(
            "run_command",
            {"command": "npm config set fetch-retries 6 && npm config set maxsockets 4"},
            "",
        )
    )
    it.turn(
        Call(
            "run_command",
            {"command": "npm ci"},
            "added 1284 packages, and audited 1285 packages in 2m\n\n212 packages are looking for funding\nfound 0 vulnerabilities",
        )
    )
    it.say("依赖装好了（1284 个包）。降低并发之后没有再断。")
