"""What the records of a study must hold before anybody reads on: their seals tell damage, not malice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from isoloss.errors import StoreError
from isoloss.files import read_record_bytes
from isoloss.study.config import MAX_INT

Record = TypeVar("Record")
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
NUMERICS = "numerics"
"""Key, in a run's provenance and in a checkpoint's metadata, of the numerics so far, each with its first `step`."""
CONTINUES = "continues"
"""Key, likewise, of the run that trained a run's first steps."""
CONTINUES_FROM = "continues_from"
"""Key, likewise, of the steps that it took over."""
FIRST_EVALUATION = "first_evaluation"
"""Key, likewise, of the run whose evaluation before any step it took over."""
PROGRAM, SHUFFLED = "program", "shuffled"
"""Keys, in a run's provenance, of the first run trained together with it, and of whether the programs of its study ran
in shuffled order."""
EXECUTOR, NODE = "executor", "node"
"""Keys, likewise, of what trained a run (inline, processes, slurm or ray) and of the machine's name."""
State = Literal["pending", "running", "done", "failed", "diverged", "damaged"]
"""`damaged` is never written: it is what a reader finds."""


@with_config(extra="forbid")  # else those who hold it would let it hold anything, as they may themselves
class ExtentRecord(TypedDict):
    """The first `size` bytes of a file of rows."""

    size: NonNegativeInt
    sha256: str


class PeakRecord(TypedDict):
    """What a step's FLOPs are held against."""

    flops: FiniteFloat
    source: str


def _from_a_step(numerics: dict[str, str | int]) -> dict[str, str | int]:
    if not isinstance(numerics.get("step"), int):
        raise ValueError("no step from which on")
    return numerics


NumericsRecord = Annotated[dict[str, str | int], AfterValidator(_from_a_step)]


@with_config(extra="allow")
class MetadataRecord(TypedDict):
    """A checkpoint's metadata: extents of its rows, numerics, the runs it was stacked with, and whose it took over."""

    rows: NotRequired[dict[str, ExtentRecord]]
    numerics: NotRequired[list[NumericsRecord]]
    stack: NotRequired[list[str]]
    continues: NotRequired[str]
    continues_from: NotRequired[Count]
    first_evaluation: NotRequired[str]


class ProgressRecord(TypedDict):
    """How far a checkpoint is; what training needs of it beside the step is its own."""

    step: Count


class SidecarRecord(TypedDict):
    """The JSON file of a checkpoint, as far as its run is concerned."""

    progress: ProgressRecord
    beside: MetadataRecord


def _plain(provenance: dict[str, Any]) -> dict[str, Any]:
    """What is kept for a reader alone must be what can be written again."""
    for key, value in provenance.items():
        if key not in RunProvenance.__annotations__ and not isinstance(value, str | int | None):
            raise ValueError(f"{key} is neither text nor a whole number")
    return provenance


@with_config(extra="allow")
class RunProvenance(TypedDict):
    """What a run was trained on: names and figures for a reader, and what is computed with."""

    device: NotRequired[str]
    continues: NotRequired[str]
    continues_from: NotRequired[Count]
    first_evaluation: NotRequired[str]
    peak: NotRequired[PeakRecord]
    numerics: NotRequired[list[NumericsRecord]]


class MeasuredRecord(TypedDict):
    """The columns of the summary that are computed from a run's rows; earlier versions knew no averages of weights."""

    best_val_loss: FiniteFloat | None
    best_step: Count | None
    best_ema_val_loss: NotRequired[FiniteFloat | None]
    final_ema_val_loss: NotRequired[FiniteFloat | None]
    final_val_loss: FiniteFloat | None
    final_train_loss: FiniteFloat | None
    best_val_bpb: NotRequired[FiniteFloat | None]
    final_val_bpb: NotRequired[FiniteFloat | None]
    best_ema_val_bpb: NotRequired[FiniteFloat | None]
    final_ema_val_bpb: NotRequired[FiniteFloat | None]
    train_val_gap: FiniteFloat | None
    loss_roughness: FiniteFloat | None
    median_step_time_s: FiniteFloat | None
    tokens_per_s: FiniteFloat | None
    mfu: FiniteFloat | None
    mfu_a100: FiniteFloat | None


class StatusRecord(TypedDict):
    """status.json; `measured` of a run that has ended, and was not written by earlier versions."""

    state: State
    reason: str
    times_s: dict[str, FiniteFloat]
    provenance: Annotated[RunProvenance, AfterValidator(_plain)]
    rows: dict[str, ExtentRecord]
    measured: NotRequired[MeasuredRecord | None]
    updated_at: str


class StartRecord(TypedDict):
    """provenance.json."""

    started_at: str
    versions: dict[str, str]
    machine: dict[str, str | int]


