"""What the processor can do, as the system tells; names as Linux spells them."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})  # int8 products, summed in 32 bits
BF16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # products of bfloat16
FP16 = frozenset({"amx_fp16", "avx512_fp16", "asimdhp"})  # products of float16; f16c only converts
_APPLE = {"FEAT_FP16": "asimdhp", "FEAT_DotProd": "asimddp", "FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm"}


@cache
def instructions() -> frozenset[str]:
    """All that the processor has; empty where the system does not tell, as Windows."""
    info = cpuinfo()
    said = info.get("flags") or info.get("Features") or ""
    return frozenset(said.split()) or spelt_as_linux(_sysctl())


@cache
def cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    try:
        first = CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def lacking(wanted: frozenset[str]) -> str:
    """Why a precision would only be emulated, in words; "" where one of these instructions is there, or not known."""
    have = instructions()
    return f"this processor has none of {', '.join(sorted(wanted))}" if have and not have & wanted else ""


def spelt_as_linux(said: str) -> frozenset[str]:
    """Of what `sysctl -a` of macOS says."""
    arm = {name for line, name in _APPLE.items() if re.search(rf"^hw\.optional\.arm\.{line}: 1$", said, re.M)}
    intel = re.findall(r"^machdep\.cpu\.(?:leaf7_)?features: (.*)$", said, re.M)
    return frozenset(arm | ({"asimd"} if arm else set()) | set(" ".join(intel).lower().split()))


def _sysctl() -> str:
    if platform.system() != "Darwin":
        return ""
    try:
        done = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
