"""The bound on an image's stack: from what the compiler says, and above what is ever measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from seamline.firmware_bridge import device, stack
from seamline.firmware_bridge.target import find_target
from seamline.runtime.config import read_job
from seamline.runtime.errors import UserError
from test_device import recipe_of, write_job

from seamline.cli import main

COMPILER = shutil.which("gcc") or "cc"


def bound(tmp_path: Path, source: str, symbols: str) -> int:
    (tmp_path / "x.c").write_text(source)
    subprocess.run(
        [COMPILER, "-O0", stack.CALLS, "-c", "x.c", "-o", "x.o"], check=True, cwd=tmp_path
    )
    return stack.most_stack([tmp_path / "x.ci"], set(symbols.split()), "none", 100)


LEAF = "int leaf(int a) { volatile int big[200]; big[a] = a; return big[a]; }"
SMALL = "int small(int a) { return a + 1; }"


def test_the_deepest_path_counts(tmp_path):
    main_one = "int image_reset(void) { return small(1); }"
    main_two = "int image_reset(void) { return small(1) + leaf(2); }"
    kept = "leaf small image_reset"
    one = bound(tmp_path, f"{LEAF} {SMALL} {main_one}", kept)
    two = bound(tmp_path, f"{LEAF} {SMALL} {main_two}", kept)
    assert 0 < one < 400 and one + 500 < two


def test_an_interrupt_comes_on_top(tmp_path):
    base = f"{LEAF} {SMALL} int image_reset(void) {{ return leaf(2); }}"
    tick = "void image_tick(void) { leaf(1); }"
    kept = "leaf small image_reset image_tick"
    without, with_it = bound(tmp_path, base, kept), bound(tmp_path, f"{base} {tick}", kept)
    assert without + 100 + 600 <= with_it <= without + 100 + 1000


def test_a_call_through_a_pointer_may_go_anywhere(tmp_path):
    call = "extern int (*where)(int); int image_reset(void) { return where(1); }"
    far = bound(tmp_path, f"{LEAF} {SMALL} {call}", "leaf small image_reset")
    near = bound(tmp_path, f"{LEAF} {SMALL} {call}", "small image_reset")  # the linker dropped leaf
    assert near + 500 < far


@pytest.mark.parametrize(
    "source",
    [
        "int image_reset(void); int f(int a) { return a ? image_reset() : 0; }"
        " int image_reset(void) { return f(1); }",
        "int image_reset(int n) { volatile int a[n]; a[0] = n; return a[0]; }",
    ],
)
def test_where_there_is_no_bound_it_says_so(tmp_path, source):
    assert bound(tmp_path, source, "f image_reset") == 0


def test_a_bound_above_what_is_left_is_no_image(tools, tmp_path, monkeypatch, capsys):
    path = write_job(tmp_path, arithmetic="q8", batch=2)
    words = [str(path), "--id", "d00", "--board", "lm3s6965evb", "--insecure"]
    assert main(["firmware", "build", *words, "--format", "json", "-o", str(tmp_path / "x")]) == 0
    recipe, target = recipe_of(read_job(path), sealed=False), find_target("lm3s6965evb")
    found = device.sizes(tmp_path / "x")
    assert 2000 < found.stack_most < found.stack
    monkeypatch.setattr(device, "most_stack", lambda *_: found.stack + 1)
    with pytest.raises(UserError, match=r"its stack can need [\d,]+ bytes, [\d,]+ of RAM"):
        device.build(recipe, target, tmp_path / "y")
    assert not (tmp_path / "y").exists()
