"""The tables of results of the README and of the site, made from `benchmarks/results/*.json`.

A row that says "no difference" or "not significant" is only made if the file says so: else an assertion fails.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A row: a question, its answer, and the file that holds the figures (without `.json`)."""

    question: str
    answer: str
    file: str
    front: bool = True
    """Whether the README shows the row, too."""


def document(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def figures(name: str) -> Any:
    return document(name)["figures"]


def script_of(name: str) -> str:
    """The script that wrote a file of results: the second word of its command."""
    return str(document(name)["command"]).split()[1].rpartition("/")[2]


def results() -> list[Result]:
    """All rows, in the order of the page."""
    return [*_accuracy(), *_faults(), *_speed()]


def readme_table() -> str:
    """The README's table, as Markdown."""
    rows = ["| question | answer | script |", "|---|---|---|"]
    rows += [f"| {row.question} | {row.answer} | `{script_of(row.file)}` |" for row in results() if row.front]
    rows.append("| W3 on the paper's data sets; anything on a GPU | not measured | |")
    return "\n".join(rows)


def page() -> str:
    """The site's page of results."""
    lines = [
        "# Results",
        "",
        "What was measured, with the bad news included. Each figure is read from a file in `benchmarks/results/`.",
        "[What W3's gates do](attention.md) has the study of W3 with its rule and its limits, [the zoo](zoo.md) the",
        "costs of all networks. Not measured: any accuracy on the paper's data sets, and anything on a GPU.",
        "",
        "| question | answer | file |",
        "|---|---|---|",
        *(f"| {row.question} | {row.answer} | `{row.file}.json` |" for row in results()),
        "",
        "## How each file was made",
        "",
        "Run a command from the root of the repository, in the project's environment. `DATA` is a folder of real",
        "videos, `RUNS` the folder of an earlier run. Some files were made in parts. For these the table names the",
        "command of the last part.",
        "",
        "| file | command | commit | date | CPU cores |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        one = document(path.stem)
        commit = one["commit"].removesuffix("+changes")[:7]
        cores = one.get("machine", {}).get("cores", "")
        lines.append(f"| `{path.name}` | `{one['command'].strip()}` | {commit} | {one.get('date', '')} | {cores} |")
    return "\n".join(lines) + "\n"


def three(value: float) -> str:
    return f"{value:.3f}"


def _accuracy() -> Iterator[Result]:
    study = figures("attention-study")
    parts, confirmed = study["parts"], study["confirmation"]

    def top1(part: str, arm: str) -> str:
        return three(parts[part][arm]["top1"])

    assert parts["quickstart"]["w3-unit, teacher"]["minus_plain"]["p"] > 0.05
    quick = [top1("quickstart", arm) for arm in ("plain, teacher", "w3-unit, teacher", "w3-unit, student")]
    yield Result(
        question="Quickstart, top-1, mean of five seeds",
        answer=f"plain TSM {quick[0]}, with W3 {quick[1]} (difference not significant), student {quick[2]}",
        file="attention-study",
    )
    assert set(study["verdict"]["better_on"]) == {"easy-few", "medium-few", "hard-few"}
    few = [top1("confirm-hard-few", arm) for arm in ("w3-unit, teacher", "plain, teacher")]
    yield Result(
        question="W3 on 96 generated clips, ten seeds",
        answer=f"significantly better on all three sets: {few[0]} against {few[1]} on the hardest",
        file="attention-study",
    )
    other = parts["other-clips"]["w3-unit, teacher"]["minus_plain"]
    assert other["p"] > 0.05
    yield Result(
        question="The same, ten other draws of clips",
        answer=f"+{three(other['difference'])}, not significant",
        file="attention-study",
    )
    wide = [top1("wide", arm) for arm in ("w3-unit, teacher", "plain-wide, teacher")]
    yield Result(
        question="W3 against a plain TSM with as many parameters",
        answer=f"no difference: {wide[0]} and {wide[1]}",
        file="attention-study",
    )
    assert confirmed["ut-interaction"]["p"] > 0.05 < confirmed["tank-state"]["p"]
    real = [
        " and ".join(top1(f"confirm-{name}", f"{arm}, teacher") for arm in ("w3-unit", "plain"))
        for name in ("ut-interaction", "tank-state")
    ]
    yield Result(
        question="W3 on real clips (UT-Interaction, tank-state)",
        answer=f"no difference: {real[0]}; {real[1]}",
        file="attention-study",
    )
    yield Result(
        question="A student, or plain training for the steps of both?",
        answer=f"plain training: TSM {top1('twice', 'plain-twice, teacher')}, its student "
        f"{top1('twice', 'plain, student')}",
        file="attention-study",
    )
    uneven = figures("uneven")
    assert uneven["helps"] == ["sampling-sqrt"]
    plain, root = (uneven["settings"][arm]["mean_class_accuracy"]["mean"] for arm in ("plain", "sampling-sqrt"))
    yield Result(
        question="Uneven classes (tank-state): mean class accuracy",
        answer=f"{three(plain)}; drawn with `train.sampling: sqrt` {three(root)}; no other setting passed the test",
        file="uneven",
        front=False,
    )
    twin = {arm: found["summary"]["top1_held_out"]["mean"] for arm, found in figures("reversed-twin").items()}
    yield Result(
        question="Forwards or backwards? UT-Interaction, held-out clips, two seeds",
        answer=f"TSM {three(twin['tsm'])}, TSM with W3 {three(twin['tsm_w3'])}, "
        f"TSN (blind to time) {three(twin['tsn'])}",
        file="reversed-twin",
        front=False,
    )
    yield Result(
        question="How much do seeds of one recipe differ? 37 validation clips of UT-Interaction",
        answer=f"top-1 has a standard deviation of {three(figures('real-sweep')['deviation_of_seeds'])}",
        file="real-sweep",
        front=False,
    )


def _faults() -> Iterator[Result]:
    faults = figures("faults")
    same = [row["identical"] for row in faults if row["identical"] is not None]
    assert all(row["ended"] for row in faults)
    assert all(same)
    assert sum(row["lost"] + row["doubled"] for row in faults) == 0
    yield Result(
        question=f"{len(faults)} faults: workers, decoders, nodes, driver, storage",
        answer="every run ended; no sample lost or seen twice; at most "
        f"{max(row['steps_again'] for row in faults)} steps repeated",
        file="faults",
    )
    yield Result(
        question="Same weights after a fault, same number of workers",
        answer=f"yes, to the last bit, in all {len(same)} cases",
        file="faults",
    )


def _speed() -> Iterator[Result]:
    real = figures("decoders")["real"]
    wrong = real["ut-interaction"]["wrong_frames"]
    yield Result(
        question="Wrong frames, of 480 frames of UT-Interaction (AVI files)",
        answer=f"default reader {wrong['pyav']}, decord {wrong['decord']}, torchcodec {wrong['torchcodec']}",
        file="decoders",
    )
    ratios = [row["ratio_to_torchcodec"]["pyav"]["median"] for row in real.values()]
    yield Result(
        question="CPU time of the default reader, three real sets",
        answer=f"{min(ratios):.2f} to {max(ratios):.2f} times that of torchcodec",
        file="decoders",
        front=False,
    )
    ingest = figures("ingest")["h264-320@112"]
    ours, peer = ingest["stream"], ingest["dataloader"]
    share = ours["steady"]["mean"] / peer["steady"]["mean"]
    assert share < 1, "the answer says that the stream is slower"
    yield Result(
        question="Clips per second, against torch's DataLoader",
        answer=f"slower: {share:.2f} times as many, and the first batch after {ours['first_s']['mean']:.1f} s instead "
        f"of {peer['first_s']['mean']:.1f} s",
        file="ingest",
    )
    steps = figures("steps")
    small, large = (steps[name]["train"]["w3"]["ratio"] for name in ("r18-8x112", "r50-8x224"))
    yield Result(
        question="A training step with W3, on CPUs",
        answer=f"{small:.2f} (ResNet-18) and {large:.2f} (ResNet-50) times plain TSM's",
        file="steps",
    )
    resume = figures("scale")["resume"]["ratio_far_to_near"]["mean"]
    yield Result(
        question="Time to resume at step 1,000,000, against step 10",
        answer=f"{resume:.2f} times as long",
        file="scale",
        front=False,
    )
    sweep = figures("sweep")
    yield Result(
        question="Sweep of 16 short trials",
        answer=f"{sweep['overhead']['as_it_is']['ratio']:.2f} times the seconds of the training alone",
        file="sweep",
        front=False,
    )
    yield Result(
        question="Steps of eight students that share a teacher",
        answer=f"{sweep['sharing']['alone']['share_of_naive']:.2f} of those of eight chains",
        file="sweep",
    )
    imports = figures("imports")["column"]
    yield Result(
        question="Import of a CSV with 12 million rows",
        answer=f"{imports['peak_memory_mib'] / 1024:.1f} GiB of memory for a table of "
        f"{imports['table_mib'] / 1024:.1f} GiB",
        file="imports",
        front=False,
    )
