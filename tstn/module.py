"""The spatial transformer as a layer."""

from __future__ import annotations

from numbers import Real
from typing import Literal

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from tstn import _checks
from tstn._identity import init_identity_
from tstn._surroundings import not_scriptable
from tstn.functional import spatial_transform
from tstn.transforms import Transform, as_transform


def output_layer_of(localization: nn.Module) -> nn.Linear | None:
    """The layer whose output is the network's, if that is an ``nn.Linear``; None if no layer in it can be.

    Raises:
        ValueError: If code decides which layer that is: the network, or the last module of a sequence, has an
            ``nn.Linear`` in it and a ``forward`` of its own, or a hook that may change its output.
    """
    last = localization
    while _forwards_as(last, nn.Sequential) and len(last):  # pyright: ignore[reportArgumentType]
        last = last[-1]  # pyright: ignore[reportIndexIssue]
    if isinstance(last, nn.Linear) and _forwards_as(last, nn.Linear):
        return last
    linears = [name for name, module in localization.named_modules() if isinstance(module, nn.Linear)]
    if not any(isinstance(module, nn.Linear) for module in last.modules()):
        return None
    which = "localization" if last is localization else "localization's last module"
    example = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in linears[-1].split(".") if part)
    raise ValueError(
        f"{which} is of class {type(last).__name__}, whose code decides which layer's output it gives: say "
        f"output_layer=localization{example}, or whichever nn.Linear it is, for that layer to start at the identity, "
        "or output_layer=None to leave the network as it is"
    )


