"""`w3ray data import`: make a manifest from class folders, a CSV file, or a published data set."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from w3ray._registry import PluginError
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import write_error
from w3ray.cli._progress import Progress
from w3ray.data.importers import IMPORTERS
from w3ray.data.manifest import Manifest, write_manifest
from w3ray.errors import InputError

if TYPE_CHECKING:
    from w3ray.data.importers import Columns, Dealing
    from w3ray.data.importers._looking import Journal
from w3ray.cli._manifests import manifest_document, manifest_text

import_app = typer.Typer(no_args_is_help=True, help="Make a manifest from existing videos.")


class FolderSplit(StrEnum):
    """Where `import folder` takes the splits from."""

    FOLDER = "folder"
    LIST = "list"
    GROUP = "group"
    RANDOM = "random"


class CsvSplit(StrEnum):
    """Where `import csv` takes the splits from."""

    COLUMN = "column"
    GROUP = "group"
    RANDOM = "random"


OutOption = Annotated[str, typer.Option("--out", "-o", help="Manifest to write (Parquet; a path or s3://...).")]

GroupOption = Annotated[
    str | None, typer.Option("--group", help="Regular expression with one (capture), searched for in each clip's path.")
]

ValGroupsOption = Annotated[str, typer.Option(help="Groups to hold out for val, separated by commas.")]

TestGroupsOption = Annotated[str, typer.Option(help="Groups to hold out for test, separated by commas.")]

ValShareOption = Annotated[float, typer.Option(help="Share of clips for val, if no groups are named.")]

TestShareOption = Annotated[float, typer.Option(help="Share of clips for test, if no groups are named.")]

SeedOption = Annotated[int, typer.Option(help="Seed of the random choices.")]

ClassesOption = Annotated[str, typer.Option(help="Class names in label order, separated by commas; default: sorted.")]

FramePrefixOption = Annotated[
    str | None,
    typer.Option(
        "--frame-prefix",
        help="First part of the frames' file names, such as 'img_'. For folders that hold other images, too.",
    ),
]

FlipOption = Annotated[
    str,
    typer.Option(
        "--flip-map",
        help="Mirror images: 'left=right,in=out', or 'identity' if a mirrored clip keeps its class. "
        "Without one, training may not mirror clips.",
    ),
]

DelimiterOption = Annotated[
    str | None,
    typer.Option(help="Character between two values; default: a comma, or without a header what fits: blanks, ..."),
]

SeparatorOption = Annotated[
    str | None,
    typer.Option(
        "--label-separator",
        help="What stands between the classes of a multi-label clip: '|' in 'run|jump' ('|' alone: none of them). '': "
        "each label is one class. Default: '|' where the labels show it.",
    ),
]

MissingOkOption = Annotated[bool, typer.Option("--missing-ok", help="Do not check whether the videos exist.")]

AddressOption = Annotated[
    str | None,
    typer.Option(help="Ray cluster that checks the videos; each node must see them. Default: this process."),
]

TwinOption = Annotated[
    bool,
    typer.Option("--reversed-twin", help="Each clip forward (class 0) and backward (class 1): a pure test of order."),
]

HashOption = Annotated[
    bool,
    typer.Option(
        "--hash",
        help="Hash each video's content: a run then knows for certain which videos changed. Reads all of them.",
    ),
]


@import_app.command("folder")
@run_command
def import_folder_command(
    source: Annotated[str, typer.Argument(help="Folder with SOURCE/<class>/<clip>, or SOURCE/<split>/<class>/<clip>.")],
    out: OutOption,
    split: Annotated[
        FolderSplit | None,
        typer.Option(
            help="From the first folder level, list files, held-out groups, or a random share. Default: what the other "
            "options and the names of the folders say, else a random share."
        ),
    ] = None,
    lists: Annotated[str, typer.Option("--list", help="List files: 'train=a.txt,val=b.txt'.")] = "",
    group: GroupOption = None,
    val_groups: ValGroupsOption = "",
    test_groups: TestGroupsOption = "",
    val_share: ValShareOption = 0.2,
    test_share: TestShareOption = 0.0,
    seed: SeedOption = 0,
    classes: ClassesOption = "",
    flip_map: FlipOption = "",
    frame_prefix: FramePrefixOption = None,
    reversed_twin: TwinOption = False,
    content_hash: HashOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import class folders.

    Split folders are called train, val or test (in any case), or training, valid, validation, dev, testing. A single
    folder called 'test' among others is a class. If all folders have such names, --classes says that they are classes.
    """
    from w3ray.data.importers import import_folder

    if split is None and lists:
        split = FolderSplit.LIST
    if split is None and (val_groups or test_groups):
        split = FolderSplit.GROUP
    if lists and split is not FolderSplit.LIST:
        raise InputError(f"--list has no effect with --split {split}; add --split list")
    manifest = import_folder(
        source,
        split=None if split is None else split.value,
        lists=_pairs(lists, "--list") or None,
        group=group,
        dealing=_dealing(split == "group", val_groups, test_groups, val_share, test_share, seed),
        classes=_names(classes) or None,
        flip_map=_flip_map(flip_map),
        frame_prefix=frame_prefix,
        note=write_error,
    )
    _write(manifest, out, twin=reversed_twin, content=content_hash, as_json=as_json)


