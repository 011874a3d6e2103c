// The page: four views over the server's own routes. What a model writes is only ever shown as text.
import { bars, make, share, told } from "./answers.js";
import { Problem, ask, pieces, use } from "./api.js";
import { content, fields, row as rowOf } from "./fields.js";
import { parse, plain, render } from "./rows.js";
import { language, say, speak } from "./words.js";

const at = (id) => document.getElementById(id);
const TABS = ["try", "compare", "next", "predict"];
const TOP = 10, LOOK = 20, MOST_LABELS = 12, BATCH = 64, SHOWN = 200, TRIES = 5;
let models = [], table = null, answers = [], stopping = null;
const trail = [];

function show(token) {
  if (token.startsWith("bytes:")) return `${token.slice(6)} ${say("part")}`;
  if (token === "<|end|>") return say("ends_text");
  return token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "∅";
}

function warn(problem) {
  const words = problem instanceof Problem ? problem.message : String(problem.message || problem);
  at("notice").textContent = problem.status === 401 ? say("key_wanted") : words;
  at("notice").hidden = false;
  at("door").hidden = problem.status !== 401;
  if (problem.status === 401) at("key").focus();
}

const calm = () => { at("notice").hidden = true; at("door").hidden = true; };

function translate(root = document) {
  root.querySelectorAll("[data-word]").forEach((each) => { each.textContent = say(each.dataset.word); });
  root.querySelectorAll("[data-hint]").forEach((each) => { each.placeholder = say(each.dataset.hint); });
  root.querySelectorAll("[data-name]").forEach((each) => { each.setAttribute("aria-label", say(each.dataset.name)); });
}

function turn(to) {
  speak(to);
  document.documentElement.lang = language() === "zh" ? "zh-Hans" : "en";
  try { localStorage.setItem("language", language()); } catch { /* not kept, then */ }
  translate();
  at("language").textContent = say("other");
  at("language").lang = language() === "zh" ? "en" : "zh-Hans";
  describe();
  command();
}

// Models

const current = () => models.find((each) => each.id === at("model").value);
const writes = (model) => model?.routes.includes("/v1/completions");

function describe() {
  const model = current();
  if (!model) return;
  const number = (value) => (value ?? 0).toLocaleString(language());
  const values = { family: model.family, task: model.task, vocabulary: number(model.vocabulary) };
  values.parameters = model.parameters == null ? "" : say("about_parameters", { parameters: number(model.parameters) });
  values.window = model.window == null ? say("unbounded") : number(model.window);
  const labels = model.output_schema?.properties.answer.enum ?? [];
  values.labels = labels.length ? say("about_labels", { labels: labels.slice(0, MOST_LABELS).join(", ") + (labels.length > MOST_LABELS ? ", …" : "") }) : "";
  values.fields = fields(model.input_schema).map(({ name }) => name).join(", ");
  at("about").textContent = say(writes(model) ? "about_writes" : "about_answers", values);
  const before = at("rows-precision").value;
  at("rows-precision").replaceChildren(make("option", say("precision_none"), { value: "" }), ...model.precisions.map((each) => make("option", String(each), { value: String(each) })));
  question();
  choices();
  at("rows-precision").value = [...at("rows-precision").options].some((each) => each.value === before) ? before : "";
}

async function start() {
  try {
    models = (await ask("/v1/models")).data;
  } catch (problem) {
    warn(problem);
    return;
  }
  calm();
  const before = at("model").value;
  at("model").replaceChildren(...models.map((each) => make("option", each.id, { value: each.id })));
  if (models.some((each) => each.id === before)) at("model").value = before;
  if (!models.length) warn(say("no_model"));
  describe();
  columns();
  command();
  if (models.length && !location.hash) open(writes(current()) ? "try" : "predict");
}

function fits(wanted) {
  const model = current();
  if (!model || writes(model) === wanted) return Boolean(model);
  warn(say(wanted ? "wrong_model_writes" : "wrong_model_answers"));
  return false;
}

