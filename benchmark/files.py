"""Reading and writing the JSON files of benchmark/results."""

import json


def read_json(path):
    """A file's contents; an empty dict where there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path, contents):
    """Writes a file as a whole, or, where the disk is full, not at all: hours of work are in it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(path)
