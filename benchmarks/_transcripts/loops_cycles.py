"""Loops of two to four turns that are made again in the same order."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import dumped, executed, numbered
from .story import Call, Story

RESET = "\nShell cwd was reset to D:\\src\\fork"


@story("cycle2-two-greps", "messages", "cycle2", "makecindy/cindy#2721", cycle=2)
def two_greps(it: Story) -> None:
    it.system("You are Claude Code, working in the user's repository.")
    it.user(
        "按 docs/plan-0814.md 开工：改造 shell-command-policy.ts 里的守卫，把误拒的普通命令放行"
    )
    it.turn(
        Call(
            "Read",
            {"file_path": "D:\\src\\fork\\docs\\plan-0814.md"},
            "     1\t# 计划 0814\n     2\t\n     3\t1. 打开 apps/desktop/src/main/maker-host/shell-command-policy.ts\n     4\t2. 把 `denyByDefault` 改成白名单之外只警告\n     5\t3. 补单测：git status、ls、node -v 不应被拒\n     6\t4. 在 CHANGELOG 里写一行\n",
        ),
        text="我先读计划。",
    )
    it.turn(
        Call(
            "Read",
            {
                "file_path": "D:\\src\\fork\\apps\\desktop\\src\\main\\maker-host\\shell-command-policy.ts"
            },
            "<tool_use_error>File does not exist. Current working directory: D:\\src\\fork</tool_use_error>",
            error=True,
        )
    )
    for _ in range(12):
        with it.copy():
            it.turn(
                Call(
                    "Bash",
                    {
                        "command": 'cd /d/src/fork && grep -rn "shell-command-policy" apps packages --include=*.ts',
                        "description": "Search for the policy module",
                    },
                    "packages/agent/src/base-agent.ts:9:// contract only: see shell-command-policy"
                    + RESET,
                )
            )
            it.turn(
                Call(
                    "Bash",
                    {
                        "command": 'cd /d/src/fork && grep -rn "getShellCommandPolicy" apps packages --include=*.ts',
                        "description": "Search for the policy getter",
                    },
                    "packages/agent/src/base-agent.ts:731:  protected abstract getShellCommandPolicy(): ShellCommandPolicy;"
                    + RESET,
                )
            )


@story("cycle2-stations", "chat", "cycle2", "junjiem/dify-plugin-agent-mcp_sse#65", cycle=2)
def stations(it: Story) -> None:
    it.system("你是出行助手，可以通过 MCP 工具查询 12306 车站代码与余票。先查车站代码，再查余票。")
    it.user("查一下明天上午长沙到娄底的高铁，二等座还有票吗？")
    it.turn(Call("get-current-date", {}, "2025-05-12"))
    changsha = dumped(
        [
            {"station_name": "长沙", "station_code": "CSQ"},
            {"station_name": "长沙南", "station_code": "CWQ"},
            {"station_name": "长沙西", "station_code": "RXQ"},
        ]
    )
    loudi = dumped(
        [
            {"station_name": "娄底", "station_code": "LDQ"},
            {"station_name": "娄底南", "station_code": "UOQ"},
        ]
    )
    for _ in range(8):
        with it.copy():
            it.turn(
                Call("get-stations-code-in-city", {"city": "长沙"}, changsha),
                text="我需要先找到长沙的车站。",
            )
            it.turn(
                Call("get-stations-code-in-city", {"city": "娄底"}, loudi),
                text="现在查找娄底的车站。",
            )


BUILD_LOG = """[ 71%] Building CXX object src/CMakeFiles/mesh.dir/decimate.cpp.o
src/decimate.cpp: In function 'void decimate(Mesh&, float)':
src/decimate.cpp:118:21: error: 'struct Heap' has no member named 'updatePriority'
  118 |         heap.updatePriority(edge, cost);
      |              ^~~~~~~~~~~~~~
