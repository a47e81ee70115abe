"""Maps the folders of the house to packages and lists the C files of each compiled module."""

import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

PARTS = ["kernels", "runtime", "edge_host", "cloud", "firmware_bridge"]
C_FLAGS = [
    "-std=c99",
    "-O3",
    "-g0",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-asynchronous-unwind-tables",  # no exception ever passes through it
]
L_FLAGS = ["-Wl,--gc-sections", "-Wl,--strip-all"]


def module(name: str, c_files: list[str]) -> Extension:
    return Extension(
        f"seamline.kernels.{name}",
        [f"kernels/{name}.pyx", *sorted(c_files)],
        include_dirs=["kernels/core"],
        depends=[*glob("kernels/core/**/*.[ch]", recursive=True), "kernels/_seam.pxd"],
        extra_compile_args=C_FLAGS if sys.platform != "win32" else [],
        extra_link_args=L_FLAGS if sys.platform.startswith("linux") else [],
    )


KERNELS = ["add", "activation", "conv", "crc", "dense", "depthwise", "dispatch", "loss", "norm"]
KERNELS += ["q8_add", "q8_conv", "q8_depthwise", "q8_pool", "q8_quantise", "q8_softmax"]
KERNELS += ["q8_train", "q8_train_conv", "q8_train_depthwise", "q8_update", "q8_update_float"]
KERNELS += ["parcel", "parcel_bits", "parcel_half", "parcel_sparse"]
KERNELS += ["pool", "round", "sgd", "status", "walk"]
Q8_FRONT = ["front_q8", "front_q8_blob", "front_q8_forward", "front_q8_backward", "front_q8_loss"]
FACES = {
    "_core": KERNELS,
    "_front": [*KERNELS, "plan", "front", "exit", *Q8_FRONT, "message", "session", "trace"],
    "_link": ["crc", "status", "frame", "packet"],
}


def core_files(face: str) -> list[str]:
    files = [f"kernels/core/{stem}.c" for stem in FACES[face]]
    return files if face == "_link" else files + glob("kernels/core/arch/*.c")


setup(
    packages=["seamline", *(f"seamline.{part}" for part in PARTS)],
    package_dir={"seamline": "src/seamline", **{f"seamline.{part}": part for part in PARTS}},
    include_package_data=False,
    package_data={
        "seamline": ["py.typed", "*.html", "*.toml"],
        "seamline.kernels": ["*.pyi", "*.pxd", "core/*.[ch]", "core/*/*.[ch]"],
        "seamline.firmware_bridge": [
            "LICENSE",
            "*.toml",
            "*.[ch]",
            "*.ld",
            "boards/*",
            "boards/*/*",
            "include/*",
        ],
    },
    ext_modules=cythonize(
        [module(face, core_files(face)) for face in FACES],
        include_path=["kernels"],
        language_level=3,
    ),
)
