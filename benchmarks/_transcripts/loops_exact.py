"""Loops of one call that is made again, word for word."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import dumped, listing, numbered
from .story import Call, Story

COMPONENT = """<section class="office-details" *ngIf="office$ | async as office">
  <header>
    <h2>{{ office.name }}</h2>
    <button mat-icon-button (click)="edit(office)" [disabled]="!canEdit">
      <mat-icon>edit</mat-icon>
    </button>
  </header>
  <dl>
    <dt>Address</dt>
    <dd>{{ office.street }}, {{ office.zip }} {{ office.city }}</dd>
    <dt>Opened</dt>
    <dd>{{ office.opened | date: 'mediumDate' }}</dd>
    <dt>Head count</dt>
    <dd>{{ office.headCount }}</dd>
  </dl>
  <app-floor-plan [floors]="office.floors" (selected)="floor = $event"></app-floor-plan>
  <table mat-table [dataSource]="office.rooms">
    <ng-container matColumnDef="name">
      <th mat-header-cell *matHeaderCellDef>Room</th>
      <td mat-cell *matCellDef="let room">{{ room.name }}</td>
    </ng-container>
    <ng-container matColumnDef="seats">
      <th mat-header-cell *matHeaderCellDef>Seats</th>
      <td mat-cell *matCellDef="let room">{{ room.seats }}</td>
    </ng-container>
    <tr mat-header-row *matHeaderRowDef="columns"></tr>
    <tr mat-row *matRowDef="let row; columns: columns"></tr>
  </table>
