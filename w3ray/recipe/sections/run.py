"""What is evaluated, where is a run recorded, and which resources of the cluster does it use?"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w3ray.recipe._marks import Section


class Evaluation(Section):
    """What is evaluated at the end of each stage."""

    split: Literal["test", "val"] = Field(default="val", description="split of the run's reported result")


class Tracking(Section):
    """Where runs are recorded."""

    enabled: bool = Field(default=True, description="record runs in MLflow")
    uri: str | None = Field(
        default=None, description="MLflow address; null: MLFLOW_TRACKING_URI, else SQLite in `storage`"
    )
    experiment: str | None = Field(
        default=None, min_length=1, description="experiment; null: MLFLOW_EXPERIMENT_NAME, else the recipe's name"
    )
    registered_model: str | None = Field(
        default=None, min_length=1, description="registered model; null: the recipe's name"
    )
    explain_clips: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="clip_ids; during training, pictures show where the attention looks in these clips; about a "
        "second for each",
    )
    explain_every_epochs: int | None = Field(
        default=None, ge=1, description="epochs between these pictures, and the last epoch; null: at each validation"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name in self.explain_clips if self.explain_clips.count(name) > 1]
        if twice:
            raise ValueError(f"explain_clips: {twice[0]!r} is named twice; remove one")
        if self.explain_every_epochs is not None and not self.explain_clips:
            raise ValueError("'explain_every_epochs' needs 'explain_clips', the clips to show")
        return self


class Resources(Section):
    """The resources of the cluster that a run uses, and its time limits."""

    workers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=1, description="training workers (DDP); [minimum, maximum]: as many as fit into the cluster"
    )
    worker_resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="custom Ray resources of each worker: workers run only on nodes that have them"
    )
    decoder_resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="custom Ray resources of each decoder, such as {decode: 1} for nodes that only decode"
    )
    may_grow: bool = Field(
        default=False,
        description="the cluster adds nodes on demand (autoscaling): accept a run that does not fit the present nodes",
    )
    resize_every_s: float = Field(
        default=60.0, gt=0, description="seconds between checks whether more workers fit into the cluster"
    )
    clip_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="time limit for decoding a clip, seconds, without fetching; a clip that exceeds it twice is "
        "unreadable",
    )
    stall_timeout_s: float = Field(
        default=600.0, ge=1, description="seconds without progress after which a stage's processes are restarted"
    )
    cpus_per_worker: float | None = Field(default=None, gt=0, description="CPU cores of each worker; null: derived")
    use_gpu: bool | Literal["auto"] = Field(
        default="auto", description="a GPU for each worker; auto: if there are enough"
    )
    decoders: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", description="decoder processes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, most = self.workers_range
        if least > most:
            raise ValueError(f"workers {list(self.workers_range)}: the minimum must come first, as in [1, 4]")
        for name in ("worker_resources", "decoder_resources"):
            for own, field in (
                ("CPU", "cpus_per_worker and decoders"),
                ("GPU", "use_gpu"),
                ("memory", "Ray's options"),
            ):
                if own in getattr(self, name):
                    raise ValueError(f"{name} is for custom resources; set {own} by {field}")
        return self

    @property
    def workers_range(self) -> tuple[int, int]:
        """The minimum and maximum number of workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)