// Tabs

function open(name) {
  for (const each of TABS) {
    const chosen = each === name;
    at(`tab-${each}`).setAttribute("aria-selected", String(chosen));
    at(`tab-${each}`).tabIndex = chosen ? 0 : -1;
    at(`view-${each}`).hidden = !chosen;
  }
}

at("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -TABS.length, End: TABS.length }[event.key];
  if (!step) return;
  const now = TABS.findIndex((each) => at(`tab-${each}`).getAttribute("aria-selected") === "true");
  const next = Math.abs(step) > 1 ? (step < 0 ? 0 : TABS.length - 1) : (now + step + TABS.length) % TABS.length;
  open(TABS[next]);
  at(`tab-${TABS[next]}`).focus();
  event.preventDefault();
});
for (const each of TABS) at(`tab-${each}`).addEventListener("click", () => { location.hash = each; open(each); });

// Writing

function settings(root) {
  const found = {};
  for (const each of root.querySelectorAll("input[name]")) {
    if (each.name === "stop") { if (each.value) found.stop = [each.value.replaceAll("\\n", "\n").replaceAll("\\t", "\t")]; }
    else if (each.value !== "" && !(["top_k", "min_p"].includes(each.name) && Number(each.value) === 0)) found[each.name] = Number(each.value);
  }
  return found;
}

function knobs(root) {
  root.append(at("settings").content.cloneNode(true));
  translate(root);
}

// Stream one text into a place; give {tokens, reason}; each token can be opened when `look` is given.
async function write(body, place, state, signal, look) {
  const began = performance.now();
  place.replaceChildren(make("span", body.prompt, { className: "prompt" }));
  state.textContent = say("working");
  let tokens = 0, reason = "", forgotten = 0;
  try {
    for await (const piece of pieces("/v1/completions", body, signal)) {
      const choice = piece.choices[0];
      if (!choice) continue;
      const told = choice.logprobs;
      tokens += told ? told.tokens.length : 1;
      if (choice.text || told) {
        const made = make("span", choice.text);
        if (look && told) look(made, told);
        if (choice.text) place.append(made);
        place.scrollTop = place.scrollHeight;
      }
      if (choice.finish_reason) { reason = choice.finish_reason; forgotten = choice.forgotten || 0; }
    }
  } catch (problem) {
    state.textContent = say("stopped", { tokens });
    if (problem.name !== "AbortError") throw problem;
    return;
  }
  const seconds = (performance.now() - began) / 1000;
  const values = { tokens, seconds: seconds.toFixed(1), rate: (tokens / Math.max(seconds, 0.001)).toFixed(0), reason: say(`reason_${reason}`) };
  state.textContent = say("written", values) + (forgotten ? ` ${say("forgotten", { forgotten })}` : "");
}

// Every token of the answer can be opened, by pointer or, with the answer in focus, by the arrow keys.
const opened = new WeakMap();

function look(span, told) {
  span.className = "piece";
  opened.set(span, told);
}

function reveal(span) {
  const told = opened.get(span);
  at("try-text").querySelectorAll(".chosen").forEach((each) => each.classList.remove("chosen"));
  span.classList.add("chosen");
  const list = make("ol", "", { className: "next" });
  const [name, value] = [told.tokens[0], Math.exp(told.token_logprobs[0])];
  const entries = Object.entries(told.top_logprobs?.[0] ?? {}).map(([each, log]) => ({ name: each, value: Math.exp(log), words: show(each), chosen: each === name }));
  bars(list, entries.sort((one, other) => other.value - one.value));
  at("try-token").replaceChildren(make("p", say("token_about", { token: show(name), probability: share(value) })), make("p", say("alternatives"), { className: "note" }), list);
  at("try-token").hidden = false;
}

