import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import tstn


def localization(outputs: int, pixels: int = 20) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, outputs))


@pytest.mark.parametrize("transform", ["translation", "attention", "similarity", "affine", tstn.Affine()], ids=str)
def test_starts_as_the_identity(place, compiled, transform):
    count = tstn.transforms.as_transform(transform).num_parameters
    stn = tstn.SpatialTransformer(localization(count), transform).to(place.device)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    torch.testing.assert_close(compiled(stn)(x), x, rtol=0, atol=1e-6)


def test_output_follows_the_localisation(place, compiled):
    stn = tstn.SpatialTransformer(localization(6), size=(3, 2), return_theta=True, padding_mode="border")
    stn = stn.to(place.device)
    nn.init.normal_(stn.localization[-1].weight)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    y, theta = compiled(stn)(x)
    assert theta.shape == (3, 2, 3)
    torch.testing.assert_close(theta, stn.localization(x).reshape(3, 2, 3))
    torch.testing.assert_close(y, tstn.spatial_transform(x, theta, size=(3, 2), padding_mode="border"))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stn.parameters())


def test_parallel_heads(place, compiled):
    stn = tstn.SpatialTransformer(localization(6), "attention", num_heads=2, size=(2, 2), return_theta=True)
    stn = stn.to(place.device)
    nn.init.normal_(stn.localization[-1].bias)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    y, theta = compiled(stn)(x)
    assert theta.shape == (3, 2, 3)
    assert y.shape == (3, 2, 1, 2, 2)
    for head in range(2):
        alone = tstn.spatial_transform(x, theta[:, head], "attention", (2, 2))
        torch.testing.assert_close(y[:, head], alone)


def test_fill_value_is_a_setting_unless_it_is_a_parameter(place):
    fill = torch.tensor([0.25])
    stn = tstn.SpatialTransformer(localization(2), "translation", fill_value=fill).to(place.device)
    assert list(stn.state_dict()) == [f"localization.{name}" for name in stn.localization.state_dict()]
    with torch.no_grad():
        stn.localization[-1].bias.copy_(torch.tensor([10.0, 0.0]))
    x = torch.rand(2, 1, 4, 5, device=place.device)
    assert (stn(x) == 0.25).all()

    learnt = tstn.SpatialTransformer(localization(2), "translation", fill_value=nn.Parameter(fill)).to(place.device)
    assert "fill_value" in learnt.state_dict()
    with torch.no_grad():
        learnt.localization[-1].bias.copy_(torch.tensor([10.0, 0.0]))
    learnt(x).sum().backward()
    assert learnt.fill_value.grad.item() == pytest.approx(40)


def test_state_dict_holds_the_localisation_alone():
    stn = tstn.SpatialTransformer(localization(6), fill_value=0.5)
    assert list(stn.state_dict()) == [f"localization.{name}" for name in stn.localization.state_dict()]


def test_extra_repr_tells_the_settings():
    stn = tstn.SpatialTransformer(
        localization(12), size=(3, 4), num_heads=2, fill_value=torch.zeros(1), return_theta=True
    )
    assert stn.extra_repr() == (
        "'affine', size=(3, 4), num_heads=2, mode='bilinear', padding_mode='zeros', fill_value=(1,), "
        "align_corners=False, return_theta=True"
    )


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (
            lambda: tstn.SpatialTransformer(localization(5)),
            ValueError,
            r"localization's last layer: linear must have 6 outputs.*got 5",
        ),
        (lambda: tstn.SpatialTransformer(localization(6), num_heads=2), ValueError, "12 outputs, 2 head"),
        (lambda: tstn.SpatialTransformer(localization(6), num_heads=0), ValueError, "num_heads must be positive"),
        (lambda: tstn.SpatialTransformer(localization(6), num_heads=True), TypeError, "num_heads must be an int"),
        (lambda: tstn.SpatialTransformer(localization(6), size=(3,)), ValueError, "size must be two"),
        (lambda: tstn.SpatialTransformer(localization(6), mode="cubic"), ValueError, "mode must be one of"),
        (lambda: tstn.SpatialTransformer(localization(6), "warp"), ValueError, "transform must be one of"),
        (lambda: tstn.SpatialTransformer(abs), TypeError, "localization must be an nn.Module"),
        (lambda: tstn.SpatialTransformer(nn.LazyLinear(6)), ValueError, "it is lazy"),
        (lambda: tstn.SpatialTransformer(localization(6), "grid"), ValueError, "no fixed number"),
        (
            lambda: tstn.SpatialTransformer(localization(6), padding_mode="border", fill_value=0.5),
            ValueError,
            "fill_value needs padding_mode='zeros'",
        ),
        (lambda: tstn.init_identity_(nn.Linear(3, 6, bias=False)), ValueError, "must have a bias"),
        (lambda: tstn.init_identity_(nn.Conv2d(1, 6, 1)), TypeError, "must be an nn.Linear; got Conv2d"),
    ],
)
def test_wrong_construction(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_wrong_width_is_named_when_it_shows_only_in_use():
    stn = tstn.SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.Tanh()))
    with pytest.raises(ValueError, match=r"localization must map the input to .* = \(3, 6\); got \(3, 4\)"):
        stn(torch.rand(3, 1, 4, 5))


