"""The spatial transformer as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from tstn import _checks
from tstn._surroundings import not_scriptable
from tstn.functional import spatial_transform
from tstn.transforms import Transform, as_transform


def init_identity_(linear: nn.Linear, transform: str | Transform = "affine", num_heads: int = 1) -> nn.Linear:
    """Make a layer predict the identity transform whatever it is fed: zero weights, the identity as bias.

    Args:
        linear: The last layer of a localisation network, with ``num_heads * transform.num_parameters`` outputs.
        transform: A name or a :class:`~tstn.transforms.Transform`.
        num_heads: How many transforms the layer predicts.

    Returns:
        ``linear``, changed in place.

    Raises:
        TypeError: If ``linear`` is not an ``nn.Linear``.
        ValueError: If it has no bias, the wrong number of outputs, or lazy parameters.
    """
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"linear must be an nn.Linear; got {type(linear).__name__}")
    if linear.bias is None:
        raise ValueError("linear must have a bias, to hold the identity; got bias=False")
    if isinstance(linear.weight, nn.UninitializedParameter):
        raise ValueError("linear must have its parameters; it is lazy: run it on a sample input first")
    identity = as_transform(transform).identity_parameters()
    expected = num_heads * identity.numel()
    if linear.out_features != expected:
        raise ValueError(
            f"linear must have {expected} outputs, {num_heads} head(s) of {identity.numel()} parameters for "
            f"{transform!r}; got {linear.out_features}"
        )
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(identity.repeat(num_heads))
    return linear


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

    Jaderberg et al. 2015, section 3. If the localisation network ends in an ``nn.Linear``, that layer is set to zero
    weights and the identity as bias (:func:`init_identity_`), so that training starts from the untouched input. A
    network that ends in anything else is left as it is. Only the localisation network has weights.

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

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an option is wrong, or the localisation network's last layer has the wrong width.

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
    ) -> None:
        super().__init__()
        if not isinstance(localization, nn.Module):
            raise TypeError(f"localization must be an nn.Module; got {type(localization).__name__}")
        if not isinstance(num_heads, int) or isinstance(num_heads, bool):
            raise TypeError(f"num_heads must be an int; got {type(num_heads).__name__}")
        if num_heads < 1:
            raise ValueError(f"num_heads must be positive; got {num_heads}")
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
            self.fill_value = fill_value

        *_, last = localization.modules()
        if isinstance(last, nn.Linear):
            try:
                init_identity_(last, self.transform, num_heads)
            except ValueError as error:
                raise ValueError(f"localization's last layer: {error}") from None

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
