"""Reads hostile files under an audit hook: `python -m tests.faults.audit_hook FOLDER` prints the events, as JSON."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from isoloss.errors import IsolossError
from isoloss.files import write_checksummed
from isoloss.store.tables import load_study
from isoloss.study.studyfile import parse_study
from tests.faults.fuzz import checkpoint, study, tokens
from tests.faults.fuzz.false_values import insert_false_values
from tests.faults.fuzz.record_bytes import record_bytes
from tests.faults.test_hostile import STUDIES

SUSPECT = ("os.", "subprocess.", "pickle.", "marshal.", "socket.", "ctypes.", "shutil.", "code.", "exec", "compile")
HARMLESS = ("os.listdir", "os.scandir")
INPUTS = 150


class Hook:
    """Records, while listening, the events that reading does not need, and counts reads and typed errors."""

    def __init__(self) -> None:
        self.listening, self.events = False, set[str]()
        self.reads = self.errors = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listening:
            return
        suspect = event == "import" or (event.startswith(SUSPECT) and event not in HARMLESS)
        if suspect or (event == "open" and _writes(*arguments)):
            self.events.add(event)

    def around(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """The reader, with events recorded."""

        def wrapped(*arguments: Any) -> Any:
            self.reads, self.listening = self.reads + 1, True
            try:
                return read(*arguments)
            except IsolossError:
                self.errors += 1
                raise
            finally:
                self.listening = False

        return wrapped


def _writes(_path: object, mode: str | None, flags: int | None) -> bool:
    return any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


def read_all(folder: Path, hook: Hook) -> None:
    """Study files, checkpoints, tokens and study directories with false values, after a valid one of each."""
    generator = random.Random(0)
    for target in (checkpoint, study, tokens):
        (folder / target.__name__).mkdir()
        read = target.reader(folder / target.__name__)
        for content in target.seeds():
            read(content)  # what is imported at the first use is imported now
        owner, name = {
            checkpoint: (checkpoint.checkpoint, "load"),
            study: (study, "parse_study"),
            tokens: (tokens, "open_tokens"),
        }[target]
        setattr(owner, name, hook.around(getattr(owner, name)))
        for _ in range(INPUTS):
            read(generator.choice(target.seeds()) + generator.randbytes(generator.randrange(24)))
    read_texts_and_directories(folder, hook, generator)


def read_texts_and_directories(folder: Path, hook: Hook, generator: random.Random) -> None:
    parse, load = hook.around(parse_study), hook.around(lambda: load_study(folder).configs)
    facts = {"tokenizer": "char", "characters": "ab", "vocab_size": 2, "corpus_sha256": "ab"}
    whole = "name: x\nfactors: {n_layer: [1, 2]}\n"
    for text in (whole, *(text for text, _ in STUDIES.values() if len(text) < 10_000)):
        write_checksummed(folder / "study.yaml", text)
        for choices in (b"", generator.randbytes(3)):
            changed = dict(facts)
            insert_false_values(changed, choices)
            (folder / "tokenizer.json").write_bytes(record_bytes(changed))
            with suppress(IsolossError):
                load()
        with suppress(IsolossError):
            parse(text, "s.yaml")


def probe(folder: Path, hook: Hook) -> list[str]:
    """The events that the hook records of what must not happen."""
    before, hook.events, hook.listening = hook.events, set[str](), True
    exec("1")
    with suppress(ImportError):
        __import__("no_such_module_as_this")
    (folder / "probe").write_text("")
    os.system("true")
    subprocess.run(["true"], check=True)
    pickle.loads(pickle.dumps(Path))
    hook.listening = False
    found, hook.events = hook.events, before
    return sorted(found & {"exec", "import", "open", "os.system", "subprocess.Popen", "pickle.find_class"})


def main() -> None:
    folder, hook = Path(sys.argv[1]), Hook()
    sys.addaudithook(hook)
    read_all(folder, hook)
    found = {"reads": hook.reads, "errors": hook.errors, "forbidden": sorted(hook.events)}
    print(json.dumps({**found, "probes": probe(folder, hook)}))


if __name__ == "__main__":
    main()