class MirroredRecord(TypedDict):
    """mirrored.json: tells this directory's runs from those of others in a tracker that several people share."""

    directory: Annotated[str, Field(pattern="^[0-9a-f]{6}$")]


class StepRecord(TypedDict):
    """A row of metrics.jsonl."""

    step: Count
    loss: FiniteFloat | None
    lr: FiniteFloat
    grad_norm: FiniteFloat | None
    step_time_s: FiniteFloat
    tokens_per_s: FiniteFloat
    mfu: FiniteFloat
    mfu_a100: FiniteFloat


ByPosition = dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,9}$")], FiniteFloat | None]
"""Mean losses of targets by how many tokens of their window stand before them: the most of each bin, as text."""


class EvalRecord(TypedDict):
    """A row of evals.jsonl; losses of an average of the weights where the run has one, by position where it ended."""

    step: Count
    train_loss: FiniteFloat | None
    val_loss: FiniteFloat | None
    eval_time_s: FiniteFloat
    val_bpb: NotRequired[FiniteFloat | None]
    ema_train_loss: NotRequired[FiniteFloat | None]
    ema_val_loss: NotRequired[FiniteFloat | None]
    ema_val_bpb: NotRequired[FiniteFloat | None]
    val_loss_by_position: NotRequired[ByPosition | None]


class ThinnedSteps(TypedDict):
    """Points of a run's per-step record, by column and all of one length."""

    step: list[Count]
    loss: list[FiniteFloat | None]
    lr: list[FiniteFloat]
    grad_norm: list[FiniteFloat | None]
    seconds: list[FiniteFloat]


class ThinnedEvals(TypedDict):
    """Some of a run's evaluations, by column and all of one length."""

    step: list[Count]
    train_loss: list[FiniteFloat | None]
    val_loss: list[FiniteFloat | None]
    ema_val_loss: NotRequired[list[FiniteFloat | None]]


def _of_one_length(columns: Any) -> Any:
    if len(set(map(len, columns.values()))) > 1:
        raise ValueError("columns of different lengths")
    return columns


class CurvesRecord(TypedDict):
    """curves.json: the thinned curves of a run that has ended, of the rows of these extents."""

    rows: dict[str, ExtentRecord]
    steps: Annotated[ThinnedSteps, AfterValidator(_of_one_length)]
    evals: Annotated[ThinnedEvals, AfterValidator(_of_one_length)]
    val_loss_by_position: NotRequired[ByPosition]


class PartRecord(TypedDict):
    """What is known of a norm, an MLP, positions or an optimizer of a study's own."""

    setting: Literal["norm", "mlp", "position", "optimizer"]
    gated: NotRequired[bool]
    learned: NotRequired[bool]
    rotated: NotRequired[bool]
    moments: NotRequired[list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]]]
    defaults: NotRequired[dict[str, str | int | FiniteFloat | bool | None]]


class PartsRecord(TypedDict):
    """parts.json: parts by what configurations call them."""

    parts: dict[Annotated[str, Field(pattern="^[A-Z][A-Za-z0-9_]*@[0-9a-f]{12}$")], PartRecord]


class StepTimesRecord(TypedDict):
    """Seconds that a step took where a study began, by the settings on which they depend."""

    seconds: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]


class JobsRecord(TypedDict):
    """jobs/NAME.json: the runs of each job of an array."""

    stacks: list[list[str]]


JOBS = TypeAdapter(JobsRecord)
STATUS, START = TypeAdapter(StatusRecord), TypeAdapter(StartRecord)
METADATA, SIDECAR = TypeAdapter(MetadataRecord), TypeAdapter(SidecarRecord)
CURVES, MIRRORED = TypeAdapter(CurvesRecord), TypeAdapter(MirroredRecord)
STEP_TIMES = TypeAdapter(StepTimesRecord)
PARTS = TypeAdapter(PartsRecord)
STEPS, EVALS = TypeAdapter(list[StepRecord]), TypeAdapter(list[EvalRecord])


def checked(shape: TypeAdapter[Record], value: object, path: Path) -> Record:
    """The value, if it is what a file at `path` must hold. Raises StoreError that names the first thing amiss."""
    return _checked(lambda: shape.validate_python(value, strict=True), path)


def read_checked(shape: TypeAdapter[Record], path: Path) -> Record:
    """The record at `path`, if it is whole and holds what it must. Raises StoreError likewise."""
    return parsed(shape, read_record_bytes(path), path)


def parsed(shape: TypeAdapter[Record], text: bytes, path: Path) -> Record:
    """What JSON from a file at `path` says, if it is what it must. Raises StoreError likewise."""
    return _checked(lambda: shape.validate_json(text, strict=True), path)


def _checked(validate: Callable[[], Record], path: Path) -> Record:
    try:
        return validate()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise StoreError(f"{path}: {place}: {first['msg'].lower()}; isoloss did not write this") from error
