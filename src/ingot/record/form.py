"""The form of ingot.json, as one tree of nouns: what is written through it is what is read through it.

Names in the file are those of in-toto and SLSA; names that begin with `ingot_` are extensions, as SLSA asks for.
Source: in-toto attestation framework, spec/v1 (Statement, ResourceDescriptor); SLSA provenance v1.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field, structs

from ingot.plan.model import Options

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:ingot:merge:v1"

Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Natural = Annotated[int, Meta(ge=0)]


class Digest(Struct, frozen=True):
    sha256: Sha256


class SubjectNotes(Struct, frozen=True):
    size: Natural  # bytes


class Subject(Struct, frozen=True):
    """A file of the artifact."""

    name: str
    digest: Digest
    annotations: SubjectNotes

    @property
    def nbytes(self) -> int:
        return self.annotations.size

    @property
    def sha256(self) -> str:
        return self.digest.sha256


class DependencyNotes(Struct, frozen=True, omit_defaults=True):
    """`of` is "base", or an adapter's number counted from 0."""

    of: str
    size: Natural
    revision: str | None = None
    commit: str | None = None


class Dependency(Struct, frozen=True, omit_defaults=True):
    """A file that the artifact was made of. `name` is its own name; `uri` a package URL where it came from the Hub."""

    name: str
    digest: Digest
    annotations: DependencyNotes
    uri: str | None = None


class Byproduct(Struct, frozen=True):
    name: str
    digest: Digest


class BaseSpec(Struct, frozen=True):
    name: str
    revision: str | None


class AdapterSpec(Struct, frozen=True):
    name: str
    revision: str | None
    weight: float


class AdapterLabel(Struct, frozen=True, omit_defaults=True):
    """What a release says of an adapter. `training_run` names the run that made it, as its tracker does."""

    version: str | None = None
    training_run: str | None = None


class Release(Struct, frozen=True, omit_defaults=True):
    """What a release recipe says beside what decides the weights.

    Attributes:
        name: what all versions and formats of it are called: "llama-3-8b-support".
        version, format: of this artifact: "1.2", "gguf:Q4_K_M".
        adapters: as many as the recipe has, or none.
        recipe: the recipe file, with names in the place of paths.
        recipe_sha256: of the recipe file's bytes.
    """

    name: str
    version: str | None = None
    format: str = "safetensors"
    base_version: str | None = None
    adapters: tuple[AdapterLabel, ...] = ()
    recipe: dict[str, Any] | None = None
    recipe_sha256: Sha256 | None = None

    @property
    def labels(self) -> Release:
        """All but the recipe: what the model card tells."""
        return structs.replace(self, recipe=None, recipe_sha256=None)


class Recipe(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the user asked for. A parameter that this version does not know would make other bytes, so it is refused."""

    base: BaseSpec
    adapters: tuple[AdapterSpec, ...]
    options: Options
    release: Release | None = None


class AdapterFacts(Struct, frozen=True):
    name: str
    method: str
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    tensors: Natural
    peft_version: str | None


class Dtypes(Struct, frozen=True):
    compute: str
    accumulate: str
    output: tuple[str, ...]


class Internals(Struct, frozen=True):
    """What else decides the bytes.

    Attributes:
        formulas: how many terms have each.
        libraries: versions.
        backends: who quantized each ggml type.
    """

    plan_digest: Sha256
    plan_version: Natural
    tile_elements: Natural
    formulas: dict[str, int]
    adapters: tuple[AdapterFacts, ...]
    dtypes: Dtypes
    rounding: str
    seed: int | None
    device: str
    cpu_capability: str
    ingot: str
    libraries: dict[str, str]
    backends: dict[str, str] = field(default_factory=dict)


class BuildDefinition(Struct, frozen=True):
    build_type: str = field(name="buildType")
    external: Recipe = field(name="externalParameters")
    internal: Internals = field(name="internalParameters")
    dependencies: tuple[Dependency, ...] = field(name="resolvedDependencies")


class Builder(Struct, frozen=True):
    id: str


class Metadata(Struct, frozen=True):
    """Times are RFC 3339 in UTC."""

    invocation_id: str = field(name="invocationId")
    started_on: str = field(name="startedOn")
    finished_on: str = field(name="finishedOn")
    ingot_identity: str = ""
    ingot_seal: str = ""


class BaseClaim(Struct, frozen=True):
    """The base that an adapter was trained on, by its own account. `matches` None: the names cannot tell."""

    adapter: Natural
    base: str | None
    revision: str | None
    matches: bool | None


class RunDetails(Struct, frozen=True):
    """`checks` are free in form: what was found, for people and dashboards. `parents`: digests of records."""

    builder: Builder
    metadata: Metadata
    byproducts: tuple[Byproduct, ...]
    checks: dict[str, Any] = field(name="ingot_checks")
    base_claims: tuple[BaseClaim, ...] = field(name="ingot_base_claims")
    parents: tuple[Sha256, ...] = field(name="ingot_parents")
    evaluations: tuple[Any, ...] = field(name="ingot_evaluations")


class Predicate(Struct, frozen=True):
    build: BuildDefinition = field(name="buildDefinition")
    run: RunDetails = field(name="runDetails")


class Statement(Struct, frozen=True):
    type: str = field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = field(name="predicateType")
    predicate: Predicate
