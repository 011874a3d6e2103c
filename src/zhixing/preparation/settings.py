"""What `prepare` may be told."""

from __future__ import annotations

from dataclasses import dataclass

from zhixing.tasks.task import TASKS


@dataclass(frozen=True)
class Prepare:
    """What `prepare` may be told.

    task          "auto" or a task's name             auto: classify when a label column is there, else language
    text, label   column names; None: recognised
    also          "folder,folder": Corpus folders that become one corpus of many tasks with the source, which is one too (`mix.py`)
    without       "column,column": columns of a table that are no evidence, such as the number of a row
    columns       "field=column,field=column": which columns hold the task's fields, where their names do not say it; "user=", "items=" and
                  "time=" gather rows of one item each into histories
    form          a template such as "{title}\\n{text}" that builds a row's text from its columns
    unit          "auto", "file", "paragraph" or "line": what one document of a txt file is; auto: the file
    split         "auto", "hash" or "tail"    hash: whole documents; tail: each is cut; auto: tail below 100 documents of language, and for
                  histories, whose last item is test's and the one before it validation's
    validation, test                0..1      shares; of a history that is cut, 0: none
    validation_source, test_source  files     official splits; they are kept as given and `source` is split only for the rest
    repeats       "auto", "drop" or "keep"    drop also rejects texts with two labels and what stands in an official split; auto: drop, but
                  keep the rows of tables and histories, where equal rows are different cases
    drop_bad      go on without the rows that cannot be read
    """

    task: str = "auto"
    text: str | None = None
    label: str | None = None
    unit: str = "auto"
    split: str = "auto"
    validation: float = 0.05
    test: float = 0.05
    validation_source: str | None = None
    test_source: str | None = None
    seed: int = 0
    repeats: str = "auto"
    drop_bad: bool = False
    encoding: str | None = None
    form: str | None = None
    columns: str | None = None
    without: str | None = None
    also: str | None = None


CHOICES = {
    "task": ("auto", *(name for name in TASKS if name not in ("embed", "masked"))),  # these are learnt from the corpora of others
    "split": ("auto", "hash", "tail"),
    "repeats": ("auto", "drop", "keep"),
}
