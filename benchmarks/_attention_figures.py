"""Analyses the records of `attention_study.py` by the rule in its docstring: figures, verdict, tables for the docs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _attention_parts import ADOPT_FROM, CONFIRMED, FAST, FEW, LEVELS, PAPER, PARTS, REAL, STILL
from _common import REPO, RESULTS
from scipy.stats import t as student_t

from w3ray.evaluation.uncertainty import bootstrap_interval

FOLDER = RESULTS / "attention-study"
"""Folder of the records, one file for each part."""
PAGE = REPO / "docs" / "attention.md"
MARKS = ("<!-- figures: made by benchmarks/attention_study.py -->", "<!-- end of figures -->")


def hits_of(records: Sequence[Mapping[str, Any]], arm: str, stage: str) -> tuple[np.ndarray, list[str] | None]:
    """Hits [S seeds, N clips] with the folds side by side, and the group of each clip."""
    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["arm"] == arm and stage in record["stages"]:
            by_seed.setdefault(record["seed"], []).append(record)
    rows: list[np.ndarray] = []
    groups: list[list[str]] = []
    for seed in sorted(by_seed):
        parts = [record["stages"][stage] for record in sorted(by_seed[seed], key=lambda one: one["fold"] or 0)]
        bits = [np.unpackbits(np.frombuffer(bytes.fromhex(p["hits"]), np.uint8))[: p["clips"]] for p in parts]
        rows.append(np.concatenate(bits))
        if "groups" in parts[0]:
            groups.append([group for p in parts for group in p["groups"].split("|")])
    # Clips that are generated again for each seed have no group across seeds.
    same = bool(groups) and all(its == groups[0] for its in groups)
    return np.array(rows, dtype=np.float64), groups[0] if same else None


def compare(first: np.ndarray, second: np.ndarray, groups: Sequence[str] | None) -> dict[str, Any]:
    """Second minus first (rule 2). Both are [S seeds, N clips], of the same seeds and clips."""
    if first.shape != second.shape:
        raise ValueError(f"compare: {first.shape} and {second.shape}: need the same seeds and clips")
    by_seed = (second - first).mean(axis=1)
    by_clip = (second - first).mean(axis=0)
    return {
        "difference": float(by_clip.mean()),
        "by_seed": [round(float(value), 4) for value in by_seed],
        "interval_by_seed": seed_interval(by_seed),
        "interval_by_clip": bootstrap_interval(by_clip, groups),
        "p_seeds": p_of_seeds(by_seed),
        "p_clips": p_of_clips(by_clip, groups),
        "p": max(p_of_seeds(by_seed), p_of_clips(by_clip, groups)),
        "seeds": len(by_seed),
        "clips": len(by_clip),
    }


def p_of_seeds(by_seed: np.ndarray) -> float:
    """Two-sided p of a paired t-test over seeds."""
    deviation = by_seed.std(ddof=1)
    if deviation == 0:
        return 1.0 if by_seed.mean() == 0 else 0.0
    value = by_seed.mean() / (deviation / np.sqrt(len(by_seed)))
    return float(2 * student_t.sf(abs(value), len(by_seed) - 1))


def seed_interval(by_seed: np.ndarray) -> tuple[float, float]:
    reach = student_t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
    return float(by_seed.mean() - reach), float(by_seed.mean() + reach)


def p_of_clips(by_clip: np.ndarray, groups: Sequence[str] | None) -> float:
    """Two-sided p for a mean of 0, by the bootstrap: twice the smaller share of means on one side of 0."""
    drawn = np.arange(len(by_clip)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(drawn, by_clip), np.bincount(drawn)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(100):
        again = rng.integers(len(sums), size=(100, len(sums)))
        means.append(sums[again].sum(1) / counts[again].sum(1))
    all_means = np.concatenate(means)
    low, high = (all_means <= 0).mean(), (all_means >= 0).mean()
    return float(min(1.0, 2 * max(min(low, high), 1 / len(all_means))))


def holm(p_values: Mapping[str, float], family: int) -> dict[str, float]:
    """Holm's corrected p values. `family` is the number of all tests; tests that were not run count as p = 1."""
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (family - place) * p_values[name]))
        corrected[name] = largest
    return corrected


