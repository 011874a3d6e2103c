// Answers for people: what was asked with what was found marked in it, then bars. Everything is put there as text, never as markup.
import { say } from "./words.js";

const RANKED = 20;

export function make(tag, words = "", rest = {}) {
  const made = document.createElement(tag);
  made.textContent = words;
  return Object.assign(made, rest);
}

export const share = (value) => (value >= 0.001 ? `${(100 * value).toFixed(1)} %` : value >= 0.00001 ? `${(100 * value).toPrecision(2)} %` : "< 0.001 %");

// entries: [{name, value, words, chosen, figure}]; value is the bar's length, 0..1, and figure stands beside it, else its share.
export function bars(list, entries, pick) {
  list.replaceChildren(...entries.map(({ name, value, words, chosen, figure }) => {
    const line = make("li", "", { className: chosen ? "answer" : "" });
    const label = pick ? make("button", words, { type: "button", disabled: !pick(name, true) }) : make("code", words);
    if (pick) label.addEventListener("click", () => pick(name, false));
    const bar = make("meter", "", { min: 0, max: 1, value });
    bar.setAttribute("aria-label", words);
    line.append(label, bar, make("span", figure ?? (pick ? `${share(value)}  (${Math.log(value).toFixed(2)})` : share(value))));
    return line;
  }));
}

function listed(entries) {
  const list = make("ol", "", { className: "next" });
  bars(list, entries);
  return list;
}

const titled = (word, node) => [make("h3", say(word)), node];

function marked(words, kind) {
  const made = make("mark", words);
  made.append(make("small", kind));
  return made;
}

// parts: what was sent, piece by piece; spans: [{type, start, end}] over them.
function passage(parts, spans, gap) {
  const pieces = [];
  let at = 0;
  for (const { type, start, end } of [...spans].sort((one, other) => one.start - other.start)) {
    if (start < at) continue;
    if (start > at) pieces.push(parts.slice(at, start).join(gap));
    pieces.push(marked(parts.slice(start, end).join(gap), type));
    at = end;
  }
  if (at < parts.length) pieces.push(parts.slice(at).join(gap));
  const place = make("p", "", { className: "passage" });
  place.append(...pieces.flatMap((each, number) => (number ? [gap, each] : [each])));
  return place;
}

// Tags that begin with B- and I- are spans; others stand below each token that has one.
export function spansOf(tags) {
  const found = [];
  let open = null;
  tags.forEach((tag, place) => {
    const goesOn = open && tag.startsWith("I-") && tag.slice(2) === open.type;
    if (goesOn) { open.end = place + 1; return; }
    open = null;
    if (tag === "O" || tag === "") return;
    open = { type: /^[BI]-/.test(tag) ? tag.slice(2) : tag, start: place, end: place + 1 };
    found.push(open);
    if (!/^[BI]-/.test(tag)) open = null;
  });
  return found;
}

function steps(items, correct, chances) {
  return listed(chances.map((value, place) => {
    const told = correct[place] === undefined ? "?" : correct[place] ? "✓" : "✗";
    return { name: String(place), value, words: `${told} ${items[place] ?? ""}`, chosen: correct[place] === undefined };
  }));
}

function scored(scores, answer, chances) {
  const entries = Object.entries(scores).sort((one, other) => other[1] - one[1]).slice(0, RANKED);
  const chosen = (name) => (Array.isArray(answer) ? answer.includes(name) : name === answer);
  if (chances) return listed(entries.map(([name, value]) => ({ name, value, words: name, chosen: chosen(name) })));
  const most = Math.max(...entries.map(([, value]) => Math.abs(value)), 1e-12);
  return listed(entries.map(([name, value]) => ({ name, value: Math.max(0, value / most), words: name, chosen: chosen(name), figure: value.toPrecision(3) })));
}

// Give the nodes that show an answer to a row; outputs is the JSON Schema of an answer.
export function told(row, found, outputs) {
  const { answer } = found;
  const nodes = [];
  const strings = Array.isArray(answer) && answer.every((each) => typeof each === "string");
  if (strings && row.tokens) nodes.push(passage(row.tokens, spansOf(answer), " "));
  else if (Array.isArray(answer) && row.items) nodes.push(...titled("chances", steps(row.items, row.correct ?? [], answer)));
  else if (answer !== null && typeof answer === "object" && !Array.isArray(answer)) {
    if (answer.label !== undefined) nodes.push(make("p", answer.label, { className: "verdict" }));
    if (answer.entities) nodes.push(row.tokens ? passage(row.tokens, answer.entities, " ") : passage([...(row.text ?? "")], answer.entities, ""));
  } else nodes.push(make("p", (strings ? answer.join(", ") : String(answer)) || say("nothing"), { className: "verdict" }));
  if (found.confidence !== null) nodes.push(make("p", say("sure", { confidence: share(found.confidence) }), { className: "note" }));
  const scores = found.scores && Object.keys(found.scores).length ? found.scores : null;
  const label = answer !== null && typeof answer === "object" && !Array.isArray(answer) ? answer.label : answer;
  if (scores && typeof answer === "number") nodes.push(make("p", Object.entries(scores).map(([name, value]) => `${name}: ${value.toFixed(3)}`).join(", "), { className: "note" }));
  else if (scores) {
    const chances = outputs?.properties.scores.anyOf[0].additionalProperties.maximum === 1;
    nodes.push(...titled(chances ? "probabilities" : "ranked", scored(scores, label, chances)));
  }
  const reasons = Object.entries(found.reasons ?? {});
  if (reasons.length) {
    const most = Math.max(...reasons.map(([, value]) => value));
    const cells = row.row ?? {};
    nodes.push(...titled("reasons", listed(reasons.map(([name, value]) => ({ name, value: value / most, words: name in cells ? `${name}: ${cells[name] ?? "–"}` : name, figure: value.toPrecision(3) })))));
  }
  return nodes;
}