make[2]: *** [src/CMakeFiles/mesh.dir/build.make:90: src/CMakeFiles/mesh.dir/decimate.cpp.o] Error 1
make[1]: *** [CMakeFiles/Makefile2:139: src/CMakeFiles/mesh.dir/all] Error 2
make: *** [Makefile:136: all] Error 2"""


@story("cycle2-build-and-tail", "chat", "cycle2", "NousResearch/hermes-agent#106428", cycle=2)
def build_and_tail(it: Story) -> None:
    it.system("You are Hermes. You may use terminal, read_file, patch.")
    it.user("Build the project and get it green.")
    it.turn(
        Call(
            "terminal",
            {"command": "cmake -B build -DCMAKE_BUILD_TYPE=Release"},
            dumped(
                {
                    "output": "-- The CXX compiler identification is GNU 13.2.0\n-- Found Eigen3: /usr/include/eigen3\n-- Configuring done (1.2s)\n-- Generating done (0.1s)\n-- Build files have been written to: /home/u/mesh/build",
                    "exit_code": 0,
                }
            ),
        )
    )
    it.turn(
        Call(
            "read_file",
            {"path": "src/decimate.cpp", "offset": 100, "limit": 30},
            dumped(
                {
                    "content": "100|void decimate(Mesh& mesh, float ratio) {\n101|    Heap heap;\n102|    for (Edge& edge : mesh.edges) heap.push(edge, quadric(edge));\n103|    const auto target = std::size_t(mesh.faces.size() * ratio);\n104|    while (mesh.faces.size() > target) {\n",
                    "total_lines": 141,
                }
            ),
        )
    )
    for _ in range(7):
        with it.copy():
            it.turn(
                Call(
                    "terminal",
                    {"command": "make -C build -j8 > build.log 2>&1; echo exit $?"},
                    dumped({"output": "exit 2", "exit_code": 0}),
                )
            )
            it.turn(
                Call(
                    "terminal",
                    {"command": "tail -n 9 build.log"},
                    dumped({"output": BUILD_LOG, "exit_code": 0}),
                )
            )


SNAPSHOT = """- Page URL: https://shop.example/checkout
- Page Title: Checkout
- Page Snapshot:
```yaml
- banner [ref=e2]:
  - link "Shop" [ref=e3] [cursor=pointer]
- dialog "Cookies" [ref=e9]:
  - paragraph [ref=e10]: We and our 143 partners store information on your device.
  - button "Accept all" [ref=e11] [cursor=pointer]
  - button "Settings" [ref=e12] [cursor=pointer]
- main [ref=e20]:
  - heading "Checkout" [level=1] [ref=e21]
  - region "Your cart" [ref=e22]:
    - listitem [ref=e23]:
      - img "Blue kettle, 1.7 l" [ref=e60]
      - link "Blue kettle, 1.7 l" [ref=e61] [cursor=pointer]
      - spinbutton "Quantity" [ref=e62]: "1"
      - text: 34,90 €
      - button "Remove" [ref=e63] [cursor=pointer]
    - text: Subtotal 34,90 €
    - text: Shipping 4,95 €
  - group "Contact" [ref=e64]:
    - textbox "E-mail" [ref=e24]
    - checkbox "Send me offers" [ref=e65]
  - group "Delivery address" [ref=e66]:
    - textbox "First name" [ref=e67]
    - textbox "Last name" [ref=e68]
    - textbox "Street and number" [ref=e69]
    - textbox "Post code" [ref=e26]
    - textbox "City" [ref=e70]
    - combobox "Country" [ref=e71]:
      - option "Germany" [selected]
      - option "Austria"
      - option "Switzerland"
  - group "Delivery" [ref=e72]:
    - radio "Standard, 2 to 4 days" [checked] [ref=e73]
    - radio "Express, next day" [ref=e74]
  - button "Continue to payment" [ref=e31] [disabled]
```"""


@story(
    "cycle2-cookie-dialog",
    "responses",
    "cycle2",
    "kortix-ai/suna#135 browser-use/browser-use#1157",
    cycle=2,
)
def cookie_dialog(it: Story) -> None:
    it.system("You drive a browser for the user. Take a snapshot before you act on refs.")
    it.user("Go to shop.example, put the blue kettle in the cart and stop at the payment page.")
    it.turn(
        Call(
            "browser_navigate",
            {"url": "https://shop.example/p/kettle-blue"},
            "### Page state\n- Page URL: https://shop.example/p/kettle-blue\n- Page Title: Blue kettle, 1.7 l",
        )
    )
    it.turn(
        Call(
            "browser_click",
            {"element": "Add to cart", "ref": "e41"},
            "### Ran Playwright code\n```js\nawait page.getByRole('button', { name: 'Add to cart' }).click();\n```",
        ),
        think="**Adding the kettle**\n\nThe product page is open.",
    )
    it.turn(
        Call(
            "browser_navigate",
            {"url": "https://shop.example/checkout"},
            "### Page state\n- Page URL: https://shop.example/checkout\n- Page Title: Checkout",
        )
    )
    click = Call(
        "browser_click",
        {"element": "Accept all cookies", "ref": "e11"},
        "### Ran Playwright code\n```js\nawait page.getByRole('button', { name: 'Accept all' }).click();\n```\n### Page state\n- Page URL: https://shop.example/checkout\n- Page Title: Checkout",
    )
    for _ in range(9):
        with it.copy():
            it.turn(Call("browser_snapshot", {}, SNAPSHOT))
            it.turn(click)


DESCRIBE = """Name:             payments-6d9f7c9b5d-4kx2p
Namespace:        payments
Priority:         0
Service Account:  payments
Node:             worker-3/10.0.3.17
Start Time:       Tue, 03 Mar 2026 09:12:40 +0900
Labels:           app=payments
                  pod-template-hash=6d9f7c9b5d
