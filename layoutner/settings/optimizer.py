"""[optimizer]: one section for each optimizer, chosen by optimizer.name."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_settings import NoDecode

from layoutner.settings.section import Section, split_commas

Betas = Annotated[tuple[float, float], NoDecode, BeforeValidator(split_commas)]


class _Optimizer(Section):
    """What every optimizer has."""

    name: str = Field("adamw", description="optimizer")
    lr: float = Field(5e-5, gt=0, description="peak learning rate")
    scale_lr: Literal["none", "linear", "sqrt"] = Field(
        "none",
        description="how the learning rate follows the global batch from batch.reference_batch_size: in proportion to "
        "it, or to its square root",
    )
    largest_stable_lr: float | None = Field(
        None,
        gt=0,
        description="largest learning rate that is known to be stable, as a sweep may tell; a run with a larger one, "
        "given or scaled, gets a warning",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise decay of the learning rate: the head has optimizer.lr, and each layer below it this "
        "factor of the layer above; 1 = off",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="weight decay; not applied to biases and LayerNorm. adamw, lion, muon: decoupled; lamb: part of "
        "the update that the trust ratio scales; lars: part of the gradient",
    )
    max_grad_norm: float = Field(
        1.0, ge=0, description="the step's gradient is clipped to this 2-norm, over all parameters; 0 = off"
    )
    average_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per optimizer step of the exponential moving average of the weights, which is then scored, "
        "chosen by and exported instead of the last weights; lower in the first steps; 0 = off",
    )


class _Moments(_Optimizer):
    betas: Betas = Field((0.9, 0.999), description="decay rates of the first and second moment; lion: default 0.9,0.99")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: each lies in [0, 1)")
        return self


class _Adam(_Moments):
    scale_betas: Literal["none", "sde", "half-life"] = Field(
        "none",
        description="how betas and eps follow the global batch from batch.reference_batch_size: sde = the rule that "
        "goes with scale_lr = sqrt; half-life = the second moment forgets after the same number of windows",
    )


class AdamW(_Adam):
    """[optimizer] with name = adamw."""

    name: Literal["adamw"] = "adamw"
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment; lamb: default 1e-6")


class Lamb(_Adam):
    """[optimizer] with name = lamb."""

    name: Literal["lamb"] = "lamb"
    eps: float = Field(1e-6, gt=0, description="added to the root of the second moment")
    variant: Literal["paper", "nvlamb"] = Field(
        "paper",
        description="lamb: paper = biases and LayerNorm are updated as by AdamW, without a trust ratio; nvlamb = every "
        "parameter has one",
    )
    min_trust_ratio: float = Field(0.0, ge=0, description="lamb: lower limit of the trust ratio")
    max_trust_ratio: float | None = Field(None, gt=0, description="lamb: upper limit of the trust ratio; default: none")

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.max_trust_ratio is not None and self.max_trust_ratio < self.min_trust_ratio:
            raise ValueError(
                f"min_trust_ratio = {self.min_trust_ratio} is above max_trust_ratio = {self.max_trust_ratio}"
            )
        return self


class Lars(_Optimizer):
    """[optimizer] with name = lars."""

    name: Literal["lars"] = "lars"
    momentum: float = Field(0.9, ge=0, lt=1, description="lars, muon: momentum; muon: default 0.95")
    trust_coefficient: float = Field(
        0.001,
        gt=0,
        description="lars: the learning rate of a parameter is optimizer.lr x this x norm of the parameter / (norm of "
        "its gradient + weight_decay x norm of the parameter); of biases and LayerNorm, optimizer.lr",
    )


class Lion(_Moments):
    """[optimizer] with name = lion."""

    name: Literal["lion"] = "lion"
    betas: Betas = Field((0.9, 0.99), description="decay rates of the update and of the momentum")


class Muon(_Moments):
    """[optimizer] with name = muon."""

    name: Literal["muon"] = "muon"
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum of the matrices of the layers")


def _name(value: Any) -> Any:
    """The optimizer that a section asks for; adamw if it names none."""
    return value.get("name", "adamw") if isinstance(value, dict) else getattr(value, "name", None)


OptimizerSettings = Annotated[
    Annotated[AdamW, Tag("adamw")]
    | Annotated[Lamb, Tag("lamb")]
    | Annotated[Lars, Tag("lars")]
    | Annotated[Lion, Tag("lion")]
    | Annotated[Muon, Tag("muon")],
    Discriminator(_name),
]


BY_NAME: dict[str, type[Section]] = {"adamw": AdamW, "lamb": Lamb, "lars": Lars, "lion": Lion, "muon": Muon}


class AnyOptimizer(AdamW, Lamb, Lars, Lion, Muon):  # AdamW first, for its defaults
    """[optimizer]: the keys of the optimizer `name`. The keys of another optimizer are refused."""

    name: Literal["adamw", "lamb", "lars", "lion", "muon"] = Field("adamw", description="optimizer")  # type: ignore[assignment]
