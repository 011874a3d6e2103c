// Tables in the browser: text to rows and back; a row that cannot be read keeps its place and says why.

function split(text, mark) {
  // RFC 4180: quoted cells may hold marks, line ends and doubled quotes.
  const rows = [];
  let row = [], cell = "", quoted = false, place = 0, wrong = false;
  const close = () => { row.push(cell); cell = ""; };
  const end = () => {
    close();
    if (row.length > 1 || row[0] !== "" || wrong) rows.push({ cells: row, wrong });
    row = []; wrong = false;
  };
  while (place < text.length) {
    const letter = text[place];
    if (quoted) {
      if (letter === '"' && text[place + 1] === '"') { cell += '"'; place += 1; }
      else if (letter === '"') quoted = false;
      else cell += letter;
    } else if (letter === '"' && cell === "") quoted = true;
    else if (letter === mark) close();
    else if (letter === "\n" || letter === "\r") { if (letter === "\r" && text[place + 1] === "\n") place += 1; end(); }
    else cell += letter;
    place += 1;
  }
  if (quoted) wrong = true;
  if (cell !== "" || row.length || wrong) end();
  return rows;
}

// Give {form, columns, rows: [{values, problem}]}; problem is a word of the page, "" when there is none. Throws the word of what is wrong.
export function parse(name, bytes) {
  let text;
  try { text = new TextDecoder("utf-8", { fatal: true }).decode(bytes); } catch { throw new Error("rows_bytes"); }
  const form = (/\.(\w+)$/.exec(name.toLowerCase()) || [])[1] || "txt";
  const rows = [];
  let columns = [];
  if (form === "csv" || form === "tsv") {
    const read = split(text, form === "csv" ? "," : "\t");
    if (!read.length) throw new Error("rows_none");
    columns = read[0].cells;
    if (new Set(columns).size < columns.length || columns.some((each) => !each.trim())) throw new Error("rows_header");
    for (const { cells, wrong } of read.slice(1)) {
      const values = {};
      columns.forEach((column, place) => { values[column] = cells[place] ?? ""; });
      rows.push({ values, extra: cells.slice(columns.length), problem: wrong ? "problem_quote" : cells.length !== columns.length ? "problem_columns" : "" });
    }
  } else if (form === "jsonl" || form === "ndjson") {
    const known = new Set();
    for (const line of text.split("\n")) {
      if (!line.trim()) continue;
      let values = null;
      try { values = JSON.parse(line); } catch { /* told in its row */ }
      const right = values !== null && typeof values === "object" && !Array.isArray(values);
      if (right) Object.keys(values).forEach((each) => known.add(each));
      rows.push({ values: right ? values : { text: line }, raw: right ? line.trim() : "", problem: right ? "" : "problem_json" });
    }
    columns = [...known];
  } else {
    columns = ["text"];
    for (const line of text.split(/\r\n?|\n/)) if (line.trim()) rows.push({ values: { text: line }, problem: "" });
  }
  if (!rows.length) throw new Error("rows_none");
  return { form: form === "ndjson" ? "jsonl" : form, columns, rows };
}

const ADDED = ["answer", "confidence", "abstained", "problem"];

// Write rows with their answers in the form they came in (lines of text become CSV); a name that is taken gets a prefix, as on the command line.
export function render({ form, columns, rows }, answers) {
  const explained = answers.some((each) => each.reasons);
  const names = [...ADDED, ...(explained ? ["reasons"] : [])].map((name) => (columns.includes(name) ? `zhixing_${name}` : name));
  const added = answers.map((each) => [each.answer ?? "", each.confidence ?? "", each.abstained ?? "", each.problem ?? "", ...(explained ? [form === "jsonl" ? each.reasons ?? "" : each.reasons ? JSON.stringify(each.reasons) : ""] : [])]);
  if (form === "jsonl") {
    // The line itself is kept and only grows: numbers that JavaScript cannot hold come back as they were.
    return rows.map(({ values, raw }, place) => {
      const more = JSON.stringify(Object.fromEntries(names.map((name, n) => [name, added[place][n]]))).slice(1);
      const line = raw || JSON.stringify(values);
      return `${line.slice(0, line.lastIndexOf("}"))}${Object.keys(values).length ? "," : ""}${more}\n`;
    }).join("");
  }
  const mark = form === "tsv" ? "\t" : ",";
  const cell = (value) => {
    const text = value === true ? "True" : value === false ? "False" : String(value);
    return text.includes(mark) || /["\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const line = (cells) => cells.map(cell).join(mark) + "\n";
  return line([...columns, ...names]) + rows.map(({ values, extra = [] }, place) => line([...columns.map((each) => values[each] ?? ""), ...added[place], ...extra])).join("");
}

// An answer as words: tags with spaces between, and what has parts of its own as JSON.
export const plain = (answer) => (Array.isArray(answer) && answer.every((each) => typeof each === "string") ? answer.join(" ")
  : answer !== null && typeof answer === "object" ? JSON.stringify(answer) : answer);
