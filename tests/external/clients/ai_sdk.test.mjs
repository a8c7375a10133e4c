// Vercel's AI SDK, as npm installs it, gets through the proxy what the upstream says. test_ai_sdk.py starts both and runs this.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, generateText, streamText, tool } from "ai";
import { z } from "zod";

const { url, upstreamUrl, novel, loop, scripted, givesStreamUsage, prompt, short, long, script } = JSON.parse(process.env.CLIENTS_TARGET);
const scenario = { skip: scripted ? false : "a scenario of the scripted upstream" };
const cutText = (script.OPENING + script.CIRCLE).trimEnd();
const tools = {
  [script.TOOL]: tool({ description: "The weather.", inputSchema: z.object({ city: z.string(), days: z.number() }) }),
};

const compatible = createOpenAICompatible({ name: "dedup", baseURL: url, apiKey: "none", includeUsage: true });
const openai = createOpenAI({ baseURL: url, apiKey: "none" });
const ask = (model, more) => ({ model, prompt, temperature: 0, maxOutputTokens: short, maxRetries: 0, ...more });

async function upstreamSays(path, body) {
  const response = await fetch(`${upstreamUrl}/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer none" },
    body: JSON.stringify({ temperature: 0, ...body }),
  });
  const [choice] = (await response.json()).choices;
  return choice.message ? choice.message.content : choice.text;
}

const upstreamChat = (model, max_tokens) =>
  upstreamSays("chat/completions", { model, max_tokens, messages: [{ role: "user", content: prompt }] });

/** Every part of the stream; errors are parts of it too. */
async function parts(options) {
  const seen = [];
  for await (const part of streamText({ ...options, onError() {} }).fullStream) seen.push(part);
  return seen;
}

const textOf = (seen, type = "text-delta") => seen.filter((part) => part.type === type).map((part) => part.text).join("");
const the = (seen, type) => {
  const found = seen.filter((part) => part.type === type);
  assert.equal(found.length, 1, `${found.length} parts of type ${type}`);
  return found[0];
};

async function stats(model) {
  const response = await fetch(upstreamUrl.replace(/\/v1$/, "/stats"));
  return { requests: 0, chunks: 0, hang_ups: 0, ...(await response.json())[model] };
}

/** `work` makes the proxy hang up on the upstream once, soon after the loop has shown itself. */
async function hangsUp(model, work) {
  if (!scripted) return work();
  const before = await stats(model);
  const result = await work();
  let after = await stats(model);
  for (let tries = 0; after.hang_ups === before.hang_ups && tries < 200; tries++) {
    await sleep(50);
    after = await stats(model);
  }
  assert.equal(after.hang_ups - before.hang_ups, 1);
  assert.ok(after.chunks - before.chunks < 500, `${after.chunks - before.chunks} chunks`);
  return result;
}

function assertCut(text, full) {
  if (scripted) assert.equal(text.trimEnd(), cutText);
  assert.ok(text.trim() && full.trim().startsWith(text.trim()));
  assert.ok(text.length < full.length / 2);
}

for (const [name, provider] of [
  ["@ai-sdk/openai-compatible", (model) => compatible(model)],
  ["@ai-sdk/openai, chat", (model) => openai.chat(model)],
]) {
  describe(name, () => {
    test("generateText gives the upstream's answer and usage", async () => {
      const done = await generateText(ask(provider(novel)));
      assert.equal(done.text, await upstreamChat(novel, short));
      assert.ok(["stop", "length"].includes(done.finishReason));
      assert.ok(done.usage.inputTokens > 0 && done.usage.outputTokens > 0);
    });

    test("streamText gives the upstream's answer and usage", async () => {
      const seen = await parts(ask(provider(novel)));
      assert.equal(textOf(seen), await upstreamChat(novel, short));
      assert.ok(seen.filter((part) => part.type === "text-delta").length > 3);
      const { finishReason, totalUsage } = the(seen, "finish");
      assert.ok(["stop", "length"].includes(finishReason));
      assert.ok(!givesStreamUsage || (totalUsage.inputTokens > 0 && totalUsage.outputTokens > 0));
      if (scripted) {
        assert.equal(totalUsage.inputTokens, script.USAGE.prompt_tokens);
        assert.equal(totalUsage.outputTokens, script.USAGE.completion_tokens);
      }
    });

    test("a tool is called", scenario, async () => {
      const done = await generateText(ask(provider("tools"), { tools }));
      const seen = await parts(ask(provider("tools"), { tools }));
      for (const call of [done.toolCalls[0], the(seen, "tool-call")]) {
        assert.equal(call.toolCallId, "call_1");
        assert.equal(call.toolName, script.TOOL);
        assert.deepEqual(call.input, JSON.parse(script.ARGUMENTS));
      }
      assert.equal(done.finishReason, "tool-calls");
      assert.equal(the(seen, "finish").finishReason, "tool-calls");
    });

    test("an unknown model is an error that is not tried again", scenario, async () => {
      const refused = (error) =>
        APICallError.isInstance(error) && error.statusCode === 404 && !error.isRetryable && /does not exist/.test(error.message);
      await assert.rejects(generateText(ask(provider("unknown"))), refused);
      const seen = await parts(ask(provider("unknown")));
      assert.ok(refused(the(seen, "error").error));
      assert.ok(!seen.some((part) => part.type === "finish"));
    });

    test("a busy upstream is an error that says when to come again", scenario, async () => {
      const refused = (error) =>
        APICallError.isInstance(error) &&
        error.statusCode === 429 &&
        error.isRetryable &&
        error.responseHeaders["retry-after"] === String(script.RETRY_AFTER);
      await assert.rejects(generateText(ask(provider("busy"))), refused);
      assert.ok(refused(the(await parts(ask(provider("busy"))), "error").error));
    });

    test("a client that retries waits as it is told", scenario, async () => {
      const [before, began] = [(await stats("busy")).requests, performance.now()];
      await assert.rejects(generateText(ask(provider("busy"), { maxRetries: 1 })));
      assert.ok(performance.now() - began >= script.RETRY_AFTER * 1000);
      assert.equal((await stats("busy")).requests, before + 2);
    });

    test("a stream that breaks is an error and never a stop", scenario, async () => {
      const seen = await parts(ask(provider("broken")));
      const text = textOf(seen);
      assert.ok(text && script.NOVEL.startsWith(text));
      assert.match(the(seen, "error").error.message, /upstream/);
      assert.equal(the(seen, "finish").finishReason, "error");
    });

    test("an answer that breaks is a server error", scenario, async () => {
      await assert.rejects(generateText(ask(provider("broken"))), (error) => error.statusCode === 502);
    });

    test("a loop is cut out of a whole answer", async () => {
      const done = await generateText(ask(provider(loop), { maxOutputTokens: long }));
      assertCut(done.text, await upstreamChat(loop, long));
      assert.equal(done.finishReason, "stop");
      assert.equal(done.response.body.choices[0].stop_reason, "repetition_detected");
      assert.match(done.response.headers["x-dedup-loop"], /^content\/exact; /);
    });

    test("a cut ends a stream as any answer ends", async () => {
      const seen = await hangsUp(loop, () => parts(ask(provider(loop), { maxOutputTokens: long, includeRawChunks: true })));
      assertCut(textOf(seen), await upstreamChat(loop, long));
      assert.ok(!seen.some((part) => part.type === "error"));
      const { finishReason, totalUsage } = the(seen, "finish");
      assert.equal(finishReason, "stop");
      assert.ok(totalUsage.inputTokens > 0 && totalUsage.outputTokens > 0);
      const raw = seen.filter((part) => part.type === "raw").map((part) => part.rawValue.choices?.[0]);
      assert.equal(raw.find((choice) => choice?.finish_reason).stop_reason, "repetition_detected");
    });

    test("arguments that loop are not taken for complete", scenario, async () => {
      const seen = await hangsUp("tools-loop", () => parts(ask(provider("tools-loop"), { tools })));
      assert.equal(the(seen, "finish").finishReason, "length");
      assert.ok(the(seen, "tool-call").invalid);
    });
  });
}

describe("@ai-sdk/openai-compatible, more", () => {
  test("reasoning stands beside the answer", scenario, async () => {
    const done = await generateText(ask(compatible("reasoning")));
    assert.equal(done.reasoningText, script.THOUGHTS);
    assert.equal(done.text, script.NOVEL);
    const seen = await parts(ask(compatible("reasoning")));
    assert.equal(textOf(seen, "reasoning-delta"), script.THOUGHTS);
    assert.equal(textOf(seen), script.NOVEL);
    const kinds = seen.map((part) => part.type);
    assert.ok(kinds.indexOf("reasoning-end") < kinds.indexOf("text-start"));
  });

  test("thoughts that loop are not taken for an answer", scenario, async () => {
    const seen = await hangsUp("reasoning-loop", () => parts(ask(compatible("reasoning-loop"))));
    assert.equal(textOf(seen, "reasoning-delta").trimEnd(), cutText);
    assert.equal(textOf(seen), "");
    assert.equal(the(seen, "finish").finishReason, "length");
  });

  test("a text completion is the upstream's", async () => {
    const asked = `user:\n${prompt}\n\nassistant:\n`; // what the client makes of a prompt
    const full = await upstreamSays("completions", { model: novel, max_tokens: short, prompt: asked, stop: ["\nuser:"] });
    assert.equal((await generateText(ask(compatible.completionModel(novel)))).text, full);
    assert.equal(textOf(await parts(ask(compatible.completionModel(novel)))), full);
  });

  test("a cut ends a text completion", scenario, async () => {
    const seen = await hangsUp("loop", () => parts(ask(compatible.completionModel("loop"))));
    assert.equal(textOf(seen).trimEnd(), cutText);
    assert.equal(the(seen, "finish").finishReason, "stop");
  });

  test("embeddings pass through", scenario, async () => {
    const { embedding } = await embed({ model: compatible.textEmbeddingModel("novel"), value: "A river.", maxRetries: 0 });
    assert.deepEqual(embedding, script.VECTOR);
  });
});

describe("@ai-sdk/openai, more", () => {
  test("reasoning is dropped by the client and the answer stays", scenario, async () => {
    const done = await generateText(ask(openai.chat("reasoning")));
    assert.equal(done.reasoningText, undefined);
    assert.equal(done.text, script.NOVEL);
    const seen = await parts(ask(openai.chat("reasoning")));
    assert.equal(textOf(seen, "reasoning-delta"), "");
    assert.equal(textOf(seen), script.NOVEL);
  });

  test("a response is the upstream's", scenario, async () => {
    const done = await generateText(ask(openai.responses("novel")));
    assert.equal(done.text, script.NOVEL);
    assert.equal(done.finishReason, "stop");
    assert.equal(done.usage.outputTokens, script.USAGE.completion_tokens);
    const seen = await parts(ask(openai.responses("novel")));
    assert.equal(textOf(seen), script.NOVEL);
    assert.equal(the(seen, "finish").finishReason, "stop");
    assert.ok(!seen.some((part) => part.type === "error"));
  });

  test("a cut ends a response", scenario, async () => {
    assert.equal((await generateText(ask(openai.responses("loop")))).text.trimEnd(), cutText);
    const seen = await hangsUp("loop", () => parts(ask(openai.responses("loop"))));
    assert.equal(textOf(seen).trimEnd(), cutText);
    assert.ok(!seen.some((part) => part.type === "error"));
    assert.equal(the(seen, "finish").finishReason, "stop");
  });
});