def test_init_identity_for_several_heads():
    linear = tstn.init_identity_(nn.Linear(5, 8), "similarity", num_heads=2)
    assert torch.equal(linear(torch.randn(5)), torch.tensor([1.0, 0, 0, 0] * 2))


class Net(nn.Module):
    """A localisation network whose layers are not registered in the order in which they run."""

    def __init__(self, outputs=6):
        super().__init__()
        self.fc = nn.Linear(8, outputs)
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.ReLU())
        self.gate = nn.Linear(8, outputs)

    def forward(self, x):
        hidden = self.trunk(x)
        return self.fc(hidden) + 0 * self.gate(hidden).sigmoid()


class Scaled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class Sequence(nn.Sequential):
    def forward(self, input):
        return super().forward(input).tanh()


def is_identity(linear, identity=(1, 0, 0, 0, 1, 0)):
    return not linear.weight.any() and linear.bias.tolist() == list(identity)


def test_only_the_output_layer_is_touched():
    for output_layer in ("fc", None):
        net = Net()
        before = copy.deepcopy(net.state_dict())
        stn = tstn.SpatialTransformer(net, output_layer=None if output_layer is None else net.fc)
        changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == ({"fc.weight", "fc.bias"} if output_layer else set())
        if output_layer:
            x = torch.rand(3, 1, 4, 5)
            torch.testing.assert_close(stn(x), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (nn.Linear(20, 6), True),
        (nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(20, 6))), True),
        (type("Plain", (nn.Sequential,), {})(nn.Flatten(), nn.Linear(20, 6)), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.Tanh()), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.Sequential()), False),
        (nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten()), False),
    ],
    ids=["linear", "nested", "subclass", "tanh", "empty", "convolution"],
)
def test_output_layer_that_is_known(net, found):
    before = copy.deepcopy(net.state_dict())
    tstn.SpatialTransformer(net)
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    if found:
        assert is_identity(linears[-1])
    else:
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def hooked(module):
    module.register_forward_hook(lambda module, arguments, output: 2 * output)
    return module


@pytest.mark.parametrize(
    ("net", "which", "example"),
    [
        (Net(), "localization is of class Net", "localization.gate,"),
        (Sequence(nn.Flatten(), nn.Linear(20, 6)), "localization is of class Sequence", r"localization\[1\],"),
        (nn.Sequential(nn.Tanh(), Net()), "localization's last module is of class Net", r"localization\[1\].gate,"),
        (nn.Sequential(nn.Flatten(), Scaled(20, 6)), "last module is of class Scaled", r"localization\[1\],"),
        (hooked(nn.Linear(20, 6)), "localization is of class Linear", "localization,"),
        (hooked(nn.Sequential(nn.Flatten(), nn.Linear(20, 6))), "of class Sequential", r"localization\[1\],"),
    ],
    ids=["module", "sequence", "nested", "subclass", "hook", "sequence-hook"],
)
def test_output_layer_that_has_to_be_said(net, which, example):
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=f"{which}.*output_layer={example}.*output_layer=None"):
        tstn.SpatialTransformer(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_output_layer_that_is_wrong():
    net = Net()
    with pytest.raises(ValueError, match="output_layer must be a part of localization"):
        tstn.SpatialTransformer(net, output_layer=nn.Linear(8, 6))
    with pytest.raises(TypeError, match=r"output_layer must be .*, None or 'auto'; got Sequential"):
        tstn.SpatialTransformer(net, output_layer=net.trunk)
    with pytest.raises(ValueError, match="output_layer: linear must have 12 outputs"):
        tstn.SpatialTransformer(net, num_heads=2, output_layer=net.fc)


def old_weight_norm(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(linear)


class Antisymmetric(nn.Module):
    def forward(self, x):
        return x.triu(1) - x.triu(1).mT

    def right_inverse(self, x):
        return x.triu(1)


class Squared(nn.Module):
    """Zero only where its slope is zero too."""

    def forward(self, x):
        return x * x

    def right_inverse(self, x):
        return x.abs().sqrt()


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm-whole": lambda linear: parametrizations.weight_norm(linear, dim=None),
    "weight_norm-bias": lambda linear: parametrize.register_parametrization(
        parametrizations.weight_norm(linear), "bias", nn.Identity()
    ),
    "old-weight_norm": old_weight_norm,
    "no-inverse": lambda linear: parametrize.register_parametrization(linear, "weight", nn.Hardtanh()),
    "antisymmetric": lambda linear: parametrize.register_parametrization(linear, "weight", Antisymmetric()),
    "pruned": lambda linear: prune.random_unstructured(linear, "weight", 0.4),
}
IMPOSSIBLE = {
    "spectral_norm": parametrizations.spectral_norm,
    "old-spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "householder": lambda linear: parametrizations.orthogonal(linear, orthogonal_map="householder"),
    "squared": lambda linear: parametrize.register_parametrization(linear, "weight", Squared()),
    "pruned-bias": lambda linear: prune.l1_unstructured(linear, "bias", 5),
}


@pytest.mark.parametrize("parametrized", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_parametrized_layers_start_as_the_identity_and_learn(place, parametrized):
    linear = parametrized(nn.Linear(6, 6))
    directions = {k: v.clone() for k, v in linear.state_dict().items() if k.endswith(("_v", "original1"))}
    stn = tstn.SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.Tanh(), linear), return_theta=True)
    assert all(torch.equal(linear.state_dict()[name], value) for name, value in directions.items())
    stn = copy.deepcopy(stn).to(place.device)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    for training in (True, False):
        y, theta = stn.train(training)(x)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
    linear = stn.localization[-1]
    optimizer = torch.optim.SGD(stn.parameters(), lr=0.1)
    for _ in range(2):
        y, _ = stn(x)
        optimizer.zero_grad()
        (y * torch.rand_like(y)).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in stn.parameters())
        optimizer.step()
    moved = stn(x)[1]
    assert (moved - theta).abs().amax() > 1e-3
    # By the weights too, and not by the bias alone: theta differs between images.
    assert (moved - moved[:1]).abs().amax() > 1e-6


