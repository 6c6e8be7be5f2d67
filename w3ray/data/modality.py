"""Are the clips of a manifest what a model reads: RGB videos, or optical flow?"""

from w3ray.data.decoders import DecodeError
from w3ray.data.decoders.flow import FlowFolder
from w3ray.data.decoders.frames import FrameNames, frame_names, is_frame_folder
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError
from w3ray.storage import StorageFailing, StorageRefused

_PREFIXES = ("flow_x_", "flow_y_", "x_", "y_")


def holds_flow(manifest: Manifest) -> bool:
    """Whether a manifest's clips are optical flow: it says so, or its first clip is a folder of flow without frames."""
    if manifest.flow:
        return True
    first = manifest.resolve(manifest.table["uri"][0].as_py())
    try:
        if not is_frame_folder(first):
            return False
        if (names := _names(first)) is not None and names.prefix not in _PREFIXES:
            return False  # there are frames
        FlowFolder(first).close()
    except (DecodeError, StorageFailing, StorageRefused):
        return False
    return True


def _names(folder: str) -> FrameNames | None:
    try:
        return frame_names(folder)
    except DecodeError:  # two kinds of images, as x and y of flow are
        return None


def require_modality(manifest: Manifest, flow_fields: int | None, who: str) -> None:
    """Refuse clips of the wrong kind.

    Args:
        manifest: the clips.
        flow_fields: of the model that reads them.
        who: what reads them, for the message.

    Raises:
        InputError: the model reads flow and the clips are videos, or the other way round.
    """
    flow = holds_flow(manifest)
    if flow_fields is not None and not flow:
        raise InputError(
            f"{who} reads optical flow, but {manifest.location} holds videos; make flow with `w3ray data flow`"
        )
    if flow_fields is None and flow:
        raise InputError(f"{manifest.location} holds optical flow, but {who} reads RGB frames; set data.flow_fields=5")
