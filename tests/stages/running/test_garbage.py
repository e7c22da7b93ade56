import gc
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def thresholds(started: str, steps: str) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    code = (
        f"import gc, sys; sys.argv[0] = {started!r}; before, held = gc.get_threshold(), gc.get_freeze_count(); {steps}; "
        "print((before, gc.get_threshold(), gc.get_freeze_count() - held))"
    )
    return eval(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_a_command_looks_for_garbage_seldom_while_it_imports_and_as_often_as_python_does_from_then_on():
    before, importing, frozen = thresholds("-m", "import stages")
    assert importing[0] > 10 * before[0]
    assert not frozen
    before, after, frozen = thresholds("-m", "import stages; from stages.running.garbage import imported; imported()")
    assert after == before
    assert frozen


def test_a_server_on_the_leash_looks_as_often_as_python_does(tmp_path):
    (tmp_path / "server.py").write_text("import gc; print(gc.get_threshold())")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    words = [sys.executable, "-m", "stages.running.leash", "server"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert eval(done.stdout) == gc.get_threshold()


def test_who_imports_the_stages_as_a_library_is_left_alone():
    steps = "import stages; from stages.running.garbage import imported, importing; importing()"
    before, after, _ = thresholds("somebody.py", steps)
    assert after == before
    before, after, frozen = thresholds("somebody.py", f"{steps}; imported()")
    assert after == before
    assert not frozen
