"""Over a hundred hostile model folders: no code of theirs runs, nothing is written outside, nothing is connected to; each is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
LEAST = 100
MOST_SECONDS, MOST_MIB = 20.0, 1500

# Run by itself, since an audit hook stays for good: it imports every folder and writes what happened.
PROGRAM = """
import json, os, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
place = Path(sys.argv[2])
os.chdir(place)
import torch, tokenizers, safetensors.torch, safetensors.numpy, hostile_maker, pieces_maker, whisper_maker, wordpiece_maker
from zhixing import import_model, load
from zhixing.core.errors import ZhixingError
from zhixing.importing import bring, families, sources, vocabulary
from zhixing.models import bert, catalog, llama, overlap
from zhixing.tasks import golden

inside = str(place / "out")
seen = []
HEARD = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
sound = wordpiece_maker.folder(place / "sound", ["Ada says fine", "Bo says awful"])
import_model(sound, place / "warm")  # all that is imported lazily is there before anybody listens
heard = whisper_maker.folder(place / "heard", packed=True)
import_model(heard, place / "warm-heard")
spelt = pieces_maker.decoder(place / "spelt", "legacy")
import_model(spelt, place / "warm-spelt")
from zhixing.layers import lora
from zhixing.tasks import adapter
adapted, beside = load(place / "warm").model, place / "beside"
lora.attach(adapted.body, 2, 4.0)
beside.mkdir()
adapter.write(beside, adapted)
(beside / "head.safetensors").unlink(missing_ok=True)
import_model(beside, place / "warm-beside", base=place / "warm")

def listen(event, given):
    if not listening:
        return
    if event in ("exec", "compile"):
        name = given[0].co_filename if event == "exec" and hasattr(given[0], "co_filename") else str(given[1] if event == "compile" else "")
        if str(place) in str(name):
            seen.append((event, str(name)))
    elif event == "open" and given[0] is not None and not isinstance(given[0], int):
        path, mode, flags = os.fsdecode(given[0]), given[1], given[2]
        writes = isinstance(mode, str) and any(each in mode for each in "wax+")
        writes = writes or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and not os.path.abspath(path).startswith((inside, str(place / ".out"), os.devnull)):
            seen.append((event, path))
    elif event in HEARD:
        seen.append((event, str(given)[:100]))

listening = False
sys.addaudithook(listen)
cases = [(name, lambda place, spoil=spoil: hostile_maker.spoilt(sound, place, spoil)) for name, spoil in hostile_maker.folders().items()]
cases += [(name, lambda place, spoil=spoil: hostile_maker.spoilt(spelt, place, spoil)) for name, spoil in hostile_maker.pieces().items()]
cases += [(name, lambda place, spoil=spoil: hostile_maker.spoilt(heard, place, spoil)) for name, spoil in hostile_maker.packed().items()]
cases += [(name, lambda place, spoil=spoil: hostile_maker.spoilt(beside, place, spoil)) for name, spoil in hostile_maker.adapters().items()]
for name, content in hostile_maker.files():
    def file(place, content=content):
        (place / "model.gguf").write_bytes(content)
        return place / "model.gguf"
    cases.append((name, file))
if len(sys.argv) > 3:  # shown to go red: one that is sound, and one whose opening would run code
    import pickle
    cases = [("sound", lambda place: sound)]
    cases.append(("opened", lambda place: (place / "x").write_bytes(hostile_maker.pickled(place)) and place / "x"))
found = []
for number, (name, make) in enumerate(cases):
    where = place / f"case-{number}"
    where.mkdir()
    source = make(where)
    seen.clear()
    began, told = time.perf_counter(), None
    listening = True
    try:
        if name == "opened":
            pickle.load(open(source, "rb"))
        import_model(source, place / "out" / str(number), base=place / "warm" if name.startswith("adapter: ") else "")
    except ZhixingError as error:
        told = error.text("en")
        parts = error.parts("en")
        if not all(parts.values()):
            told = None
    except BaseException as error:
        told = f"!{type(error).__name__}: {error}"[:200]
    finally:
        listening = False
    ran = [str(each) for each in place.rglob(hostile_maker.SIGN)]
    found.append({"name": name, "told": told, "seconds": time.perf_counter() - began, "seen": list(seen), "ran": ran})
# Of this program alone: what getrusage says begins with the size of the one that started it.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
Path("found.json").write_text(json.dumps({"cases": found, "mib": peak}))
"""


def run(place: Path, *more: str) -> dict:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(HERE), str(place), *more], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "found.json").read_text())


@pytest.mark.timeout(600)
def test_hostile_folders_do_nothing_and_are_refused(tmp_path: Path) -> None:
    found = run(tmp_path)
    cases = found["cases"]
    assert len(cases) >= LEAST
    assert [each["name"] for each in cases if each["told"] is None] == [], "taken for sound"
    assert [(each["name"], each["told"]) for each in cases if each["told"].startswith("!")] == [], "refused by accident"
    assert [(each["name"], each["seen"]) for each in cases if each["seen"]] == []
    assert [each["name"] for each in cases if each["ran"]] == []
    assert max(each["seconds"] for each in cases) < MOST_SECONDS and found["mib"] < MOST_MIB
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir()), "nothing stays of what was refused"


def test_the_listener_hears_code_that_runs_and_folders_that_are_taken(tmp_path: Path) -> None:
    sound, opened = run(tmp_path, "red")["cases"]
    assert sound["told"] is None
    assert {event for event, _ in opened["seen"]} >= {"os.system", "pickle.find_class"} and opened["ran"]
