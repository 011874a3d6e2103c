// The page's words in both languages; equal keys and placeholders, held by a test.
export const WORDS = {
  en: {
    other: "中文", views: "Views", answer: "Answer", progress: "Progress",
    model: "Model", try: "Try", compare: "Compare", next: "Next token", predict: "Answer rows",
    prompt: "Prompt", prompt_hint: "The text to continue; it may be empty", run: "Write", run_both: "Write all", stop_now: "Stop", copy: "Copy",
    keys: "Ctrl+Enter writes, Esc stops; choose a token of the answer to see what else it might have been", command: "The same from a shell", add: "One more", remove: "Remove",
    temperature: "Temperature", max_tokens: "Most tokens", top_p: "Top-p (1: all)", top_k: "Top-k (0: all)", min_p: "Min-p (0: all)", penalty: "Repetition penalty",
    seed: "Seed", stop: "Stop before", stop_hint: "\\n is a line end",
    so_far: "Text so far", look: "Look at the next token", back: "Back",
    answer_it: "Answer", rows: "A whole table", rows_note: "CSV, TSV, JSONL, or one text a line. It is read in this browser and sent to this server only; your columns come back as they were, with answer, confidence, abstained and problem beside them. Cells are kept as they are, also those that a spreadsheet would take for formulas.",
    file: "File", column: "Column of the text", precision: "Abstain below precision", precision_none: "never", answer_rows: "Answer the rows", save: "Save",
    key: "Key of this server", key_use: "Use it", key_wanted: "This server wants its key. It is kept until this tab is closed.",
    working: "Writing …", written: "{tokens} tokens in {seconds} s, {rate} a second; ended by: {reason}", stopped: "Stopped after {tokens} tokens.", forgotten: "The first {forgotten} tokens were no longer read: the text outgrew the window.",
    reason_stop: "its end or a stop text", reason_length: "the most tokens", copied: "Copied.",
    token_about: "{token}: probability {probability}", alternatives: "Instead of it:", ends_text: "(end of text)", part: "(part of a character)",
    next_about: "{count} most probable of {vocabulary} tokens; together {mass}. Choose one to go on.",
    about_writes: "{family}, task {task}; vocabulary {vocabulary}, window {window}{parameters}.", about_parameters: ", {parameters} parameters", unbounded: "unbounded",
    wrong_model_writes: "The chosen model answers rows: use the tab “Answer rows”, or choose a model that writes.", wrong_model_answers: "The chosen model writes: choose a model that answers rows.",
    no_model: "This server serves no model.", gone: "The server does not answer. Is it still running? Start it again, and try once more.", busy: "The server is busy; trying again in {seconds} s.", odd: "The server answered in an unexpected way (status {status}).",
    rows_found: "{rows} rows, {bad} of them unreadable; columns: {columns}.", rows_none: "The file holds no rows.", rows_header: "The first row must name the columns, each once.", rows_bytes: "The file is not UTF-8. Save it as UTF-8 and choose it again.",
    rows_going: "{done} of {rows} rows …", rows_done: "{rows} rows: {answered} answered, {abstained} abstained, {problems} with a problem.", rows_stopped: "Stopped: {done} of {rows} rows are answered.", shown: "The first {shown} of {rows} rows",
    problem_columns: "not as many cells as columns", problem_json: "no JSON object", problem_quote: "a quote that does not end",
    about_answers: "{family}, task {task}; reads: {fields}{labels}.", about_labels: "; answers: {labels}", field_text: "Text", field_tokens: "Tokens", field_source: "Source text", field_reference: "Reference answer",
    field_question: "Question", field_items: "Items, the oldest first", field_correct: "Right or wrong, one for each item that is known", field_row: "Cells of the row", field_image: "Picture", field_audio: "Sound", problem_file: "the file cannot be read", hint_text: "A text", hint_number: "A number",
    hint_list: "Words parted by spaces, or one a line", hint_flags: "1 and 0, parted by spaces", hint_record: "One “column: value” a line, or a JSON object", optional: "{name} (may be left empty)", wrong_field: "{name}: {problem}.", column_of: "Column of “{name}”",
    column_none: "none", column_all: "All columns of the file are read as one row; those that the model does not know change nothing.", column_wanted: "Choose the column of “{name}”.", problem_cells: "not one “column: value” a line", problem_list: "no list of words", problem_flags: "not only 1 and 0", problem_number: "no number",
    sure: "Confidence {confidence}", probabilities: "Probabilities", ranked: "Ranked", reasons: "What speaks for it", chances: "Probability of being right", nothing: "(nothing)",
    problem_text: "no text here", problem_empty: "nothing there: an empty text or field",
    head_answer: "answer", head_confidence: "confidence", head_abstained: "abstained", head_problem: "problem", yes: "yes", no: "no",
  },
  zh: {
    other: "English", views: "视图", answer: "回答", progress: "进度",
    model: "模型", try: "试写", compare: "对比", next: "下一个词元", predict: "回答表格",
    prompt: "开头", prompt_hint: "要续写的文字；可以为空", run: "写", run_both: "全部写", stop_now: "停止", copy: "复制",
    keys: "Ctrl+Enter 开始，Esc 停止；点选回答中的词元，可看其他可能", command: "在终端里做同样的事", add: "再加一栏", remove: "去掉",
    temperature: "温度", max_tokens: "最多词元数", top_p: "Top-p（1：全部）", top_k: "Top-k（0：全部）", min_p: "Min-p（0：全部）", penalty: "重复惩罚",
    seed: "随机种子", stop: "遇此即止", stop_hint: "\\n 表示换行",
    so_far: "已有文字", look: "看下一个词元", back: "退回",
    answer_it: "回答", rows: "整张表格", rows_note: "CSV、TSV、JSONL，或每行一段文字。文件在浏览器中读取，只发送给本服务器；您的各列原样返回，旁边加上答案、置信度、是否弃答和问题。单元格保持原样，电子表格可能当作公式的也不改动。",
    file: "文件", column: "文本所在的列", precision: "低于此精度则弃答", precision_none: "从不", answer_rows: "回答各行", save: "保存",
    key: "本服务器的密钥", key_use: "使用", key_wanted: "本服务器需要密钥。密钥只保留到关闭此标签页为止。",
    working: "正在写……", written: "{seconds} 秒内写出 {tokens} 个词元，每秒 {rate} 个；结束原因：{reason}", stopped: "写出 {tokens} 个词元后停止。", forgotten: "文字超出窗口，最前面的 {forgotten} 个词元不再读取。",
    reason_stop: "文末或停止文字", reason_length: "达到最多词元数", copied: "已复制。",
    token_about: "{token}：概率 {probability}", alternatives: "其他可能：", ends_text: "（文末）", part: "（字符的一部分）",
    next_about: "{vocabulary} 个词元中最可能的 {count} 个，合计 {mass}。点选一个继续。",
    about_writes: "{family}，任务 {task}；词表 {vocabulary}，窗口 {window}{parameters}。", about_parameters: "，{parameters} 个参数", unbounded: "不限",
    wrong_model_writes: "所选模型用于回答表格：请用“回答表格”，或选一个会写的模型。", wrong_model_answers: "所选模型用于写作：请选一个会回答的模型。",
    no_model: "本服务器没有提供模型。", gone: "服务器没有应答。它还在运行吗？请重新启动后再试。", busy: "服务器繁忙，{seconds} 秒后重试。", odd: "服务器的应答出乎意料（状态码 {status}）。",
    rows_found: "{rows} 行，其中 {bad} 行无法读取；列：{columns}。", rows_none: "文件中没有任何行。", rows_header: "第一行应给出各列的名称，且不重复。", rows_bytes: "文件不是 UTF-8。请另存为 UTF-8 后重新选择。",
    rows_going: "已完成 {done} / {rows} 行……", rows_done: "{rows} 行：回答 {answered}，弃答 {abstained}，有问题 {problems}。", rows_stopped: "已停止：{rows} 行中回答了 {done} 行。", shown: "{rows} 行中的前 {shown} 行",
    problem_columns: "单元格数与列数不符", problem_json: "不是 JSON 对象", problem_quote: "引号没有结束",
    about_answers: "{family}，任务 {task}；读取：{fields}{labels}。", about_labels: "；答案：{labels}", field_text: "文本", field_tokens: "词元", field_source: "原文", field_reference: "参考答案",
    field_question: "问题", field_items: "项目，最早的在前", field_correct: "对错，每个已知的项目一个", field_row: "这一行的单元格", field_image: "图像", field_audio: "声音", problem_file: "无法读取该文件", hint_text: "一段文字", hint_number: "一个数",
    hint_list: "用空格分开，或每行一个", hint_flags: "1 和 0，用空格分开", hint_record: "每行一个“列名: 值”，或一个 JSON 对象", optional: "{name}（可以不填）", wrong_field: "字段 {name}：{problem}。", column_of: "“{name}”所在的列",
    column_none: "无", column_all: "文件的所有列作为一行读取；模型不认识的列不起作用。", column_wanted: "请选择“{name}”所在的列。", problem_cells: "不是每行一个“列名: 值”", problem_list: "不是一列词", problem_flags: "不只有 1 和 0", problem_number: "不是数",
    sure: "置信度 {confidence}", probabilities: "概率", ranked: "排名", reasons: "理由", chances: "答对的概率", nothing: "（无）",
    problem_text: "此处没有文字", problem_empty: "内容为空：空文本或空字段",
    head_answer: "答案", head_confidence: "置信度", head_abstained: "弃答", head_problem: "问题", yes: "是", no: "否",
  },
};

let chosen = "en";

export function speak(language) { chosen = language in WORDS ? language : "en"; }
export function language() { return chosen; }

export function say(name, values = {}) {
  return WORDS[chosen][name].replace(/\{(\w+)\}/g, (_, each) => String(values[each]));
}
