// The page talks to its own server only, and writes what comes as text, never as markup.
"use strict";

const at = (id) => document.getElementById(id);
let turns = [];
let running = null;

function element(name, text, kind) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind;
  return e;
}

function headers() {
  const h = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) h.Authorization = "Bearer " + key;
  return h;
}

async function ask(path, options) {
  const response = await fetch(path, { headers: headers(), ...options });
  if (response.ok) return response;
  let text = response.statusText;
  try { text = (await response.json()).error.message; } catch { /* no JSON */ }
  if (response.status === 401) at("login").hidden = false;
  throw new Error(text);
}

function bytes(n) {
  if (n >= 1e6) return (n / 1e6).toFixed(1) + " MB";
  if (n >= 1e3) return (n / 1e3).toFixed(1) + " kB";
  return n + " B";
}

function showPeers(peers) {
  const rows = peers.map((p) => {
    const row = element("tr");
    row.append(element("td", p.name || p.id || "?"), element("td", String(p.tokens)), element("td", bytes(p.bytes)));
    row.append(p.missing ? element("td", "missing: " + p.missing.text, "missing") : element("td", p.state || (p.local ? "this device" : "present")));
    return row;
  });
  if (rows.length === 0) {
    const row = element("tr"), cell = element("td", "none: this device answers alone");
    cell.colSpan = 4;
    row.append(cell);
    rows.push(row);
  }
  at("peers").replaceChildren(...rows);
}

function showReceipts(receipts) {
  at("given").hidden = receipts.length === 0;
  at("receipts").replaceChildren(...receipts.map((r) => {
    const row = element("tr");
    const what = r.outcome === "sent" ? bytes(r.bytes) : r.outcome + (r.error ? ": " + r.error : "");
    row.append(element("td", new Date(r.time).toLocaleString()), element("td", r.name), element("td", r.documents.join(", ")), element("td", what));
    return row;
  }));
}

function showFacts(federation, timings) {
  const facts = [];
  const add = (name, text) => facts.push(element("dt", name), element("dd", text));
  add("first token", (federation.ttft_ms / 1000).toFixed(1) + " s");
  add("waiting for rows", ((federation.wait_ms + federation.sync_ms) / 1000).toFixed(1) + " s");
  add("received", bytes(federation.bytes));
  add("answer", timings.predicted_n + " tokens, " + timings.predicted_per_second.toFixed(1) + " a second");
  at("facts").replaceChildren(...facts);
}

async function overview() {
  try {
    const o = await (await ask("v1/federation")).json();
    at("state").textContent = o.model + (o.busy ? ", answering" : ", ready");
    showModels(o.models || []);
    showPeers(o.peers);
    at("documents").replaceChildren(...(o.documents.length ? o.documents : [{ name: "none", tokens: 0 }])
      .map((d) => element("li", d.name + (d.tokens ? ": " + d.tokens + " tokens" : "") + (d.policy ? ", " + d.policy : ""))));
    showReceipts(o.receipts);
    at("login").hidden = true;
  } catch (e) {
    at("state").textContent = e.message;
  }
}

// showModels lets people choose, where there is a choice. What they chose stays chosen.
function showModels(models) {
  const chosen = at("model").value, names = models.map((m) => m.name);
  at("choice").hidden = names.length < 2;
  if (names.join("\n") === Array.from(at("model").options, (o) => o.value).join("\n")) return;
  at("model").replaceChildren(...names.map((name) => {
    const option = element("option", name);
    option.value = name;
    return option;
  }));
  if (names.includes(chosen)) at("model").value = chosen;
}

// pieces calls take with each event of an answer.
async function pieces(response, take) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const e of events) {
      const data = e.replace(/^data: /, "");
      if (data !== "[DONE]") take(JSON.parse(data));
    }
  }
}

// showAnswer writes thoughts dimmed, and everything as text.
function showAnswer(item, text) {
  const parts = text.split(/<think>|<\/think>/);
  item.replaceChildren(...parts.map((part, i) => element("span", part, i % 2 ? "thought" : "")));
}

async function say(question) {
  at("talk").append(element("li", question, "user"));
  const item = element("li", "…");
  at("talk").append(item);
  item.scrollIntoView({ block: "nearest" });
  const messages = [];
  for (const t of turns) messages.push({ role: "user", content: t.user }, { role: "assistant", content: t.answer });
  messages.push({ role: "user", content: question });
  running = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  let answer = "";
  try {
    const response = await ask("v1/chat/completions", {
      method: "POST", signal: running.signal, body: JSON.stringify({ model: at("model").value, messages, stream: true }),
    });
    await pieces(response, (event) => {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0] && event.choices[0].delta;
      if (delta && delta.content) showAnswer(item, answer += delta.content);
      if (event.federation) {
        showPeers(event.federation.peers);
        showFacts(event.federation, event.timings);
      }
    });
    turns.push({ user: question, answer });
    if (answer === "") item.textContent = "(no answer)";
  } catch (e) {
    item.className = "failed";
    item.textContent = answer + (answer ? "\n" : "") + (e.name === "AbortError" ? "stopped" : e.message);
  }
  running = null;
  at("send").disabled = false;
  at("stop").disabled = true;
}

at("ask").addEventListener("submit", (e) => {
  e.preventDefault();
  const question = at("question").value.trim();
  if (!question || running) return;
  at("question").value = "";
  say(question);
});
at("question").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
    e.preventDefault();
    at("ask").requestSubmit();
  }
});
addEventListener("keydown", (e) => { if (e.key === "Escape" && running) running.abort(); });
at("stop").addEventListener("click", () => { if (running) running.abort(); });
at("clear").addEventListener("click", () => { turns = []; at("talk").replaceChildren(); at("question").focus(); });
at("login").addEventListener("submit", (e) => {
  e.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  at("key").value = "";
  overview();
});
overview();
setInterval(() => { if (!running && !document.hidden) overview(); }, 5000);
