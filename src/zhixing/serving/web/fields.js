// What a model asks for, by the JSON Schema of a row in /v1/models: fields, and how what a person writes, or a cell of a table, becomes a value.

const NUMBER = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i;

// Give [{name, form, needed, sort}]; sort is one of text, number, list, flags, record, image, sound.
export function fields(schema) {
  return Object.entries(schema?.properties ?? {}).map(([name, form]) => ({ name, form, needed: schema.required.includes(name), sort: sortOf(form) }));
}

function sortOf(form) {
  if (form.type === "object") return "record";
  if (form.type === "array") return form.items.type === "number" ? "flags" : "list";
  if (form.pattern?.startsWith("^data:")) return form.pattern.startsWith("^data:image/") ? "image" : "sound";
  return form.type === "number" ? "number" : "text";
}

const cell = (value) => {
  if (typeof value === "boolean") return String(value);
  if (typeof value !== "string") return value;
  return NUMBER.test(value) ? Number(value) : value.trim() ? value : null;
};

// One `column: value` a line, or a JSON object.
function record(text) {
  if (text.trim().startsWith("{")) {
    try { return JSON.parse(text); } catch { throw new Error("problem_json"); }
  }
  const found = {};
  for (const line of text.split(/\r\n?|\n/)) {
    if (!line.trim()) continue;
    const at = /[:：=\t]/.exec(line);
    if (!at) throw new Error("problem_cells");
    found[line.slice(0, at.index).trim()] = line.slice(at.index + 1).trim();
  }
  return found;
}

// Words parted by spaces; or, where there are several lines, one a line.
const list = (text) => (/\S.*[\r\n]+.*\S/s.test(text) ? text.split(/[\r\n]+/) : text.split(/\s+/)).map((each) => each.trim()).filter(Boolean);

// Give the value that is sent for a field, undefined when nothing is there; throws the word of what is wrong.
export function read({ sort, needed }, given) {
  const empty = given == null || (typeof given === "string" && !given.trim());
  if (sort === "record") {
    const found = empty ? {} : typeof given === "string" ? record(given) : given;
    const cells = Object.entries(found ?? {}).map(([name, value]) => [name, cell(value)]);
    if (Array.isArray(found) || !cells.length || cells.some(([, value]) => typeof value === "object" && value !== null)) throw new Error("problem_cells");
    return Object.fromEntries(cells);
  }
  if (empty && sort === "flags") return [];
  if (empty) {
    if (needed) throw new Error("problem_empty");
    return undefined;
  }
  if (["text", "image", "sound"].includes(sort)) {
    const text = Array.isArray(given) && given.every((each) => typeof each === "string") ? given.join("\n") : given;
    if (typeof text !== "string") throw new Error("problem_text");
    return text;
  }
  if (sort === "number") {
    if (!NUMBER.test(String(given))) throw new Error("problem_number");
    return Number(given);
  }
  const parts = typeof given === "string" ? list(given) : given;
  if (!Array.isArray(parts)) throw new Error("problem_list");
  if (sort === "list") {
    if (!parts.every((each) => ["string", "number"].includes(typeof each) && String(each))) throw new Error("problem_list");
    return parts.map(String);
  }
  const flags = parts.map((each) => ({ 0: 0, 1: 1, false: 0, true: 1 })[String(each)]);
  if (flags.includes(undefined)) throw new Error("problem_flags");
  return flags;
}

// Give a chosen file as it is sent, a data URL; undefined when none is chosen.
export function content(file) {
  return new Promise((resolve, reject) => {
    if (!file) { resolve(undefined); return; }
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error("problem_file")));
    reader.readAsDataURL(file);
  });
}

// Give a row as it is sent; get(field) is what stands there. Throws the word of what is wrong, with the field's name.
export function row(all, get) {
  const made = {};
  for (const field of all) {
    try {
      const value = read(field, get(field));
      if (value !== undefined) made[field.name] = value;
    } catch (problem) {
      throw Object.assign(problem, { field: field.name });
    }
  }
  if (!Object.keys(made).length) throw Object.assign(new Error("problem_empty"), { field: all[0]?.name });
  return made;
}
