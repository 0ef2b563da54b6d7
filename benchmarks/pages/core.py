"""What core.json says: the spine."""

from __future__ import annotations

from typing import Any

from pages._words import foot, holds, interval, shared


def training(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['trainer']} | {r['seed']} | {r['examples_per_s']:.0f} | {interval(r['test'])} |" for r in found["runs"]
    ]
    return "\n".join(
        [
            "## Training against the stock Trainer",
            "",
            f"Claim: at least 2x the examples a second, same quality. Measured: **{found['ratio']['mean']:.2f}x**, "
            f"{holds(found['ratio']['mean'] >= 2)}. {found['what'].capitalize()}.",
            "",
            "| trainer | seed | examples/s | test accuracy |",
            "|---|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def runtime(found: dict[str, Any]) -> str:
    rows = []
    for name, m in found["models"].items():
        one, many = m["times_as_fast_as_smidgen_int8_batch_1"], m["times_as_fast_as_smidgen_int8_batch_32"]
        rows.append(
            f"| {name} | {m['p50_ms']:.2f} | {m['p95_ms']:.2f} | {one['value']:.2f} ({one['low']:.2f} to "
            f"{one['high']:.2f}) | {m['texts_per_s_at_32']:.0f} | {many:.2f} | {m['test_accuracy']:.4f} |"
        )
    hand = {n: m for n, m in found["models"].items() if n.startswith("by hand")}
    first = all(m["times_as_fast_as_smidgen_int8_batch_1"]["low"] <= 1 for m in hand.values())
    clear = all(m["times_as_fast_as_smidgen_int8_batch_1"]["value"] <= 1 for m in hand.values())
    many = all(m["times_as_fast_as_smidgen_int8_batch_32"] <= 1 for m in hand.values())
    word = "holds" if clear else "not resolved (the interval has 1 in it)" if first else "does not hold"
    return "\n".join(
        [
            "## The runtime against ONNX Runtime by hand",
            "",
            f"Claim: smidgen's int8 is at least as fast as dynamic int8 driven by hand. At batch 1: **{word}**; at batch 32: "
            f"{holds(many)}. Same weights; 'faster' is relative to smidgen int8, 1,000 calls each.",
            "",
            "| model | p50 ms | p95 ms | faster at batch 1 | texts/s at batch 32 | faster at batch 32 | accuracy |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def student(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['seed']} | {interval(r['teacher_test'])} | {interval(r['student_test'])} | "
        f"{interval(r['without_distillation'])} | {shared(r['quality_kept'])} | {r['speedup']['value']:.1f}x | "
        f"{r['size_mb']:.1f} |"
        for r in found["runs"]
    ]
    kept, speed = found["quality_kept"], found["speedup"]
    return "\n".join(
        [
            "## A 3-block student",
            "",
            f"Claim: keeps at least 97 % of its teacher's test accuracy at 5x or more of its torch float32 speed. Measured: "
            f"**{kept['mean']:.1%}** kept, {holds(kept['mean'] >= 0.97)}; **{speed['least']:.1f}x**, "
            f"{holds(speed['least'] >= 5)}. {len(rows)} seed(s), n = {found['n']}.",
            "",
            "| seed | teacher | student, int8 | same without distillation | kept | speed-up | MB |",
            "|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def install(found: dict[str, Any]) -> str:
    size, load = found["base_install_mb"]["value"], found["load_and_first_answer_s"]["median"]
    imported = found["import_s"]["median"]
    return "\n".join(
        [
            "## The base install",
            "",
            "| claim | measured | |",
            "|---|--:|---|",
            f"| base install under 250 MB | {size:.0f} MB | {holds(size < 250)} |",
            f"| `import smidgen` under 1 s, interpreter included | {imported:.2f} s | {holds(imported < 1)} |",
            f"| loading a winner and its first answer under 2 s | {load:.2f} s | {holds(load < 2)} |",
            f"| without torch | torch imported: {found['torch_imported']} | {holds(not found['torch_imported'])} |",
            "",
            foot(found),
        ]
    )


SECTIONS = {"training": training, "runtime": runtime, "student": student, "install": install}