Annotations:      prometheus.io/port: 9102
                  prometheus.io/scrape: true
Status:           Pending
IP:               10.244.3.81
Controlled By:    ReplicaSet/payments-6d9f7c9b5d
Containers:
  app:
    Container ID:
    Image:          registry.example/payments:1.42.0
    Image ID:
    Port:           8080/TCP
    State:          Waiting
      Reason:       ImagePullBackOff
    Ready:          False
    Restart Count:  0
    Limits:
      cpu:     1
      memory:  768Mi
    Requests:
      cpu:      250m
      memory:   384Mi
    Liveness:   http-get http://:8080/live delay=10s timeout=1s period=10s #success=1 #failure=3
    Readiness:  http-get http://:8080/ready delay=5s timeout=1s period=5s #success=1 #failure=3
    Environment:
      DATABASE_URL:  <set to the key 'url' in secret 'payments-db'>  Optional: false
      LOG_LEVEL:     info
    Mounts:
      /var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-x7m2d (ro)
Conditions:
  Type                        Status
  PodReadyToStartContainers   True
  Initialized                 True
  Ready                       False
  ContainersReady             False
  PodScheduled                True
QoS Class:                   Burstable
Tolerations:                 node.kubernetes.io/not-ready:NoExecute op=Exists for 300s
Events:
  Type     Reason     From               Message
  ----     ------     ----               -------
  Normal   Scheduled  default-scheduler  Successfully assigned payments/payments-6d9f7c9b5d-4kx2p to worker-3
  Normal   Pulling    kubelet            Pulling image "registry.example/payments:1.42.0"
  Warning  Failed     kubelet            Failed to pull image "registry.example/payments:1.42.0": manifest unknown
  Warning  Failed     kubelet            Error: ErrImagePull
  Normal   BackOff    kubelet            Back-off pulling image "registry.example/payments:1.42.0"
  Warning  Failed     kubelet            Error: ImagePullBackOff"""


@story("cycle2-pod-describe", "responses", "cycle2", "anomalyco/opencode#47759", cycle=2)
def pod_describe(it: Story) -> None:
    it.system("あなたは SRE エージェントです。クラスタには読み取り権限しかありません。")
    it.user("payments の Pod が起動しません。原因を調べてください。")
    it.turn(
        Call(
            "kubectl",
            {"args": "get deploy -n payments"},
            "NAME       READY   UP-TO-DATE   AVAILABLE   AGE\npayments   0/2     2            0           14m\nredis      1/1     1            1           41d",
        )
    )
    pods = "NAME                        READY   STATUS             RESTARTS   AGE\npayments-6d9f7c9b5d-4kx2p   0/1     ImagePullBackOff   0          14m\npayments-6d9f7c9b5d-zq8nm   0/1     ImagePullBackOff   0          14m\nredis-0                     1/1     Running            0          41d"
    describe = DESCRIBE
    for _ in range(6):
        with it.copy():
            it.turn(
                Call("kubectl", {"args": "get pods -n payments"}, pods),
                text="Pod の状態を確認します。",
            )
            it.turn(
                Call(
                    "kubectl",
                    {"args": "describe pod payments-6d9f7c9b5d-4kx2p -n payments"},
                    describe,
                )
            )


TEST_FAILURE = """============================= test session starts ==============================
platform linux -- Python 3.12.4, pytest-8.3.2, pluggy-1.5.0
rootdir: /repo
collected 1 item

