"""`w3ray data`: import, check, describe, show and synthesise clips, a command a file."""

import typer

from w3ray.cli.data_bank import bank
from w3ray.cli.data_boxes import boxes
from w3ray.cli.data_check import check
from w3ray.cli.data_flow import flow
from w3ray.cli.data_import import import_app
from w3ray.cli.data_pack import pack
from w3ray.cli.data_show import show
from w3ray.cli.data_stats import stats
from w3ray.cli.data_synth import synth

app = typer.Typer(no_args_is_help=True, help="Import, check, describe, show and synthesise clips.")
app.add_typer(import_app, name="import")
app.command("stats")(stats)
app.command("show")(show)
app.command("check")(check)
app.command("synth")(synth)
app.command("flow")(flow)
app.command("boxes")(boxes)
app.command("pack")(pack)
app.command("bank")(bank)