at("try-text").addEventListener("click", (event) => { if (opened.has(event.target)) reveal(event.target); });
at("try-text").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const all = [...at("try-text").querySelectorAll(".piece")];
  if (!step || !all.length) return;
  const now = all.findIndex((each) => each.classList.contains("chosen"));
  reveal(all[Math.min(Math.max(now + step, 0), all.length - 1)]);
  event.preventDefault();
});

function command() {
  const body = { model: at("model").value, prompt: at("try-prompt").value, ...settings(at("try-settings")) };
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  at("try-command").textContent = `curl ${location.origin}/v1/completions -H 'Content-Type: application/json' -d '${quoted}'`;
}

function running(names, going) {
  at(names[0]).disabled = going;
  at(names[1]).disabled = !going;
}

async function guarded(names, work) {
  if (stopping) return;
  calm();
  stopping = new AbortController();
  running(names, true);
  try {
    await work(stopping.signal);
  } catch (problem) {
    if (problem.name !== "AbortError") warn(problem);
  } finally {
    stopping = null;
    running(names, false);
  }
}

at("try-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!fits(true)) return;
  at("try-token").hidden = true;
  at("try-copy").disabled = true;
  const body = { model: current().id, prompt: at("try-prompt").value, logprobs: TOP, ...settings(at("try-settings")) };
  guarded(["try-run", "try-stop"], (signal) => write(body, at("try-text"), at("try-state"), signal, look)).then(() => { at("try-copy").disabled = !at("try-text").textContent; });
});
at("try-copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("try-text").textContent);
    at("try-state").textContent = say("copied");
  } catch (problem) { warn(problem); }
});
at("try-form").addEventListener("input", command);

// Comparing

function columns() {
  while (at("compare-columns").children.length < 2) column();
  for (const each of at("compare-columns").querySelectorAll("select")) {
    const before = each.value;
    each.replaceChildren(...models.filter(writes).map((model) => make("option", model.id, { value: model.id })));
    if ([...each.options].some((option) => option.value === before)) each.value = before;
  }
}

function column() {
  const made = make("div", "", { className: "column" });
  const label = make("label", "");
  label.append(make("span", say("model")), make("select"));
  label.firstChild.dataset.word = "model";
  const knobsHere = make("div", "", { className: "settings" });
  knobs(knobsHere);
  const state = make("p", "", { className: "state" });
  state.setAttribute("role", "status");
  const text = make("div", "", { className: "text", tabIndex: 0 });
  text.dataset.name = "answer";
  const remove = make("button", say("remove"), { type: "button" });
  remove.dataset.word = "remove";
  remove.addEventListener("click", () => { if (at("compare-columns").children.length > 1) made.remove(); });
  made.append(label, knobsHere, state, text, remove);
  at("compare-columns").append(made);
  const place = at("compare-columns").children.length;
  if (place === 2) made.querySelector("[name=temperature]").value = "1.2";
}

at("compare-add").addEventListener("click", () => { column(); columns(); });
at("compare-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!models.some(writes)) { warn(say("wrong_model_writes")); return; }
  guarded(["compare-run", "compare-stop"], async (signal) => {
    const done = await Promise.allSettled([...at("compare-columns").children].map((each) => {
      const body = { model: each.querySelector("select").value, prompt: at("compare-prompt").value, ...settings(each) };
      return write(body, each.querySelector(".text"), each.querySelector(".state"), signal);
    }));
    const failed = done.find((each) => each.status === "rejected");
    if (failed) throw failed.reason;
  });
});

// The next token

async function next() {
  if (!fits(true)) return;
  await guarded(["next-run", "next-run"], async (signal) => {
    const body = { model: current().id, prompt: at("next-prompt").value, max_tokens: 1, temperature: 0, logprobs: LOOK };
    const told = (await ask("/v1/completions", body, signal)).choices[0].logprobs.top_logprobs[0];
    const entries = Object.entries(told).map(([name, log]) => ({ name, value: Math.exp(log), words: show(name) })).sort((one, other) => other.value - one.value);
    const mass = entries.reduce((sum, each) => sum + each.value, 0);
    at("next-state").textContent = say("next_about", { count: entries.length, vocabulary: current().vocabulary, mass: share(mass) });
    bars(at("next-list"), entries, (name, asking) => {
      const able = !name.startsWith("bytes:") && !/^<\|\w+\|>$/.test(name);
      if (asking || !able) return able;
      trail.push(at("next-prompt").value);
      at("next-prompt").value += name;
      next().then(() => at("next-list").querySelector("button:not(:disabled)")?.focus());
      return true;
    });
  });
  at("next-run").disabled = false;
  at("next-back").disabled = !trail.length;
}