tests/test_invoice.py F                                                  [100%]

=================================== FAILURES ===================================
_____________________________ test_rounds_half_even ____________________________

    def test_rounds_half_even():
>       assert total(["0.125", "0.125"]) == Decimal("0.24")
E       AssertionError: assert Decimal('0.26') == Decimal('0.24')

tests/test_invoice.py:31: AssertionError
=========================== short test summary info ============================
FAILED tests/test_invoice.py::test_rounds_half_even - AssertionError: assert Decimal('0.26') == Decimal('0.24')
============================== 1 failed in 0.04s ==============================="""
INVOICE = """from decimal import ROUND_HALF_UP, Decimal

CENT = Decimal("0.01")


def total(amounts: list[str]) -> Decimal:
    return sum((rounded(Decimal(a)) for a in amounts), Decimal(0))


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)"""


@story("cycle3-read-edit-test", "messages", "cycle3", "macanderson/stella#359", cycle=3)
def read_edit_test(it: Story) -> None:
    it.system("You are a coding agent. Make the failing test pass without changing it.")
    it.user("tests/test_invoice.py::test_rounds_half_even fails. Fix it.")
    it.turn(
        Call(
            "Bash",
            {
                "command": "pytest -q tests/test_invoice.py::test_rounds_half_even",
                "description": "Run the failing test",
            },
            TEST_FAILURE,
            error=True,
        ),
        text="First I reproduce the failure.",
    )
    it.turn(
        Call(
            "Grep",
            {"pattern": "ROUND_", "path": "src"},
            "src/billing/invoice.py:1:from decimal import ROUND_HALF_UP, Decimal\nsrc/billing/invoice.py:11:    return amount.quantize(CENT, ROUND_HALF_UP)",
        )
    )
    for _ in range(6):
        with it.copy():
            it.turn(Call("Read", {"file_path": "/repo/src/billing/invoice.py"}, numbered(INVOICE)))
            it.turn(
                Call(
                    "Edit",
                    {
                        "file_path": "/repo/src/billing/invoice.py",
                        "old_string": "return amount.quantize(CENT, rounding=ROUND_HALF_UP)",
                        "new_string": "return amount.quantize(CENT, rounding=ROUND_HALF_EVEN)",
                    },
                    "<tool_use_error>String to replace not found in file.\nString: return amount.quantize(CENT, rounding=ROUND_HALF_UP)</tool_use_error>",
                    error=True,
                )
            )
            it.turn(
                Call(
                    "Bash",
                    {
                        "command": "pytest -q tests/test_invoice.py::test_rounds_half_even",
                        "description": "Run the failing test",
                    },
                    TEST_FAILURE,
                    error=True,
                )
            )


@story("cycle3-text-to-sql", "responses", "cycle3", "langchain-ai/langgraph#6731", cycle=3)
def text_to_sql(it: Story) -> None:
    it.system(
        "You answer questions about a warehouse with SQL. Look at the schema before you query. Never modify data."
    )
    it.user("What was our churn per plan last quarter?")
    tables = dumped(
        {
            "tables": [
                "accounts",
                "invoices",
                "plans",
                "subscriptions",
                "subscription_events",
                "usage_daily",
            ]
        }
    )
    schema = "CREATE TABLE subscriptions (\n  id BIGINT PRIMARY KEY,\n  account_id BIGINT NOT NULL,\n  plan_id INT NOT NULL,\n  started_on DATE NOT NULL,\n  ended_on DATE\n)\n/*\n3 rows from subscriptions table:\nid\taccount_id\tplan_id\tstarted_on\tended_on\n1\t90\t2\t2024-01-03\tNULL\n2\t91\t1\t2024-01-03\t2024-05-01\n3\t93\t2\t2024-01-04\tNULL\n*/"
    query = "SELECT p.name, COUNT(*) FILTER (WHERE s.cancelled_at >= DATE '2026-07-01') * 1.0 / COUNT(*) AS churn FROM subscriptions s JOIN plans p ON p.id = s.plan_id GROUP BY 1"
    failed = "Error: (psycopg.errors.UndefinedColumn) column s.cancelled_at does not exist\nLINE 1: SELECT p.name, COUNT(*) FILTER (WHERE s.cancelled_at >= DATE...\n                                              ^"
    it.turn(
        Call(
            "sql_db_query",
            {"query": "SELECT min(started_on), max(started_on) FROM subscriptions"},
            "[(datetime.date(2024, 1, 3), datetime.date(2026, 9, 30))]",
        )
    )
    for _ in range(5):
        with it.copy():
            it.turn(Call("sql_db_list_tables", {}, tables))
            it.turn(Call("sql_db_schema", {"table_names": "subscriptions"}, schema))
            it.turn(Call("sql_db_query", {"query": query}, failed))


@story("cycle3-pedido-devolucion", "chat", "cycle3", "superplanehq/superplane#4123", cycle=3)
def refund(it: Story) -> None:
    it.system(
        "Eres el asistente de atención al cliente de una tienda de muebles. Consulta el pedido antes de responder. No prometas reembolsos sin verificar la política."
    )
    it.user(
        "Hola, recibí la mesa con una pata rota, pedido 58812. Quiero que me devuelvan el dinero."
    )
    order = dumped(
        {
            "order_id": 58812,
            "customer_id": "C-20911",
            "status": "delivered",
            "delivered_at": "2026-05-03",
            "items": [{"sku": "MESA-ROBLE-160", "qty": 1, "price_eur": 349.0}],
            "shipping": {"carrier": "SEUR", "tracking": "0192837465"},
        },
        2,
    )
    policy = "Política de devoluciones (v7): los artículos dañados en el transporte se reembolsan o se sustituyen si el cliente avisa en 14 días y envía al menos una foto. Importes superiores a 300 EUR requieren la aprobación de un supervisor. El transportista recoge el artículo sin coste."
    customer = dumped(
        {
            "customer_id": "C-20911",
            "name": "Lucía Ferrer",
            "tier": "standard",
            "refunds_last_year": 0,
            "email": "l.ferrer@example.com",
        },
        2,
    )
    for number in range(7):
        with it.copy():
            it.turn(
                Call("get_order", {"order_id": 58812}, order),
                text="Voy a consultar su pedido." if number == 0 else "",
            )
            it.turn(Call("search_policy", {"query": "artículo dañado reembolso"}, policy))
            it.turn(Call("get_customer", {"customer_id": "C-20911"}, customer))


PATCH = """*** Begin Patch
*** Update File: src/render/atlas.rs
@@
-    pub fn insert(&mut self, glyph: Glyph) -> Option<Rect> {
-        let rect = self.packer.pack(glyph.size())?;
+    pub fn insert(&mut self, glyph: &Glyph) -> Option<Rect> {
+        let rect = self.packer.pack(glyph.size())?;
*** End Patch"""
CARGO = """error[E0382]: borrow of moved value: `glyph`
  --> src/render/text.rs:64:28
   |
61 |         let Some(rect) = atlas.insert(glyph) else { continue };
   |                                       ----- value moved here
64 |         self.push_quad(rect, glyph.bearing());
   |                              ^^^^^ value borrowed here after move
error: could not compile `terrace` (lib) due to 1 previous error"""


@story(
    "cycle4-codex-atlas", "responses", "cycle4", "openai/codex#35361 holon-run/holon#2741", cycle=4
)
def atlas(it: Story) -> None:
    it.system(
        "You are Codex, based on GPT-5. You are running as a coding agent in the Codex CLI on a user's computer."
    )
    it.user("cargo check fails since I changed the text renderer, please fix")
    it.turn(
        Call(
            "exec_command",
            {"cmd": "git log --oneline -3 && git status --short", "workdir": "/home/u/terrace"},
            executed(
                "9ce01b7 text: draw bearings\n41b80aa atlas: pack by height\n2e7f3d0 wgpu 26\n M src/render/text.rs\n",
                chunk="0f3a91",
            ),
        ),
        think="**Looking at the repository**",
    )
    atlas_rs = "impl Atlas {\n    /// Packs the glyph's bitmap; None if the page is full.\n    pub fn insert(&mut self, g: Glyph) -> Option<Rect> {\n        let rect = self.packer.pack(g.size())?;\n        self.pages[rect.page].blit(&g, rect);\n        Some(rect)\n    }\n}\n"
    for _ in range(5):
        with it.copy():
            it.turn(
                Call(
                    "exec_command",
                    {"cmd": "cargo check 2>&1 | tail -n 9", "workdir": "/home/u/terrace"},
                    executed(CARGO, chunk="7d11c0", seconds=2.1),
                )
            )
            it.turn(
                Call(
                    "exec_command",
                    {"cmd": "sed -n '55,70p' src/render/text.rs", "workdir": "/home/u/terrace"},
                    executed(
                        "        for glyph in shaped.glyphs {\n            let Some(rect) = atlas.insert(glyph) else { continue };\n            // the pen moves by the advance, the quad by the bearing\n            self.push_quad(rect, glyph.bearing());\n            pen += glyph.advance;\n        }\n",
                        chunk="5b90ee",
                    ),
                )
            )
            it.turn(
                Call(
                    "exec_command",
                    {"cmd": "sed -n '20,40p' src/render/atlas.rs", "workdir": "/home/u/terrace"},
                    executed(atlas_rs, chunk="e4c2a7"),
                )
            )
            it.turn(
                Call(
                    "apply_patch",
                    PATCH,
                    "apply_patch verification failed: Failed to find expected lines in /home/u/terrace/src/render/atlas.rs:\n    pub fn insert(&mut self, glyph: Glyph) -> Option<Rect> {\n        let rect = self.packer.pack(glyph.size())?;",
                )
            )


@story(
    "cycle4-kunming-trip",
    "messages",
    "cycle4",
    "junjiem/dify-plugin-agent-mcp_sse#65 superplanehq/superplane#4103",
    cycle=4,
)
def trip(it: Story) -> None:
    it.system("你是旅行规划助手。综合航班、酒店和天气给出一个方案，预算内最优。")
    it.user("国庆从上海去昆明玩四天，两个人，总预算六千，帮我定个方案")
    it.turn(Call("get_exchange_info", {}, '{"currency": "CNY"}'))
    flights = dumped(
        [
            {"flight": "MU5806", "dep": "07:25", "arr": "10:50", "price": 1280},
            {"flight": "FM9451", "dep": "13:10", "arr": "16:35", "price": 1090},
            {"flight": "9C8865", "dep": "21:40", "arr": "01:05+1", "price": 720},
        ],
        1,
    )
    back = dumped(
        [
            {"flight": "MU5807", "dep": "11:55", "arr": "15:00", "price": 1350},
            {"flight": "KN5702", "dep": "19:20", "arr": "22:30", "price": 980},
        ],
        1,
    )
    hotels = dumped(
        [
            {"name": "翠湖宾馆", "score": 4.7, "price": 688},
            {"name": "南屏街亚朵", "score": 4.8, "price": 529},
            {"name": "滇池青旅", "score": 4.5, "price": 168},
        ],
        1,
    )
    weather = dumped(
        {
            "city": "昆明",
            "forecast": [
                {"date": "10-01", "text": "多云", "low": 15, "high": 22},
                {"date": "10-02", "text": "小雨", "low": 14, "high": 20},
                {"date": "10-03", "text": "多云", "low": 14, "high": 23},
                {"date": "10-04", "text": "晴", "low": 13, "high": 24},
            ],
        },
        1,
    )
    for _ in range(5):
        with it.copy():
            it.turn(
                Call("search_flights", {"from": "SHA", "to": "KMG", "date": "2026-10-01"}, flights),
                text="先看去程航班。",
            )
            it.turn(
                Call("search_flights", {"from": "KMG", "to": "SHA", "date": "2026-10-04"}, back)
            )
            it.turn(
                Call(
                    "search_hotels", {"city": "昆明", "check_in": "2026-10-01", "nights": 3}, hotels
                )
            )
            it.turn(Call("get_weather", {"city": "昆明", "days": 4}, weather))
