"""The lines of a training set: a text file, JSON lines, or a zip with one of them. Whatever is wrong with it is said in one sentence."""

import json
import zipfile
from pathlib import Path

from archive import read_zip

BYTES_MAX = 5_000_000
LINES_MIN = 10
LINES_MAX = 20_000
LINE_CHARACTERS_MAX = 4_000


def read_lines(path):
    """The examples, without empty ones and repeats, in their order."""
    name, data = read_bytes(Path(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"train_data is not text in UTF-8: byte {error.start} cannot be read") from None
    if "\0" in text:
        raise ValueError("train_data is not text: it holds zero bytes")
    rows = [row.strip() for row in text.splitlines()]
    rows = [(number, row) for number, row in enumerate(rows, 1) if row]
    is_json = name.lower().endswith(".jsonl") or (rows and rows[0][1].startswith("{"))
    examples = [example_of(row, number) if is_json else row for number, row in rows]
    for (number, _), example in zip(rows, examples):
        if len(example) > LINE_CHARACTERS_MAX:
            raise ValueError(f"line {number} of train_data has {len(example):,} characters; at most {LINE_CHARACTERS_MAX:,} are allowed")
    lines = list(dict.fromkeys(example for example in examples if example))
    if len(lines) < LINES_MIN:
        raise ValueError(f"train_data has {len(lines)} different lines; at least {LINES_MIN} are needed")
    if len(lines) > LINES_MAX:
        raise ValueError(f"train_data has {len(lines):,} lines; at most {LINES_MAX:,} are allowed")
    return lines


def read_bytes(path):
    if path.stat().st_size > BYTES_MAX:
        raise ValueError(f"train_data has {path.stat().st_size / 1e6:.1f} MB; at most {BYTES_MAX // 1_000_000} MB are allowed")
    if path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
        return path.name, path.read_bytes()
    files = read_zip(path, {".txt", ".jsonl"}, 1, BYTES_MAX)
    if not files:
        raise ValueError("the zip file holds no .txt or .jsonl file")
    return files[0]


def example_of(row, number):
    """The text of a JSON line: {"text": …}, or {"prompt": …, "completion": …}, which are joined by a space."""
    try:
        value = json.loads(row)
    except (ValueError, RecursionError):
        raise ValueError(f"line {number} of train_data is not JSON") from None
    if isinstance(value, dict):
        parts = [value["text"]] if "text" in value else [value.get("prompt"), value.get("completion")]
        if all(isinstance(part, str) for part in parts):
            return " ".join(part.strip() for part in parts).strip()
    raise ValueError(f'line {number} of train_data must be {{"text": …}} or {{"prompt": …, "completion": …}} with strings')
