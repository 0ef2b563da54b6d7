"""The processor: its name, what it can do, in names as Linux spells them, and how much of it is ours."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
)
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})  # int8 products, summed in 32 bits
BF16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # products of bfloat16
FP16 = frozenset({"amx_fp16", "avx512_fp16", "asimdhp"})  # products of float16; f16c only converts
_APPLE = {"FEAT_FP16": "asimdhp", "FEAT_DotProd": "asimddp", "FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm"}


def usable_cores() -> int:
    """The processors that this process may use; in a container with a share of them no more than that, rounded up."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(there, quota())))


def quota() -> float:
    """The processors that the control group allows, as `docker --cpus` sets; infinite where it sets no limit."""
    try:
        given, period = (CGROUP / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            given, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return math.inf
    try:
        return int(given) / int(period) if int(given) > 0 else math.inf
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf


def cpu() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine() or "unknown"


def features() -> tuple[str, ...]:
    """The instruction sets that matter here, of those the processor has; empty where the system does not tell."""
    present = instructions()
    return tuple(name for name in FEATURES if name in present)


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


def cuts_off() -> bool:
    """Are sums of two int8 products cut off at 16 bits, as on x86 without VNNI? No, where the system does not tell."""
    have = instructions()
    return "avx2" in have and not have & VNNI


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
