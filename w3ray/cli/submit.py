"""`w3ray submit`: in which format does a challenge's server want an evaluated test split?"""

from dataclasses import asdict
from typing import Annotated

import typer

from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import write_error
from w3ray.errors import InputError

_LEVEL = "epic-kitchens-100: level of supervision, 0 to 5, of the"
PretrainingOption = Annotated[int | None, typer.Option(help=f"{_LEVEL} pretraining; default: 2.")]
LabelsOption = Annotated[int | None, typer.Option(help=f"{_LEVEL} training labels; default: 3.")]
DataOption = Annotated[int | None, typer.Option(help=f"{_LEVEL} training data; default: 4.")]


@run_command
def submit(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            help="Folder written by `w3ray evaluate`; several go into one archive.", metavar="EVALUATION..."
        ),
    ],
    format: Annotated[str, typer.Option(help="epic-kitchens-55 or -100, something-something-v1 or -v2, or jester.")],
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="File to write; for EPIC-KITCHENS a name with .zip makes an archive."),
    ],
    sls_pt: PretrainingOption = None,
    sls_tl: LabelsOption = None,
    sls_td: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the scores of an unlabelled test split in the format of its challenge."""
    from w3ray.evaluation.submission import Supervision
    from w3ray.scoring.submit import write_submission

    named = {"pretraining": sls_pt, "training_labels": sls_tl, "training_data": sls_td}
    levels = {name: level for name, level in named.items() if level is not None}
    if levels and format != "epic-kitchens-100":
        raise InputError(f"--sls-pt, --sls-tl and --sls-td have no effect with --format {format}")
    try:
        supervision = Supervision(**levels) if levels else None
    except ValueError as error:
        raise InputError(f"level of supervision: {error}") from error
    done = write_submission(evaluations, format, out, supervision=supervision)
    for warning in done.warnings:
        write_error(f"warning: {warning}")
    within = f" ({', '.join(done.members)})" if done.members else ""
    finish(asdict(done), as_json, f"{done.clips} clips for {format} in {done.out}{within}")