def arm_rows(records: Sequence[Mapping[str, Any]], against: str) -> dict[str, Any]:
    """Each arm and stage: top-1 by seed, interval, gates, and its difference from `against`."""
    rows: dict[str, Any] = {}
    for arm in dict.fromkeys(record["arm"] for record in records):
        mine = [record for record in records if record["arm"] == arm]
        for stage in mine[0]["stages"]:
            hits, groups = hits_of(records, arm, stage)
            row: dict[str, Any] = {
                "top1": float(hits.mean()),
                "top1_by_seed": [round(float(value), 4) for value in hits.mean(axis=1)],
                "std_over_seeds": float(hits.mean(axis=1).std(ddof=1)) if len(hits) > 1 else 0.0,
                "mean_class_accuracy": float(np.mean([r["stages"][stage]["mean_class_accuracy"] for r in mine])),
                "gates": mean_gates([r["stages"][stage]["gates"] for r in mine]),
                "still_spatial_gates": still_gates([r["stages"][stage]["gates"] for r in mine]),
            }
            base, _ = hits_of(records, against, stage)
            if arm != against and base.shape == hits.shape:
                row["minus_" + against] = compare(base, hits, groups)
            rows[f"{arm}, {stage}"] = row
    return rows


def pair_rows(records: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The first arm of each pair minus the second, over the seeds that both have."""
    rows = []
    for first, second in pairs:
        (arm, stage), (other, other_stage) = first.split(", "), second.split(", ")
        common = {r["seed"] for r in records if r["arm"] == arm} & {r["seed"] for r in records if r["arm"] == other}
        shared = [record for record in records if record["seed"] in common]
        hits, groups = hits_of(shared, arm, stage)
        rows.append(
            {"pair": [first, second], **compare(hits_of(shared, other, other_stage)[0], hits, groups)}
            | ({"paper": PAPER[first, second]} if (first, second) in PAPER else {})
        )
    return rows


def steps_to(records: Sequence[Mapping[str, Any]], arm: str, accuracy: float) -> list[int | None]:
    """Steps of the last stage until a validation first reached `accuracy`, by seed. None: never."""
    found = []
    for record in sorted((r for r in records if r["arm"] == arm), key=lambda r: r["seed"]):
        steps_an_epoch = list(record["stages"].values())[-1]["steps"] / record["curve"][-1][0]
        reached = (round(epoch * steps_an_epoch) for epoch, top1 in record["curve"] if top1 >= accuracy)
        found.append(next(reached, None))
    return found


def mean_gates(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(float(np.mean([one[name][key] for one in found])), 4) for key in values}
        for name, values in found[0].items()
    }


def still_gates(found: Sequence[Mapping[str, Mapping[str, float]]]) -> list[int]:
    """The number of spatial gates of all runs and stages with a deviation below `STILL`, and the number of all."""
    deviations = [values["std"] for one in found for name, values in one.items() if name.endswith("spatial")]
    return [sum(deviation < STILL for deviation in deviations), len(deviations)]


def chosen_default(screen: Mapping[str, Any]) -> str:
    """The default start by rule 1."""
    unit = np.array(screen["w3-unit, teacher"]["top1_by_seed"])
    best, best_mean = "w3-unit", unit.mean() + ADOPT_FROM
    for name, row in screen.items():
        arm = name.split(",")[0]
        values = np.array(row["top1_by_seed"])
        if arm.startswith("w3-") and (values > unit).all() and values.mean() >= best_mean:
            best, best_mean = arm, values.mean()
    return best


def verdict(differences: Mapping[str, float], corrected: Mapping[str, float]) -> dict[str, Any]:
    """The verdict by rule 4, for the sets that were run."""
    significant = [data for data in differences if corrected[data] < 0.05]
    better = [data for data in significant if data not in REAL and differences[data] > 0]
    worse = [data for data in significant if data in REAL and differences[data] < 0]
    return {
        "better_on": better,
        "worse_on": worse,
        "worth_its_name": any(len(set(better) & set(sets)) >= 2 for sets in (FAST, FEW)) and not worse,
        "complete": all(data in differences for data in CONFIRMED),
    }


def analyse() -> dict[str, Any]:
    """The whole analysis of the records."""
    parts = {path.stem: json.loads(path.read_text())["records"] for path in sorted(FOLDER.glob("*.json"))}
    missing = [name for name in PARTS if name not in parts]
    figures: dict[str, Any] = {"parts": {}, "pairs": {}, "steps_to": {}, "trials": {}, "not_run": missing}
    for name in (name for name in PARTS if name in parts):
        if name.startswith("trial-"):
            figures["trials"][name] = {
                record["arm"]: {key: record["stages"]["teacher"][key] for key in ("top1", "mean_class_accuracy")}
                for record in parts[name]
            }
            continue
        records = [record for part in (*PARTS[name].beside, name) for record in parts.get(part, [])]
        arms = [record["arm"] for record in records]
        against = next(arm for arm in ("plain", "plain-twice", "plain-mfr-0") if arm in arms)
        figures["parts"][name] = arm_rows(records, against)
        pairs = [pair for pair in PARTS[name].pairs if figures["parts"][name].keys() >= set(pair)]
        if pairs:
            figures["pairs"][name] = pair_rows(records, pairs)
        if "curve" in records[0]:
            figures["steps_to"][name] = {
                arm: {str(level): steps_to(records, arm, level) for level in LEVELS} for arm in dict.fromkeys(arms)
            }
    if "screen" in parts:
        figures["chosen"] = chosen_default(figures["parts"]["screen"])
    tests = {}
    for data in CONFIRMED:
        if rows := figures["parts"].get(f"confirm-{data}"):
            tests[data] = next(row["minus_plain"] for row in rows.values() if "minus_plain" in row)
    corrected = holm({data: test["p"] for data, test in tests.items()}, len(CONFIRMED))
    figures["confirmation"] = {data: {**test, "p_corrected": corrected[data]} for data, test in tests.items()}
    weights = {
        data: figures["parts"][f"weights-{data}"]["w3-unit, teacher"]["minus_plain"]
        for data in REAL
        if f"weights-{data}" in figures["parts"]
    }
    corrected_weights = holm({data: test["p"] for data, test in weights.items()}, len(REAL))
    figures["from_weights"] = {data: {**test, "p_corrected": corrected_weights[data]} for data, test in weights.items()}
    figures["verdict"] = verdict({data: test["difference"] for data, test in tests.items()}, corrected)
    return figures


def tables(figures: Mapping[str, Any]) -> str:
    """The tables of `docs/attention.md`, as Markdown."""
    lines = [
        "### Confirmation: `w3-unit` minus plain TSM",
        "",
        *test_lines(figures, "confirmation", "confirm", CONFIRMED),
    ]
    lines += ["", "### From ImageNet weights (rule 5): `w3-unit` minus plain TSM", ""]
    lines += test_lines(figures, "from_weights", "weights", REAL)
    lines += trial_lines(figures["trials"])
    for part, rows in figures["parts"].items():
        if part.startswith("confirm-"):
            continue
        about = PARTS[part]
        lines += ["", f"### {part}: set `{about.data}`, seeds {about.seeds.start} to {about.seeds.stop - 1}", ""]
        lines += ["| arm | top-1 by seed | mean | minus plain | channel gates deviate by | spatial gates |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, row in rows.items():
            versus = next((row[key] for key in row if key.startswith("minus_")), None)
            by_seed = " ".join(f"{value:.3f}" for value in row["top1_by_seed"])
            gates = {
                kind: " ".join(f"{one['std']:.3f}" for key, one in row["gates"].items() if key.endswith(kind))
                for kind in ("channel", "spatial")
            }
            still, all_gates = row["still_spatial_gates"]
            gates["spatial"] += f" ({still} of {all_gates} still)" if all_gates else ""
            difference = "" if versus is None else f"{versus['difference']:+.3f} (p {versus['p']:.2g})"
            arm = name.removesuffix(", teacher")
            lines.append(
                f"| {arm} | {by_seed} | {row['top1']:.3f} | {difference} | {gates['channel']} | {gates['spatial']} |"
            )
        lines += pair_lines(figures["pairs"].get(part, []))
        lines += step_lines(figures["steps_to"].get(part, {}))
    lines += [
        "",
        "Gates: standard deviation in stages 1 to 4 over all held-out clips, mean of the seeds. Still: of",
    ]
    lines += [f"all spatial gates of these runs, those that deviate by less than {STILL}. p is not corrected here."]
    if figures["not_run"]:
        lines += ["", f"Not run yet: {', '.join(figures['not_run'])}."]
    return "\n".join(lines)


def test_lines(figures: Mapping[str, Any], key: str, prefix: str, sets: Sequence[str]) -> list[str]:
    """The table of one family of tests: the figures under `key`, of the parts `<prefix>-<set>`."""
    lines = ["| set | seeds x clips | plain | W3 | difference | 95% over seeds | p, seeds / clips | p corrected |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for data in sets:
        if data not in figures[key]:
            lines.append(f"| {data} | not run yet | | | | | | |")
            continue
        test, rows = figures[key][data], figures["parts"][f"{prefix}-{data}"]
        low, high = test["interval_by_seed"]
        lines.append(
            f"| {data} | {test['seeds']} x {test['clips']} | {rows['plain, teacher']['top1']:.3f} | "
            f"{rows['w3-unit, teacher']['top1']:.3f} | {test['difference']:+.3f} | {low:+.3f} to {high:+.3f} | "
            f"{test['p_seeds']:.3g} / {test['p_clips']:.3g} | {test['p_corrected']:.3g} |"
        )
    return lines


def trial_lines(trials: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    if not trials:
        return []
    lines = ["", "Trial runs of plain TSM (seed 100), from which rate and epochs are chosen:", ""]
    lines += ["| set | rate and epochs | top-1 | mean class accuracy |", "|---|---|---|---|"]
    return lines + [
        f"| {name.removeprefix('trial-')} | {case} | {row['top1']:.3f} | {row['mean_class_accuracy']:.3f} |"
        for name, rows in trials.items()
        for case, row in rows.items()
    ]


def pair_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["", "| minuend | subtrahend | difference | 95% over seeds | p, seeds / clips | table of the paper |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        first, second = (name.removesuffix(", teacher") for name in row["pair"])
        low, high = row["interval_by_seed"]
        lines.append(
            f"| {first} | {second} | {row['difference']:+.3f} | {low:+.3f} to {high:+.3f} | "
            f"{row['p_seeds']:.2g} / {row['p_clips']:.2g} | {row.get('paper', '')} |"
        )
    return lines


def step_lines(by_arm: Mapping[str, Mapping[str, Sequence[int | None]]]) -> list[str]:
    if not by_arm:
        return []
    lines = ["", "Steps of the student until a validation reaches an accuracy, by seed (-: never):", ""]
    lines += ["| arm | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " |", "|---|" + "---|" * len(LEVELS)]
    for arm, levels in by_arm.items():
        cells = (" ".join("-" if steps is None else str(steps) for steps in found) for found in levels.values())
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def write_tables(figures: Mapping[str, Any]) -> None:
    before, after = PAGE.read_text().split(MARKS[0])[0], PAGE.read_text().split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{tables(figures)}\n\n{MARKS[1]}{after}")