def _forwards_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether what the module returns is what ``kind`` itself would."""
    return type(module).forward is kind.forward and "forward" not in vars(module) and not module._forward_hooks


def _checked_output_layer(output_layer: object, localization: nn.Module) -> nn.Linear | None:
    """The layer to set to the identity, if any."""
    if output_layer is None:
        return None
    if isinstance(output_layer, str) and output_layer == "auto":
        return output_layer_of(localization)
    if not isinstance(output_layer, nn.Linear):
        raise TypeError(f"output_layer must be an nn.Linear, None or 'auto'; got {type(output_layer).__name__}")
    if all(module is not output_layer for module in localization.modules()):
        raise ValueError("output_layer must be a part of localization; got a layer that is not in it")
    return output_layer


def predicted_theta(parameters: Tensor, x: Tensor, transform: Transform, num_heads: int) -> Tensor:
    """What a localisation network predicts of x (N, C, H, W), as theta, (N, *P) or with several heads (N, heads, *P).

    A function of its own, which torch.fx records as it is, because it looks at shapes.
    """
    if has_torch_function_variadic(parameters, x):
        return handle_torch_function(predicted_theta, (parameters, x), parameters, x, transform, num_heads)
    count = transform.num_parameters
    expected = (x.shape[0], num_heads * count)
    if tuple(parameters.shape) != expected:
        raise ValueError(
            f"localization must map the input to (N, num_heads * num_parameters) = {expected}; "
            f"got {_checks.shape(parameters)}"
        )
    return transform.theta(parameters if num_heads == 1 else parameters.unflatten(1, (num_heads, count)))


@not_scriptable
class SpatialTransformer(nn.Module):
    """A spatial transformer: a localisation network looks at the input and says how to warp it.

    Jaderberg et al. 2015, section 3. The localisation network's output layer is set to zero weights and the identity
    as bias (:func:`init_identity_`), so that training starts from the untouched input; nothing else of the network is
    touched. Only the localisation network has weights.

    Which layer that is can be known of an ``nn.Linear`` and of an ``nn.Sequential`` that ends in one. A sequence that
    ends in something without an ``nn.Linear``, such as ``nn.Tanh``, is left as it is. Of any other module with an
    ``nn.Linear`` in it, ``output_layer`` has to say it.

    Convention:
        As :func:`~tstn.functional.spatial_transform`. Under autocast the localisation network may predict half
        precision parameters; the coordinates are computed from them in float32.

    Args:
        localization: Maps the input x (N, C, H, W) to (N, num_heads * transform.num_parameters).
        transform: A name or a :class:`~tstn.transforms.Transform`.
        size: (H_out, W_out); None: the input's.
        num_heads: Parallel transformers; with more than one the output gets a dimension for them.
        mode: As in :func:`~tstn.functional.spatial_transform`.
        padding_mode: Likewise.
        fill_value: Likewise; an ``nn.Parameter`` (C,) is learnt.
        align_corners: Likewise.
        return_theta: Whether to return theta beside the output.
        output_layer: The ``nn.Linear`` in ``localization`` that predicts the parameters, to be set to the identity;
            None: nothing is touched. ``"auto"``: the one that is known to be it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an option is wrong, ``output_layer`` is not given and cannot be known, is no part of
            ``localization``, or cannot be set to the identity, as when it has the wrong width.

    Example:
        >>> localization = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 32), nn.ReLU(), nn.Linear(32, 6))
        >>> stn = tstn.SpatialTransformer(localization)
        >>> stn(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 1, 28, 28])
    """

    fill_value: float | Tensor | None

    def __init__(
        self,
        localization: nn.Module,
        transform: str | Transform = "affine",
        size: tuple[int, int] | None = None,
        *,
        num_heads: int = 1,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        fill_value: float | Tensor | None = None,
        align_corners: bool = False,
        return_theta: bool = False,
        output_layer: nn.Linear | Literal["auto"] | None = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(localization, nn.Module):
            raise TypeError(f"localization must be an nn.Module; got {type(localization).__name__}")
        num_heads = _checks.require_positive("num_heads", num_heads)
        _checks.require_option("mode", mode, _checks.MODES)
        _checks.require_option("padding_mode", padding_mode, _checks.PADDING_MODES)
        _checks.require_fill_option(fill_value, padding_mode)
        _checks.require_bool("align_corners", align_corners)
        _checks.require_bool("return_theta", return_theta)
        self.localization = localization
        self.transform = as_transform(transform)
        self.size = None if size is None else _checks.require_size(size)
        self.num_heads = num_heads
        self.mode = mode
        self.padding_mode = padding_mode
        self.align_corners = align_corners
        self.return_theta = return_theta
        if isinstance(fill_value, Tensor) and not isinstance(fill_value, nn.Parameter):
            # A buffer follows the module to its device; it is a setting, not a weight.
            self.register_buffer("fill_value", fill_value, persistent=False)
        else:
            self.fill_value = _checks.plain_number(fill_value) if isinstance(fill_value, Real) else fill_value

        layer = _checked_output_layer(output_layer, localization)
        if layer is not None:
            try:
                init_identity_(layer, self.transform, num_heads)
            except ValueError as error:
                which = "localization's last layer" if output_layer == "auto" else "output_layer"
                raise ValueError(f"{which}: {error}") from error

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Warp x.

        Args:
            x: (N, C, H, W).

        Returns:
            (N, C, H_out, W_out), with several heads (N, num_heads, C, H_out, W_out); with ``return_theta`` a tuple
            of it and theta, (N, *theta_shape) or (N, num_heads, *theta_shape).

        Raises:
            ValueError: If the localisation network's output has the wrong shape.
        """
        theta = predicted_theta(self.localization(x), x, self.transform, self.num_heads)
        y = spatial_transform(
            x,
            theta,
            self.transform,
            self.size,
            mode=self.mode,
            padding_mode=self.padding_mode,
            fill_value=self.fill_value,
            align_corners=self.align_corners,
        )
        return (y, theta) if self.return_theta else y

    def extra_repr(self) -> str:
        """The settings that differ from the defaults, for ``print(module)``."""
        settings: list[str] = [repr(self.transform.name)]
        if self.size is not None:
            settings.append(f"size={self.size}")
        if self.num_heads != 1:
            settings.append(f"num_heads={self.num_heads}")
        settings += [f"mode={self.mode!r}", f"padding_mode={self.padding_mode!r}"]
        if self.fill_value is not None:
            fill = self.fill_value
            settings.append(f"fill_value={tuple(fill.shape) if isinstance(fill, Tensor) else fill}")
        settings.append(f"align_corners={self.align_corners}")
        if self.return_theta:
            settings.append("return_theta=True")
        return ", ".join(settings)
