"""What ``tessera quantize`` says of the depths that it has chosen: tables, JSON, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.cli.console import UsageError, console, output_file, print_table
from tessera.cli.depths import DepthChoice
from tessera.compiler.mixed_precision import CYCLES, RESOURCES, WEIGHT_BYTES, Choice
from tessera.compiler.precision import DepthRange, SensitivityProfile
from tessera.compiler.quantize import LayerDepths
from tessera.compiler.quantized import QuantizedNetwork
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PICTURES = (".svg", ".png", ".pdf")

_COLOURS = ("#cf222e", "#bf8700", "#1f6feb", "#2da44e")
"""Of the depths, from the least."""


def show_choice(found: DepthChoice, network: QuantizedNetwork) -> None:
    """A table of the layers' depths and limits, and a line of what they cost."""
    (choice,) = found.choices
    rows = []
    for name, depths in choice.depths.items():
        limits = network.depth_limits.layers[name]
        sensitivity = found.profile.layers[name]
        rows.append(
            (
                name,
                str(depths.activation),
                f"{limits.minimum}..{limits.maximum}",
                _sensitivity(sensitivity.activations, depths.activation),
                "" if depths.weight is None else str(depths.weight),
                _sensitivity(sensitivity.weights, depths.weight),
            )
        )
    columns = ("layer", "activations", "limits", "sensitivity", "weights", "sensitivity")
    print_table(columns, rows, title=f"{network.name}: depths in bits, sensitivities by {found.profile.method}")
    costs = ", ".join(f"{choice.costs[name]:,.0f} {name}{_share(found, choice, name)}" for name in RESOURCES)
    console.print(f"{costs}; {_quality(found, choice)}", soft_wrap=True)


def show_front(found: DepthChoice) -> None:
    """A table of the front."""
    rows = [
        (
            f"{choice.costs[CYCLES]:,.0f}",
            f"{choice.costs[CYCLES] / found.reference[CYCLES]:.0%}",
            f"{choice.costs[WEIGHT_BYTES]:,.0f}",
            f"{choice.quality.points:.2f}",
            f"{choice.quality.points - found.float_quality.points:+.2f}",
            f"{choice.quality.loss:.4g}",
            _mean_bits(each.activation for each in choice.depths.values()),
            _mean_bits(each.weight for each in choice.depths.values()),
        )
        for choice in found.choices
    ]
    columns = ("cycles", "of 8 bits", "weight bytes", "points", "to float", "loss", "mean bits", "of weights")
    print_table(columns, rows, title="accuracy against cycles and size")


def choice_summary(found: DepthChoice, network: QuantizedNetwork) -> dict[str, object]:
    """The choice for JSON."""
    (choice,) = found.choices
    return {
        **_choice_row(choice),
        "float_points": found.float_quality.points,
        "reference": dict(found.reference),
        "limits": {
            "network": _range(network.depth_limits.network),
            "layers": {name: _range(each) for name, each in network.depth_limits.layers.items()},
        },
        "sensitivity": _profile_row(found.profile),
    }


def front_summary(found: DepthChoice) -> dict[str, object]:
    """The front for JSON."""
    return {
        "float_points": found.float_quality.points,
        "reference": dict(found.reference),
        "front": [_choice_row(choice) for choice in found.choices],
        "sensitivity": _profile_row(found.profile),
    }


def check_picture(path: Path) -> None:
    """Raises `UsageError` before the work starts if no picture of this name can be drawn."""
    if path.suffix not in _PICTURES:
        raise UsageError(f"--picture {path}: pictures end in one of {', '.join(_PICTURES)}; give such a name")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "--picture needs matplotlib, which is not installed; install it with pip install tessera-npu[bench]"
        )


