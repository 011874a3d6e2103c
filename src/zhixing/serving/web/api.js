// Asking the server: JSON in and out, server-sent events, and every failure as one kind of problem.
import { language, say } from "./words.js";

let key = "";
try { key = sessionStorage.getItem("key") || ""; } catch { /* storage may be refused: the key then lives as long as the page */ }

export function use(given) {
  key = given;
  try { sessionStorage.setItem("key", given); } catch { /* as above */ }
}

export class Problem extends Error {
  constructor(status, message, code, wait) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

async function call(path, body, signal) {
  const headers = { "Accept-Language": language() };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem(0, say("gone"), "gone");
  }
  if (reply.ok) return reply;
  const wait = Number(reply.headers.get("Retry-After")) || 0;
  let told = null;
  try { told = (await reply.json()).error; } catch { /* no JSON: told below */ }
  throw new Problem(reply.status, told?.message ?? say("odd", { status: reply.status }), told?.code ?? "", wait);
}

export async function ask(path, body, signal) {
  const reply = await call(path, body, signal);
  try {
    return await reply.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem(0, say("gone"), "gone");
  }
}

// Yield the pieces of a streamed answer, each an object; a stream that ends before its end is a problem.
export async function* pieces(path, body, signal) {
  const reply = await call(path, { ...body, stream: true }, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Problem(0, say("gone"), "gone");
    }
    if (step.done) throw new Problem(0, say("gone"), "gone");
    held += step.value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const piece = JSON.parse(data);
      if (piece.error) throw new Problem(reply.status, piece.error.message, piece.error.code);
      yield piece;
    }
  }
}