at("next-form").addEventListener("submit", (event) => { event.preventDefault(); next(); });
at("next-back").addEventListener("click", () => { if (trail.length) { at("next-prompt").value = trail.pop(); next(); } });

// Answering

const FIELDS = { text: "field_text", tokens: "field_tokens", source: "field_source", reference: "field_reference", question: "field_question", items: "field_items", correct: "field_correct", row: "field_row", image: "field_image", audio: "field_audio" };
const FILES = { image: "image/*", sound: "audio/*,.flac,.ogg,.opus" };
const HINTS = { text: "hint_text", number: "hint_number", list: "hint_list", flags: "hint_flags", record: "hint_record" };
const KNOWN = {
  text: ["sentence", "content", "review", "comment", "message", "answer", "文本", "内容", "正文", "句子", "评论", "回答"],
  question: ["问题"], reference: ["参考", "参考答案"], tokens: ["words", "词", "字"], source: ["src", "原文"], items: ["history", "物品"], correct: ["对错"],
};

// The form that asks one row of the chosen model: a field for each that it reads. What was written stays when the model or language changes.
function question() {
  const before = Object.fromEntries([...at("predict-fields").querySelectorAll("[name]")].map((each) => [each.name, each]));
  const wanted = fields(current()?.input_schema);
  at("predict-fields").replaceChildren(...wanted.map((field) => {
    const named = field.name in FIELDS ? say(FIELDS[field.name]) : field.name;
    const label = make("label", "", { className: "wide" });
    label.append(make("span", field.needed ? named : say("optional", { name: named })));
    if (field.sort in FILES) {
      const kept = before[field.name]?.type === "file" ? before[field.name] : null; // what was chosen cannot be put into another one
      label.append(kept ?? make("input", "", { type: "file", name: field.name, id: `predict-${field.name}`, accept: FILES[field.sort] }));
      return label;
    }
    const lines = field.sort === "number" || field.sort === "flags" ? 1 : field.sort === "record" ? Math.min(12, Math.max(4, Object.keys(field.form.properties ?? {}).length)) : 3;
    const box = make("textarea", "", { name: field.name, id: `predict-${field.name}`, rows: lines, placeholder: say(HINTS[field.sort]) });
    const columns = Object.keys(field.form.properties ?? {}).map((each) => `${each}: `).join("\n");
    box.defaultValue = columns;
    const kept = before[field.name];
    if (kept && kept.value !== kept.defaultValue) box.value = kept.value;
    label.append(box);
    return label;
  }));
  if (wanted.map(({ name }) => name).join() !== Object.keys(before).join()) at("predict-told").replaceChildren();
}

const troubled = (problem) => (problem.field ? say("wrong_field", { name: problem.field, problem: say(problem.message) }) : say(problem.message));

at("predict-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!fits(false)) return;
  const model = current(), boxes = [...at("predict-fields").querySelectorAll("[name]")];
  guarded(["predict-run", "predict-run"], async (signal) => {
    let row;
    try {
      const given = await Promise.all(boxes.map(async (each) => [each.name, each.type === "file" ? await content(each.files[0]) : each.value]));
      row = rowOf(fields(model.input_schema), ({ name }) => Object.fromEntries(given)[name]);
    } catch (problem) {
      warn(troubled(problem));
      return;
    }
    const [found] = (await ask("/v1/predict", { model: model.id, rows: [row] }, signal)).answers;
    at("predict-told").replaceChildren(...told(row, found, model.output_schema));
  }).then(() => { at("predict-run").disabled = false; });
});

