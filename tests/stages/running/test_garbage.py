import subprocess
import sys


def thresholds(started: str, steps: str) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    code = (
        f"import gc, sys; sys.argv[0] = {started!r}; before = gc.get_threshold(); {steps}; "
        "print((before, gc.get_threshold(), gc.get_freeze_count()))"
    )
    return eval(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_a_command_looks_for_garbage_seldom_while_it_imports_and_as_often_as_python_does_from_then_on():
    before, importing, frozen = thresholds("-m", "import stages")
    assert importing[0] > 50 * before[0]
    assert not frozen
    before, after, frozen = thresholds("-m", "import stages; from stages.running.garbage import imported; imported()")
    assert after == before
    assert frozen


def test_who_imports_the_stages_as_a_library_is_left_alone():
    before, after, _ = thresholds("somebody.py", "import stages")
    assert after == before