</section>"""


@story("exact-read-angular-component", "chat", "exact", "google-gemini/gemini-cli#8259", cycle=1)
def read_component(it: Story) -> None:
    it.system("You are an interactive CLI agent for software engineering tasks.")
    it.user("The floor plan of an office does not update when I pick another office. Fix it.")
    it.turn(
        Call(
            "glob",
            {"pattern": "**/office-details*"},
            "src/app/office/office-details.component.html\nsrc/app/office/office-details.component.ts\nsrc/app/office/office-details.component.spec.ts",
        ),
        text="I'll locate the component first.",
    )
    it.turn(
        Call(
            "read_file",
            {"absolute_path": "C:\\src\\Offices.WebUI\\office-details.component.ts"},
            "import { Component, Input } from '@angular/core';\nimport { map, switchMap } from 'rxjs/operators';\n\n@Component({ selector: 'app-office-details', templateUrl: './office-details.component.html' })\nexport class OfficeDetailsComponent {\n  floor = 0;\n  columns = ['name', 'seats'];\n  office$ = this.route.paramMap.pipe(switchMap(p => this.offices.byId(p.get('id')!)));\n  constructor(private route: ActivatedRoute, private offices: OfficeService) {}\n}\n",
        ),
    )
    it.user("You already saw the template before, go on. Do not read it again and again.")
    read = Call(
        "read_file",
        {"absolute_path": "C:\\src\\Offices.WebUI\\office-details.component.html"},
        COMPONENT,
    )
    for _ in range(9):
        with it.copy():
            it.turn(read)


CHAT = (
    "今天的会议纪要帮我发给小周",
    "已经发到小周的邮箱，主题是“4 月 10 日会议纪要”",
    "3 号板换了电感之后纹波多少",
    "换电感后 3 号板纹波为 18mV，已补进 notes/board.md",
    "下周二提醒我去仓库领样品",
    "好的，4 月 14 日 9:30 提醒你去仓库领样品",
    "查一下顺丰单号 SF1402",
    "快件已到杭州余杭中转场，预计今天下午派送",
    "把 BOM 里的停产料列出来",
    "共有 2 个停产料：L3 的 CDRH6D28 与 U7 的 AP2112，替代料已写在表格备注里",
    "晚上八点以后不要再提醒我",
    "明白，20:00 之后的提醒会推到第二天早上",
)


@story("exact-nanobot-history", "chat", "exact", "HKUDS/nanobot#3073 HKUDS/nanobot#3077", cycle=1)
def read_history(it: Story) -> None:
    it.system(
        "你是 nanobot，一个运行在用户电脑上的个人助理。工作区：~/.nanobot/workspace。需要回忆时先读 memory/ 下的文件。"
    )
    it.user("早上好，帮我把昨天说的那个会议改到周四下午三点")
    it.turn(
        Call(
            "read_file",
            {"path": "~/.nanobot/workspace/memory/MEMORY.md"},
            "# 长期记忆\n- 用户：林工，在杭州，做嵌入式\n- 常用日历：work\n- 周会固定在周三 10:00\n",
        )
    )
    it.turn(
        Call(
            "calendar_update",
            {"calendar": "work", "event": "方案评审", "start": "2026-04-16T15:00"},
            '{"ok": true, "event": "方案评审", "start": "2026-04-16T15:00:00+08:00"}',
        )
    )
    it.say("已经把“方案评审”改到周四（4 月 16 日）下午三点了。")
    it.user("最近有什么事情发生吗")
    lines = [
        {"t": "2026-04-10T09:12:04", "role": "user", "text": "提醒我中午取快递"},
        {"t": "2026-04-10T09:12:09", "role": "assistant", "text": "好的，12:00 提醒你取快递"},
        {
            "t": "2026-04-10T18:40:31",
            "role": "user",
            "text": "把今天的板子测试结果记下来：3 号板电源纹波 42mV",
        },
        {"t": "2026-04-10T18:40:40", "role": "assistant", "text": "已记录到 notes/board.md"},
        {"t": "2026-04-11T08:03:15", "role": "user", "text": "今天下雨吗"},
        {"t": "2026-04-11T08:03:22", "role": "assistant", "text": "杭州今天小雨，14 到 19 度"},
        {"t": "2026-04-12T21:15:00", "role": "user", "text": "方案评审改到哪天合适"},
        {"t": "2026-04-12T21:15:18", "role": "assistant", "text": "你周四下午是空的"},
        *[
            {
                "t": f"2026-04-{10 + number // 12:02d}T{7 + number % 12:02d}:{number * 7 % 60:02d}:11",
                "role": ("user", "assistant")[number % 2],
                "text": text,
            }
            for number, text in enumerate(CHAT * 2)
        ],
    ]
    result = "\n".join(f"{number}: {dumped(line)}" for number, line in enumerate(lines, 1))
    call = Call(
        "read_file",
        {"path": "~/.nanobot/workspace/memory/history.jsonl", "limit": 50, "offset": 1},
        f"{result}\n({len(lines)} lines)",
    )
    for _ in range(15):
        with it.copy():
            it.turn(call)


@story("exact-empty-file", "messages", "exact", "1jehuang/jcode#797", cycle=1)
def read_empty(it: Story) -> None:
    it.system("You are a coding agent working in the user's repository. Use tools; be concise.")
    it.user(
        "The download button in the gallery saves every file as 'download'. It should use the picture's title. There was a helper for that once, find and use it."
    )
    it.turn(
        Call(
            "bash",
            {"command": "grep -rn 'downloadNaming\\|saveAs' web/src --include=*.ts* | head"},
            "web/src/components/Gallery.tsx:14:import { fileNameFor } from '../lib/downloadNaming'\nweb/src/components/Gallery.tsx:88:    saveAs(blob, 'download')\nweb/src/lib/file.ts:1:",
        ),
        text="Looking for the helper.",
    )
    it.turn(
        Call(
            "read",
            {"file_path": "web/src/components/Gallery.tsx", "offset": 70, "limit": 40},
            "    70\t  const onDownload = useCallback(async (item: Item) => {\n    71\t    setBusy(item.id)\n    72\t    try {\n    73\t      const response = await fetch(item.url)\n    74\t      if (!response.ok) throw new Error(response.statusText)\n    75\t      const blob = await response.blob()\n    76\t      // TODO title\n    88\t    saveAs(blob, 'download')\n    89\t    } finally {\n    90\t      setBusy(null)\n    91\t    }\n    92\t  }, [])\n",
        ),
    )
    for _ in range(22):
        with it.copy():
            it.turn(Call("read", {"file_path": "web/src/lib/downloadNaming.ts"}, "(empty file)"))


@story("exact-schema-diagnosis", "chat", "exact", "PrimeIntellect-ai/prime-agent#1326", cycle=1)
def diagnose_schema(it: Story) -> None:
    it.system("You are a software engineer. You have one tool, `bash`. Think before each command.")
    it.user(
        "Submitting the order form answers 422 with 'shipping.method: Input should be a valid enumeration member'. The front end sends 'EXPRESS'. Find out why."
    )
    it.turn(
        Call(
            "bash",
            {"command": "rg -n 'class ShippingMethod' -A8 api/"},
            'api/models/shipping.py\n12:class ShippingMethod(StrEnum):\n13-    STANDARD = "standard"\n14-    EXPRESS = "express"\n15-    PICKUP = "pickup"\n16-\n17-\n18-class Shipping(BaseModel):\n19-    method: ShippingMethod\n20-    address: Address | None = None',
        ),
        think="The validation error names an enum. Look at its members first.",
    )
    it.turn(
        Call(
            "bash",
            {"command": "rg -n 'EXPRESS' web/src | head -20"},
            "web/src/checkout/options.ts:5:  { value: 'STANDARD', label: 'Standard (3-5 days)' },\nweb/src/checkout/options.ts:6:  { value: 'EXPRESS', label: 'Express (1 day)' },\nweb/src/checkout/options.ts:7:  { value: 'PICKUP', label: 'Pick up in store' },",
        ),
        think="So the client sends the member's name, the server wants its value. Check whether some layer lowercases it.",
    )
    thoughts = [
        "The payload might be rewritten by the gateway. Let me look at what the API really receives.",
        "That shows the same payload. Maybe the schema in the OpenAPI file is stale. Let me try a different approach and inspect it.",
        "Hmm, the values are as I expected, so the enum itself must be the problem. I should look from another angle.",
        "I keep thinking of the model; the generated client may have its own copy. Let me check that instead.",
        "Result is unchanged. Another possibility is a cached schema. I'll verify the schema.",
        "Nothing new. Let me take a step back: which schema does the validator load? I'll print it.",
        "OK, let me try something else and look at the schema's enum directly.",
        "The output confirms lower-case values. But why 422? I need to see the schema once more to be sure.",
    ]
    call = Call(
        "bash",
        {"command": "jq '.components.schemas.ShippingMethod' api/openapi.json"},
        '{\n  "type": "string",\n  "enum": [\n    "standard",\n    "express",\n    "pickup"\n  ],\n  "title": "ShippingMethod"\n}',
    )
    for number in range(20):
        with it.copy():
            it.turn(call, think=thoughts[number % len(thoughts)])


@story("exact-write-memory-note", "messages", "exact", "agentscope-ai/QwenPaw#6116", cycle=1)
def write_note(it: Story) -> None:
    it.system("你是桌面助理。用户的规则写在 AGENTS.md，长期记忆写在 memory/。回答用中文。")
    it.user("以后改 AGENTS.md 之前先给我看 diff，把这条规则加进去，并记到今天的记忆里")
    it.turn(
        Call(
            "read_file",
            {"path": "AGENTS.md"},
            "# 规则\n1. 不要删除任何文件\n2. 回答尽量简短\n3. 涉及金额时保留两位小数\n",
        ),
        text="先看一下现有规则。",
    )
    it.turn(
        Call(
            "edit_file",
            {
                "path": "AGENTS.md",
                "old_text": "3. 涉及金额时保留两位小数\n",
                "new_text": "3. 涉及金额时保留两位小数\n4. 修改 AGENTS.md 之前先展示 diff，得到同意再改\n",
            },
            "The text was replaced successfully.",
        ),
    )
    note = "# 2026-08-07\n\n- 用户要求：修改 AGENTS.md 之前先展示 diff。\n- 已写入 AGENTS.md 第 4 条。\n- 教训：同一个修改不要重复提交。\n"
    for _ in range(11):
        with it.copy():
            it.turn(
                Call(
                    "write_file",
                    {"path": "memory/2026-08-07.md", "content": note},
                    f"Wrote {len(note.encode())} bytes to memory/2026-08-07.md.",
                ),
                text="把这件事记到今天的记忆文件里。",
            )


@story("exact-powershell-listing", "responses", "exact", "openclaw/openclaw#68923", cycle=1)
def list_agents(it: Story) -> None:
    it.system(
        "You are a helpful agent on the user's Windows workstation. Tools: exec (PowerShell)."
    )
    it.user("检查一下 D:\\OpenClaw-Agents 的目录结构，看看哪些智能体还没有配置文件")
    it.turn(
        Call("exec", {"command": "Test-Path D:\\OpenClaw-Agents"}, "True"),
        think="**Checking the folder**\n\nThe user wants the structure of a folder. First see that it exists.",
    )
    listing_text = "\n    目录: D:\\OpenClaw-Agents\n\n\nMode                 LastWriteTime         Length Name\n----                 -------------         ------ ----\nd-----         2026/4/12     10:31                archivist\nd-----         2026/4/15     21:07                bookkeeper\nd-----         2026/4/18      8:44                courier\nd-----         2026/4/18      8:45                dispatcher\nd-----          2026/4/2     16:20                _shared\n-a----         2026/4/18      9:02           1834 README.md\n-a----         2026/4/19      7:55            412 agents.json\n"
    for _ in range(40):
        with it.copy():
            it.turn(Call("exec", {"command": "Get-ChildItem D:\\OpenClaw-Agents"}, listing_text))


@story("exact-core-memory-empty", "chat", "exact", "quintonmiller/tailored-ai#528", cycle=1)
def ask_memory(it: Story) -> None:
    it.system(
        'You are a companion with a small context window. What scrolled away may be in core memory. Answer with the `answer` tool; "I don\'t know" is a fine answer.'
    )
    it.user("My sister is called Ottilie and she flies in on the 14th.")
    it.turn(Call("answer", {"text": "Noted: Ottilie arrives on the 14th."}, "delivered"))
    it.user(
        "[System: 212 earlier messages were removed to fit the window.]\n\nWhat was the gate code of the cabin again?"
    )
    for _ in range(6):
        with it.copy():
            it.turn(Call("core_memory", {"action": "read"}, "(core memory is empty)"))


@story("exact-kueche-licht", "messages", "exact", "tinyhumansai/openhuman#4095", cycle=1)
def kitchen_light(it: Story) -> None:
    it.system("Du steuerst ein Haus über Home Assistant. Antworte knapp und auf Deutsch.")
    it.user("Mach in der Küche das Licht an, aber nicht so hell, vielleicht 30 Prozent.")
    it.turn(
        Call(
            "GetLiveContext",
            {},
            "Live Context: An overview of the areas and the devices in this smart home:\n- names: Deckenlampe\n  domain: light\n  state: 'off'\n  areas: Küche\n- names: Arbeitsplatte\n  domain: light\n  state: 'off'\n  areas: Küche\n- names: Stehlampe\n  domain: light\n  state: 'on'\n  areas: Wohnzimmer\n  attributes:\n    brightness: '128'\n- names: Heizung Bad\n  domain: climate\n  state: heat\n  areas: Bad\n  attributes:\n    current_temperature: '21.5'\n",
        ),
    )
    done = dumped(
        {
            "speech": {},
            "response_type": "action_done",
            "data": {
                "targets": [],
                "success": [
                    {"name": "Küche", "type": "area", "id": "kuche"},
                    {"name": "Deckenlampe", "type": "entity", "id": "light.deckenlampe_kuche"},
                ],
                "failed": [],
            },
        }
    )
    for _ in range(12):
        with it.copy():
            it.turn(
                Call("HassLightSet", {"area": "Küche", "domain": ["light"], "brightness": 30}, done)
            )


@story("exact-integration-resources", "responses", "exact", "superplanehq/superplane#4123", cycle=1)
def integration_resources(it: Story) -> None:
    it.system(
        "You build deployment canvases. Use the tools to look up components and integrations before you propose one."
    )
    it.user(
        "Build a pipeline that deploys acme/storefront from GitHub, but only if there is no open incident in PagerDuty."
    )
    it.turn(
        Call(
            "list_components",
            {"category": "trigger"},
            dumped(
                [
                    {"name": "github.onPush", "label": "On push", "integration": "github"},
                    {"name": "schedule", "label": "Schedule", "integration": None},
                    {"name": "webhook", "label": "Webhook", "integration": None},
                ]
            ),
        )
    )
    it.turn(
        Call(
            "describe_trigger",
            {"name": "github.onPush"},
            dumped(
                {
                    "name": "github.onPush",
                    "configuration": [
                        {"name": "repository", "type": "integration-resource", "required": True},
                        {"name": "branches", "type": "list", "required": False},
                    ],
                }
            ),
        ),
        Call(
            "list_integrations",
            {},
            dumped(
                [
                    {"id": "8b1c", "name": "github", "state": "ready"},
                    {"id": "91aa", "name": "pagerduty", "state": "ready"},
                ]
            ),
        ),
        think="**Finding the repository**\n\nThe trigger needs a repository resource of the GitHub integration.",
    )
    for _ in range(10):
        with it.copy():
            it.turn(
                Call(
                    "list_integration_resources",
                    {"integration_id": "8b1c", "type": "repository"},
                    "[]",
                )
            )


@story(
    "exact-git-commit-again",
    "messages",
    "exact",
    "anomalyco/opencode#43800 anthropics/claude-code#10319",
    cycle=1,
)
def commit_again(it: Story) -> None:
    it.system(
        "You are opencode, an interactive CLI tool that helps users with software engineering tasks."
    )
    it.user("Fix CORS for PATCH requests of boosters and commit it.")
    it.turn(
        Call(
            "grep",
            {"pattern": "CORS", "include": "*.py"},
            'Found 4 matches\nconfig/settings.py:\n  Line 88: CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS")\n  Line 89: CORS_ALLOW_METHODS = ("GET", "POST", "OPTIONS")\n  Line 90: CORS_ALLOW_CREDENTIALS = True\n  Line 141:     "corsheaders.middleware.CorsMiddleware",',
        ),
        text="I'll look at how CORS is configured.",
    )
    it.turn(
        Call(
            "edit",
            {
                "filePath": "config/settings.py",
                "oldString": 'CORS_ALLOW_METHODS = ("GET", "POST", "OPTIONS")',
                "newString": 'CORS_ALLOW_METHODS = ("GET", "POST", "PATCH", "OPTIONS")',
            },
            "Edit applied successfully.",
        )
    )
    commit = {
        "command": 'git add config/settings.py && git commit -m "Fix CORS for booster PATCH requests"'
    }
    it.turn(
        Call(
            "bash",
            commit,
            "[main 4f1c9d2] Fix CORS for booster PATCH requests\n 1 file changed, 1 insertion(+), 1 deletion(-)",
        )
    )
    nothing = "On branch main\nYour branch is ahead of 'origin/main' by 1 commit.\n  (use \"git push\" to publish your local commits)\n\nnothing to commit, working tree clean"
    for _ in range(8):
        with it.copy():
            it.turn(Call("bash", commit, nothing, error=True), text="Now I'll commit the change.")


@story("exact-jupyter-custom-dir", "responses", "exact", "earendil-works/pi#6158", cycle=1)
def list_custom(it: Story) -> None:
    it.user(
        "Add a custom.css to my Jupyter config that makes the cells as wide as the window, keep what's there."
    )
    it.turn(Call("bash", {"command": "jupyter --config-dir"}, "/home/dev/.jupyter"))
    entries = [
        ("./", 4096, "Jun 29 10:02"),
        ("../", 4096, "Jun 29 09:58"),
        ("custom.css.bak", 318, "Mar 11 17:45"),
        ("custom.js", 1204, "Mar 11 17:45"),
        ("fonts/", 4096, "Mar 11 17:40"),
    ]
    for _ in range(7):
        with it.copy():
            it.turn(
                Call("bash", {"command": "ls -la /home/dev/.jupyter/custom/"}, listing(entries))
            )


SERVICE = """export class SessionStore {
  private readonly sessions = new Map<string, Session>();

  constructor(private readonly clock: Clock, private readonly ttlMs = 30 * 60_000) {}

  create(userId: string): Session {
    const session = { id: crypto.randomUUID(), userId, touchedAt: this.clock.now() };
    this.sessions.set(session.id, session);
    return session;
  }

  get(id: string): Session | undefined {
    const session = this.sessions.get(id);
    if (!session) return undefined;
    if (this.clock.now() - session.touchedAt > this.ttlMs) {
      this.sessions.delete(id);
      return undefined;
    }
    session.touchedAt = this.clock.now();
    return session;
  }
}"""


@story(
    "exact-explorer-subagent", "messages", "exact", "alvinunreal/oh-my-opencode-slim#1074", cycle=1
)
def explorer(it: Story) -> None:
    it.system(
        "You are Explorer, a sub-agent that answers questions about a code base. You may only read."
    )
    it.user("Where do sessions expire, and what renews them? Report file and line.")
    it.turn(
        Call(
            "glob",
            {"pattern": "src/**/session*.ts"},
            "src/auth/session-store.ts\nsrc/auth/session-store.test.ts\nsrc/http/session-cookie.ts",
        )
    )
    for _ in range(13):
        with it.copy():
            it.turn(
                Call(
                    "read",
                    {"filePath": "src/auth/session-store.ts"},
                    f"<file>\n{numbered(SERVICE)}\n\n(End of file - total 22 lines)\n</file>",
                )
            )