// Which column of a table holds each field; a record is made of all columns that no other field has.
function choices() {
  const wanted = fields(current()?.input_schema).filter(({ sort }) => sort !== "record");
  const before = Object.fromEntries([...at("rows-columns").querySelectorAll("select")].map((each) => [each.name, each.value]));
  at("rows-columns").replaceChildren(...wanted.map((field) => {
    const label = make("label");
    const select = make("select", "", { name: field.name, id: `rows-column-${field.name}`, disabled: !table });
    if (table) {
      const found = [field.name, ...(KNOWN[field.name] ?? [])].map((each) => table.columns.find((name) => name.trim().toLowerCase() === each)).find((each) => each !== undefined);
      const alone = wanted.length === 1 && field.needed;
      select.append(...(alone ? [] : [make("option", say("column_none"), { value: "" })]), ...table.columns.map((each) => make("option", each, { value: each })));
      select.value = table.columns.includes(before[field.name]) ? before[field.name] : found ?? (alone ? table.columns[0] : "");
    }
    label.append(make("span", field.name === "text" && wanted.length === 1 ? say("column") : say("column_of", { name: field.name })), select);
    return label;
  }), ...(fields(current()?.input_schema).some(({ sort }) => sort === "record") ? [make("p", say("column_all"), { className: "note" })] : []));
}

at("rows-file").addEventListener("change", async () => {
  const [file] = at("rows-file").files;
  table = null;
  answers = [];
  at("rows-save").disabled = at("rows-run").disabled = true;
  at("rows-table").replaceChildren();
  at("rows-columns").replaceChildren();
  choices();
  if (!file) return;
  calm();
  try {
    table = parse(file.name, await file.arrayBuffer());
  } catch (problem) {
    warn(say(problem.message));
    return;
  }
  table.name = file.name;
  at("rows-columns").replaceChildren();
  choices();
  at("rows-run").disabled = false;
  at("rows-state").textContent = say("rows_found", { rows: table.rows.length, bad: table.rows.filter((each) => each.problem).length, columns: table.columns.join(", ") });
  paint();
});

function paint() {
  const heads = [...table.columns, ...["answer", "confidence", "abstained", "problem"].map((each) => say(`head_${each}`))];
  const lines = table.rows.slice(0, SHOWN).map(({ values }, place) => {
    const found = answers[place] ?? {};
    const line = make("tr");
    const told = [found.answer, found.confidence?.toFixed?.(3), found.abstained === undefined ? "" : say(found.abstained ? "yes" : "no"), found.problem];
    line.append(...[...table.columns.map((each) => values[each]), ...told].map((each) => make("td", each == null ? "" : typeof each === "string" ? each : JSON.stringify(each))));
    return line;
  });
  const head = make("tr");
  head.append(...heads.map((each) => Object.assign(make("th", each), { scope: "col" })));
  const caption = make("caption", say("shown", { shown: lines.length, rows: table.rows.length }), { className: "note" });
  const top = make("thead"), body = make("tbody");
  top.append(head);
  body.append(...lines);
  at("rows-table").replaceChildren(caption, top, body);
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("", "AbortError")); }, { once: true });
});

// Ask for some rows; a batch that is refused is asked row by row, so that one bad row costs no other its answer.
async function batch(rows, precision, signal) {
  for (let tries = 0; ; tries += 1) {
    try {
      const body = { model: current().id, rows };
      if (precision) body.precision = precision;
      return (await ask("/v1/predict", body, signal)).answers;
    } catch (problem) {
      if ((problem.status === 429 || problem.status === 503) && tries < TRIES) {
        const seconds = Math.max(problem.wait || 1, 1);
        at("rows-state").textContent = say("busy", { seconds });
        await pause(seconds, signal);
      } else if ([400, 413, 422].includes(problem.status) && rows.length > 1) {
        const found = [];
        for (const each of rows) found.push(...await batch([each], precision, signal));
        return found;
      } else if ([400, 413, 422].includes(problem.status)) return [{ problem: problem.message }];
      else throw problem;
    }
  }
}