@pytest.mark.parametrize("parametrized", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_parametrizations_that_cannot_be_zero_are_refused(parametrized, training):
    torch.manual_seed(0)
    linear = parametrized(nn.Linear(6, 6)).train(training)
    before = copy.deepcopy(linear.state_dict())
    with pytest.raises(ValueError, match=r"linear must be able to have zero weights .* parametrisation .* Leave"):
        tstn.init_identity_(linear)
    after = linear.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {module.training for module in linear.modules()} == {training}
    assert "reset_parameters" not in vars(linear)


TRANSFORMS = {
    **{name: name for name in ("translation", "attention", "similarity", "affine", "projective")},
    "spline": lambda: tstn.ThinPlateSpline((2, 3)),
    "custom": lambda: tstn.examples.lens_distortion(),
}


def reset(modules):
    for module in modules:
        reset_parameters = getattr(module, "reset_parameters", None)
        if reset_parameters is not None:
            reset_parameters()


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("order", ["parents-first", "children-first"])
@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "weight_norm"])
def test_from_the_meta_device(transform, order, normalized):
    with torch.device("meta"):
        family = transform if isinstance(transform, str) else transform()
        count = tstn.transforms.as_transform(family).num_parameters
        net = localization(2 * count)
        if normalized:
            parametrizations.weight_norm(net[-1])
        stn = tstn.SpatialTransformer(net, family, num_heads=2)
    assert {p.device.type for p in stn.parameters()} == {"meta"}
    reset(stn.modules())
    stn = stn.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in stn.parameters():
            parameter.fill_(torch.nan)
    modules = list(stn.modules())
    reset(modules if order == "parents-first" else reversed(modules))
    x = torch.rand(3, 1, 4, 5)
    torch.testing.assert_close(stn(x), x[:, None].expand(-1, 2, -1, -1, -1), rtol=0, atol=1e-5)
    stn(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in stn.parameters())


def test_made_on_the_cpu_while_tensors_go_to_the_meta_device():
    linear = nn.Linear(3, 6)
    with torch.device("meta"):
        tstn.init_identity_(linear)
    assert is_identity(linear)


@pytest.mark.parametrize("copied", ["deepcopy", "torch.save"])
def test_reset_parameters_of_a_copy_is_the_copys_own(copied):
    stn = tstn.SpatialTransformer(localization(6))
    if copied == "deepcopy":
        other = copy.deepcopy(stn)
    else:
        file = io.BytesIO()
        torch.save(stn, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    linears = [s.localization[-1] for s in (stn, other)]
    for linear in linears:
        nn.init.ones_(linear.weight)
    linears[1].reset_parameters()
    assert is_identity(linears[1])
    assert (linears[0].weight == 1).all()


def test_a_layer_is_freed_without_collecting_cycles():
    import gc
    import weakref

    gc.disable()
    try:
        linear = tstn.init_identity_(nn.Linear(3, 6))
        alive = weakref.ref(linear)
        del linear
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_layers_of_any_dtype(dtype):
    assert is_identity(tstn.init_identity_(nn.Linear(3, 6, dtype=dtype)))
    normalized = parametrizations.weight_norm(nn.Linear(3, 6, dtype=dtype))
    assert is_identity(tstn.init_identity_(normalized))


def test_sharded_parameters(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        linear = nn.Linear(3, 6)

        def shard(name, module, mesh):
            for key, value in list(module.named_parameters(recurse=False)):
                setattr(module, key, nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)])))

        distribute_module(linear, mesh, shard)
        tstn.init_identity_(linear)
        assert linear.bias.full_tensor().tolist() == [1, 0, 0, 0, 1, 0]
        assert not linear.weight.full_tensor().any()
    finally:
        distributed.destroy_process_group()
