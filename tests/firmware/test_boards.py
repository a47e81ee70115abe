"""Images on emulated Cortex-M boards give the bytes of this machine, and end whatever happens."""

import zlib
from pathlib import Path

import pytest
from seamline.firmware_bridge import image, layers
from seamline.runtime.networks import network

MAIN = "#include <board.h>\nint main(void) {{ {} }}\n"

# Million instructions of a whole network, softmax included: what CMSIS-NN takes here at most.
BARS = {
    "an385": {"kws": 10.54, "ic": 41.75, "vww": 32.08, "ad": 0.95},
    "an386": {"kws": 6.3, "ic": 24, "vww": 17, "ad": 0.5},
    "an500": {"kws": 6.3, "ic": 24, "vww": 17, "ad": 0.5},
    "an547": {"kws": 1.78, "ic": 4.81, "vww": 6.42, "ad": 0.15},
}


@pytest.mark.parametrize("net", layers.NETS)
def test_networks_give_this_machines_bytes_within_their_instructions(net, board, build, tmp_path):
    cases = layers.layers_of(network(net))
    counts = layers.run(board, build(board, layers.SOURCES), cases, tmp_path)
    other = [
        case.name
        for case, count in zip(cases, counts, strict=True)
        if count.crc != zlib.crc32(case.want)
    ]
    assert other == []
    name = next(name for name, known in image.BOARDS.items() if known is board)
    assert sum(count.instructions for count in counts) <= BARS[name][net] * 1e6


def program(folder: Path, body: str) -> Path:
    source = folder / "main.c"
    source.write_text(MAIN.format(body))
    return source


def test_an_image_ends_with_what_main_returns(board, tmp_path):
    source = program(tmp_path, 'board_print("hello\\n"); return 3;')
    with pytest.raises(RuntimeError, match=rf"{board.machine} ended with 3: hello"):
        image.run(board, image.build(board, [source], tmp_path))


def test_a_fault_says_where(board, tmp_path):
    source = program(tmp_path, '__asm volatile("udf #0"); return 0;')
    with pytest.raises(RuntimeError, match=r"ended with 255: fault at 0000[0-9a-f]{4}, called"):
        image.run(board, image.build(board, [source], tmp_path))


def test_an_image_that_does_not_end_is_ended(board, tmp_path):
    source = program(tmp_path, "for (;;) {} return 0;")
    with pytest.raises(RuntimeError, match="did not end within 1 s"):
        image.run(board, image.build(board, [source], tmp_path), timeout_s=1)


def test_what_does_not_compile_is_said(tools, tmp_path):
    source = program(tmp_path, "return nothing;")
    with pytest.raises(RuntimeError, match=r"(?s)does not build.*nothing.*undeclared"):
        image.build(image.BOARDS["an386"], [source], tmp_path)


def test_missing_tools_are_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert image.missing() == (
        "arm-none-eabi-gcc and qemu-system-arm not found: "
        "apt-get install --no-install-recommends gcc-arm-none-eabi qemu-system-arm"
    )