def draw(found: DepthChoice, path: Path) -> None:
    """Draws the front, or for one choice the sensitivities of the layers, where `check_picture` has found no fault."""
    from matplotlib.figure import Figure

    is_front = found.wants_front
    rows = 1 if is_front else max(4, len(found.profile.layers))
    figure = Figure(figsize=(7, 4.5) if is_front else (9, 1.5 + 0.3 * rows), layout="constrained")
    if is_front:
        _draw_front(figure.subplots(), found)
    else:
        _draw_sensitivities(figure.subplots(1, 2, sharey=True), found.profile, found.choices[0])
    with output_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_front(axes: Axes, found: DepthChoice) -> None:
    """Points over cycles; the size of the weights is the colour."""
    cycles = [choice.costs[CYCLES] for choice in found.choices]
    points = [choice.quality.points for choice in found.choices]
    sizes = [choice.costs[WEIGHT_BYTES] / 1024 for choice in found.choices]
    axes.plot(cycles, points, color="#80868b", linewidth=1, zorder=1)
    marks = axes.scatter(cycles, points, c=sizes, cmap="viridis", zorder=2)
    axes.figure.colorbar(marks, ax=axes, label="weights, KiB")
    axes.axhline(found.float_quality.points, color="black", linewidth=1, linestyle="dashed", label="float")
    axes.set_xlabel("cycles of one inference")
    axes.set_ylabel("points")
    axes.legend(frameon=False)


def _draw_sensitivities(axes: Sequence[Axes], profile: SensitivityProfile, choice: Choice) -> None:
    """A row per layer, a mark per depth; the chosen one is filled."""
    names = list(profile.layers)[::-1]
    kinds = (("weights", "weight", WEIGHT_DEPTHS), ("activations", "activation", ACTIVATION_DEPTHS))
    for panel, (kind, attribute, depths) in zip(axes, kinds, strict=True):
        for depth in depths:
            colour = _COLOURS[ACTIVATION_DEPTHS.index(depth)]
            values = [(row, getattr(profile.layers[name], kind).get(depth)) for row, name in enumerate(names)]
            for row, value in values:
                if value is not None:
                    chosen = getattr(choice.depths[names[row]], attribute) == depth
                    shown = max(value, _smallest(profile, kind))
                    panel.plot(shown, row, "o", color=colour, fillstyle="full" if chosen else "none")
            panel.plot([], [], "o", color=colour, label=f"{depth} bits")
        panel.set_xscale("log")
        panel.set_xlabel(f"sensitivity of {kind} ({profile.method}); filled: chosen")
    axes[0].set_yticks(range(len(names)), names)
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _smallest(profile: SensitivityProfile, kind: str) -> float:
    """Where the axis begins: a part of the largest sensitivity that means nothing beside it. What is below, or negative
    by chance, is drawn there."""
    values = [value for each in profile.layers.values() for value in getattr(each, kind).values()]
    return max(values, default=0.0) * 1e-5 or 1.0


def _quality(found: DepthChoice, choice: Choice) -> str:
    difference = choice.quality.points - found.float_quality.points
    return f"{choice.quality.points:.2f} points ({difference:+.2f} against float)"


def _share(found: DepthChoice, choice: Choice, resource: str) -> str:
    """What part of the cost with 8 bits it is; nothing where that is 0, as the weights of a network without any."""
    reference = found.reference[resource]
    return f" ({choice.costs[resource] / reference:.0%} of those with 8 bits)" if reference else ""


def _sensitivity(values: Mapping[int, float], depth: int | None) -> str:
    return "" if depth is None or depth not in values else f"{values[depth]:.2e}"


def _mean_bits(depths: Iterable[int | None]) -> str:
    known = [depth for depth in depths if depth is not None]
    return f"{sum(known) / len(known):.1f}" if known else ""


def _choice_row(choice: Choice) -> dict[str, object]:
    return {
        "depths": {name: _depths_row(each) for name, each in choice.depths.items()},
        "costs": dict(choice.costs),
        "points": choice.quality.points,
        "loss": choice.quality.loss,
    }


def _depths_row(depths: LayerDepths) -> dict[str, int | None]:
    return {"activation": depths.activation, "weight": depths.weight}


def _profile_row(profile: SensitivityProfile) -> dict[str, object]:
    layers = {
        name: {"weights": dict(each.weights), "activations": dict(each.activations)}
        for name, each in profile.layers.items()
    }
    return {"method": profile.method, "samples": profile.samples, "layers": layers}


def _range(limits: DepthRange) -> list[int]:
    return [limits.minimum, limits.maximum]
