"""Any set of clips into a pure test of order: is a clip played forwards or backwards?"""

from w3ray.data.manifest import Manifest, build_manifest


def reversed_twin(manifest: Manifest) -> Manifest:
    """Each clip twice: as it is (class 0, "forward") and played backwards (class 1, "backward").

    Both have the same frames, so order is the only cue. The former labels are dropped. Split and group stay, so both
    twins are in the same split. A mirror image plays in the same direction, so the flip map is the identity.
    """
    twins: dict[str, list[object]] = {name: [] for name in manifest.table.column_names}
    for row, uri in zip(manifest.table.to_pylist(), manifest.resolved_uris(), strict=True):
        for label, direction in enumerate(("forward", "backward")):
            twin = row | {
                "clip_id": f"{row['clip_id']}#{direction}",
                "uri": uri,
                "label": label,
                "reversed": row["reversed"] != (direction == "backward"),
            }
            for name, values in twins.items():
                values.append(twin[name])
    return build_manifest(twins, ("forward", "backward"), {0: 0, 1: 1})
