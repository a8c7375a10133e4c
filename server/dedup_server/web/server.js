// Requests of the page to the server.

import { t } from "./words.js";

export class Refusal extends Error {}

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal(t("error.network"));
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refusal(body?.error?.message ?? t("error.status", { status: response.status }));
}

export async function models() {
  return (await (await request("/v1/models")).json()).data.map((model) => model.id);
}

export async function metrics() {
  return (await request("/metrics")).text();
}

// JSON cannot carry lone surrogates; the replacement has the same length.
export async function check(body, signal) {
  const sent = { ...body, text: body.text.toWellFormed() };
  const response = await request("/check", { method: "POST", body: JSON.stringify(sent), signal });
  return response.json();
}

// Yield the chunks of a streamed chat completion. Throw a Refusal if the server refuses or fails,
// or the stream breaks.
export async function* chat(body, signal) {
  const response = await request("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) throw new Refusal(t("error.broken"));
      const lines = (pending + value).split("\n");
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Refusal(chunk.error.message ?? t("error.broken"));
        yield chunk;
      }
    }
  } catch (error) {
    throw error instanceof TypeError || error instanceof SyntaxError ? new Refusal(t("error.broken")) : error;
  }
}