@import_app.command("csv")
@run_command
def import_csv_command(
    source: Annotated[
        str, typer.Argument(help="CSV with a row per clip: path, label, split, group, ...; or a list without a header.")
    ],
    out: OutOption,
    root: Annotated[str | None, typer.Option(help="Folder of relative paths; default: the CSV's folder.")] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="Other column names: 'path=video,label=class,split=..,group=..,start=..,end=..'; "
            "'label=verb+noun': each clip has two labels. For a file without a header: its columns in order: "
            "'path,label', 'path,num_frames,label', 'path,label,start,end' ('_': not read); also "
            "'path,verb,noun,label=verb+noun'."
        ),
    ] = "",
    delimiter: DelimiterOption = None,
    split: Annotated[
        CsvSplit | None, typer.Option(help="From the column (the default, if there is one), groups, or a random share.")
    ] = None,
    group: GroupOption = None,
    val_groups: ValGroupsOption = "",
    test_groups: TestGroupsOption = "",
    val_share: ValShareOption = 0.2,
    test_share: TestShareOption = 0.0,
    seed: SeedOption = 0,
    classes: ClassesOption = "",
    flip_map: FlipOption = "",
    frame_prefix: FramePrefixOption = None,
    label_separator: SeparatorOption = None,
    missing_ok: MissingOkOption = False,
    address: AddressOption = None,
    reversed_twin: TwinOption = False,
    content_hash: HashOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a CSV file."""
    from w3ray.data.importers import import_csv

    header, named = _columns(columns)
    if split is None and (val_groups or test_groups):
        split = CsvSplit.GROUP
    with _looked_for(out, address, missing_ok, content_hash) as journal:
        manifest = import_csv(
            source,
            root=root,
            columns=named,
            header=header,
            delimiter=delimiter,
            split=None if split is None else split.value,
            group=group,
            dealing=_dealing(split == "group", val_groups, test_groups, val_share, test_share, seed),
            classes=_names(classes) or None,
            flip_map=_flip_map(flip_map),
            frame_prefix=frame_prefix,
            label_separator=label_separator,
            note=write_error,
        )
    _write(
        manifest, out, twin=reversed_twin, content=content_hash, as_json=as_json, look=not missing_ok, journal=journal
    )


def _importer(name: str) -> Callable[..., Manifest]:
    """The importer with this name. If its plugin cannot be loaded, an importer that says so: its command must exist."""
    try:
        return IMPORTERS[name]
    except PluginError as error:
        fault = error

    def failing(annotations: str, *, fold: int = 0, val_groups: Any = (), **options: Any) -> Manifest:
        raise fault

    failing.__doc__ = f"Cannot be loaded: {fault}"
    return failing


def _add_published(name: str) -> None:
    """Add the command of a published data set or of a plugin's importer. All these commands have the same options."""
    importer = _importer(name)
    parameters = inspect.signature(importer).parameters

    @import_app.command(name, help=(importer.__doc__ or "").partition("\n")[0])
    @run_command
    def command(
        annotations: Annotated[str, typer.Argument(help="Folder with the published annotation files.")],
        videos: Annotated[str, typer.Option(help="Folder (or s3://...) of the videos or frame folders.")],
        out: OutOption,
        fold: Annotated[int | None, typer.Option(help="One of several official splits; default: the first.")] = None,
        val_groups: Annotated[
            str,
            typer.Option(
                help="Groups to hold out for val, separated by commas, if the data set has no val; 'none': no val."
            ),
        ] = "",
        partial: Annotated[
            bool, typer.Option("--partial", help="Import what is there of an unfinished download.")
        ] = False,
        missing_ok: MissingOkOption = False,
        address: AddressOption = None,
        content_hash: HashOption = False,
        as_json: JsonOption = False,
    ) -> None:
        if fold is not None and "fold" not in parameters:
            raise InputError(f"--fold has no effect: {name} has one official split")
        if val_groups and "val_groups" not in parameters:
            raise InputError(f"--val-groups has no effect: {name} has official splits")
        options: dict[str, Any] = {} if fold is None else {"fold": fold}
        if val_groups:
            options["val_groups"] = [] if val_groups == "none" else _names(val_groups)
        with _looked_for(out, address, missing_ok, content_hash) as journal:
            manifest = importer(annotations, videos=videos, partial=partial, note=write_error, **options)
        _write(manifest, out, twin=False, content=content_hash, as_json=as_json, look=not missing_ok, journal=journal)


