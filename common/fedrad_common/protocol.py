"""The training protocol: the one document that says what is trained. A site approves it by its hash and keeps its bytes."""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from fedrad_common.canonical import Sha256, canonical_json, sha256_hex
from fedrad_common.config import Section, load_toml, parse_toml, validate
from fedrad_common.errors import ConfigError, FormatError
from fedrad_common.packing import Dtype

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_ -]{0,63}$")]
# What a person reads before they approve: nothing in it may move a terminal's cursor, or turn the direction of the text.
Title = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$")]
Scalar = bool | int | float | str
Spacing = Annotated[float, Field(ge=0.01, le=100)]  # mm
FORMAT = "fedrad-protocol-1"


class Task(Section):
    """What is learned."""

    kind: Name  # a key of fedrad_common.tasks.TASKS
    labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)]  # columns of the site's label table


class Input(Section):
    """What a model sees of one image, or of one volume.

    With `spacing` an image is resampled to it and its middle kept, or a margin of 0 added; without, it is shrunk or enlarged to fit.
    What is not used is not written: a protocol without it keeps the bytes and hash that it had before the key existed.
    """

    profile: Name  # a key of fedrad_common.profiles.PROFILES
    profile_version: PositiveInt | None = None  # sites whose release has another version refuse
    height: Annotated[int, Field(ge=1, le=4096)]  # pixels
    width: Annotated[int, Field(ge=1, le=4096)]
    depth: Annotated[int, Field(ge=1, le=1024)] | None = None  # slices; with it a series becomes one (depth, height, width) volume
    spacing: Annotated[tuple[Spacing, ...], Field(min_length=2, max_length=3)] | None = None  # mm a pixel: (depth,) height, width

    @model_validator(mode="after")
    def _spacing_has_the_images_axes(self) -> Self:
        axes = 2 if self.depth is None else 3
        if self.spacing is None and axes == 3:
            raise ValueError("spacing is required with depth: millimetres between slices, rows and columns")
        if self.spacing is not None and len(self.spacing) != axes:
            raise ValueError(f"spacing has {len(self.spacing)} numbers, not the {axes} of {'an image' if axes == 2 else 'a volume'}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if value is not None}


class Lineage(Section):
    """Where the first weights come from. What was trained on patients without privacy taints all that is computed from it."""

    # "random": drawn from the model's seed; "run": released by a finished run; "public": read from a file that anybody may fetch
    kind: Literal["random", "run", "public"] = "random"
    model: Sha256 | None = None  # of the first weights, packed: what a site compares with what it is sent
    protocol: Sha256 | None = None  # run: by which they were trained
    unit: Literal["patient", "none"] | None = None  # run: that protocol's privacy
    source: Title | None = None  # public: what they were trained on and where they are, for a person to judge
    weights: Sha256 | None = None  # public: of the safetensors file
    fresh: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{0,100}$")] = ""  # public: layers that keep the seed's weights

    @model_validator(mode="after")
    def _it_is_named(self) -> Self:
        wanted = {"random": set(), "run": {"model", "protocol", "unit"}, "public": {"model", "source", "weights"}}[self.kind]
        given = {key for key in ("model", "protocol", "unit", "source", "weights") if (getattr(self, key) or "").strip()}
        if self.fresh and self.kind != "public":
            given.add("fresh")
        if wrong := sorted(wanted ^ given):
            raise ValueError(f"{wrong[0]} is {'required' if wrong[0] in wanted else 'forbidden'} with kind '{self.kind}'")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A protocol without them keeps the bytes and hash that it had before these keys existed."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if value or key not in ("source", "weights", "fresh")}


class Model(Section):
    """Which network, which part of it learns, and where its first weights come from."""

    name: Name  # a key of fedrad_common.models.MODELS, or a `fedrad.models` entry point
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    options: dict[str, Scalar] = {}
    # "head": its last layer; "lora": that, and a detour of few channels (Hu et al. 2022) beside every other linear layer and plain 2-D
    # convolution (not transposed, grouped or dilated); "lora-up": of the detours the second half alone, the first stays as the seed drew it
    # (FFA-LoRA, Sun et al. 2024). All else is public, from a file that each site holds: it neither learns, nor travels, nor gets noise
    trains: Literal["all", "head", "lora", "lora-up"] = "all"
    rank: Annotated[int, Field(ge=1, le=64)] | None = None  # lora: channels of a detour
    initial: Lineage = Lineage()

    @model_validator(mode="after")
    def _what_stays_is_named(self) -> Self:
        if (self.rank is not None) != self.trains.startswith("lora"):
            raise ValueError("rank is required with trains 'lora' and 'lora-up', and forbidden with others")
        if self.trains != "all" and self.initial.kind == "run":
            raise ValueError(f"trains is {self.trains!r}: the rest is public weights, and initial.kind is 'run'")
        if self.trains != "all" and self.initial.fresh and self.initial.fresh.split(".")[0] != "head":
            raise ValueError(
                f"trains is {self.trains!r}: initial.fresh is 'head' or of it, for what stays is public, not {self.initial.fresh!r}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A protocol without them keeps the bytes and hash that it had before these keys existed."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if (key, value) not in (("trains", "all"), ("rank", None))}


class Privacy(Section):
    """Everything that the guarantee depends on, and nothing else. The site computes q and sigma from this and its declared size."""

    unit: Literal["patient", "none"]  # "none": no privacy; a site refuses it unless its policy allows unbounded releases
    epsilon: PositiveFloat | None = None  # of the whole run, per patient (PRV); required with unit "patient"
    # L2 bound on one patient's gradient; not so small or large that floating point could not hold it
    clip_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    # "flat": down to the bound, smaller ones as they are; "normalised": all to nearly the bound (AUTO-S, Bu et al. 2023), so that the
    # learning rate alone is tuned. Either way a patient adds a vector of at most the bound
    clipping: Literal["flat", "normalised"] = "flat"
    expected_batch: PositiveFloat  # B, patients; the sampling rate at a site is q = min(1, B / N)
    steps_per_round: PositiveInt
    rounds: PositiveInt
    max_images: PositiveInt = 8  # M, images of one patient drawn a step

    @model_validator(mode="after")
    def _epsilon_belongs_to_patient(self) -> Self:
        if (self.unit == "patient") != (self.epsilon is not None):
            raise ValueError("epsilon is required with unit 'patient' and forbidden with unit 'none'")
        return self

    @model_serializer(mode="wrap")
    def _without_the_default_clipping(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A protocol without it keeps the bytes and hash that it had before the key existed."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if (key, value) != ("clipping", "flat")}

    @property
    def steps(self) -> int:
        return self.rounds * self.steps_per_round


class Training(Section):
    """A site's local steps. Nothing here can change the guarantee."""

    learning_rate: PositiveFloat
    # Made anew each round: a site keeps no state. "adam-bc" takes the known noise out of Adam's second moment (Tang et al. 2024)
    optimizer: Literal["sgd", "adamw", "adam-bc"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # sgd
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"  # of the learning rate, over the rounds
    proximal: Annotated[float, Field(ge=0)] = 0.0  # FedProx's mu; 0 is plain FedAvg
    augmentation: Name = "none"  # a key of fedrad_common.augmentation.AUGMENTATIONS
    multiplicity: Annotated[int, Field(ge=1, le=64)] = 1  # K augmented views an image, averaged before the clip
    # Of the network's products, forwards and backwards; patients' gradients are formed, clipped and added as ever. Where the processor has
    # bfloat16 it is up to twice as fast
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_serializer(mode="wrap")
    def _without_the_default_precision(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A protocol without it keeps the bytes and hash that it had before the key existed."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if (key, value) != ("precision", "float32")}


class Aggregation(Section):
    """How a round's updates become one step.

    fedavg and fedadam weigh a site by its declared size. The robust ones weigh every site the same, because a size is only a claim:
    median and trimmed-mean by coordinate (Yin et al. 2018), krum and multi-krum by distance (Blanchard et al. 2017).
    """

    strategy: Literal["fedavg", "fedadam", "median", "trimmed-mean", "krum", "multi-krum"] = "fedavg"
    learning_rate: PositiveFloat = 1.0  # of the server's step
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the server's step, except with fedadam
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9  # fedadam
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: PositiveFloat = 1e-3
    trim: Annotated[float, Field(ge=0.01, lt=0.5)] | None = None  # trimmed-mean: the fraction of updates cut on each side
    byzantine: Annotated[int, Field(ge=1, le=1000)] | None = None  # krum, multi-krum: f, how many sites may be poisoned
    keep: Annotated[int, Field(ge=1, le=1000)] | None = None  # multi-krum: m, how many updates are averaged
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged model, which is evaluated and released; 0 is off

    @model_validator(mode="after")
    def _a_strategy_has_its_own_numbers(self) -> Self:
        wanted = {"trimmed-mean": {"trim"}, "krum": {"byzantine"}, "multi-krum": {"byzantine", "keep"}}.get(self.strategy, set())
        given = {key for key in ("trim", "byzantine", "keep") if getattr(self, key) is not None}
        if wrong := sorted(wanted ^ given):
            raise ValueError(f"{wrong[0]} is {'required' if wrong[0] in wanted else 'forbidden'} with strategy '{self.strategy}'")
        return self

    @property
    def weighted(self) -> bool:
        return self.strategy in ("fedavg", "fedadam")

    @property
    def least_updates(self) -> int:
        """Of fewer updates the strategy's promise does not hold: it would cut nobody, or one poisoned site could win."""
        if self.strategy == "trimmed-mean":
            assert self.trim is not None
            trim = self.trim
            return next(n for n in itertools.count(3) if int(trim * n))
        if self.byzantine is not None:
            # 2f + 2 < n; and of n updates n - f - 2 may be averaged (Damaskinos et al. 2019, AggregaThor).
            return self.byzantine + 2 + max(self.byzantine + 1, self.keep or 1)
        return 3 if self.strategy == "median" else 1


class Rounds(Section):
    """When a round is over. (How many there are stands in `privacy`.)"""

    quorum: PositiveInt  # updates needed to close a round
    deadline_seconds: PositiveFloat
    retries: Annotated[int, Field(ge=0, le=100)] = 2  # below quorum, before the run pauses
    dtype: Dtype = "float32"  # of model and updates as they travel; float16 halves the bytes, rounding after the noise
    # A site's replies leave at multiples of it, counted from the order's receipt; longer than the work, nobody sees how long
    # that took. 0: at once
    slot_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0

    @model_validator(mode="after")
    def _a_slot_hides_the_work_and_ends_in_time(self) -> Self:
        if 0 < self.slot_seconds < 1:
            raise ValueError(f"slot_seconds is 0, for none, or at least 1, not {self.slot_seconds:g}")
        if self.slot_seconds >= self.deadline_seconds:
            raise ValueError(f"slot_seconds {self.slot_seconds:g} is not below deadline_seconds {self.deadline_seconds:g}")
        return self


class Evaluation(Section):
    """Score histograms of validation patients (privacy.md, rule 11)."""

    rounds: tuple[Annotated[int, Field(ge=1)], ...] = ()  # after which rounds
    release: Literal["noised", "exact", "none"] = "noised"
    epsilon: PositiveFloat | None = None  # of all noised releases together, on the validation line
    bins: Literal[32] = 32

    @model_validator(mode="after")
    def _noise_has_a_price(self) -> Self:
        if self.rounds and self.release == "noised" and self.epsilon is None:
            raise ValueError("epsilon is required when release is 'noised'")
        return self


class TrainingProtocol(Section):
    format: Literal["fedrad-protocol-1"]
    name: Name
    title: Title = ""
    task: Task
    input: Input
    model: Model
    privacy: Privacy
    training: Training
    rounds: Rounds
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _a_quorum_is_enough_for_the_strategy(self) -> Self:
        least = self.aggregation.least_updates
        if self.rounds.quorum < least:
            raise ValueError(f"rounds.quorum {self.rounds.quorum} is too few: strategy '{self.aggregation.strategy}' needs {least} updates")
        return self

    @model_validator(mode="after")
    def _first_weights_can_be_checked(self) -> Self:
        if self.rounds.dtype == "float16" and self.model.initial.kind != "random":
            raise ValueError("rounds.dtype float16 wants random first weights: sites know others by the hash of their float32 bytes")
        return self

    @model_validator(mode="after")
    def _evaluated_rounds_exist(self) -> Self:
        if self.evaluation.rounds and max(self.evaluation.rounds) > self.privacy.rounds:
            raise ValueError(f"evaluation.rounds names round {max(self.evaluation.rounds)} of {self.privacy.rounds}")
        if self.evaluation.release == "exact" and self.evaluation.rounds not in ((), (self.privacy.rounds,)):
            raise ValueError("exact evaluation is for the last round only")
        return self

    def canonical(self) -> bytes:
        """The document's bytes: defaults written out, so that a default that changes later changes the hash too."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def hash(self) -> str:
        return sha256_hex(self.canonical())


def load_protocol(path: Path) -> TrainingProtocol:
    """Raises ConfigError with file, key and hint."""
    return load_toml(path, TrainingProtocol)


def parse_protocol(content: bytes, *, name: str = "protocol.toml") -> TrainingProtocol:
    return parse_toml(content, TrainingProtocol, name=name)


def parse_stored(content: bytes) -> TrainingProtocol:
    """A protocol that was accepted earlier. Raises FormatError: nobody mistyped it, so it is damaged or of another version."""
    try:
        return parse_protocol(content)
    except ConfigError as error:
        raise FormatError(str(error), hint="it is damaged or of another version; restore it from a backup") from None


def replace_settings(protocol: TrainingProtocol, settings: dict[str, object], *, name: str = "--set") -> TrainingProtocol:
    """A copy with dotted keys replaced, validated anew: `{"privacy.epsilon": 3.0}`."""
    value = protocol.model_dump(mode="json")
    for dotted, new in settings.items():
        *path, last = dotted.split(".")
        place = value
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{name}: {dotted}: {part!r} holds a value, no section", hint="as in privacy.epsilon=3")
        place[last] = new
    return validate(value, TrainingProtocol, name=name)


def render_protocol(protocol: TrainingProtocol) -> bytes:
    """The document as TOML, every default written out; parsing it gives the same protocol and hash."""
    return "\n".join(_render(protocol.model_dump(mode="json", exclude_none=True), ())).encode() + b"\n"


def render_lineage(lineage: Lineage) -> list[str]:
    """The section `model.initial` as TOML."""
    return ["[model.initial]", *_render(lineage.model_dump(mode="json", exclude_none=True), ())]


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _render(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    # JSON's strings, numbers, booleans and arrays are TOML's as well; but its pairs of escapes for characters beyond 16 bits are not, and
    # TOML wants DEL escaped.
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {_written(value)}" for key, value in table.items() if key not in inner]
    for key, value in inner.items():
        lines += ["", f"[{'.'.join((*path, key))}]", *_render(value, (*path, key))]
    return lines
