"""Options that several commands share, so that they mean and say the same everywhere."""

from typing import Annotated

import typer

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="Running Ray cluster, such as auto or ray://host:10001; default: start a local one."
    ),
]
RootsOption = Annotated[
    list[str] | None,
    typer.Option("--root", help="Videos must be inside this folder or s3:// address. Can be repeated."),
]
DecoderOption = Annotated[str, typer.Option("--decoder", help="Decoder: pyav, decord or torchcodec.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with code 1 if a clip cannot be read.")]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value: --set train.epochs=3. Can be repeated."),
]
AverageOption = Annotated[
    str,
    typer.Option(
        "--average", help="What is averaged over views: 'scores' (equal votes) or 'logits' (as in TSM's code)."
    ),
]