@contextmanager
def _looked_for(out: str, address: str | None, missing_ok: bool, content: bool) -> Iterator["Journal"]:
    """Imports inside the `with` block check videos with progress and this journal, on the cluster at `address`."""
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.importers._looking import Journal, Looking, looking

    if missing_ok and content:
        raise InputError("--hash has no effect with --missing-ok: no video is checked")
    if missing_ok and address:
        raise InputError("--address has no effect with --missing-ok: no video is checked")
    journal = Journal(f"{out}.looked")
    cluster = None if missing_ok else address or job_address()
    if cluster:
        connect(cluster)
    how = Looking(
        journal=None if missing_ok else journal,
        on_cluster=cluster is not None,
        progress=Progress("checked {done} of {total} videos"),
        note=write_error,
        skip=missing_ok,
    )
    try:
        with looking(how):
            yield journal
    finally:
        if cluster:
            disconnect()


def _write(
    manifest: Manifest,
    out: str,
    *,
    twin: bool,
    content: bool,
    as_json: bool,
    look: bool = True,
    journal: "Journal | None" = None,
) -> None:
    from w3ray.data.importers import reversed_twin
    from w3ray.data.stamps import stamped

    manifest = reversed_twin(manifest) if twin else manifest
    written = write_manifest(stamped(manifest, content=content) if look else manifest, out)
    if journal is not None:
        journal.remove()
    finish(manifest_document(written), as_json=as_json, text=manifest_text(written))


def _dealing(
    by_group: bool, val_groups: str, test_groups: str, val_share: float, test_share: float, seed: int
) -> "Dealing":
    from w3ray.data.importers import Dealing

    if (val_groups or test_groups) and not by_group:
        raise InputError("--val-groups and --test-groups have no effect without --split group")
    return Dealing(
        val_groups=_names(val_groups),
        test_groups=_names(test_groups),
        val_share=val_share,
        test_share=test_share,
        seed=seed,
    )


def _columns(text: str) -> "tuple[list[str] | None, Columns]":
    """The columns of a file without a header, in order, and what each column is read as."""
    from w3ray.data.importers import Columns

    header = [name for name in _names(text) if "=" not in name]
    named = _pairs(",".join(name for name in _names(text) if "=" in name), "--columns")
    if unknown := set(named) - set(Columns.__slots__):
        raise InputError(f"--columns: no {sorted(unknown)[0]!r}; known: {', '.join(Columns.__slots__)}")
    return header or None, Columns(**named)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pairs(text: str, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in _names(text):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value):
            raise InputError(f"{option}: {item!r} is not of the form name=value")
        if name in pairs:
            raise InputError(f"{option}: {name!r} is given twice")
        pairs[name] = value
    return pairs


def _flip_map(text: str) -> dict[str, str] | Literal["identity"] | None:
    if not text:
        return None
    return "identity" if text == "identity" else _pairs(text, "--flip-map")


for _name in IMPORTERS:
    if _name not in ("folder", "csv"):
        _add_published(_name)