at("rows-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!table || !fits(false)) return;
  const wanted = fields(current().input_schema), precision = Number(at("rows-precision").value) || 0;
  const columns = Object.fromEntries([...at("rows-columns").querySelectorAll("select")].map((each) => [each.name, each.value]));
  const missing = wanted.find(({ name, needed, sort }) => needed && sort !== "record" && !columns[name]);
  if (missing) { warn(say("column_wanted", { name: missing.name })); return; }
  const taken = new Set(Object.values(columns));
  const sent = [];
  answers = table.rows.map(({ values, problem }, place) => {
    if (problem) return { problem: say(problem) };
    const rest = Object.fromEntries(Object.entries(values).filter(([name]) => !taken.has(name)));
    // A table that comes from this page's own API may hold its record as one object.
    const whole = ({ name }) => (values[name] !== null && typeof values[name] === "object" ? values[name] : rest);
    try {
      sent[place] = rowOf(wanted, (field) => (field.sort === "record" ? whole(field) : columns[field.name] === "" ? undefined : values[columns[field.name]]));
      return null;
    } catch (trouble) {
      return { problem: wanted.length === 1 ? say(trouble.message) : troubled(trouble) };
    }
  });
  const waiting = answers.map((each, place) => (each === null ? place : -1)).filter((place) => place >= 0);
  let done = table.rows.length - waiting.length;
  at("rows-progress").hidden = false;
  at("rows-save").disabled = true;
  guarded(["rows-run", "rows-stop"], async (signal) => {
    try {
      for (let start = 0; start < waiting.length; start += BATCH) {
        const places = waiting.slice(start, start + BATCH);
        const found = await batch(places.map((place) => sent[place]), precision, signal);
        places.forEach((place, number) => { answers[place] = { ...found[number], answer: plain(found[number].answer) }; });
        done += places.length;
        at("rows-progress").value = done / table.rows.length;
        at("rows-state").textContent = say("rows_going", { done, rows: table.rows.length });
      }
      const problems = answers.filter((each) => each.problem).length, abstained = answers.filter((each) => each.abstained).length;
      at("rows-state").textContent = say("rows_done", { rows: table.rows.length, answered: table.rows.length - problems - abstained, abstained, problems });
      at("rows-save").disabled = false;
    } catch (problem) {
      at("rows-state").textContent = say("rows_stopped", { done, rows: table.rows.length });
      throw problem;
    } finally {
      answers = answers.map((each) => each ?? {});
      paint();
      at("rows-progress").hidden = true;
    }
  });
});

at("rows-save").addEventListener("click", () => {
  const place = URL.createObjectURL(new Blob([render(table, answers)], { type: "text/plain;charset=utf-8" }));
  const ending = table.form === "txt" ? "csv" : table.form;
  const link = make("a", "", { href: place, download: `${table.name.replace(/\.\w+$/, "")}.answers.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(place), 10000);
});

// The page as a whole

for (const each of ["try-stop", "compare-stop", "rows-stop"]) at(each).addEventListener("click", () => stopping?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopping?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    const form = (document.activeElement?.closest("form")) ?? document.querySelector("main > section:not([hidden]) form");
    if (form) { event.preventDefault(); form.requestSubmit(); }
  }
});
at("language").addEventListener("click", () => turn(language() === "zh" ? "en" : "zh"));
at("model").addEventListener("change", () => { describe(); command(); });
at("door").addEventListener("submit", (event) => { event.preventDefault(); use(at("key").value); at("key").value = ""; start(); });

knobs(at("try-settings"));
let kept = "";
try { kept = localStorage.getItem("language") || ""; } catch { /* not kept, then */ }
turn(kept || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
open(TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "try");
start();
